"""What is installed in the tests: this version, later and broken ones of it, and the machine it goes to."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from machine import PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from machine import Machine

sys.path.insert(0, str(ROOT / "tools"))
import artifacts

LOCKS, download = artifacts.LOCKS, artifacts.download

#: What deploy.sh has around it.
RELEASE = (
    "deployment",
    "systemd",
    "requirements",
    "packaging",
    "config.env.example",
    "mailferry.toml.example",
    "docs/install.md",
    "LICENSE",
)
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")


def copy(names: tuple[str, ...], of: Path, to: Path) -> Path:
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (of / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(of / name, target, dirs_exist_ok=True, ignore=ignore)
        else:
            shutil.copy(of / name, target)
    return to


class Versions:
    """Wheels of this program, as it is and with changes."""

    def __init__(self, sources: Path, folder: Path) -> None:
        self._sources = sources
        self._folder = folder

    def this(self) -> Path:
        return artifacts.wheel(self._folder / "this", self._sources)

    def other(self, version: str, **changes: str) -> Path:
        """As it is but for its version; `changes` are put at the end of modules, `config__env` is `config/env.py`."""
        made = self._folder / f"{version}-wheel"
        if made.exists():
            return next(made.glob("*.whl"))
        sources = copy(SOURCES, self._sources, self._folder / version)
        own = self.version()
        for name in ("pyproject.toml", "src/mailferry/__init__.py"):
            file = sources / name
            assert own in file.read_text("utf-8")
            file.write_text(file.read_text("utf-8").replace(f'"{own}"', f'"{version}"', 1), "utf-8")
        for name, text in changes.items():
            file = sources / "src/mailferry" / f"{name.replace('__', '/')}.py"
            file.write_text(f"{file.read_text('utf-8')}\n{text}\n", "utf-8")
        return artifacts.wheel(made, sources)

    def version(self) -> str:
        return self.this().name.split("-")[1]


class Site:
    """A machine, the release that was copied to it, and the wheelhouses it can be installed from."""

    def __init__(self, machine: Machine, sources: Path, wheels: Path) -> None:
        self.machine = machine
        self.sources = sources
        copy(RELEASE, sources, machine.path("/root/release"))
        shutil.copytree(wheels, machine.path("/root/wheels"))

    def house(self, name: str, wheel: Path | None) -> str:
        """A wheelhouse with this wheel of the program, or without any."""
        folder = self.machine.path(f"/root/{name}")
        folder.mkdir()
        self.machine.sh(f"ln -s /root/wheels/*.whl /root/{name}/")
        if wheel:
            shutil.copy(wheel, folder)
        return f"--wheelhouse /root/{name}"

    def deploy(self, arguments: str, status: int | None = 0) -> str:
        return self.machine.sh(f"/root/release/deployment/deploy.sh {arguments}", status=status).text

    def broken_off(self, arguments: str, step: str, name: str) -> None:
        """Begin, and signal when the step is announced: SIGKILL to all of its processes, others to the script."""
        script = f"echo $$; exec /root/release/deployment/deploy.sh {arguments}"
        with self.machine.started("setsid", "sh", "-c", script) as (begun, said):
            pid = int(said.readline())
            for line in said:
                if line.startswith(f"==> {step}".encode()):
                    break
            self.machine.sh(f"kill -s {name} -- {-pid if name == 'KILL' else pid}", status=None)
            said.read()
            begun.wait(PATIENCE)

    def leads_root_astray(self, install: Callable[[], object]) -> bool:
        """Whether `install`, run by root, follows links that the service has put into its own folder."""
        folders = "/var/lib/trackandtrace/pending", "/var/lib/trackandtrace/failed"
        before = self.machine.sh("mkdir -m 700 /srv/closed && stat -c '%U %a' /srv/closed").out
        script = f"rmdir {' '.join(folders)}; ln -s /srv/closed {folders[0]}; ln -s /srv/made {folders[1]}"
        self.machine.sh(script, user="trackandtrace")
        install()
        after = self.machine.sh(
            "stat -c '%U %a' /srv/closed; rmdir /srv/closed; ls -d /srv/made", status=None
        )
        self.machine.sh(f"rm {' '.join(folders)}", user="trackandtrace")
        return after.out != before

    def snapshot(self, *without: str) -> dict[str, str]:
        """Every file that an installation has to do with: kind, mode, owner and content, by path."""
        places = "/opt /etc /usr/local /var/lib/trackandtrace /var/lib/mailferry /var/log/trackandtrace"
        # Passwords and groups change with the user; systemd and logrotate keep notes of their own.
        leave = [r"/etc/(passwd|shadow|group|gshadow)-?|.*/\.lock|.*__pycache__.*|/etc/(subuid|subgid)-?"]
        pattern = "|".join([*leave, *without])
        listing = self.machine.sh(
            f"find {places} -regextype posix-extended ! -regex '{pattern}' -printf '%p|%y %m %u:%g %l\\n' 2>/dev/null; "
            f"find {places} -xdev -regextype posix-extended ! -regex '{pattern}' -type f "
            "! -path '*/site-packages/*' ! -path '*/postgres/*' -exec sha256sum {} + 2>/dev/null "
            r"| sed -E 's/^(\S+)  (.*)$/\2 content|\1/'"
        ).out
        return dict(line.rsplit("|", 1) for line in listing.splitlines())
