"""What a file is, by its bytes: never by its name or MIME type. It runs in the reading child.

Source: [MS-CFB] (compound files: sections 2.2, 2.3 and 2.6).
"""

from __future__ import annotations

import re
import struct
from typing import IO, TYPE_CHECKING

from mailferry.config.spreadsheet import Limits
from mailferry.errors import Reject
from mailferry.mailbox.workbook.archive import BROKEN, METHODS, open_zip
from mailferry.mailbox.workbook.text_kind import BEGINNING, plain_kind
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator
    from pathlib import Path


class PlainZip(Reject):
    """A zip archive, not a spreadsheet."""


def kind_of(path: Path, limits: Limits | None = None) -> Kind:
    """The format of a file that may hold a table.

    Raises PlainZip for a zip archive that is none (see `archive`), Reject with the reason for anything
    else, OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(BEGINNING)
        if start.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
            return _compound_kind(file)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with open_zip(path, limits or Limits()) as archive:
            return zip_kind(archive)
    return plain_kind(start)


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
        if archive.getinfo(name).compress_type not in METHODS:
            return b""
        with archive.open(name) as entry:
            return entry.read(256 * 1024)
    except (KeyError, RuntimeError, *BROKEN):
        return b""


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
