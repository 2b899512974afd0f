"""Rows and columns of a sheet that a person does not see: said, and left out where the feed wants that. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.cells import column_letters, is_blank

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailferry.mailbox.workbook.cells import Cell

#: Rows of the largest sheet.
_ROWS = 1_048_576


class RowSet:
    """Numbers of rows, from 1: a byte for each, for a filter may hide a million."""

    def __init__(self) -> None:
        self._marks = bytearray()

    def __bool__(self) -> bool:
        return bool(self._marks)

    def __contains__(self, number: int) -> bool:
        return number < len(self._marks) and self._marks[number] == 1

    def add(self, number: int) -> None:
        """Add a row; a number beyond any sheet's is none."""
        if not 0 < number <= _ROWS:
            return
        if number >= len(self._marks):
            self._marks.extend(bytes(number + 1 - len(self._marks)))
        self._marks[number] = 1


class HiddenCells:
    """What is hidden in the sheet that is being read. What is left out becomes empty, so all other cells keep their places."""

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        self.begin()

    def begin(self) -> None:
        """Start with the first row of a sheet."""
        self._rows = 0
        #: First and last place, from 0, of columns that are hidden next to each other.
        self._ranges: list[tuple[int, int]] = []
        #: Those that hold anything.
        self._columns: set[int] = set()
        #: Whether something is hidden at an unknown place.
        self.unplaced = False

    def column(self, first: int, last: int) -> None:
        """Columns at these places, from 0, are hidden; said before the rows."""
        self._ranges.append((first, last))

    def row(self, cells: list[Cell], *, is_hidden: bool) -> list[Cell]:
        """A row as it is to be loaded."""
        if is_hidden and not all(map(is_blank, cells)):
            self._rows += 1
            if self._skip:
                return []
        for first, last in self._ranges:
            for place in range(first, min(last + 1, len(cells))):
                if not is_blank(cells[place]):
                    self._columns.add(place)
                    if self._skip:
                        cells[place] = ""
        return cells

    def all_rows(self, rows: Iterable[list[Cell]], hidden: RowSet) -> Iterator[list[Cell]]:
        """All rows from row 1; `hidden` may grow on the way."""
        for number, cells in enumerate(rows, 1):
            yield self.row(cells, is_hidden=number in hidden)

    def unknown(self) -> None:
        """It is not known whether anything is hidden. Raises Reject where it would have to be left out."""
        if self._skip:
            raise Reject(
                f"its hidden rows and columns cannot be found, so they cannot be left out; {_WAYS_OUT}"
            )

    @property
    def left_out(self) -> int:
        """Rows that held anything and were left out, once all rows have been read."""
        return self._rows if self._skip else 0

    def warnings(self, sheet: str) -> list[str]:
        """What was hidden and held anything, once all rows have been read. Raises Reject where it could not be left out."""
        if self.unplaced and self._skip:
            raise Reject(
                f"sheet {sheet!r}: something is hidden, but not at a place that is known, so it cannot be left out;"
                f" {_WAYS_OUT}"
            )
        warnings = []
        if self._rows:
            rows = "1 row is" if self._rows == 1 else f"{self._rows:,} rows are"
            fate = "left out" if self._skip else "loaded all the same"
            warnings.append(f"sheet {sheet!r}: {rows} hidden (by a filter, or by hand) and {fate}")
        if self._columns:
            which = "column {} is" if len(self._columns) == 1 else "columns {} are"
            fate = "left out" if self._skip else "read all the same"
            warnings.append(f"sheet {sheet!r}: {which.format(_named(self._columns))} hidden and {fate}")
        if self.unplaced:
            warnings.append(f"sheet {sheet!r}: something in it is hidden and read all the same")
        return warnings


_WAYS_OUT = "have it sent without, or as .xlsx saved by a spreadsheet program, or set hidden = load"


def _named(places: set[int]) -> str:
    """Columns as a spreadsheet program shows them: A, C to E."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and runs[-1][-1] == place - 1:
            runs[-1][1:] = [place]
        else:
            runs.append([place])
    texts = [" to ".join(map(column_letters, run)) for run in runs[:20]]
    return ", ".join(texts) + (" ..." if len(runs) > 20 else "")
