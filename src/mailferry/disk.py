"""The disk as mailferry uses it: whole lines appended, whole files replaced, both durable when the call returns.

Who may write a folder may plant links in it: no name that is written to is followed elsewhere, and what is not a plain file
is refused. New files and folders are never writable for others, whatever the umask.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import time
from typing import TYPE_CHECKING

from mailferry.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Permissions of what is made new; the umask may take more from them.
FILE_MODE, FOLDER_MODE = 0o644, 0o755
#: Seconds between tries to replace a file that another program (virus scanner, indexer) holds open on Windows.
REPLACE_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)
#: What is left free of a disk where no `min_free` is set: so many bytes, or this share of a smaller disk.
_LEFT_FREE, _LEFT_SHARE = 256 << 20, 0.02


@contextlib.contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a Retry that says what could not be done to which file, and what to look at."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free space on that disk",
            errno.EDQUOT: "raise the quota of its owner",
            errno.EACCES: "give the user that runs mailferry write permission",
            errno.EPERM: "give the user that runs mailferry write permission",
            errno.EROFS: "the disk is mounted read-only",
            errno.EISDIR: "a folder is in its place; move it away",
            errno.EIO: "the disk reports a fault; see the kernel log",
            errno.ELOOP: "a symbolic link is in its place, and none is followed; move it away",
            errno.ENXIO: "no plain file is in its place; move it away",
        }.get(error.errno or 0, "see that path")
        raise Retry(
            f"cannot {action} {path}: {error.strerror or error}; {advice}. Nothing is lost, the next run repairs it"
        ) from error


def floor(total: int, min_free: int | None) -> int:
    """Bytes of a disk of so many that are left free; None for the usual, 0 for none."""
    return min(_LEFT_FREE, int(_LEFT_SHARE * total)) if min_free is None else min_free


def require_room(folder: Path, min_free: int | None, size: int = 0) -> None:
    """Raise Retry where writing `size` bytes into an existing folder would leave less than the floor of its disk free.

    A database on the same disk fares worse with a full one than mail and events that wait.
    """
    with explained("look at the disk of", folder):
        usage = shutil.disk_usage(folder)
    left = floor(usage.total, min_free)
    if left and usage.free - size < left:
        mib = 1 << 20
        raise Retry(
            f"{usage.free / mib:,.1f} MB are free on the disk of {folder}, and {left / mib:,.1f} MB have to stay free (min_free): "
            "free space there. Nothing is lost; what arrives waits where it is"
        )


def foreign(folder: Path) -> str:
    """Why root must not write in a folder, which may be missing yet: it is another user's, who may plant links there; "" where it may."""
    if sys.platform == "win32" or os.geteuid():
        return ""
    import pwd

    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not (owner := there.stat().st_uid):
        return ""
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    return f"{there} belongs to user {name}, and root writes nothing there. Run it as that user: sudo -u '{name}' mailferry ..."


def sync_folder(folder: Path) -> None:
    """Make names that were added to or changed in `folder` durable. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; `os.write` may take only some."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(
    path: Path,
    data: bytes,
    *,
    mode: int | None = None,
    durable: bool = True,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Put `data` in the place of the file at `path`, whole or not at all; `mode` is who may read it, else as before.

    Raises:
        OSError: it could not be done; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # What a kill has left, or someone has planted, goes; what is planted after that makes O_EXCL fail.
    temporary.unlink(missing_ok=True)
    descriptor = opener(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode or FILE_MODE)
    try:
        _keep_mode(descriptor, path, mode)
        write_all(descriptor, data)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for wait in (*REPLACE_PAUSES, None):
        try:
            temporary.replace(path)
            break
        except PermissionError:
            # WinError 5 and 32: another program has the file open; on other systems a real lack of permission.
            if wait is None or not _held_by_another():
                raise
            pause(wait)
    if durable:
        sync_folder(path.parent)


def opener(path: str | Path, flags: int, mode: int = FILE_MODE) -> int:
    """Open a plain file, and nothing else that may stand in its place; for `open(..., opener=disk.opener)`, too.

    Raises:
        OSError: it cannot be opened; ELOOP for a symbolic link, ENXIO for what is no plain file.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "it is no plain file", str(path))
    return descriptor


def make_folder(folder: Path, mode: int = FOLDER_MODE) -> None:
    """Make a folder of this mode, and those above it that are missing, whatever the umask. Raises OSError."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)


def _keep_mode(descriptor: int, path: Path, mode: int | None) -> None:
    """Who may read the file that is replaced may read the new one; a new file goes by the umask."""
    if sys.platform != "win32":
        with contextlib.suppress(FileNotFoundError):
            before = path.lstat().st_mode
            if mode or stat.S_ISREG(before):
                os.fchmod(descriptor, mode or before & 0o777)


def _held_by_another() -> bool:
    return os.name == "nt"


def append(path: Path, data: bytes) -> None:
    """Append to the file at `path`, made where it is missing, and wait until it is on the disk."""
    new = not path.exists()
    descriptor = opener(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        sync_folder(path.parent)


def rewrite(path: Path, offset: int, data: bytes) -> None:
    """Write what is in the file from `offset` on again, cut all behind it, and wait until it is on the disk.

    After a failed fsync the kernel calls pages clean that never reached the disk: only a new write brings them there.
    """
    descriptor = opener(path, os.O_RDWR)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        write_all(descriptor, data)
        os.ftruncate(descriptor, offset + len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
