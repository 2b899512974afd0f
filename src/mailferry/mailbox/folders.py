"""The folders of a feed: `pending/`, `processed/<date>/` and `failed/`, all on one file system.

A file moves once, after the commit that says what became of it, so a crash leaves it where the ledger can find it.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import math
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.disk import explained, foreign, replace_file, sync_folder
from mailferry.errors import Stop
from mailferry.mailbox.storing import clear_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from mailferry.mailbox.workbook.values import RejectedRow

#: Begins the names of folders in `pending` that hold what the reading child works with.
READING = ".reading-"
#: Seconds after which a file that no job knows, or a reading folder of another host, is deleted.
_ABANDONED = 3600
#: Unix seconds; folders that were made before are not ours.
_STARTED = time.time() - 1
#: Added to a file's name for the list of its rejected rows.
REJECTS = ".rejects.csv"
#: Where a spreadsheet program would see a formula begin, also one that splits lines at other signs than commas, or that takes
#: full-width signs for the usual ones: the signs at which it may split, and spaces, before such a sign.
_FORMULA = re.compile(r'(?<![;,|:\t\r\n" ])([;,|:\t\r\n" ]*+)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])')


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """Where a feed's files lie."""

    base: Path

    @property
    def pending(self) -> Path:
        return self.base / "pending"

    @property
    def processed(self) -> Path:
        return self.base / "processed"

    @property
    def failed(self) -> Path:
        return self.base / "failed"

    def prepare(self) -> None:
        """Make what is missing. Raises Stop where that, or writing, is not possible."""
        for folder in (self.pending, self.processed, self.failed):
            if why := foreign(folder.absolute()):
                raise Stop(why)
            try:
                make_folders(folder)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise Stop(
                    f"cannot write in {folder} ({error.strerror}); give the user that runs mailferry the right to, "
                    "free space on that disk, or choose another folder by APP_BASE_DIR"
                ) from None

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process of this machine works in these folders; held until the end or the process's own."""
        import filelock

        # A soft lock would outlive a process that was killed.
        lock = filelock.FileLock(self._lock, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        except OSError as error:
            raise self._unlockable(error) from None
        try:
            yield True
        finally:
            lock.release()

    @contextlib.contextmanager
    def shared(self) -> Iterator[bool]:
        """Whether these folders can be used beside other processes that share them; held as long as `alone`, which it excludes.

        Windows knows no such lock on a whole file: there one process has them to itself.
        """
        if sys.platform == "win32":
            with self.alone() as alone:
                yield alone
            return
        import fcntl

        try:
            # The file that `alone` locks, which is never deleted.
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise self._unlockable(error) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise self._unlockable(error) from None
            yield True
        finally:
            os.close(descriptor)

    @property
    def _lock(self) -> Path:
        return self.base / ".lock"

    def _unlockable(self, error: OSError) -> Stop:
        return Stop(
            f"cannot lock {self._lock} ({error.strerror}); it must belong to the user that runs mailferry"
        )

    def put_away(self, path: Path, *, good: bool, day: dt.date) -> Path | None:
        """Move a file that is done with; where it is now. None where it is nowhere on this host.

        Raises Retry when the disk refuses.
        """
        folder = self.processed / day.isoformat() if good else self.failed
        target = folder / path.name
        if not self.has(path):
            return None
        if path == target or not _is_file(path):
            # Moved before, maybe by a process that died before it could record that.
            return target if _is_file(target) else None
        with explained("move", path):
            make_folders(folder)
            # It lies beside a file that failed before and is now loaded. First, as a moved file is not looked at again.
            path.with_name(path.name + REJECTS).unlink(missing_ok=True)
            try:
                path.replace(target)
            except FileNotFoundError:
                # Another process of this host settles the same job and was faster.
                return target if _is_file(target) else None
            sync_folder(folder)
        return target

    def has(self, path: Path) -> bool:
        """Whether the place of a file is one of a feed's in these folders. A ledger may say anything."""
        folder = path.parent
        if path != Path(os.path.normpath(path)):
            return False
        return folder in (self.pending, self.failed) or folder.parent == self.processed

    def holds(self, path: Path) -> bool:
        """Whether a file is there, in one of these folders."""
        return self.has(path) and _is_file(path)

    def drop(self, path: Path) -> None:
        """Delete a file of these folders, if it is there. Raises Retry when the disk refuses."""
        if self.holds(path):
            with explained("delete", path):
                path.unlink(missing_ok=True)

    def waiting(self, *, alone: bool) -> list[Path]:
        """The files in `pending`; unless `alone`, only those old enough not to be on their way into the ledger."""
        limit = math.inf if alone else time.time() - _ABANDONED
        with explained("list", self.pending):
            return [path for path in self.pending.iterdir() if _is_file(path) and _modified(path) < limit]

    def sweep(self, recorded: Callable[[Collection[Path]], set[str]], *, alone: bool = True) -> int:
        """Delete from `pending` what no job needs: one was cancelled, or a crash came between storing and recording.

        Of the latter the message is still unmarked, and was fetched again if it is still wanted. Unless `alone`, what
        is not old stays, and what a living process reads from. Another process may record it at this very moment: a
        file that is missing then is fetched again.
        """
        # Alone, so no process writes to downloads cut short, whatever their age.
        count = clear_leftovers(self.pending, math.inf if alone else time.time())
        for path in self.pending.glob(f"{READING}*"):
            if not (_is_ours(path) if alone else _is_read_from(path)):
                shutil.rmtree(path, ignore_errors=True)
        found = self.waiting(alone=alone)
        known = recorded(found) if found else set()
        for path in found:
            if str(path) in known or not (alone or time.time() - _modified(path) > _ABANDONED):
                continue
            with explained("delete", path):
                path.unlink(missing_ok=True)
            count += 1
        return count

    def expire(self, days: int, now: dt.datetime) -> int:
        """Delete processed and failed files older than so many days, 0 for never; how many. `now` is aware."""
        if not days:
            return 0
        oldest = now.date() - dt.timedelta(days=days)
        count = 0
        for folder in self.processed.iterdir():
            with contextlib.suppress(ValueError, OSError):
                if dt.date.fromisoformat(folder.name) < oldest and not folder.is_symlink():
                    count += sum(not path.name.endswith(REJECTS) for path in folder.iterdir())
                    shutil.rmtree(folder)
        limit = (now - dt.timedelta(days=days)).timestamp()
        for path in self.failed.iterdir():
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < limit and not path.is_dir():
                    path.unlink()
                    count += not path.name.endswith(REJECTS)
        return count


def make_folders(folder: Path) -> None:
    """Make a folder that is closed to others, and those above it that are missing, whatever the umask. Raises OSError.

    Those above, others may pass but not list: the private PostgreSQL of root, which is another user, may be in one of them.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o750 if one is folder else 0o751, exist_ok=True)


def _is_file(path: Path) -> bool:
    """A file itself, not a link to one: it is moved by its name."""
    return path.is_file() and not path.is_symlink()


def reading_prefix() -> str:
    """How the names of this process's reading folders begin: by host and process id another process sees whether it is alive."""
    return f"{READING}{socket.gethostname()}-{os.getpid()}-"


def _is_ours(folder: Path) -> bool:
    """Whether this process made the folder; one before it may have had its number."""
    return folder.name.startswith(reading_prefix()) and _modified(folder) >= _STARTED


def _is_read_from(folder: Path) -> bool:
    """Whether the process that made the folder may be alive. Of another host, by a shared disk, only its age decides."""
    host, _, process = folder.name.removeprefix(READING).rpartition("-")[0].rpartition("-")
    if host == socket.gethostname() and process.isdecimal() and sys.platform != "win32":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's process
            return True
        return True
    return time.time() - _modified(folder) < _ABANDONED


def _modified(path: Path) -> float:
    """Unix seconds; now, where it has gone meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def write_rejects(path: Path, rows: Iterable[RejectedRow]) -> Path:
    """The rows of the file at `path` that were not loaded, as CSV beside it, for people. Raises Retry."""
    target = path.with_name(path.name + REJECTS)
    with explained("write", target):
        replace_file(target, rejects_csv(rows), mode=0o640)
    return target


def rejects_csv(rows: Iterable[RejectedRow]) -> bytes:
    """Rejected rows as CSV, with a byte order mark, by which spreadsheet programs know UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("sheet", "row", "column", "value", "reason"))
    for row in rows:
        writer.writerow(
            (_plain(row.sheet), row.row, _plain(row.column), _plain(row.value), _plain(row.reason))
        )
    return text.getvalue().encode("utf-8-sig", "replace")


def _plain(text: str) -> str:
    """Text that a spreadsheet program does not run: values come from strangers' mail."""
    with contextlib.suppress(ValueError):
        if math.isfinite(float(text)):
            return text
    return _FORMULA.sub(_closed, text)


def _closed(found: re.Match[str]) -> str:
    begins_a_cell = found.start() == 0 or found[0].strip(" ")
    return f"{found[0]}'" if begins_a_cell else found[0]
