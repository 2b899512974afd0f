"""The row contract: which row is the header, which column goes where, and what becomes of each row. Pure.

Rows leave as CSV for `COPY staging (_row, <columns>) FROM STDIN (FORMAT csv)`: an unquoted empty field is NULL (there is
no empty text; an empty cell is NULL, never 0). `_row` is the row's place in the file, growing over all sheets; the last row
of a key wins by it, in SQL, which also counts those superseded: a child that remembered a million keys would need the memory.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from mailferry.config.columns import ColumnRule, Hidden, Mark
from mailferry.config.spreadsheet import ErrorCells, UnknownColumns
from mailferry.errors import Reject
from mailferry.mailbox.workbook.header import Finder, clean_name, filled, named
from mailferry.mailbox.workbook.infer import TYPES, TypeOf
from mailferry.mailbox.workbook.matching import fold, match_columns, meaning, missing
from mailferry.mailbox.workbook.values import Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.header import Header

C = TypeVar("C", bound=Column)

#: PostgreSQL's limit is 1,600 columns; some are the loader's own.
MAX_COLUMNS = 1_590


class Look(StrEnum):
    """How much of a file is wanted."""

    ALL = "all"
    NAMES = "names"
    TOP = "top"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowContract:
    """What a spreadsheet has to hold to be loaded into a table."""

    #: The unique key, as configured or as the column is called; matched by its clean name.
    key: str
    #: The table's columns but for those in `reserved`; none: the table does not exist yet, and every column is new.
    columns: tuple[Column, ...] = ()
    #: A sheet's name, a pattern (`*`, `?`) of visible ones, "all" for every visible one with the key, or "" for the first of those.
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
    hidden: Hidden = Hidden.LOAD
    #: Of text and web pages that are neither UTF-8 nor UTF-16 nor say theirs.
    charset: str = "cp1254"
    #: Python's name of the database's encoding, where that does not have every character: a cell with others rejects its row.
    encoding: str = ""
    #: Where a feed declares its columns: how they are found and read.
    rules: tuple[ColumnRule, ...] = ()
    #: What `value` of a rule fills in, besides sheet and row.
    about: dict[str, str] = field(default_factory=dict)
    #: Number of the header's (upper) row, 0 where the key shows it; how many rows it has; rows below it without data.
    header_row: int = 0
    header_rows: int = 1
    skip_after: int = 0
    #: What a row begins with that ends the data; `*` stands for any text.
    stop_at: tuple[str, ...] = ()
    #: Only the names of the visible sheets are wanted, or their first rows as well.
    look: Look = Look.ALL
    #: Tried in order on a protected workbook, after the one that spreadsheet programs use where none was asked for.
    passwords: tuple[str, ...] = field(default=(), repr=False)

    @property
    def several(self) -> bool:
        """Whether several sheets may be loaded. No spreadsheet program takes `*` or `?` in a name."""
        return self.sheet == "all" or "*" in self.sheet or "?" in self.sheet

    @property
    def adding(self) -> bool:
        """Whether a column that the table does not have is made."""
        return not self.columns or self.unknown_columns is UnknownColumns.ADD

    @property
    def finder(self) -> Finder:
        """How the header is found: by the key, or where that is filled in, by any declared column."""
        is_key = named(self.key)
        if self.rules:
            own = next((rule for rule in self.rules if clean_name(rule.name) == clean_name(self.key)), None)
            own = own or ColumnRule(name=self.key)
            is_key = meaning(self.rules if own.value else [own])
        return Finder(is_key=is_key, row=self.header_row, height=self.header_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Which cell of a row goes to which column."""

    #: Place of the cell (None: filled in by its rule) and the column, in the order of the CSV.
    placed: tuple[tuple[int | None, Column], ...]
    #: Those of `placed` that the table does not have yet; empty unless the contract wants them added.
    new: tuple[Column, ...] = ()
    #: Headers ignored, as written.
    unknown: tuple[str, ...] = ()
    #: Columns of the table that the sheet does not have.
    missing: tuple[str, ...] = ()
    #: Places without a header.
    nameless: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    #: By column, its header as written and why that is it.
    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: By column, its rule.
    rules: dict[str, ColumnRule] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The CSV's columns, after `_row`."""
        return tuple(column for _, column in self.placed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Targets:
    """What is known of a header's places."""

    #: The columns that headers mean, and those that are filled in.
    placed: dict[int, Column]
    filled: tuple[Column, ...] = ()
    #: Headers that could be more than one of the table's columns.
    unclear: frozenset[int] = frozenset()
    #: Warnings of headers that are left out.
    ignored: dict[int, str] = field(default_factory=dict)
    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)
    rules: dict[str, ColumnRule] = field(default_factory=dict)


def lay_out(header: Header, contract: RowContract) -> Layout:
    """Match a header to the table's columns. The types of new columns are not known yet: they say "".

    Without declared columns by clean name. Where columns of the table share one, a header that is none of them exactly is
    ignored with a warning; but the key's is always the key's.

    Raises Reject when a required column is missing, an unknown one is refused, a header or a column is ambiguous, or there
    are too many.
    """
    targets = _declared(header, contract) if contract.rules else _by_clean_name(header, contract)
    # A name like `_job` is meant only where it is spelled so.
    reserved = {clean_name(name) for name in contract.reserved if not name.startswith("_")}
    adding = contract.adding
    key = clean_name(contract.key)
    placed: list[tuple[int | None, Column]] = []
    unknown, unclear, warnings = [], [], []
    for place, name in enumerate(header.names):
        if not name:
            continue
        if name in reserved or header.written[place].lower() in contract.reserved:
            warnings.append(
                f"column {header.written[place]!r} is ignored: the table's {name!r} is filled by the loader or the database"
            )
        elif place in targets.placed:
            placed.append((place, targets.placed[place]))
        elif place in targets.ignored:
            warnings.append(targets.ignored[place])
        elif place in targets.unclear:
            unclear.append(header.written[place])
        elif adding:
            placed.append((place, Column(name=name, type="text" if name == key else "")))
        else:
            unknown.append(header.written[place])
    placed += [(None, column) for column in targets.filled]
    if unknown and contract.unknown_columns is UnknownColumns.REFUSE:
        raise Reject(f"columns that the table does not have: {_some(unknown)}")
    if unclear and contract.unknown_columns is UnknownColumns.REFUSE:
        raise Reject(f"columns that could be more than one of the table's: {_some(unclear)}")
    there = {column.name for _, column in placed}
    _check_required(header, contract, there)
    if len(placed) > MAX_COLUMNS:
        raise Reject(f"{len(placed)} columns, where a table takes {MAX_COLUMNS}")
    if unknown:
        warnings.append(f"columns that the table does not have were ignored: {_some(unknown)}")
    if unclear:
        warnings.append(
            f"columns that could be more than one of the table's were ignored: {_some(unclear)};"
            " a header that is spelled exactly as the table's column is not"
        )
    known = {column.name for column in contract.columns}
    reasons = {
        column.name: (header.written[place], "its own name" if column.name in known else "a new column")
        for place, column in placed
        if place is not None
    }
    return Layout(
        placed=tuple(placed),
        new=(
            *(column for _, column in placed if column.name not in known),
            *(() if known else _not_in_the_sheet(contract, there)),
        ),
        unknown=(*unknown, *unclear),
        missing=tuple(column.name for column in contract.columns if column.name not in there),
        nameless=tuple(place for place, name in enumerate(header.names) if not name),
        warnings=tuple(warnings),
        reasons=reasons | targets.reasons,
        rules=targets.rules,
    )


def _not_in_the_sheet(contract: RowContract, there: set[str]) -> list[Column]:
    """The declared columns of a table to be made that its first sheet does not have."""
    return [
        replace(column, type=column.type or "text")
        for _, column in _bound(contract)
        if column.name not in there
    ]


def _check_required(header: Header, contract: RowContract, there: set[str]) -> None:
    bound = {rule.name: column.name for rule, column in _bound(contract) if rule.required}
    required = [column.name for column in contract.columns if not column.nullable and not column.has_default]
    lacking = [name for name in dict.fromkeys([*required, *bound.values()]) if name not in there]
    if not lacking:
        return
    names = filled(header)
    text = f"required columns are missing: {_some(lacking)}; the header has: {_some(names)}"
    if contract.rules:
        rules = {column.name: rule for rule, column in _bound(contract)}
        text += "".join(
            f"; for {name!r} {missing(rules.get(name) or ColumnRule(name=name), names)}"
            for name in lacking[:5]
        )
    raise Reject(text)


def _by_clean_name(header: Header, contract: RowContract) -> _Targets:
    placed = _targets(header, contract)
    shared = _shared_names(contract)
    names = enumerate(header.names)
    return _Targets(
        placed=placed,
        unclear=frozenset(place for place, name in names if name in shared and place not in placed),
    )


def _declared(header: Header, contract: RowContract) -> _Targets:
    """By the declared columns, and the names of those of the table that are not declared."""
    rules = _bound(contract)
    declared = {column.name for _, column in rules}
    rules += [
        (ColumnRule(name=column.name), column) for column in contract.columns if column.name not in declared
    ]
    columns = {rule.name: column for rule, column in rules}
    matches, ignored = match_columns(header, [rule for rule, _ in rules])
    in_their_place = {fold(rule.name): rule.name for rule, _ in rules if rule.value}
    for place, name in enumerate(header.written):
        if place not in matches and fold(name) in in_their_place:
            ignored[place] = (
                f"column {name!r} is ignored: {in_their_place[fold(name)]!r} is declared with a `value`"
            )
    reasons = {
        columns[match.rule.name].name: (header.written[place], match.reason)
        for place, match in matches.items()
    }
    reasons |= {columns[rule.name].name: ("", repr(rule.value)) for rule, _ in rules if rule.value}
    return _Targets(
        placed={place: columns[match.rule.name] for place, match in matches.items()},
        filled=tuple(column for rule, column in rules if rule.value),
        ignored=ignored,
        reasons=reasons,
        rules={column.name: rule for rule, column in rules},
    )


def _bound(contract: RowContract) -> list[tuple[ColumnRule, Column]]:
    """The declared columns and what they are in the table, or will be."""
    found = []
    for rule in contract.rules:
        column = column_of(rule, contract.columns)
        if column is None and contract.adding:
            column = Column(name=clean_name(rule.name), type=_made_type(rule, contract))
        if column is not None:
            found.append((rule, replace(column, nullable=False) if rule.required else column))
    return found


def column_of(rule: ColumnRule, columns: Sequence[C]) -> C | None:
    """The column of a table that a rule speaks of: spelled so, or the only one of that clean name."""
    exact = [column for column in columns if column.name == rule.name]
    alike = exact or [column for column in columns if clean_name(column.name) == clean_name(rule.name)]
    return alike[0] if len(alike) == 1 else None


def _made_type(rule: ColumnRule, contract: RowContract) -> str:
    """The type that a column is made with; "" where its cells decide."""
    if rule.type:
        return rule.type
    if rule.value or clean_name(rule.name) == clean_name(contract.key):
        return "text"
    if rule.decimal is not Mark.EITHER:
        return "numeric"
    return TYPES[dt.datetime] if rule.formats else "text" if rule.map or rule.pad or rule.values else ""


def _shared_names(contract: RowContract) -> set[str]:
    """Clean names that several columns of the table have, such as "HAWB" and hawb."""
    counts = Counter(clean_name(column.name) for column in contract.columns)
    return {name for name, count in counts.items() if count > 1}


def _targets(header: Header, contract: RowContract) -> dict[int, Column]:
    """The table's column for a place, by clean name. Columns that share one are matched by their exact names, the key first."""
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
        watched = [
            (place, types[column.name])
            for place, column in layout.placed
            if column.name in types and place is not None
        ]
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
