"""The row contract: which row is the header, which column goes where, and what becomes of each row. Pure.

Rows leave as CSV for `COPY staging (_row, <columns>) FROM STDIN (FORMAT csv)`: an unquoted empty field is NULL (there is
no empty text; an empty cell is NULL, never 0). `_row` is the row's place in the file, growing over all sheets; the last row
of a key wins by it, in SQL, which also counts those superseded: a child that remembered a million keys would need the memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mailferry.config.spreadsheet import ErrorCells, UnknownColumns
from mailferry.errors import Reject
from mailferry.mailbox.workbook.header import clean_name, filled
from mailferry.mailbox.workbook.infer import TypeOf
from mailferry.mailbox.workbook.values import Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.header import Header

#: PostgreSQL's limit is 1,600 columns; some are the loader's own.
MAX_COLUMNS = 1_590


@dataclass(frozen=True, kw_only=True, slots=True)
class RowContract:
    """What a spreadsheet has to hold to be loaded into a table."""

    #: The unique key, as configured or as the column is called; matched by its clean name.
    key: str
    #: The table's columns but for those in `reserved`; none: the table does not exist yet, and every column is new.
    columns: tuple[Column, ...] = ()
    #: A sheet's name, "all" for every visible one with the key, or "" for the first of those.
    sheet: str = ""
    unknown_columns: UnknownColumns = UnknownColumns.IGNORE
    #: Columns that the loader fills itself (`processed_at`, `file_source`), or the database; such a header is ignored with
    #: a warning.
    reserved: tuple[str, ...] = ()
    #: Keys of digits alone are padded with zeros to this width; 0 leaves them.
    key_width: int = 0
    #: Rows of one file, blank ones not counted.
    max_rows: int = 5_000_000
    errors: ErrorCells = ErrorCells.REJECT
    #: Of text and web pages that are neither UTF-8 nor UTF-16 nor say theirs.
    charset: str = "cp1254"
    #: Python's name of the database's encoding, where that does not have every character: a cell with others rejects its row.
    encoding: str = ""
    #: Tried in order on a protected workbook, after the one that spreadsheet programs use where none was asked for.
    passwords: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Which cell of a row goes to which column."""

    #: Place of the cell, and the column, in the order of the CSV.
    placed: tuple[tuple[int, Column], ...]
    #: Those of `placed` that the table does not have yet; empty unless the contract wants them added.
    new: tuple[Column, ...] = ()
    #: Headers ignored, as written.
    unknown: tuple[str, ...] = ()
    #: Columns of the table that the sheet does not have.
    missing: tuple[str, ...] = ()
    #: Places without a header.
    nameless: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The CSV's columns, after `_row`."""
        return tuple(column for _, column in self.placed)


def lay_out(header: Header, contract: RowContract) -> Layout:
    """Match a header to the table's columns by clean name. The types of new columns are not known yet: they say "".

    Where columns of the table share a clean name, a header that is none of them exactly is ignored with a warning;
    but the key's is always the key's.

    Raises Reject when a required column is missing, an unknown one is refused, or there are too many.
    """
    targets = _targets(header, contract)
    shared = _shared_names(contract)
    reserved = {clean_name(name) for name in contract.reserved}
    adding = not contract.columns or contract.unknown_columns is UnknownColumns.ADD
    key = clean_name(contract.key)
    placed, new, unknown, unclear, warnings = [], [], [], [], []
    for place, name in enumerate(header.names):
        if not name:
            continue
        if name in reserved:
            warnings.append(
                f"column {header.written[place]!r} is ignored: the table's {name!r} is filled by the loader or the database"
            )
        elif place in targets:
            placed.append((place, targets[place]))
        elif name in shared:
            unclear.append(header.written[place])
        elif adding:
            column = Column(name=name, type="text" if name == key else "")
            placed.append((place, column))
            new.append(column)
        else:
            unknown.append(header.written[place])
    if unknown and contract.unknown_columns is UnknownColumns.REFUSE:
        raise Reject(f"columns that the table does not have: {_some(unknown)}")
    if unclear and contract.unknown_columns is UnknownColumns.REFUSE:
        raise Reject(f"columns that could be more than one of the table's: {_some(unclear)}")
    required = [column.name for column in contract.columns if not column.nullable and not column.has_default]
    left = {column.name for column in contract.columns} - {column.name for _, column in placed}
    if lacking := [name for name in required if name in left]:
        raise Reject(
            f"required columns are missing: {_some(lacking)}; the header has: {_some(filled(header))}"
        )
    if len(placed) > MAX_COLUMNS:
        raise Reject(f"{len(placed)} columns, where a table takes {MAX_COLUMNS}")
    if unknown:
        warnings.append(f"columns that the table does not have were ignored: {_some(unknown)}")
    if unclear:
        warnings.append(
            f"columns that could be more than one of the table's were ignored: {_some(unclear)};"
            " a header that is spelled exactly as the table's column is not"
        )
    return Layout(
        placed=tuple(placed),
        new=tuple(new),
        unknown=(*unknown, *unclear),
        missing=tuple(column.name for column in contract.columns if column.name in left),
        nameless=tuple(place for place, name in enumerate(header.names) if not name),
        warnings=tuple(warnings),
    )


def _shared_names(contract: RowContract) -> set[str]:
    """Clean names that several columns of the table have, such as "HAWB" and hawb."""
    counts = Counter(clean_name(column.name) for column in contract.columns)
    return {name for name, count in counts.items() if count > 1}


def _targets(header: Header, contract: RowContract) -> dict[int, Column]:
    """The table's column for a place, by clean name. Columns that share one go by their exact names, the key first."""
    shared = _shared_names(contract)
    places = {name: place for place, name in enumerate(header.names) if name}
    targets: dict[int, Column] = {}
    # Columns of a shared name before others: they may be written at a place whose header was numbered.
    for column in sorted(
        contract.columns, key=lambda one: (clean_name(one.name) not in shared, one.name != contract.key)
    ):
        name = clean_name(column.name)
        place = places.get(name)
        if name in shared:
            exact = [at for at, written in enumerate(header.written) if written == column.name]
            place = exact[0] if exact else place if column.name == contract.key else None
        if place is not None and place not in targets:
            targets[place] = column
    return targets


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:20])
    return shown + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def align(first: Layout, other: Layout) -> Layout | None:
    """Another sheet's layout with its columns in the order of the first; None where they are not the same columns."""
    places = {column.name: place for place, column in other.placed}
    if len(places) != len(first.placed) or any(column.name not in places for column in first.columns):
        return None
    return replace(
        other, placed=tuple((places[column.name], column) for column in first.columns), new=first.new
    )


def infer_types(
    layouts: Sequence[tuple[Layout, Iterable[Sequence[Sequence[Cell]]]]],
) -> dict[str, TypeOf]:
    """Types of the columns that have none yet, from all rows of all sheets: text in the last row makes it text."""
    types = {column.name: TypeOf() for column in layouts[0][0].new if not column.type}
    for layout, batches in layouts:
        watched = [(place, types[column.name]) for place, column in layout.placed if column.name in types]
        for rows in batches:
            columns = list(zip(*rows, strict=True))
            for place, type_of in watched:
                type_of.look(columns[place])
    return types


def with_types(layout: Layout, types: dict[str, TypeOf]) -> Layout:
    """The layout with the types of its new columns filled in."""

    def typed(column: Column) -> Column:
        return column if column.type else replace(column, type=types[column.name].name)

    placed = tuple((place, typed(column)) for place, column in layout.placed)
    return replace(layout, placed=placed, new=tuple(map(typed, layout.new)))
