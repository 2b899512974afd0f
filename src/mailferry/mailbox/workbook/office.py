"""Workbooks of Excel 2007 and later (.xlsx, .xlsm, .xlsb), through calamine; large sheets of usual forms as a stream.

calamine shows an error, a formula without a value and an empty cell alike; `sheet_parts` finds the first two.
"""

from __future__ import annotations

import contextlib
import threading
import zipfile
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING

from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

from mailferry.errors import Reject
from mailferry.mailbox.workbook import sheet_parts
from mailferry.mailbox.workbook.book import SheetInfo
from mailferry.mailbox.workbook.hidden import RowSet
from mailferry.mailbox.workbook.package import LEAST, Package
from mailferry.mailbox.workbook.plain_xml import Unknown
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from python_calamine import CalamineSheet

    from mailferry.mailbox.workbook.cells import Cell, Fault
    from mailferry.mailbox.workbook.hidden import HiddenCells
    from mailferry.mailbox.workbook.sheet_stream import SheetStream


class OfficeBook:
    """An .xlsx, .xlsm or .xlsb file."""

    named = True
    overlong: Fault | None = None

    def __init__(
        self, file: IO[bytes], path: Path | None, kind: Kind, hidden: HiddenCells, *, least: int = LEAST
    ) -> None:
        """`path` is the file's, where it has one: read from there it need not be in memory.

        Sheets of an .xlsx that have `least` bytes are streamed.
        """
        self._kind = kind
        self._hidden = hidden
        self._archive = zipfile.ZipFile(file)
        #: What calamine opens.
        self._source = path or file
        self._package: Package | None = None
        if kind is Kind.XLSX:
            with contextlib.suppress(Unknown):
                self._package = Package(self._archive, least=least)
        opened = self._package.book if self._package else self._book
        self.sheets = tuple(
            SheetInfo(name=sheet.name, visible=sheet.visible == SheetVisibleEnum.Visible)
            for sheet in opened.sheets_metadata
            if sheet.typ == SheetTypeEnum.WorkSheet
        )
        #: The last sheet that was asked for, and what its part holds besides.
        self._held: tuple[str, CalamineSheet, sheet_parts.Look] | None = None
        self._streams: dict[str, SheetStream | None] = {}

    @cached_property
    def _book(self) -> CalamineWorkbook:
        if not isinstance(self._source, Path):
            self._source.seek(0)
        try:
            return CalamineWorkbook.from_object(self._source)
        except Exception:
            if mended := self._mended():
                return mended
            raise

    @cached_property
    def _parts(self) -> dict[str, str]:
        return sheet_parts.parts(self._archive, self._kind)

    def rows(self, sheet: str) -> Iterator[list[Cell]]:
        """The rows of the sheet of this name: streamed where that is known to be right, else by calamine."""
        if self._package and sheet not in self._streams:
            self._streams[sheet] = self._package.stream(sheet)
        stream = self._streams.get(sheet)
        if stream is None:
            yield from self.recorded(sheet)
            return
        self._hidden.begin()
        number = 0
        try:
            for row in stream.rows():
                yield row
                number += 1
        except Unknown:
            self._streams[sheet] = None
            yield from self._rest(sheet, stream, number)

    def streams(self, sheet: str) -> bool:
        """Whether all rows of a sheet that has been read came as a stream, or the first of one that is being read."""
        return self._streams.get(sheet) is not None

    def _rest(self, sheet: str, stream: SheetStream, done: int) -> Iterator[list[Cell]]:
        """The rows behind those that have been read, by calamine. Raises Reject where it would have read these otherwise."""
        rows = self.recorded(sheet)
        for number, own in enumerate(islice(stream.rows(), done), 1):
            if not _same(own, next(rows, [])):
                raise Reject(
                    f"sheet {sheet!r}: cells of row {number} stand in the file behind rows that follow it;"
                    " open it in a spreadsheet program and save it again"
                )
        yield from rows

    def recorded(self, sheet: str) -> Iterator[list[Cell]]:
        """The rows as calamine has them, and what it does not say."""
        if self._held is None or self._held[0] != sheet:
            self._held = None  # there is no memory for two
            self._held = (sheet, *self._load(sheet))
        _, held, look = self._held
        self._hidden.begin()
        rows = _rows(held)
        if self._kind is Kind.XLSB:
            with self._archive.open(self._parts[sheet]) as part:
                # The search for faults is ahead of the rows: what is hidden is known by then.
                hidden = RowSet()
                faults = sheet_parts.faults_xlsb(part, hidden, self._hidden)
                yield from self._hidden.all_rows(sheet_parts.marked(rows, faults), hidden)
            return
        if look.unread:
            self._hidden.unknown()
        self._hidden.unplaced = look.unplaced
        for first, last in look.columns:
            self._hidden.column(first, last)
        if look.faulty:
            with self._archive.open(self._parts[sheet]) as part:
                rows = sheet_parts.marked(rows, sheet_parts.faults_xlsx(part))
                yield from self._shown(rows, look)
        else:
            yield from self._shown(rows, look)

    def _shown(self, rows: Iterator[list[Cell]], look: sheet_parts.Look) -> Iterator[list[Cell]]:
        # Most sheets hide nothing, and Python code for each row would be felt.
        return self._hidden.all_rows(rows, look.hidden) if look.columns or look.hidden else rows

    def warnings(self, sheet: str) -> list[str]:
        """Of rows and columns that are hidden."""
        return self._hidden.warnings(sheet)

    def _load(self, sheet: str) -> tuple[CalamineSheet, sheet_parts.Look]:
        look = sheet_parts.Look()
        if self._kind is Kind.XLSB:
            return self._book.get_sheet_by_name(sheet), look
        # Beside the reader, which needs no interpreter while it parses.
        other = threading.Thread(target=look.at, args=(self._archive, self._parts.get(sheet, "")))
        other.start()
        try:
            held = self._sheet(sheet)
        finally:
            other.join()
        if look.utf16 and (mended := self._mended()):
            self._book = mended
            return self._load(sheet)
        return held, look

    def _sheet(self, name: str) -> CalamineSheet:
        try:
            return self._book.get_sheet_by_name(name)
        except CalamineError as error:
            # Other programs have errors of their own. What a cell shows is still read from the archive as it is.
            if "error value" not in str(error) or not (file := sheet_parts.with_known_errors(self._archive)):
                raise
            self._book = CalamineWorkbook.from_object(file)
            return self._book.get_sheet_by_name(name)

    def _mended(self) -> CalamineWorkbook | None:
        """A copy that calamine can read instead; None where there was nothing to mend."""
        file = sheet_parts.mended(self._archive)
        if file is None:
            return None
        self._archive = zipfile.ZipFile(file)
        file.seek(0)
        return CalamineWorkbook.from_object(file)


def _same(one: Sequence[Cell], other: Sequence[Cell]) -> bool:
    """Whether two rows of different widths have the same cells."""
    return all(
        type(left) is type(right) and left == right for left, right in zip_longest(one, other, fillvalue="")
    )


def _rows(sheet: CalamineSheet) -> Iterator[list[Cell]]:
    """The rows from row 1 and column A; calamine's begin with the first column that has a cell."""
    rows: Iterator[list[Cell]] = iter(sheet.iter_rows())  # type: ignore[arg-type]  # cells of calamine are cells
    left = sheet.start[1] if sheet.start else 0
    return ([*[""] * left, *row] for row in rows) if left else rows
