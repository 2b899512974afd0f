"""What a file is, by its bytes: never by its name or MIME type. And what is in a .zip, without unpacking it first.

Sources: APPNOTE.TXT 6.3 (zip: sections 4.3.12 to 4.3.16), [MS-CFB] (compound files: sections 2.2, 2.3 and 2.6).
Everything read here is bounded, for it runs in the process that holds the credentials.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mailferry.config.spreadsheet import Limits
from mailferry.errors import Reject
from mailferry.mailbox.workbook.text_kind import BEGINNING, text_kind
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20


class PlainZip(Reject):
    """A zip archive, not a spreadsheet."""


def kind_of(path: Path, limits: Limits | None = None) -> Kind:
    """The format of a file that may hold a table.

    Raises PlainZip for a zip archive that is none (see `files_in_zip`), Reject with the reason for anything
    else, OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(BEGINNING)
        if start.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
            return _compound_kind(file)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with open_zip(path, limits or Limits()) as archive:
            return zip_kind(archive)
    return _kind_without_container(start)


_MAGIC = (
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x09\x00\x04\x00", "an Excel 2 workbook; save it as .xlsx"),
    (b"\x09\x02\x06\x00", "an Excel 3 workbook; save it as .xlsx"),
    (b"\x09\x04\x06\x00", "an Excel 4 workbook; save it as .xlsx"),
    (b"PK", "a damaged zip archive"),
)


def _kind_without_container(start: bytes) -> Kind:
    """The kind of what is neither a zip nor a compound file. Raises Reject with what it is instead."""
    if not start:
        raise Reject("the file is empty")
    for magic, name in _MAGIC:
        if start.startswith(magic):
            raise Reject(f"not a spreadsheet but {name}")
    if not start.strip(b"\0"):
        raise Reject("not a spreadsheet: the file begins with nothing but zeros")
    return text_kind(start)


# --- zip --------------------------------------------------------------------------------------------------------


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


def _check_directory(entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    if len(entries) > limits.entries:
        raise Reject(f"a zip archive of {len(entries):,} entries, where {limits.entries:,} are allowed")
    total = sum(entry.file_size for entry in entries)
    if total > limits.inflated:
        raise Reject(
            f"it would inflate to {total / MIB:,.0f} MB, where {limits.inflated / MIB:,.0f} MB are allowed"
            " (a zip bomb, or more than this reader takes)"
        )
    for entry in entries:
        if entry.file_size > limits.ratio_from and entry.file_size > limits.ratio * max(
            entry.compress_size, 1
        ):
            raise Reject(
                f"an entry inflates {entry.file_size // max(entry.compress_size, 1):,} fold: a zip bomb"
            )


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
        file.seek(min(int.from_bytes(locator[8:16], "little"), end))
        record = file.read(56)
        if not record.startswith(b"PK\x06\x06"):
            raise Reject("a damaged zip archive: its end record is not where it should be")
        size = int.from_bytes(record[40:48], "little")
    return size


def zip_kind(archive: zipfile.ZipFile) -> Kind:
    """The kind of a zip archive by its parts. Raises as `kind_of`."""
    names = {entry.filename.replace("\\", "/").lower() for entry in archive.infolist()}
    mimetype = _small(archive, "mimetype")
    if mimetype.startswith(b"application/vnd.oasis.opendocument.spreadsheet"):
        return Kind.ODS
    if mimetype.startswith(b"application/vnd.oasis.opendocument"):
        raise Reject("not a spreadsheet but another OpenDocument file")
    if any(re.fullmatch(r"xl/workbook[^/]*\.bin", name) for name in names):
        return Kind.XLSB
    if any(re.fullmatch(r"xl/workbook[^/]*\.xml", name) for name in names):
        return Kind.XLSX
    if "[content_types].xml" in names:
        types = _small(archive, "[Content_Types].xml")
        if b"sheet.binary.macroEnabled.main" in types:
            return Kind.XLSB
        if (
            b"sheet.main+xml" in types
            or b"sheet.macroEnabled.main+xml" in types
            or b"template.main+xml" in types
        ):
            return Kind.XLSX
        other = {"word/": "a Word document", "ppt/": "a PowerPoint presentation", "visio/": "a Visio drawing"}
        for folder, what in other.items():
            if any(name.startswith(folder) for name in names):
                raise Reject(f"not a spreadsheet but {what}")
        raise Reject("an Office file without a workbook in it")
    if any(name.startswith("xl/") for name in names):
        raise Reject("a workbook that has lost its parts: neither a list of contents nor a workbook is in it")
    if "index/document.iwa" in names or "index.zip" in names:
        raise Reject("an Apple iWork document; export it as .xlsx")
    raise PlainZip


def _small(archive: zipfile.ZipFile, name: str) -> bytes:
    """The first 256 KiB of an entry, or nothing."""
    try:
        if archive.getinfo(name).compress_type not in _METHODS:
            return b""
        with archive.open(name) as entry:
            return entry.read(256 * 1024)
    except (KeyError, RuntimeError, *_BROKEN):
        return b""


#: An LZMA stream may ask for gigabytes of memory before its first byte comes.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
#: What Python's zipfile raises on archives that are damaged or in a form that it does not know.
_BROKEN = (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, ValueError, struct.error, OSError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file in an archive: no two have the same `member`, which is the same at every look. Neither is safe as a path."""

    #: Its whole name with `/`; with the entry's number, from 1, where an earlier entry has that name; a hash where it is endless.
    member: str
    #: Its name without folders.
    name: str


#: Characters of a name, of up to 4 bytes each: PostgreSQL indexes no more than 2,704 bytes.
_LONGEST = 500


def _entries(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, Entry]]:
    """The archive's files."""
    taken: set[str] = set()
    for number, info in enumerate(archive.infolist(), 1):
        if info.is_dir():
            continue
        whole = info.filename.replace("\\", "/")
        name = whole.rpartition("/")[2]
        member = whole
        if len(whole) > _LONGEST:
            member = f"{hashlib.sha256(whole.encode(errors='surrogatepass')).hexdigest()[:16]}/{name[-100:]}"
        while member in taken:
            member = f"{member} [entry {number}]"
        taken.add(member)
        yield info, Entry(member=member, name=name)


class Member:
    """A file in an archive, read as a stream; Reject where the archive is damaged or more comes than the limit allows."""

    def __init__(self, stream: IO[bytes], name: str, limit: int) -> None:
        self._stream = stream
        self._name = name
        self._limit = limit
        self._left = limit

    def read(self, size: int = 256 * 1024) -> bytes:
        """At most `size` bytes; nothing at the end."""
        try:
            piece = self._stream.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise Reject(f"{self._name!r} in the archive is damaged ({error})") from None
        self._left -= len(piece)
        if self._left < 0:
            raise Reject(f"{self._name!r} in the archive is larger than {self._limit / MIB:,.0f} MB")
        return piece


def files_in_zip(
    path: Path, largest: int, limits: Limits | None = None, passed: list[tuple[Entry, str]] | None = None
) -> Iterator[tuple[Entry, Member]]:
    """The files in a zip archive that can be unpacked, one open at a time, with their content.

    `largest` bounds one of them, in bytes. `passed` takes each of the others, and why. Raises Reject.
    """
    limits = limits or Limits()
    passed = [] if passed is None else passed
    with open_zip(path, limits) as archive:
        for info, entry in _entries(archive):
            reason = _why_not(info, largest)
            if not reason:
                try:
                    stream = archive.open(info)
                except _BROKEN as error:
                    reason = f"damaged ({error})"
            if reason:
                passed.append((entry, reason))
                continue
            with stream:
                yield entry, Member(stream, entry.name, largest)


def _why_not(entry: zipfile.ZipInfo, largest: int) -> str:
    """Why a member cannot be unpacked; "" when it can."""
    if entry.flag_bits & 1:
        return "protected by a password; send it without"
    if entry.compress_type not in _METHODS:
        return "packed by a method that spreadsheets are not packed by"
    if entry.file_size > largest:
        return f"larger than {largest / MIB:,.0f} MB"
    return ""


# --- OLE2 compound files -----------------------------------------------------------------------------------------

_STREAMS = (
    ("WordDocument", "not a spreadsheet but a Word document"),
    ("PowerPoint Document", "not a spreadsheet but a PowerPoint presentation"),
    ("VisioDocument", "not a spreadsheet but a Visio drawing"),
    ("__properties_version1.0", "not a spreadsheet but an Outlook message"),
)
#: Sectors of the directory that are looked at: 1,000 hold 4,000 entries.
_DIRECTORY_SECTORS = 1_000


def _compound_kind(file: IO[bytes]) -> Kind:
    names = set(_stream_names(file))
    if names & {"Workbook", "Book", "WORKBOOK", "BOOK"}:
        return Kind.XLS
    if "EncryptedPackage" in names:
        return Kind.PROTECTED
    for name, reason in _STREAMS:
        if name in names:
            raise Reject(reason)
    if not names:
        raise Reject("a truncated or damaged .xls file (its directory cannot be read)")
    raise Reject("an OLE file without a workbook in it")


def _stream_names(file: IO[bytes]) -> Iterator[str]:
    """Names in the directory of a compound file, as far as its chain can be followed ([MS-CFB] 2.6)."""
    file.seek(0)
    header = file.read(512)
    if len(header) < 512:
        return
    (shift,) = struct.unpack_from("<H", header, 30)
    (sector,) = struct.unpack_from("<I", header, 48)
    fat = struct.unpack_from("<109I", header, 76)
    if shift not in {9, 12}:
        return
    size = 1 << shift
    for _ in range(_DIRECTORY_SECTORS):
        file.seek((sector + 1) * size)
        content = file.read(size)
        for at in range(0, len(content) - 127, 128):
            length = int.from_bytes(content[at + 64 : at + 66], "little")
            if 2 < length <= 64:
                yield content[at : at + length - 2].decode("utf-16-le", errors="replace")
        which, place = divmod(sector, size // 4)
        if len(content) < size or which >= len(fat) or fat[which] >= 0xFFFFFFFA:
            return
        file.seek((fat[which] + 1) * size + place * 4)
        sector = int.from_bytes(file.read(4), "little")
        if sector >= 0xFFFFFFFA:
            return
