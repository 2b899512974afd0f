"""SpreadsheetML of 2003 ("XML Spreadsheet"), read as a stream.

Source: "XML Spreadsheet Reference" (Microsoft, 2003): Workbook, Styles, Worksheet, Table, Column, Row, Cell, Data.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import SheetInfo, pieces
from mailferry.mailbox.workbook.cells import UNCALCULATED, Fault, error_cell, unreadable
from mailferry.mailbox.workbook.xml_stream import XmlStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.hidden import HiddenCells

_SPACE = "urn:schemas-microsoft-com:office:spreadsheet"
_EXCEL = "urn:schemas-microsoft-com:office:excel"
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6})\d*)?")
#: Where the count of days begins; Excel's own times of day are of the day after.
_ZERO = dt.datetime(1899, 12, 31)  # noqa: DTZ001 - cells have no zone
#: A row or column further off than any spreadsheet program has is no place.
_ROWS, _COLUMNS = 1_048_576, 16_384


class Xml2003Book:
    """An XML spreadsheet."""

    named = True
    overlong: Fault | None = None

    def __init__(self, file: IO[bytes], hidden: HiddenCells) -> None:
        self._file = file
        self.sheets = tuple(_Sheets().items(pieces(file)))
        if not self.sheets:
            raise Reject("an XML file without a worksheet")
        self._hidden = hidden

    def rows(self, sheet: str) -> Iterator[list[Cell]]:
        """The rows of the sheet of this name."""
        self._hidden.begin()
        parser = _Rows(next(at for at, info in enumerate(self.sheets) if info.name == sheet), self._hidden)
        for row, is_hidden in parser.items(pieces(self._file)):
            yield self._hidden.row(row, is_hidden=is_hidden)

    def warnings(self, sheet: str) -> list[str]:
        """Of rows and columns that are hidden."""
        return self._hidden.warnings(sheet)


class _Sheets(XmlStream[SheetInfo]):
    """Names of the sheets; whether one is hidden stands behind its cells."""

    spaces = (_SPACE, _EXCEL)

    def __init__(self) -> None:
        super().__init__()
        self._name: str | None = None
        self._visible = True
        self._state: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Worksheet":
            self._name, self._visible = attributes.get("Name", ""), True
        elif name == "Visible":
            self._state = []

    def text(self, data: str) -> None:
        if self._state is not None:
            self._state.append(data)

    def end(self, name: str) -> None:
        if name == "Visible" and self._state is not None:
            self._visible = "Hidden" not in "".join(self._state)
            self._state = None
        elif name == "Worksheet" and self._name is not None:
            self.emit(SheetInfo(name=self._name, visible=self._visible))
            self._name = None


class _Rows(XmlStream[tuple[list["Cell"], bool]]):
    """The rows of one sheet, and whether each is hidden."""

    spaces = (_SPACE,)

    def __init__(self, wanted: int, hidden: HiddenCells) -> None:
        """`hidden` takes the hidden columns."""
        super().__init__()
        self._wanted = wanted
        self._at = -1
        self._durations: set[str] = set()
        self._style = ""
        self._row: list[Cell] = []
        self._number = 0
        self._row_hidden = False
        self._cell: dict[str, str] | None = None
        self._place = 0
        self._type = ""
        self._data: list[str] | None = None
        #: A note beside the cell has data of its own.
        self._comment = False
        #: The data of the cell that is open; text behind it is none.
        self._held = ""
        #: Empty rows that follow the one that is open.
        self._span = 0
        self._hidden = hidden
        #: Columns that were declared.
        self._columns = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Worksheet":
            self._at += 1
        elif name == "Style":
            self._style = attributes.get("ID", "")
        elif name == "NumberFormat" and "[h" in attributes.get("Format", "").lower():
            self._durations.add(self._style)
        elif self._at != self._wanted:
            return
        elif name == "Row":
            self._begin_row(attributes)
        elif name == "Column":
            self._declare(attributes)
        elif name == "Cell":
            place = _index(attributes, _COLUMNS) or self._place
            if place < self._place:
                raise Reject(f"row {self._number + 1} has cells that are not in their order")
            self._place = place
            self._cell, self._type = attributes, ""
        elif name == "Comment":
            self._comment = True
        elif name == "Data" and self._cell is not None and not self._comment:
            self._type, self._data = attributes.get("Type", "String"), []

    def _declare(self, attributes: dict[str, str]) -> None:
        first = (_index(attributes, _COLUMNS) or self._columns + 1) - 1
        last = first + min(int(attributes.get("Span", "0")), _COLUMNS)
        self._columns = last + 1
        if attributes.get("Hidden") == "1":
            self._hidden.column(first, last)

    def _begin_row(self, attributes: dict[str, str]) -> None:
        number = _index(attributes, _ROWS) or self._number + 1
        if number <= self._number:
            raise Reject(f"row {number} stands below row {self._number}")
        while self._number < number - 1:
            self._number += 1
            self.emit(([], False))
        self._row, self._place = [], 1
        self._span = min(int(attributes.get("Span", "0")), _ROWS)
        self._row_hidden = attributes.get("Hidden") == "1"

    def text(self, data: str) -> None:
        if self._data is not None:
            self._data.append(data)

    def end(self, name: str) -> None:
        if self._at != self._wanted:
            return
        if name == "Data" and not self._comment:
            self._held, self._data = "".join(self._data or ()), None
        elif name == "Comment":
            self._comment = False
        elif name == "Cell" and self._cell is not None:
            self._row.extend([""] * (self._place - 1 - len(self._row)))
            self._row.append(self._value(self._cell))
            self._place += 1 + min(int(self._cell.get("MergeAcross", "0")), _COLUMNS)
            self._cell = None
        elif name == "Row":
            self._number += 1
            self.emit((self._row, self._row_hidden))
            for _ in range(self._span):
                self._number += 1
                self.emit(([], False))
        elif name == "Worksheet":
            self.done = True

    def _value(self, cell: dict[str, str]) -> Cell:
        if not self._type:
            return UNCALCULATED if "Formula" in cell else ""
        text = self._held
        if self._type == "String":
            return text
        if self._type == "Error":
            return error_cell(text.strip())
        try:
            return self._typed(text.strip(), cell)
        except (KeyError, ValueError):
            return unreadable(text)

    def _typed(self, text: str, cell: dict[str, str]) -> Cell:
        """Raises KeyError or ValueError for what is not of the cell's type."""
        if not text:
            return ""
        if self._type == "Number":
            return float(text)
        if self._type == "Boolean":
            return {"1": True, "true": True, "0": False, "false": False}[text]
        if self._type == "DateTime":
            return _moment(text, duration=cell.get("StyleID", "") in self._durations)
        return text


def _index(attributes: dict[str, str], most: int) -> int:
    index = int(attributes.get("Index", "0"))
    if not 0 <= index <= most:
        raise Reject(f"it has a cell at place {index:,}, which no spreadsheet has")
    return index


def _moment(text: str, *, duration: bool) -> Cell:
    """A date, a date and time, or a time of day; a duration where the cell's format says so."""
    found = _MOMENT.match(text)
    if not found:
        return text
    *parts, fraction = found.groups()
    year, month, day, hour, minute, second = map(int, parts)
    micros = int((fraction or "0").ljust(6, "0"))
    moment = dt.datetime(year, month, day, hour, minute, second, micros)  # noqa: DTZ001
    if duration:
        # As with serial numbers there is a 29 February 1900, before which days count one less.
        return moment - _ZERO if moment < dt.datetime(1900, 3, 1) else moment - _ZERO + dt.timedelta(days=1)  # noqa: DTZ001
    if moment.date() <= _ZERO.date():
        return moment.time()
    return moment.date() if moment.time() == dt.time() else moment
