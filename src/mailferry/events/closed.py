"""Hours that are over and audited: their files are compressed and sealed, and no complete line of them changes any more.

Every step may be cut off anywhere and is done again by the next run: a file counts until its compressed form is whole on
the disk and read back; a file is sealed by one line that is appended to the manifest.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from typing import TYPE_CHECKING

from mailferry import disk
from mailferry.errors import Retry
from mailferry.events import stored
from mailferry.events.folder import ENDINGS, files_of, is_late, late_name, plain
from mailferry.events.seal import LATE_QUIET, Manifest, contents_of, sealed_names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.coverage import Coverage

#: Seconds that one run may spend on closing files; the next run goes on.
BUDGET = 60.0
#: Seconds without a change before an hour's file is closed.
QUIET = 3600
_PIECE = 1024 * 1024


class ClosedFiles:
    """The closed files of a feed."""

    def __init__(self, feed: EventFeed, clock: Callable[[], float]) -> None:
        self._feed = feed
        self._format = feed.fill(feed.log_file_name_format)
        self._clock = clock
        self._places: dict[str, str] = {}

    @functools.cached_property
    def manifest(self) -> Manifest:
        """For putting on record what is sealed or deleted. Raises Stop where it was changed."""
        return Manifest.open(self._feed.manifest_file)

    @functools.cached_property
    def _sealed(self) -> set[str]:
        """Files that no line may be appended to."""
        return sealed_names(self._feed.manifest_file) if self._feed.seal else set()

    def place(self, name: str, *, late: bool) -> str:
        """The file for an event of the hour file `name`: another one where that is closed, or for late events of their own."""
        key = f"{name}/{late}"
        if key not in self._places:
            wanted, number = (late_name(name, 1), 1) if late and self._feed.late == "file" else (name, 0)
            while self._closed(wanted):
                number += 1
                wanted = late_name(name, number)
            self._places[key] = wanted
        return self._places[key]

    def _closed(self, name: str) -> bool:
        folder = self._feed.folder
        if any((folder / f"{name}{ending}").exists() for ending in ENDINGS.values()):
            return True
        return name in self._sealed and (folder / name).exists()

    def close(self, open_names: Collection[str], coverage: Coverage) -> Iterator[str]:
        """Compress and seal the files that are closed: not of the hours `open_names`, and unchanged for long. Yields what was done.

        Raises:
            Retry: the disk is full or refuses; the next run goes on.
            Stop: the manifest was changed; files stay as they are until that is explained.
        """
        if self._feed.compress == "none" and not self._feed.seal:
            return
        if self._feed.seal:
            _ = self.manifest  # a file that cannot be sealed is not compressed either
        until = time.monotonic() + BUDGET
        self._places.clear()
        for modified, path in files_of(self._feed.folder, self._format):
            if time.monotonic() > until:
                return
            name = plain(path.name)
            quiet = LATE_QUIET if is_late(name) else QUIET
            if name in open_names or modified > self._clock() - quiet:
                continue
            yield from self._close(path, coverage)

    def _close(self, path: Path, coverage: Coverage) -> Iterator[str]:
        if path.name in self._sealed:
            return
        ending = ENDINGS.get(self._feed.compress)
        if ending and path.name == plain(path.name):
            compressed = path.with_name(path.name + ending)
            with disk.explained("compress", path):
                compress(path, compressed)
            yield f"compressed {path.name}"
            path = compressed
        if self._feed.seal:
            contents = contents_of(path, coverage)
            entry = self.manifest.add(contents, int(self._clock()))
            self._sealed.add(path.name)
            yield f"sealed {path.name}: entry {entry.number}, sha256 {entry.sha256}, head {self.manifest.head}"

    def deleted(self, path: Path, reason: str) -> None:
        """Before a file is deleted by `log_retention_days`: the manifest says so, or it would look removed. Raises as `close`."""
        if path.name in self._sealed:
            self.manifest.remove(path.name, reason, int(self._clock()))


def compress(path: Path, target: Path) -> None:
    """Replace a file by its compressed form, which keeps its times; durable, and compared before the file is deleted.

    Raises:
        OSError: the disk refuses; the file is there as before.
        Retry: what was read back differs.
    """
    unfinished = target.with_name(f".{target.name}.tmp")
    unfinished.unlink(missing_ok=True)
    try:
        with path.open("rb") as source, open(unfinished, "xb", opener=disk.opener) as file:
            state = os.fstat(source.fileno())
            digest = hashlib.sha256()
            with stored.compressor(file, target.suffix) as writer:
                while piece := source.read(_PIECE):
                    digest.update(piece)
                    writer.write(piece)
            file.flush()
            os.fsync(file.fileno())
        read_back = hashlib.sha256()
        for line in stored.open_lines(unfinished, target.suffix):
            read_back.update(line)
        if read_back.digest() != digest.digest():
            raise Retry(
                f"{path}: what was compressed reads back differently; see the kernel log for a fault of the disk"
            )
        unfinished.chmod(state.st_mode & 0o777)
        os.utime(unfinished, ns=(state.st_atime_ns, state.st_mtime_ns))
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    disk.sync_folder(path.parent)
    path.unlink()
    disk.sync_folder(path.parent)
