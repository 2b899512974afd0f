"""The lines of hourly files, read back: by an audit, a back-fill and `verify`. Nothing is changed by reading.

An event is found again by its identity. A line may be a detail that shows another time than the list record that it
was asked for by, as another recipient comes first: all times that it has count.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from mailferry import disk
from mailferry.errors import Retry
from mailferry.events import order
from mailferry.events import record as records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mailferry.events.order import Identity


class Found(NamedTuple):
    """One line that is a record."""

    #: Unix seconds; that of the line before it where it has none of its own.
    time: int | None
    #: Whether the time is its own.
    timed: bool
    #: Its identity.
    key: str
    record: Any
    #: The first identity of those that share queue id and time, or what else it is made of; "" where its record cannot change.
    group: str = ""


def open_lines(path: Path, ending: str = "") -> Iterator[bytes]:
    """The lines of a file, compressed or not, each with its newline; a torn last one has none.

    `ending` is that of a compressed file, where its name does not have it.

    Raises:
        Retry: it cannot be read, or what is compressed is damaged.
    """
    ending = ending or path.suffix
    with disk.explained("read", path), path.open("rb") as file:
        if ending == ".gz":
            import gzip
            import zlib

            try:
                with gzip.open(file) as lines:
                    yield from lines
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise Retry(f"{path} is damaged: {error}. Restore it from a backup") from error
        elif ending == ".zst":
            import zstandard

            try:
                with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
                    yield from io.BufferedReader(reader)
            except zstandard.ZstdError as error:
                raise Retry(f"{path} is damaged: {error}. Restore it from a backup") from error
        else:
            yield from file


def compressor(file: IO[bytes], ending: str) -> AbstractContextManager[Any]:
    """What compresses into an open file, which stays open; the same bytes for the same content."""
    if ending == ".gz":
        import gzip

        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    import zstandard

    writer: AbstractContextManager[Any] = zstandard.ZstdCompressor(write_checksum=True).stream_writer(
        file, closefd=False
    )
    return writer


def found(paths: Iterable[Path], identity: Identity = order.DEFAULT) -> Iterator[Found]:
    """The records of these files; lines that are none are left out."""
    last: int | None = None
    decoded = (record for path in paths for record in _records(path))
    for entry in order.identified(decoded, identity):
        last = entry.time if entry.time is not None else last
        yield Found(last, entry.time is not None, entry.key, entry.record, order.group(entry))


def other_keys(record: Any) -> Iterator[str]:
    """Identities that the list record of an event with a queue id may have had, which shows another of its times."""
    queue_id = records.queue_id(record)
    times = () if queue_id is None else records.times(record)
    if queue_id is not None and len(times) > 1:
        for time in times:
            yield order.addressed(queue_id, time)


def _records(path: Path) -> Iterator[Any]:
    for line in open_lines(path):
        try:
            yield records.decode(line)
        except ValueError:
            continue
