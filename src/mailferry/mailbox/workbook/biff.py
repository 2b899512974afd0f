"""Workbooks of Excel 97 to 2003 (.xls) and of Excel 5 and 95, through xlrd.

It is slower than calamine and right where that is not: text in any CODEPAGE (BIFF8 text is Unicode whatever that says), the
values of formulas, workbooks with macro sheets. A sheet has at most 65,536 rows.
"""

from __future__ import annotations

import datetime as dt
import io
import struct
from typing import IO, TYPE_CHECKING, Any

import olefile
import xlrd

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import SheetInfo
from mailferry.mailbox.workbook.cells import Fault, error_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.hidden import HiddenCells

#: 31 December 9999, the last day that a cell can show, in days.
_LAST_DAY = 2_958_466
#: Numbers of records; the last is one that no program knows.
_EOF, _NAME, _NOTE, _FILE_PASS, _UNKNOWN = 0x0A, 0x18, 0x1C, 0x2F, 0x08FE


class _Silent(io.TextIOBase):
    """Takes what the library prints."""

    def write(self, text: str, /) -> int:
        return len(text)


class BiffBook:
    """An .xls file."""

    named = True
    overlong: Fault | None = None

    def __init__(self, file: IO[bytes], hidden: HiddenCells) -> None:
        stream = _unprotected(_stream(file))
        self._stream = _without(_NAME, _globals(stream), stream)
        self._book = _open(self._stream)
        shown = self._book._sheet_visibility  # noqa: SLF001 - the public property wants the whole sheet read
        self.sheets = tuple(
            SheetInfo(name=name, visible=shown[at] == 0) for at, name in enumerate(self._book.sheet_names())
        )
        self._hidden = hidden
        self._durations: dict[int, bool] = {}

    def rows(self, sheet: str) -> Iterator[list[Cell]]:
        """The rows of the sheet of this name."""
        held = self._sheet(sheet)
        self._hidden.begin()
        for place, column in held.colinfo_map.items():
            if column.hidden:
                self._hidden.column(place, place)
        convert = self._cell
        for at in range(held.nrows):
            types = held.row_types(at)
            row = held.row_values(at)
            for place, kind in enumerate(types):
                # Text and numbers are what they should be already.
                if kind not in {xlrd.XL_CELL_TEXT, xlrd.XL_CELL_NUMBER}:
                    row[place] = convert(held, at, place, kind, row[place])
            info = held.rowinfo_map.get(at)
            yield self._hidden.row(row, is_hidden=bool(info and info.hidden))
        self._book.unload_sheet(sheet)

    def _sheet(self, name: str) -> Any:
        try:
            return self._book.sheet_by_name(name)
        except AssertionError:
            # xlrd fails at odd comments on cells.
            self._book = _open(_without(_NOTE, _records(self._stream), self._stream))
            return self._book.sheet_by_name(name)

    def warnings(self, sheet: str) -> list[str]:
        """Of rows and columns that are hidden."""
        return self._hidden.warnings(sheet)

    def _cell(self, sheet: Any, row: int, place: int, kind: int, value: Any) -> Cell:
        if kind == xlrd.XL_CELL_DATE:
            return self._date(value, sheet.cell_xf_index(row, place))
        if kind == xlrd.XL_CELL_BOOLEAN:
            return bool(value)
        if kind == xlrd.XL_CELL_ERROR:
            return error_cell(xlrd.error_text_from_code.get(value, f"error {value}"))
        return ""

    def _date(self, value: float, style: int) -> Cell:
        """A date, a date and time, a time of day; a duration where the cell's format counts hours beyond the day."""
        if self._is_duration(style):
            return dt.timedelta(milliseconds=round(value * 86_400_000))
        if not 0 <= value < _LAST_DAY:
            return value
        moment: dt.datetime = xlrd.xldate.xldate_as_datetime(value, self._book.datemode)
        if value < 1 and not self._book.datemode:
            return moment.time()
        return moment.date() if moment.time() == dt.time() else moment

    def _is_duration(self, style: int) -> bool:
        found = self._durations.get(style)
        if found is None:
            form = self._book.format_map.get(self._book.xf_list[style].format_key)
            written = (form.format_str or "").lower() if form else ""
            found = self._durations[style] = any(mark in written for mark in ("[h", "[m]", "[mm]", "[s"))
        return found


def _open(content: bytes) -> Any:
    return xlrd.open_workbook(
        file_contents=content,
        logfile=_Silent(),
        formatting_info=True,
        on_demand=True,
        ragged_rows=True,
        ignore_workbook_corruption=True,
    )


def _stream(file: IO[bytes]) -> bytes:
    """The workbook in a compound file; olefile forgives more of these than xlrd does."""
    with olefile.OleFileIO(file) as files:
        for name in ("Workbook", "Book"):
            if files.exists(name):
                return files.openstream(name).read()  # type: ignore[no-any-return]  # without types
    raise Reject("an OLE file without a workbook in it")


def _without(unwanted: int, records: Iterable[tuple[int, int, int]], stream: bytes) -> bytes:
    """The workbook with the records of a number made unknown to readers: xlrd fails at odd names and comments."""
    changed = bytearray(stream)
    for at, number, _ in records:
        if number == unwanted:
            struct.pack_into("<H", changed, at, _UNKNOWN)
    return bytes(changed)


def _unprotected(stream: bytes) -> bytes:
    """Without the protection that programs undo unasked. Raises Reject for any other ([MS-XLS] 2.4.117)."""
    for at, number, size in _globals(stream):
        if number != _FILE_PASS:
            continue
        from mailferry.mailbox.workbook.old_protection import opened

        protection = stream[at + 4 : at + 4 + size]
        clear = opened(stream, protection, _records(stream))
        if clear is None:
            raise Reject(
                f"protected by {_encryption(protection)} of the old .xls format, which is not undone here;"
                " have it sent without, or as .xlsx"
            )
        return clear[:at] + struct.pack("<H", _UNKNOWN) + clear[at + 2 :]
    return stream


def _encryption(protection: bytes) -> str:
    if protection[:2] == b"\0\0":
        return "a password (XOR obfuscation)"
    return "a password (RC4)" if protection[2:4] == b"\1\0" else "a password (RC4 CryptoAPI)"


def _globals(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Place, number and size of the records before the first sheet."""
    for record in _records(stream):
        yield record
        if record[1] == _EOF:
            return


def _records(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Place, number and size of all records."""
    at = 0
    while at + 4 <= len(stream):
        number, size = struct.unpack_from("<HH", stream, at)
        yield at, number, size
        at += 4 + size
