"""Which sheets of a book are loaded, what their columns are, and what a person should know of the book."""

from __future__ import annotations

import fnmatch
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mailferry.config.columns import Hidden
from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import Fitter, damaged
from mailferry.mailbox.workbook.cells import is_blank, text_of
from mailferry.mailbox.workbook.contract import align, infer_types, lay_out, with_types
from mailferry.mailbox.workbook.header import HEADER_ROWS, Header, filled, group_names
from mailferry.mailbox.workbook.matching import Wildcard, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.mailbox.workbook.book import Book
    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.contract import Layout, RowContract
    from mailferry.mailbox.workbook.hidden import HiddenCells

#: Cells that are Python objects at one time; a cell may hold 32,767 characters.
BATCH_CELLS = 8_192


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A sheet in which a header was found."""

    name: str
    header: Header
    #: A row beside the header that looks like a second one, for a message; "" for none.
    second: str


class End:
    """Where the rows of a table end, if a row of its own says so."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [Wildcard(pattern) for pattern in patterns]
        #: The row, as the spreadsheet program shows it; 0 until it was seen.
        self.row = 0
        self._text = ""
        self._rest = 0

    def cut(self, batch: list[list[Cell]], first: int) -> None:
        """Cut the row that ends the data off a batch, and what follows; `first` is the number of its first row."""
        if not self._patterns:
            return
        for at, row in enumerate(batch):
            begin = next((cell for cell in row if cell != ""), "")
            if type(begin) is str and begin.strip() and any(one.fits(begin) for one in self._patterns):
                self.row, self._text = first + at, begin.strip()
                self._rest = sum(not all(map(is_blank, rest)) for rest in batch[at + 1 :])
                del batch[at:]
                return

    def count_rest(self, rows: Iterator[list[Cell]]) -> None:
        """Read the rows below to their end."""
        self._rest += sum(not all(map(is_blank, row)) for row in rows)

    def warnings(self, sheet: str) -> list[str]:
        """Of rows below the end."""
        if not self._rest:
            return []
        rows = "1 row" if self._rest == 1 else f"{self._rest:,} rows"
        return [
            f"sheet {sheet!r}: row {self.row} ({self._text[:40]!r}) ends the data; {rows} below it were not loaded"
        ]


class Reading:
    """A book as the contract wants it read. Raises Reject from everything."""

    def __init__(self, book: Book, contract: RowContract, hidden: HiddenCells) -> None:
        self._book = book
        self._hidden = hidden
        #: Hidden rows that were left out of the sheets read so far.
        self.left_out = 0
        self._contract = contract
        self._finder = contract.finder
        #: Texts of the rows in which no header was found, for what comes closest to the key's.
        self._names_seen: list[str] = []
        #: Known before the rows.
        self.warnings: list[str] = []
        #: The sheets that are loaded: one, or with "all" every visible one that has the key in a header.
        self._refuse_namesakes()
        self.tables = self._find()
        #: One for each of them, all with the same columns.
        self.layouts = self._lay_out()
        self.warnings += self.layouts[0].warnings
        self.warnings += [table.second for table in self.tables if table.second]

    def batches(
        self, table: Table, warnings: list[str] | None = None
    ) -> Iterator[tuple[int, list[list[Cell]]]]:
        """The rows below the header, as long as that, and the number of the first of each batch."""
        width = len(table.header.names)
        fitter = Fitter(width=width, overlong=self._book.overlong)
        size = max(1, BATCH_CELLS // max(1, width))
        above = table.header.row + self._contract.skip_after
        first = above + 1
        end = End(self._contract.stop_at)
        repeated = 0
        with damaged(f"sheet {table.name!r}"):
            rows = iter(self._book.rows(table.name))
            for _ in islice(rows, above):
                pass
            while batch := list(islice(rows, size)):
                fitter.fit(batch)
                repeated += _blank_repeated(batch, table.header)
                end.cut(batch, first)
                yield first, batch
                first += len(batch)
                if end.row:
                    end.count_rest(rows)
        if warnings is not None:
            warnings += end.warnings(table.name)
            warnings += self._book.warnings(table.name)
            self.left_out += self._hidden.left_out
            if repeated:
                rows_repeat = "1 row repeats" if repeated == 1 else f"{repeated:,} rows repeat"
                warnings.append(f"sheet {table.name!r}: {rows_repeat} the header, which is no data")
            if fitter.cut:
                warnings.append(f"sheet {table.name!r}: data beyond the last header was ignored")
            if fitter.short and self._book.overlong:
                warnings.append(
                    f"{fitter.short:,} rows have fewer fields than the header; those missing count as empty"
                )

    def not_loaded(self) -> list[str]:
        """Warnings of other visible sheets that have the key as well; to be asked for last, for it reads them."""
        if self._contract.sheet:
            return []
        loaded = {table.name for table in self.tables}
        alike = []
        for info in self._book.sheets:
            if info.visible and info.name not in loaded:
                try:
                    top = self._top(info.name)
                except Reject:
                    continue  # it was not asked for, and may be damaged
                if self._finder.find(top):
                    alike.append(repr(info.name))
        if not alike:
            return []
        which = ", ".join(alike[:10]) + (" ..." if len(alike) > 10 else "")
        return [
            (
                f"not loaded, although the key {self._contract.key!r} is in a header there: {which};"
                ' sheet = "all" loads every such sheet, sheet = "NAME" one'
            )
        ]

    def _refuse_namesakes(self) -> None:
        """Sheets are found by their names; of two with one name the second would never be read."""
        names = Counter(sheet.name for sheet in self._book.sheets)
        if twice := [name for name, count in names.items() if count > 1]:
            raise Reject(
                f"two of its sheets are called {twice[0]!r}; save it again with a spreadsheet program, which renames one"
            )

    def _find(self) -> list[Table]:
        found: list[Table] = []
        seen = []
        for name in self._names():
            top = self._top(name)
            header = self._finder.find(top)
            if header is None:
                seen.append(f"sheet {name!r}: {_first_names(top)}")
                self._names_seen += [
                    cell.strip() for row in top for cell in row if type(cell) is str and cell.strip()
                ]
                continue
            found.append(Table(name=name, header=header, second=_second(name, header, top)))
            if not self._contract.several:
                return found
        if not found:
            raise Reject(self._no_header(seen))
        self.warnings += [f"not loaded, no header with the key: {sheet}" for sheet in seen]
        return found

    def _no_header(self, seen: list[str]) -> str:
        contract = self._contract
        found = "; ".join(seen[:10])
        text = f"no header row with the key {contract.key!r} in the first {HEADER_ROWS} rows; found: {found}"
        if contract.header_row:
            text = f"row {contract.header_row} has no header of the key {contract.key!r}; found: {found}"
        if contract.hidden is Hidden.SKIP:
            text += " (hidden rows and columns are left out: hidden = skip)"
        own = next((rule for rule in contract.rules if rule.name == contract.key), None)
        return f"{text}; {missing(own, self._names_seen)}" if own else text

    def _top(self, name: str) -> list[list[Cell]]:
        with damaged(f"sheet {name!r}"):
            return list(islice(self._book.rows(name), self._finder.depth + 1))

    def _names(self) -> list[str]:
        sheets, wanted = self._book.sheets, self._contract.sheet
        if wanted not in {"", "all"} and self._book.named and self._contract.several:
            named = [sheet.name for sheet in sheets if sheet.visible and sheet_matches(sheet.name, wanted)]
            if not named:
                raise Reject(self._called(wanted))
            return named
        if wanted not in {"", "all"} and self._book.named:
            named = [sheet.name for sheet in sheets if sheet.name == wanted] or [
                sheet.name for sheet in sheets if sheet.name.strip().casefold() == wanted.strip().casefold()
            ]
            if not named:
                raise Reject(self._called(wanted))
            return named[:1]
        visible = [sheet.name for sheet in sheets if sheet.visible]
        if not visible:
            raise Reject("it has only hidden sheets" if sheets else "it has no worksheets")
        return visible

    def _called(self, wanted: str) -> str:
        has = ", ".join(repr(sheet.name) for sheet in self._book.sheets[:20])
        return f"no sheet is called {wanted!r}; the file has: {has or 'no worksheets'}"

    def _lay_out(self) -> list[Layout]:
        """One layout a sheet, all with the same columns: one that a sheet lacked would be emptied in the table."""
        first = lay_out(self.tables[0].header, self._contract)
        layouts = [first]
        for table in self.tables[1:]:
            aligned = align(first, lay_out(table.header, self._contract))
            if aligned is None:
                raise Reject(
                    f"sheets {self.tables[0].name!r} and {table.name!r} do not have the same columns"
                )
            layouts.append(aligned)
        if all(column.type for column in first.new):
            return layouts
        types = infer_types(
            [
                (layout, (rows for _, rows in self.batches(table)))
                for table, layout in zip(self.tables, layouts, strict=True)
            ],
        )
        self.warnings += [
            f"column {name!r} is made as text, for it holds {type_of.mixture}"
            for name, type_of in types.items()
            if type_of.mixture
        ]
        return [with_types(layout, types) for layout in layouts]


def sheet_matches(name: str, pattern: str) -> bool:
    """Whether a sheet is one of those that a pattern (`*`, `?`) names, in any case."""
    return fnmatch.fnmatchcase(name.strip().casefold(), pattern.strip().casefold())


def _blank_repeated(batch: list[list[Cell]], header: Header) -> int:
    """Blank the rows that are the header again, as printed lists have it on each page; how many there were."""
    name = header.written[header.key]
    alike = [row for row in batch if isinstance(cell := row[header.key], str) and name in cell]
    repeated = [row for row in alike if all(map(_is_name, row, header.written))]
    for row in repeated:
        row[:] = [""] * len(row)
    return len(repeated)


def _is_name(cell: Cell, name: str) -> bool:
    return text_of(cell).strip() == name


def _second(name: str, header: Header, top: Sequence[Sequence[Cell]]) -> str:
    """A message about a row above or below the header that looks like a part of it."""
    if header.lower:
        return ""
    above = top[header.row - 2] if header.row > 1 else ()
    below = top[header.row] if header.row < len(top) else ()
    distance, texts = group_names(header, above, below)
    if not distance:
        return ""
    return (
        f"sheet {name!r}: row {header.row + distance} looks like a second header row ({texts});"
        f" the columns are named by row {header.row} alone"
    )


def _first_names(top: Sequence[Sequence[Cell]]) -> str:
    """The first row that has anything in it, for a message."""
    for number, row in enumerate(top[:HEADER_ROWS], 1):
        names = filled(
            Header(row=number, names=(), written=tuple(" ".join(text_of(cell)[:40].split()) for cell in row))
        )
        if names:
            return ", ".join(names[:15]) + (" ..." if len(names) > 15 else "")
    return "nothing"
