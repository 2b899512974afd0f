"""What the parts of an .xlsx, .xlsm or .xlsb say and calamine does not, and mending those that it does not read.

Cells with an error or an uncalculated formula, hidden rows and columns; parts in UTF-16, sheets without a part.

Sources: ECMA-376 part 1, 18.3.1 (worksheets) and 18.18.11 (cell types); [MS-XLSB] 2.1.4 (records), 2.5.97.2 (errors).
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.cells import UNCALCULATED, Fault, error_cell
from mailferry.mailbox.workbook.hidden import RowSet
from mailferry.mailbox.workbook.values import MIB, Kind
from mailferry.mailbox.workbook.xml_stream import XmlStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.hidden import HiddenCells

_PIECE = 256 * 1024
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_MAIN = (
    MAIN,
    "http://purl.oclc.org/ooxml/spreadsheetml/main",
)
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = (
    "http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    "http://purl.oclc.org/ooxml/officeDocument/relationships",
)
_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PREFIXED = re.compile(rb"<[A-Za-z_][\w.-]*:worksheet\b")
_NO_VALUE = re.compile(rb"(?:</f>|<f\b[^<>]*/>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>")
_HIDDEN = re.compile(rb"hidden\s*=\s*[\"'](?:1|true)[\"']")
_ROW_OR_COLUMN = re.compile(rb"<(?:[\w.-]+:)?(row|col)\b([^<>]*)")
_PLACE = re.compile(rb"\s(r|min|max)\s*=\s*[\"'](\d{1,9})[\"']")
#: An error cell up to what it shows, and that.
_ERROR_CELL = re.compile(
    rb"(<(?:[\w.-]+:)?c\s(?:[^<>]*\s)?t\s*=\s*[\"']e[\"'][^<>]*>(?:<(?:[\w.-]+:)?f\b[^<>]*(?:/>|>[^<]*</(?:[\w.-]+:)?f>))?"
    rb"\s*<(?:[\w.-]+:)?v>)([^<]*)"
)
_NO_RELATION = re.compile(r"<(?:\w+:)?sheet\s[^<>]*\w+:id=([\"'])\1[^<>]*/>")
_ERRORS_XLSB = {0: "#NULL!", 7: "#DIV/0!", 15: "#VALUE!", 23: "#REF!", 29: "#NAME?", 36: "#NUM!", 42: "#N/A", 43: "#GETTING_DATA"}  # fmt: skip
_KNOWN_ERRORS = frozenset(_ERRORS_XLSB.values())


@dataclass(kw_only=True, slots=True)
class Look:
    """A look at the bytes of a worksheet's part: cheap, for most hold nothing of the kind."""

    #: Whether some cell may show an error or have a formula without a value.
    faulty: bool = False
    hidden: RowSet = field(default_factory=RowSet)
    #: First and last place, from 0, of hidden columns.
    columns: list[tuple[int, int]] = field(default_factory=list)
    #: Whether something hidden does not say where it stands.
    unplaced: bool = False
    utf16: bool = False
    #: Whether the part could not be looked at.
    unread: bool = True

    def at(self, archive: zipfile.ZipFile, part: str) -> None:
        """Look at a part; one that is not there or damaged stays `unread`, for the reader to complain of."""
        try:
            with archive.open(part) as file:
                self._look(file)
            self.unread = self.utf16
        except (KeyError, *BROKEN):
            return

    def _look(self, file: IO[bytes]) -> None:
        carried = b""
        last = b"</c>"
        first = True
        while piece := file.read(_PIECE):
            if first and piece.startswith(_MARKS):
                self.utf16 = True
                return
            if first and _PREFIXED.search(piece, 0, 4096):
                self.faulty = True  # names with a prefix are left to the parser
                last = b">"
            first = False
            buffer = carried + piece
            # Up to the end of a cell, so that none is looked at in halves.
            end = max(buffer.rfind(last) + len(last), len(buffer) - MIB)
            self._look_at(buffer, end)
            carried = buffer[end:]

    def _look_at(self, buffer: bytes, end: int) -> None:
        if not self.faulty:
            self.faulty = (
                buffer.find(b't="e"', 0, end) >= 0
                or buffer.find(b"t='e'", 0, end) >= 0
                or (buffer.find(b"<f", 0, end) >= 0 and _NO_VALUE.search(buffer, 0, end) is not None)
            )
        for hiding in _HIDDEN.finditer(buffer, 0, end):
            if found := _ROW_OR_COLUMN.match(buffer, buffer.rfind(b"<", 0, hiding.start())):
                self._hide(found[1], {name: int(number) for name, number in _PLACE.findall(found[2])})

    def _hide(self, name: bytes, places: dict[bytes, int]) -> None:
        if name == b"row" and b"r" in places:
            self.hidden.add(places[b"r"])
        elif name == b"col" and b"min" in places and b"max" in places:
            self.columns.append((places[b"min"] - 1, places[b"max"] - 1))
        else:
            self.unplaced = True


#: What Python raises on a damaged part.
BROKEN = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError, RuntimeError)


def marked(
    rows: Iterator[list[Cell]], faults: Iterator[tuple[int, dict[int, Fault]]]
) -> Iterator[list[Cell]]:
    """The rows with faults put where they are; beyond the last row that the reader saw there may be more of them."""
    number = 0
    for at, places in faults:
        while number < at - 1:
            number += 1
            yield next(rows, [])
        if number >= at:
            raise Reject(f"row {at} stands behind row {number} in the file, and holds errors; save it again")
        number = at
        row = next(rows, [])
        row.extend([""] * (max(places) + 1 - len(row)))
        for place, fault in places.items():
            row[place] = fault
        yield row
    yield from rows


def faults_xlsx(part: IO[bytes]) -> Iterator[tuple[int, dict[int, Fault]]]:
    """Rows with errors and uncalculated formulas in a worksheet's XML: row, from 1, and the faults by column, from 0."""
    return _Faults().items(iter(lambda: part.read(_PIECE), b""))


class _Faults(XmlStream[tuple[int, dict[int, Fault]]]):
    spaces = _MAIN

    def __init__(self) -> None:
        super().__init__()
        self._row = 0
        self._place = -1
        self._type = ""
        self._formula = False
        self._shown: list[str] = []
        self._reading = False
        self._found: dict[int, Fault] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "c":
            reference = attributes.get("r")
            self._place = column_of(reference) if reference else self._place + 1
            self._type = attributes.get("t", "n")
            self._formula = False
            self._shown.clear()
        elif name == "v":
            self._reading = True
        elif name == "f":
            self._formula = True
        elif name == "row":
            self._row = int(attributes.get("r", self._row + 1))
            self._place = -1

    def text(self, data: str) -> None:
        if self._reading:
            self._shown.append(data)

    def end(self, name: str) -> None:
        if name == "v":
            self._reading = False
        elif name == "c":
            shown = "".join(self._shown).strip()
            if self._type == "e":
                self._found[self._place] = error_cell(shown)
            elif self._formula and not shown and self._type != "str":
                self._found[self._place] = UNCALCULATED
        elif name == "row" and self._found:
            self.emit((self._row, self._found))
            self._found = {}


def column_of(reference: str) -> int:
    """The column of a cell's reference, from 0: 0 for A1, 26 for AA7."""
    column = 0
    for character in reference:
        if not character.isalpha():
            break
        column = column * 26 + ord(character.upper()) - 64
    if not 0 < column <= 16_384:
        raise Reject(f"a cell at {reference[:20]!r}, which no spreadsheet has")
    return column - 1


def faults_xlsb(
    part: IO[bytes], hidden_rows: RowSet, hidden: HiddenCells
) -> Iterator[tuple[int, dict[int, Fault]]]:
    """Rows with errors in a worksheet of binary records; finds hidden rows and columns on the way."""
    row = 0
    found: dict[int, Fault] = {}
    for number, content in records(part):
        if number == 0:  # BrtRowHdr: row, style, height, flags
            if found:
                yield row, found
                found = {}
            row = int.from_bytes(content[:4], "little") + 1
            if len(content) > 11 and content[11] & 0x10:
                hidden_rows.add(row)
        elif number == 60:  # BrtColInfo: first, last, width, style, flags
            if len(content) > 16 and content[16] & 1:
                hidden.column(int.from_bytes(content[:4], "little"), int.from_bytes(content[4:8], "little"))
        elif number in {3, 11}:  # BrtCellError, BrtFmlaError: column, style, error
            code = content[8] if len(content) > 8 else -1
            found[int.from_bytes(content[:4], "little")] = error_cell(_ERRORS_XLSB.get(code, f"error {code}"))
    if found:
        yield row, found


def records(part: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number and content of the records of a binary part ([MS-XLSB] 2.1.4)."""
    read = part.read
    while head := read(1):
        number = head[0]
        if number & 0x80:
            number = number & 0x7F | (read(1) or b"\0")[0] << 7
        size = shift = 0
        for _ in range(4):
            byte = (read(1) or b"\0")[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        yield number, read(size)


# --- which part a sheet is -------------------------------------------------------------------------------------------


def parts(archive: zipfile.ZipFile, kind: Kind) -> dict[str, str]:
    """The part of each sheet, by the sheet's name; without those that cannot be found."""
    try:
        names = set(archive.namelist())
        book = _target(archive, "_rels/.rels", "", "/officeDocument") or (
            "xl/workbook.bin" if kind is Kind.XLSB else "xl/workbook.xml"
        )
        folder, name = posixpath.split(book)
        targets = dict(_relations(archive, f"{folder}/_rels/{name}.rels", folder))
        with archive.open(book) as part:
            sheets = list(
                _sheets_xlsb(part)
                if kind is Kind.XLSB
                else _Sheets().items(iter(lambda: part.read(_PIECE), b""))
            )
    except (KeyError, *BROKEN):
        return {}
    lower = {name.lower(): name for name in names}
    found = {title: lower.get(targets.get(key, "").lower()) for title, key in sheets}
    return {title: part for title, part in found.items() if part}


def _target(archive: zipfile.ZipFile, rels: str, folder: str, kind: str) -> str:
    with archive.open(rels) as part:
        for relation in _Relations().items(iter(lambda: part.read(_PIECE), b"")):
            if relation[2].endswith(kind):
                return posixpath.normpath(posixpath.join(folder, relation[1])).lstrip("/")
    return ""


def _relations(archive: zipfile.ZipFile, rels: str, folder: str) -> Iterator[tuple[str, str]]:
    with archive.open(rels) as part:
        for key, target, _ in _Relations().items(iter(lambda: part.read(_PIECE), b"")):
            yield key, posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")


class _Relations(XmlStream[tuple[str, str, str]]):
    spaces = (_RELATIONS,)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Relationship":
            self.emit(
                (
                    attributes.get("Id", ""),
                    attributes.get("Target", "").replace("\\", "/"),
                    attributes.get("Type", ""),
                )
            )


class _Sheets(XmlStream[tuple[str, str]]):
    spaces = (*_MAIN, *_OFFICE)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "sheet":
            self.emit((attributes.get("name", ""), attributes.get("id", "")))


def _sheets_xlsb(part: IO[bytes]) -> Iterator[tuple[str, str]]:
    for number, content in records(part):
        if number == 156:  # BrtBundleSh: state, id, relation, name
            key, at = _wide(content, 8)
            yield _wide(content, at)[0], key


def _wide(content: bytes, at: int) -> tuple[str, int]:
    end = at + 4 + 2 * int.from_bytes(content[at : at + 4], "little")
    return content[at + 4 : end].decode("utf-16-le", errors="replace"), end


# --- mending ---------------------------------------------------------------------------------------------------------


def mended(archive: zipfile.ZipFile) -> IO[bytes] | None:
    """A copy with its UTF-16 parts in UTF-8 and without sheets that have no part; None where there is none of either."""
    return _copied(archive, _mended_part)


def with_known_errors(archive: zipfile.ZipFile) -> IO[bytes] | None:
    """A copy whose error cells all show an error that calamine knows; None where they do already."""
    return _copied(archive, lambda _, content: _ERROR_CELL.sub(_known_error, content))


def _known_error(found: re.Match[bytes]) -> bytes:
    return found[0] if found[2].decode("latin-1") in _KNOWN_ERRORS else found[1] + b"#VALUE!"


def _copied(archive: zipfile.ZipFile, change: Callable[[str, bytes], bytes]) -> IO[bytes] | None:
    """A copy in which the XML parts are changed; None where none is."""
    changed = False
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename.lower().endswith((".xml", ".rels")):
                better = change(info.filename.lower(), content)
                changed = changed or better != content
                content = better
            target.writestr(info.filename, content)
    copy.seek(0)
    return copy if changed else None


def _mended_part(name: str, content: bytes) -> bytes:
    if content.startswith(_MARKS):
        text = content.decode("utf-16")
        content = re.sub(r"^(<\?xml[^>]*?)\s+encoding=([\"'])[^\"']*\2", r"\1", text).encode()
    if "workbook" in name and b':id=""' in content.replace(b"'", b'"'):
        content = _NO_RELATION.sub("", content.decode()).encode()
    return content
