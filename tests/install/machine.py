"""Fresh Debian machines for the installation's tests: debootstrapped once, each use a copy that lives in memory.

A machine has processes, mounts, a network without any way out and, if wanted, a systemd of its own. Only root can make one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Debian 12 and 13.
RELEASES = ("bookworm", "trixie")
#: What a Debian server has; python3-venv and pip are not among it.
PACKAGES = ("python3", "logrotate", "systemd", "ca-certificates", "cron", "adduser")
#: Seconds for anything that is waited for.
PATIENCE = 240


def tree(release: str) -> Path:
    """The untouched Debian; made with the first use, which needs the network."""
    assert os.geteuid() == 0, "machines of their own are made by root alone: run this as root"
    made = ROOT / ".cache/install" / release
    if not made.exists():
        new = made.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        # Not in one go: debootstrap configures systemd and cron in an order that fails.
        install = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *PACKAGES]
        for command in (
            ["debootstrap", "--variant=minbase", release, str(new)],
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                f"--mount-proc={new}/proc",
                "chroot",
                str(new),
                *install,
            ],
        ):
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=quiet)
        shutil.rmtree(new / "var/cache/apt/archives", ignore_errors=True)
        new.rename(made)
    return made


def python_version(release: str) -> str:
    """Of the release's own Python, such as "3.13"."""
    return (tree(release) / "usr/bin/python3").readlink().name.removeprefix("python")


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Until it holds; fails after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for: {what}"
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it said."""
        return self.out + self.err


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A running machine."""

    #: Of its first process, as the host counts.
    pid: int

    def path(self, inside: str) -> Path:
        """A file of the machine, as the host reaches it; symbolic links in it are the host's, so name real files."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def command(self, *command: str, user: str = "root") -> list[str]:
        """The host's command that runs this one inside, with a plain environment."""
        enter = ["nsenter", "--target", str(self.pid), "--all", "--root"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["/usr/bin/env", "-i", "--chdir=/", f"PATH={path}", "HOME=/root", "LC_ALL=C.UTF-8"]
        become = [] if user == "root" else ["/usr/sbin/runuser", "-u", user, "--"]
        return [*enter, *clean, *become, *command]

    def run(self, *command: str, user: str = "root", status: int | None = 0) -> Ended:
        """Run a command to its end; `status` is what it must end with, None for anything."""
        done = subprocess.run(
            self.command(*command, user=user),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        ended = Ended(status=done.returncode, out=done.stdout, err=done.stderr)
        assert status is None or ended.status == status, (
            f"{' '.join(command)}: status {ended.status}\n{ended.text}"
        )
        return ended

    def sh(self, script: str, *, user: str = "root", status: int | None = 0) -> Ended:
        """Run a line of shell."""
        return self.run("/bin/sh", "-c", script, user=user, status=status)

    @contextlib.contextmanager
    def started(self, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """A process of the machine and what it says; it ends with the block. (`runuser` would not: it forgets the wish.)"""
        inside = self.command("setpriv", "--pdeathsig", "KILL", *command)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(inside, **streams) as process:  # type: ignore[call-overload] # a mapping of streams
            try:
                yield process, process.stdout
            finally:
                process.kill()


@contextlib.contextmanager
def fresh(release: str, kind: str) -> Iterator[Machine]:
    """A machine that has just been installed; `kind` is "systemd", or "plain" for one without, like a container."""
    # The signal comes when this process ends, however it does.
    start = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount"]
    start += [str(HERE / "boot.sh"), "outer", str(tree(release)), kind]
    with subprocess.Popen(start, stdin=subprocess.DEVNULL) as process:
        try:
            yield _booted(process, kind)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            _remove_cgroups(process.pid)


def _booted(process: subprocess.Popen[bytes], kind: str) -> Machine:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    first = "systemd" if kind == "systemd" else "python3"

    def up() -> bool:
        assert process.poll() is None, "the machine did not start; see above"
        pids = children.read_text().split()
        return bool(pids) and Path(f"/proc/{pids[0]}/comm").read_text().strip() == first

    wait_for("the machine's first process", up)
    machine = Machine(pid=int(children.read_text()))
    if kind == "systemd":
        ready = ("running", "degraded")
        wait_for(
            "systemd", lambda: machine.run("systemctl", "is-system-running", status=None).out.strip() in ready
        )
        failed = machine.run("systemctl", "--failed", "--no-legend", "--plain").out
        assert not failed, f"the machine itself is not well: {failed}"
    return machine


def _remove_cgroups(pid: int) -> None:
    """Empty by now, or very soon: their processes have been killed."""
    for mount in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        own = mount / f"mailferry-install-{pid}"
        if own.is_dir():

            def gone(own: Path = own) -> bool:
                for folder, _, _ in os.walk(own, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(folder).rmdir()
                return not own.exists()

            wait_for(f"{own} to be empty", gone)
