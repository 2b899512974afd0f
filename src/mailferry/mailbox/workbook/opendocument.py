"""OpenDocument spreadsheets (.ods), read as a stream.

Source: OpenDocument 1.3 part 3: sections 9.1 (tables), 9.1.4 (cells), 6.1.3 (text:s), 19.385 (office:value-type).
"""

from __future__ import annotations

import datetime as dt
import re
import zipfile
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import PIECE, SheetInfo
from mailferry.mailbox.workbook.cells import UNCALCULATED, Fault, error_cell, unreadable
from mailferry.mailbox.workbook.xml_stream import XmlStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.hidden import HiddenCells

_OASIS = "urn:oasis:names:tc:opendocument:xmlns"
_SPACES = tuple(f"{_OASIS}:{name}:1.0" for name in ("office", "table", "text", "style"))
_CALC = "urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"
_DURATION = re.compile(
    r"(-?)P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:[.,](\d{1,6})\d*)?S)?)?"
)
#: Cells, rows that one element repeats at most; blank ones at the end of a sheet are never handed out.
_ROWS, _COLUMNS = 1_048_576, 16_384
_DRAWING = f"{_OASIS}:drawing:1.0 "
#: Elements that stand for white space, until that of the document is collapsed; XML allows none of these characters.
_BLANK, _TAB, _BREAK = "\1", "\2", "\3"
_MARKS = str.maketrans({_BLANK: " ", _TAB: "\t", _BREAK: "\n"})
_SPACES_FOUND = re.compile(r"^ | $|[ \t\r\n]{2,}|[\t\r\n]")
_ERRORS = re.compile(r"#[A-Z0-9/]+[!?]?|Err:\d{3}")


class OpenDocumentBook:
    """An .ods file."""

    named = True
    overlong: Fault | None = None

    def __init__(self, file: IO[bytes], hidden: HiddenCells) -> None:
        self._archive = zipfile.ZipFile(file)
        if b"encryption-data" in self._start("META-INF/manifest.xml"):
            raise Reject("protected by a password; send it without")
        self.sheets = tuple(_Sheets().items(self._content()))
        self._hidden = hidden

    def rows(self, sheet: str) -> Iterator[list[Cell]]:
        """The rows of the sheet of this name."""
        self._hidden.begin()
        parser = _Rows(next(at for at, info in enumerate(self.sheets) if info.name == sheet), self._hidden)
        for row, times, is_hidden in parser.items(self._content()):
            for _ in range(times):
                yield self._hidden.row(row.copy(), is_hidden=is_hidden)

    def warnings(self, sheet: str) -> list[str]:
        """Of rows and columns that are hidden."""
        return self._hidden.warnings(sheet)

    def _content(self) -> Iterator[bytes]:
        with self._archive.open("content.xml") as part:
            while piece := part.read(PIECE):
                yield piece

    def _start(self, name: str) -> bytes:
        try:
            with self._archive.open(name) as part:
                return part.read(1024 * 1024)
        except KeyError:
            return b""


class _Sheets(XmlStream[SheetInfo]):
    """Names of the tables; a style hides one."""

    spaces = _SPACES

    def __init__(self) -> None:
        super().__init__()
        self._style = ""
        self._hiding: set[str] = set()
        self._depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "table":
            self._depth += 1
            if self._depth == 1:
                style = attributes.get("style-name", "")
                self.emit(SheetInfo(name=attributes.get("name", ""), visible=style not in self._hiding))
        elif name == "style":
            self._style = attributes.get("name", "")
        elif name == "table-properties" and attributes.get("display") == "false":
            self._hiding.add(self._style)

    def end(self, name: str) -> None:
        if name == "table":
            self._depth -= 1


class _Rows(XmlStream[tuple[list["Cell"], int, bool]]):
    """The rows of one table, each with the number of times that it stands there, and whether it is hidden."""

    spaces = (*_SPACES, _CALC)

    def __init__(self, wanted: int, hidden: HiddenCells) -> None:
        """`hidden` takes the hidden columns."""
        super().__init__()
        self._wanted = wanted
        self._at = -1
        #: Tables in tables, and rows in annotations, are no rows of this one.
        self._depth = 0
        self._blank_rows = 0
        self._row: list[Cell] | None = None
        self._repeated = 1
        self._row_hidden = False
        self._cell: dict[str, str] | None = None
        self._blank_cells = 0
        self._paragraphs: list[str] = []
        self._text: list[str] | None = None
        #: Elements that are open beside the text of the cell.
        self._aside = 0
        self._hidden = hidden
        #: Columns that were declared.
        self._columns = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "table":
            self._depth += 1
            self._at += self._depth == 1
        if self._at != self._wanted or self._depth != 1:
            return
        if _is_aside(name):
            self._aside += 1
        elif self._aside:
            return
        elif name == "table-row":
            self._row, self._blank_cells = [], 0
            self._repeated = _times(attributes, "number-rows-repeated", _ROWS)
            self._row_hidden = _is_hidden(attributes)
        elif name == "table-column":
            first, self._columns = (
                self._columns,
                self._columns + _times(attributes, "number-columns-repeated", _COLUMNS),
            )
            if _is_hidden(attributes):
                self._hidden.column(first, self._columns - 1)
        elif name in {"table-cell", "covered-table-cell"}:
            self._cell, self._paragraphs = attributes, []
        elif name == "p" and self._cell is not None:
            self._text = []
        elif self._text is not None:
            if name == "s":
                self._text.append(_BLANK * _times(attributes, "c", 32_767))
            elif name in {"tab", "line-break"}:
                self._text.append(_TAB if name == "tab" else _BREAK)

    def text(self, data: str) -> None:
        if self._text is not None and not self._aside:
            self._text.append(data)

    def end(self, name: str) -> None:
        if name == "table":
            self.done = self._depth == 1 and self._at == self._wanted
            self._depth -= 1
        elif self._at != self._wanted or self._depth != 1:
            return
        elif _is_aside(name):
            self._aside -= 1
        elif self._aside:
            return
        elif name == "p" and self._text is not None:
            self._paragraphs.append(_collapsed("".join(self._text)))
            self._text = None
        elif name in {"table-cell", "covered-table-cell"} and self._cell is not None:
            self._end_cell(self._cell)
            self._cell = None
        elif name == "table-row" and self._row is not None:
            self._end_row(self._row)
            self._row = None

    def _end_cell(self, attributes: dict[str, str]) -> None:
        row = self._row
        if row is None:
            return
        value = _value(attributes, "\n".join(self._paragraphs))
        times = _times(attributes, "number-columns-repeated", _COLUMNS)
        if value == "":
            self._blank_cells += times
            return
        if len(row) + self._blank_cells + times > _COLUMNS:
            raise Reject(f"a row of more than {_COLUMNS:,} cells, which no spreadsheet has")
        row.extend([""] * self._blank_cells)
        row.extend([value] * times)
        self._blank_cells = 0

    def _end_row(self, row: list[Cell]) -> None:
        if not row:
            self._blank_rows += self._repeated
            return
        if self._blank_rows:
            self.emit(([], min(self._blank_rows, _ROWS), False))
            self._blank_rows = 0
        self.emit((row, self._repeated, self._row_hidden))


def _is_aside(name: str) -> bool:
    """Whether what an element holds is no text of the cell: notes, readings above letters, drawings."""
    return name in {"annotation", "ruby-text"} or name.startswith(_DRAWING)


def _collapsed(text: str) -> str:
    """White space of the document is one blank, none at the ends (6.1.2); what stands for itself stays."""
    if _SPACES_FOUND.search(text):
        text = _SPACES_FOUND.sub(" ", text).strip(" ")
    return text.translate(_MARKS)


def _is_hidden(attributes: dict[str, str]) -> bool:
    """Whether a row or column is hidden by a filter (`filter`) or by hand (`collapse`): table:visibility."""
    return attributes.get("visibility", "visible") != "visible"


def _times(attributes: dict[str, str], name: str, most: int) -> int:
    return max(1, min(int(attributes.get(name, "1")), most))


def _value(attributes: dict[str, str], shown: str) -> Cell:
    """The typed value of a cell; its text where it has none."""
    kind = attributes.get("value-type", "")
    formula = "formula" in attributes
    # LibreOffice writes an error as text with a type of its own.
    if attributes.get(f"{_CALC} value-type") == "error" or (formula and _ERRORS.fullmatch(shown)):
        return error_cell(shown)
    if typed := _TYPED.get(kind):
        read, name = typed
        try:
            return read(attributes[name])
        except (KeyError, ValueError):
            return unreadable(attributes.get(name, shown))
    if not kind and formula and not shown:
        return UNCALCULATED
    return attributes.get("string-value", shown)


def _moment(text: str) -> Cell:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo:
        moment = moment.replace(tzinfo=None)
    return moment.date() if moment.time() == dt.time() else moment


def _duration(text: str) -> Cell:
    """A time of day, which is written as a duration as well; a duration where it is none of a day."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ValueError(text)
    sign, *parts, fraction = found.groups()
    days, hours, minutes, seconds = (int(part or 0) for part in parts)
    micros = int((fraction or "0").ljust(6, "0"))
    whole = dt.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, microseconds=micros)
    if sign or whole >= dt.timedelta(days=1):
        return -whole if sign else whole
    hours, seconds = divmod(whole.seconds, 3600)
    return dt.time(hours, seconds // 60, seconds % 60, whole.microseconds)


#: What reads a value of a type, and the attribute that holds it.
_TYPED: dict[str, tuple[Callable[[str], Cell], str]] = {
    **dict.fromkeys(("float", "percentage", "currency"), (float, "value")),
    "date": (_moment, "date-value"),
    "time": (_duration, "time-value"),
    "boolean": ({"true": True, "false": False}.__getitem__, "boolean-value"),
}
