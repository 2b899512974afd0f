"""Zip archives: their directory, measured before it is held in memory, and their files, unpacked as a stream.

Source: APPNOTE.TXT 6.3, sections 4.3.12 to 4.3.16. It runs in the reading child.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.values import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.config.spreadsheet import Limits

#: An LZMA stream may ask for gigabytes of memory before its first byte comes.
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
#: What Python's zipfile raises on archives that are damaged or in a form that it does not know.
BROKEN = (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, ValueError, struct.error, OSError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file in an archive: no two have the same `member`, which is the same at every look. Neither name is safe as a path."""

    #: Its whole name with `/`; with the entry's number, from 1, where an earlier entry has that name; a hash where it is endless.
    member: str
    #: Its name without folders.
    name: str
    #: Its place in the directory, from 0.
    number: int
    #: Why it cannot be unpacked; "" where it can.
    reason: str = ""


#: Characters of a name, of up to 4 bytes each: PostgreSQL indexes no more than 2,704 bytes.
_LONGEST = 500


def open_zip(source: Path | IO[bytes], limits: Limits) -> zipfile.ZipFile:
    """Open a zip whose directory is within the limits; it is measured before anything of it is held in memory.

    What the directory states may be false: those who inflate keep count themselves. Raises Reject.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            size = _directory_size(file)
    else:
        size = _directory_size(source)
    # A directory entry is 46 bytes and a name; in memory it takes some ten times that.
    if size > limits.entries * 200:
        raise Reject(
            f"a zip archive with a directory of {size:,} bytes, more than {limits.entries:,} entries need"
        )
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise Reject(f"a damaged or truncated zip archive ({error})") from None
    try:
        _check_directory(archive.infolist(), limits)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_directory(found: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(found) > limits.entries:
        raise Reject(f"a zip archive of {len(found):,} entries, where {limits.entries:,} are allowed")
    total = sum(entry.file_size for entry in found)
    if total > limits.inflated:
        raise Reject(
            f"it would inflate to {total / MIB:,.0f} MB, where {limits.inflated / MIB:,.0f} MB are allowed"
            " (a zip bomb, or more than this reader takes)"
        )
    # In all, or many small entries would do what a large one may not.
    packed = max(1, sum(entry.compress_size for entry in found))
    if total > limits.ratio_from and total > limits.ratio * packed:
        raise Reject(f"it inflates {total // packed:,} fold: a zip bomb")


def _directory_size(file: IO[bytes]) -> int:
    """Bytes of the central directory, as the end records state them (APPNOTE 4.3.14 to 4.3.16)."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 65_557))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise Reject("a truncated zip archive: its end is missing")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator.startswith(b"PK\x06\x07"):
        return _directory_size_64(
            file, tail[at:], int.from_bytes(locator[8:16], "little"), end - len(tail) + at
        )
    return size


def _directory_size_64(file: IO[bytes], small: bytes, place: int, end: int) -> int:
    """As the zip64 record states it, which is where its locator says, right before that, and says what the other does.

    `small` is the record without 64 bits, at `end`. Readers differ in which of two they believe.
    """
    file.seek(min(place, end))
    record = file.read(56)
    if place != end - 76 or not record.startswith(b"PK\x06\x06"):
        raise Reject("a damaged zip archive: its end record is not where it should be")
    for at, length, at_64 in ((8, 2, 24), (10, 2, 32), (12, 4, 40), (16, 4, 48)):
        stated = int.from_bytes(small[at : at + length], "little")
        if stated not in (2 ** (8 * length) - 1, int.from_bytes(record[at_64 : at_64 + 8], "little")):
            raise Reject("a damaged zip archive: its end records disagree")
    return int.from_bytes(record[40:48], "little")


def entries(archive: zipfile.ZipFile, largest: int) -> Iterator[Entry]:
    """The archive's files; `largest` bounds one of them, in bytes."""
    taken: set[str] = set()
    for number, info in enumerate(archive.infolist()):
        if info.is_dir():
            continue
        whole = _name(info).replace("\\", "/")
        name = whole.rpartition("/")[2]
        member = whole
        if len(whole) > _LONGEST:
            # Cut before anything looks at the letters: some cost more the more of them there are.
            name = name[-100:]
            member = f"{hashlib.sha256(whole.encode(errors='surrogatepass')).hexdigest()[:16]}/{name}"
        while member in taken:
            member = f"{member} [entry {number + 1}]"
        taken.add(member)
        yield Entry(member=member, name=name, number=number, reason=_why_not(info, largest))


def _name(info: zipfile.ZipInfo) -> str:
    """Its name; one that is not flagged as UTF-8 may be so all the same (Macs), else it is of a Turkish DOS.

    That code page, 857, has the letters of Western Europe where 850 has them.
    """
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        raw = info.filename.encode("cp437")  # as zipfile has decoded it
    except UnicodeEncodeError:
        return info.filename  # it had another place to read it from
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp857", errors="replace")


def unpacked(archive: zipfile.ZipFile, number: int, largest: int) -> Iterator[bytes]:
    """A file's content in pieces. Raises Reject where the archive is damaged, or more than `largest` bytes come."""
    info = archive.infolist()[number]
    try:
        with archive.open(info) as stream:
            left = largest
            while piece := stream.read(256 * 1024):
                left -= len(piece)
                if left < 0:
                    raise Reject(f"larger than {largest / MIB:,.0f} MB")
                yield piece
    except BROKEN as error:
        raise Reject(f"damaged in the archive ({error})") from None


def _why_not(entry: zipfile.ZipInfo, largest: int) -> str:
    """Why a member cannot be unpacked; "" when it can."""
    if entry.flag_bits & 1:
        return "protected by a password; send it without"
    if entry.compress_type not in METHODS:
        return "packed by a method that spreadsheets are not packed by"
    if entry.file_size > largest:
        return f"larger than {largest / MIB:,.0f} MB"
    return ""
