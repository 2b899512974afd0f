"""Tables of a web page, as many programs export them under the name .xls; read as a stream. All cells are text.

Source: HTML Living Standard 4.9 (tables); Microsoft Office's `x:num` and `x:err` state a cell's own value.
"""

from __future__ import annotations

import re
from collections import deque
from html.parser import HTMLParser
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import SheetInfo
from mailferry.mailbox.workbook.cells import Fault, error_cell
from mailferry.mailbox.workbook.text_kind import encoding_of, utf16

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.hidden import HiddenCells

_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
#: Columns, rows that one cell covers at most (HTML 4.9.11); tables in tables.
_COLUMNS, _ROWS, _DEPTH = 1_000, 65_534, 20
_WIDEST = 16_384
_GROUPS = frozenset({"thead", "tbody", "tfoot"})
_WHITE = re.compile(r"\s+")
_HIDING = re.compile(r"display\s*:\s*none", re.IGNORECASE)


class HtmlBook:
    """A web page; each of its tables is a sheet."""

    named = False
    overlong: Fault | None = None

    def __init__(self, file: IO[bytes], charset: str, hidden: HiddenCells) -> None:
        self._file = file
        self._encoding = _encoding(file, charset)
        self._hidden = hidden
        #: Numbers of tables in which something else than a row is hidden.
        self._hiding: set[int] = set()
        #: The number of a table that the page does not end, or 0.
        self._unended = 0
        count = 0
        for at, *_ in self._tables():
            count = max(count, at)
        if not count:
            raise Reject("a web page (HTML) without a table")
        self.sheets = tuple(SheetInfo(name=f"table {at}") for at in range(1, count + 1))

    def rows(self, sheet: str) -> Iterator[list[Cell]]:
        """The rows of a table, by its number."""
        wanted = int(sheet.rpartition(" ")[2])
        self._hidden.begin()
        self._hidden.unplaced = wanted in self._hiding
        for at, row, is_hidden in self._tables():
            if at == wanted:
                yield self._hidden.row(row, is_hidden=is_hidden)

    def warnings(self, sheet: str) -> list[str]:
        """Of rows that are hidden, and of anything else that is: styles hide cells in too many ways to know which."""
        cut = [f"{sheet}: the page ends within it, so that it may be cut off"]
        return self._hidden.warnings(sheet) + (cut if sheet == f"table {self._unended}" else [])

    def _tables(self) -> Iterator[tuple[int, list[Cell], bool]]:
        parser = _Tables(self._hiding)
        self._file.seek(0)
        text = open(self._file.fileno(), encoding=self._encoding, closefd=False)  # noqa: SIM115 - the file is not this one's to close
        while piece := text.read(64 * 1024):
            parser.feed(piece)
            while parser.rows:
                yield parser.rows.popleft()
        parser.close()
        self._unended = parser.end_all()
        yield from parser.rows


def _encoding(file: IO[bytes], charset: str) -> str:
    """The page's encoding: what it says, where that is true and known."""
    file.seek(0)
    start = file.read(16 * 1024)
    declared = _CHARSET.search(start)
    if utf16(start) or not declared:
        return encoding_of(file, charset)
    stated = declared[1].decode("ascii").lower()
    # Excel says windows-1254 and means it; a page that says utf-8 and is not gets the feed's.
    if stated in {"utf-8", "utf8", "unicode", "utf-16"}:
        return encoding_of(file, charset)
    try:
        "".encode(stated)
    except LookupError:
        return encoding_of(file, charset)
    # What calls itself Latin-1 is read as its superset, as browsers do (Encoding Standard 4.2).
    return {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "iso-8859-9": "cp1254"}.get(
        stated, stated
    )


class _Table:
    """A table that is open."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.row: list[Cell] | None = None
        self.row_hidden = False
        #: Rows below that a cell covers, by place.
        self.covered: dict[int, int] = {}
        self.attributes: dict[str, str] = {}
        self.text: list[str] | None = None


class _Tables(HTMLParser):
    """Hands out rows with the number of their table, and whether they are hidden, in the order in which tables begin."""

    def __init__(self, hiding: set[int]) -> None:
        """`hiding` takes the numbers of tables in which something else than a row is hidden."""
        super().__init__(convert_charrefs=True)
        self._hiding = hiding
        self.rows: deque[tuple[int, list[Cell], bool]] = deque()
        self._open: list[_Table] = []
        self._count = 0
        self._skipped = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row, a cell; what is open and cannot hold it ends."""
        if tag == "table":
            if len(self._open) >= _DEPTH:
                raise Reject(f"tables in tables more than {_DEPTH} deep")
            self._count += 1
            self._space("\n")
            self._open.append(_Table(self._count))
        if not self._open:
            return
        is_hidden = any(
            name == "hidden" or (name == "style" and _HIDING.search(value or "")) for name, value in attrs
        )
        if is_hidden and tag != "tr" and not self._open[-1].row_hidden:
            self._hiding.add(self._open[-1].number)
        if tag in _GROUPS:
            self._end_group()
        elif tag == "tr":
            self._end_row()
            self._open[-1].row, self._open[-1].row_hidden = [], is_hidden
            self._space("\n")
            self._cover()
        elif tag in {"td", "th"}:
            self._end_cell()
            table = self._open[-1]
            if table.row is None:
                table.row = []
                self._cover()
            table.attributes = {name: value or "" for name, value in attrs}
            table.text = []
            self._space(" ")
        elif tag in {"script", "style"}:
            self._skipped = tag
        elif tag in {"br", "p", "div"} and self._open[-1].text:
            self._open[-1].text.append("\n")

    def _space(self, mark: str) -> None:
        """What divides the cells of a table in the text of the cell that it stands in."""
        for table in self._open[:-1]:
            if table.text:
                table.text.append(mark)

    def handle_endtag(self, tag: str) -> None:
        """End a cell, a row, a table."""
        if tag == self._skipped:
            self._skipped = ""
        if not self._open:
            return
        if tag in {"td", "th"}:
            self._end_cell()
        elif tag == "tr":
            self._end_row()
        elif tag in _GROUPS:
            self._end_group()
        elif tag == "table":
            self._end_row()
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Text of a cell, and of those around its table."""
        if self._skipped:
            return
        # A break is a line's end; all other white space is one blank.
        plain = _WHITE.sub(" ", data)
        for table in self._open:
            if table.text is not None:
                table.text.append(plain)

    def end_all(self) -> int:
        """End what the page left open; the number of the innermost table, or 0. Raises Reject where it ends within a cell."""
        if self._open and self._open[-1].text is not None:
            raise Reject("the page ends within a cell of its table: it was cut off; have it sent again")
        unended = self._open[-1].number if self._open else 0
        while self._open:
            self._end_row()
            self._open.pop()
        return unended

    def _end_cell(self) -> None:
        table = self._open[-1]
        if table.text is None or table.row is None:
            return
        text = "\n".join(" ".join(line.split()) for line in "".join(table.text).split("\n")).strip()
        table.text = None
        columns = _span(table.attributes.get("colspan", ""), _COLUMNS)
        # 0 is the rest of the group.
        rows = _span(table.attributes.get("rowspan", ""), _ROWS, zero=_ROWS)
        if len(table.row) + columns > _WIDEST:
            raise Reject(f"a row of more than {_WIDEST:,} cells, which no spreadsheet has")
        if rows > 1:
            for place in range(len(table.row), len(table.row) + columns):
                table.covered[place] = rows
        table.row += [_value(table.attributes, text), *[""] * (columns - 1)]
        self._cover()

    def _cover(self) -> None:
        """Leave the places empty that cells of rows above reach into."""
        table = self._open[-1]
        while table.row is not None and len(table.row) in table.covered:
            table.row.append("")

    def _end_group(self) -> None:
        """No cell reaches into the rows of another group."""
        self._end_row()
        self._open[-1].covered.clear()

    def _end_row(self) -> None:
        self._end_cell()
        table = self._open[-1]
        if table.row is None:
            return
        self.rows.append((table.number, table.row, table.row_hidden))
        table.row, table.row_hidden = None, False
        table.covered = {place: left - 1 for place, left in table.covered.items() if left > 1}


def _span(text: str, most: int, *, zero: int = 1) -> int:
    return min(int(text) or zero, most) if text.strip().isdecimal() else 1


def _value(attributes: dict[str, str], text: str) -> Cell:
    if "x:err" in attributes:
        return error_cell(attributes["x:err"] or text)
    number = attributes.get("x:num")
    if number:
        try:
            return float(number)
        except ValueError:
            return text
    return text
