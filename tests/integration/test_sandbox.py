"""Attacking code in the reading child's place: what it can reach."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailferry.config.spreadsheet import Limits, Sandbox
from mailferry.errors import Reject, Stop
from mailferry.mailbox.workbook import sandbox
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Kind
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")

#: In the reader's place in a reading child; answers with what each attempt came to.
ATTACK = """
import ctypes, fcntl, json, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from mailferry.mailbox.workbook import child, sandbox

def attack(request, limits, answers):
    file, done = Path(request["path"]), {}
    inside, secret, parent = file.parent, Path(sys.argv[3]), os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)

    def attempt(name, action):
        try:
            result = action()
        except (OSError, ValueError):
            return
        if result != -1:
            done[name] = repr(result)[:80]

    def call(name, number, *arguments):
        attempt(name, lambda: libc.syscall(number, *arguments))

    for name, path in {"environ": f"/proc/{parent}/environ", "mem": f"/proc/{parent}/mem", "maps": f"/proc/{parent}/maps",
                       "own descriptor": "/proc/self/fd/2", "configuration": secret, "passwd": "/etc/passwd"}.items():
        attempt("read " + name, lambda: open(path, "rb").read(1))
    attempt("list", lambda: os.listdir(secret.parent))
    attempt("write outside", lambda: (secret.parent / "x").write_text("x"))
    attempt("write inside", lambda: (inside / "x").write_text("x"))
    attempt("overwrite", lambda: file.write_text("x"))
    attempt("unnamed file", lambda: os.open(inside, os.O_TMPFILE | os.O_RDWR))
    attempt("truncate", lambda: os.truncate(file, 0))
    attempt("remove", lambda: os.unlink(file))
    attempt("rename", lambda: os.rename(file, inside / "other"))
    attempt("link", lambda: os.link(file, inside / "other"))
    attempt("symlink", lambda: os.symlink(secret, inside / "other"))
    attempt("mode", lambda: os.chmod(file, 0o777))
    attempt("owner", lambda: os.chown(file, 1, 1))
    attempt("time", lambda: os.utime(file))
    attempt("attribute", lambda: os.setxattr(file, "user.x", b"x"))
    attempt("folder", lambda: os.mkdir(inside / "folder"))
    attempt("fifo", lambda: os.mkfifo(inside / "fifo"))
    attempt("memory file", lambda: os.memfd_create("x"))
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
        attempt(f"socket {family}", lambda: socket.socket(family))
    attempt("socketpair", socket.socketpair)
    attempt("fork", os.fork)
    attempt("execute", lambda: os.execv("/bin/true", ["true"]))
    attempt("execute a descriptor", lambda: os.execve(0, ["true"], {}))
    attempt("run", lambda: subprocess.run(["true"]))
    for number in (0, signal.SIGTERM):
        attempt(f"signal {number}", lambda: os.kill(parent, number))
    attempt("signal the group", lambda: os.kill(0, 0))
    attempt("signal all", lambda: os.kill(-1, 0))
    attempt("signal a thread", lambda: libc.tgkill(parent, parent, 0))
    attempt("hold the process", lambda: os.pidfd_open(parent))
    attempt("signal by a pipe", lambda: fcntl.fcntl(1, fcntl.F_SETOWN, parent))
    attempt("trace", lambda: libc.ptrace(16, parent, 0, 0))
    attempt("be traced", lambda: libc.ptrace(0, 0, 0, 0))
    attempt("read memory", lambda: libc.process_vm_readv(parent, None, 0, None, 0, 0))
    attempt("write memory", lambda: libc.process_vm_writev(parent, None, 0, None, 0, 0))
    attempt("limits", lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE))
    attempt("memory limit", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19))
    attempt("session", os.setsid)
    attempt("terminal input", lambda: fcntl.ioctl(0, 0x5412, b"x"))
    attempt("namespace", lambda: libc.unshare(0x10000000))
    attempt("mount", lambda: libc.mount(None, b"/", None, 0, None))
    attempt("shared memory", lambda: libc.shmget(0, 4096, 0o1600))
    attempt("user", lambda: libc.setuid(0))
    attempt("dumpable", lambda: libc.prctl(4, 1, 0, 0, 0))
    # Numbers that x86-64 and arm64 share.
    for name, number in {"io_uring": 425, "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442, "landlock": 444}.items():
        call(name, number, 1, None, 0, 0, 0)

    # What a reader needs still works.
    assert file.read_bytes().startswith(b"PK")
    worked = []
    thread = threading.Thread(target=lambda: worked.append(1))
    thread.start()
    thread.join()
    import decimal, html.parser, zoneinfo
    assert worked
    child._send(answers, b"X", json.dumps({"class": "Reject", "reason": json.dumps(done)}).encode())

child._serve = attack
if sys.argv[4] == "without Landlock":
    sandbox._landlock = lambda libc, readable: False
sys.argv[3:] = sys.argv[3:4]
child.main()
"""


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Reads a workbook with the attack in the reader's place; returns the attempts that came through."""

    def read(layers: str, limits: Limits) -> dict[str, str]:
        (tmp_path / "attack.py").write_text(ATTACK)
        secret = tmp_path / "config.env"
        secret.write_text("DB_PASSWORD=hush")
        secret.chmod(0o640)
        python = tmp_path / "python"
        # Without `-I -m mailferry.mailbox.workbook.child`, with the same limits and folder.
        python.write_text(
            f'#!/bin/sh\nshift 3\nexec {sys.executable} -I {tmp_path}/attack.py "$@" {secret} "{layers}"\n'
        )
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
        before = path.read_bytes()
        with Reader(limits, tmp_path) as reader:
            with pytest.raises(Reject) as caught, reader.open(path, Kind.XLSX, RowContract(key="key")):
                pass
            assert reader._child is not None, caught.value
            assert [entry.name for entry in Path(reader._child.folder).iterdir()] == []
        assert path.read_bytes() == before
        assert {entry.name for entry in tmp_path.iterdir()} == {"a", "attack.py", "config.env", "python"}
        done: dict[str, str] = json.loads(str(caught.value))
        return done

    return read


def test_code_in_the_readers_place_reads_writes_connects_and_signals_nothing(
    attacked: Callable[..., dict[str, str]],
) -> None:
    assert attacked("all layers", Limits(sandbox=Sandbox.REQUIRE)) == {}


def test_without_landlock_it_still_writes_connects_and_signals_nothing(
    attacked: Callable[..., dict[str, str]],
) -> None:
    done = attacked("without Landlock", Limits())
    assert all(name.startswith(("read ", "list")) for name in done), done


def test_a_sandbox_that_is_required_and_not_there_refuses_to_read(
    attacked: Callable[..., dict[str, str]],
) -> None:
    with pytest.raises(Stop, match=r"lacks Landlock \(Linux 5\.13.*sandbox = best"):
        attacked("without Landlock", Limits(sandbox=Sandbox.REQUIRE))


#: Calls that reach outside, with their numbers on x86-64 and arm64.
_OUTSIDE = """
socket 41 198, connect 42 203, bind 49 200, sendto 44 206, sendmsg 46 211, clone3 435 435, execve 59 221, execveat 322 281,
kill 62 129, tkill 200 130, rt_sigqueueinfo 129 138, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271,
unlinkat 263 35, renameat2 316 276, linkat 265 37, mkdirat 258 34, fchmodat 268 53, ftruncate 77 46, mount 165 40,
unshare 272 97, setns 308 268, bpf 321 280, perf_event_open 298 241, io_uring_setup 425 425, pidfd_open 434 434,
pidfd_send_signal 424 424, userfaultfd 323 282, keyctl 250 219, memfd_create 319 279, open_by_handle_at 304 265,
setuid 105 146, prctl 157 167, seccomp 317 277, openat2 437 437, sendfile 40 71, splice 275 76
"""


def verdict(program: list[tuple[int, int, int, int]], data: bytes) -> int:
    """What a filter returns for a `struct seccomp_data`, by the rules of bpf(4)."""
    at, value = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
            continue
        holds = {0x15: value == operand, 0x45: bool(value & operand), 0x35: value >= operand}[code]
        at += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_each_architecture_allows_reading_and_nothing_that_reaches_outside(
    machine: str,
) -> None:
    arch, _, column = sandbox._MACHINES[machine]
    program = [struct.unpack("=HBBI", one) for one in sandbox._instructions(arch, column)]

    def asked(number: int, *arguments: int, kind: int = arch) -> int:
        padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
        return verdict(program, struct.pack("=iIQ6Q", number, kind, 0, *padded))

    allow, refuse, kill = 0x7FFF0000, 0x00050000, 0x80000000
    for name, *numbers in map(str.split, _OUTSIDE.split(",")):
        number = int(numbers[column])
        assert asked(number) & 0xFFFF0000 == refuse, name
        assert asked(number, kind=1) == kill, "of another architecture"
    openat, clone, fcntl, tgkill = (56, 220, 25, 131) if column else (257, 56, 72, 234)
    assert asked(openat, 0, 0, 0o2000000) == allow
    for writing in (0o1, 0o2, 0o100, 0o1000, 0o20200002):
        assert asked(openat, 0, 0, writing) & 0xFFFF0000 == refuse, oct(writing)
    assert asked(clone, 0x11) & 0xFFFF0000 == refuse, "a process"
    assert asked(clone, 0x3D0F00) == allow, "a thread"
    assert asked(fcntl, 1, 8) & 0xFFFF0000 == refuse, "F_SETOWN"
    assert asked(tgkill, os.getpid()) == allow
    assert asked(tgkill, os.getppid()) & 0xFFFF0000 == refuse
    allowed = {number for number in range(600) if asked(number) == allow}
    assert len(allowed) < 90


def test_a_system_call_of_the_other_kind_ends_the_child(tmp_path: Path) -> None:
    """Numbers of the x32 interface would pass by a filter for x86-64."""
    code = textwrap.dedent("""
        import ctypes, sys
        from pathlib import Path
        from mailferry.mailbox.workbook.sandbox import confine, libraries
        confine([*libraries(), Path(sys.argv[1])])
        ctypes.CDLL(None).syscall(0x40000000 + 39)
        print("went on")
    """)
    ran = subprocess.run([sys.executable, "-I", "-c", code, tmp_path], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (-31, b""), "SIGSYS"


def test_layers_that_a_unit_or_container_forbids_are_layers_that_the_system_lacks(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import ctypes, errno, platform, sys
        from pathlib import Path
        from mailferry.mailbox.workbook.sandbox import *
        from mailferry.mailbox.workbook.sandbox import _ALLOW, _EQUAL, _ERRNO, _LOAD, _MACHINES, _RETURN, _Program, _do
        forbidden = [_do(_LOAD, 0)]
        for number in (444, 445, 446, _MACHINES[platform.machine()][1]):
            forbidden += [_do(_EQUAL, number, no=1), _do(_RETURN, _ERRNO | errno.EPERM)]
        forbidden = b"".join([*forbidden, _do(_RETURN, _ALLOW)])
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
        assert libc.prctl(22, 2, ctypes.byref(_Program(len(forbidden) // 8, forbidden))) == 0, "PR_SET_SECCOMP"
        print(*confine([*libraries(), Path(sys.argv[1])]))
    """)
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("Landlock seccomp\n", "")


@pytest.mark.parametrize("unit", ["mailferry", "mailferry-collect", "trackandtrace"])
def test_the_units_allow_every_layer(unit: str) -> None:
    text = (Path(__file__).parents[2] / f"systemd/{unit}.service").read_text()
    allowed = [line for line in text.splitlines() if line.startswith("SystemCallFilter=")][-1]
    calls = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"}
    assert calls <= set(allowed.removeprefix("SystemCallFilter=").split())


def test_an_abort_in_a_library_is_still_an_abort(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from mailferry.mailbox.workbook.sandbox import confine, libraries
        confine([*libraries(), Path(sys.argv[1])])
        os.abort()
    """)
    ran = subprocess.run([sys.executable, "-I", "-c", code, tmp_path], capture_output=True, check=False)
    assert ran.returncode == -6


def test_the_reading_child_is_confined_with_its_one_file(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader(folder=tmp_path) as reader, reader.open(path, Kind.XLSX, RowContract(key="key")) as sheet:
        child = reader._child
        assert child is not None
        status = Path(f"/proc/{child._process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert child.missing_layers == ()
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, (
            "PR_GET_DUMPABLE: this process is closed to its own user"
        )
        assert [entry.name for entry in Path(child.folder).iterdir()] == ["book.xlsx"]
        assert list(sheet.chunks) == [b"2,a\n"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]


def test_an_answer_of_a_gigabyte_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that was taken over may claim any length."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\nprintf 'R\\000\\000\\000\\002[]'\nread line\nprintf 'H\\177\\377\\377\\377x'\nsleep 60\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with (
        Reader(Limits()) as reader,
        pytest.raises(Reject, match="larger than any"),
        reader.open(path, Kind.XLSX, RowContract(key="key")),
    ):
        pass
