"""The row contract: which row is the header, which column goes where, and what becomes of each row. Pure.

Rows leave as CSV for `COPY staging (_row, <columns>) FROM STDIN (FORMAT csv)`: an unquoted empty field is NULL (there is
no empty text; an empty cell is NULL, never 0). `_row` is the row's place in the file, growing over all sheets; the last row
of a key wins by it, in SQL, which also counts those superseded: a child that remembered a million keys would need the memory.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mailferry.config.spreadsheet import UnknownColumns
from mailferry.errors import Reject
from mailferry.mailbox.workbook.cells import Converter, converter, is_blank, text_of
from mailferry.mailbox.workbook.infer import TypeOf
from mailferry.mailbox.workbook.values import Column, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.mailbox.workbook.cells import Cell

#: The header is looked for in this many rows from the top.
HEADER_ROWS = 50
#: A rejected value is kept to this many characters.
VALUE_CHARACTERS = 200
#: PostgreSQL's limit is 1,600 columns; some are the loader's own.
MAX_COLUMNS = 1_590

_TURKISH = str.maketrans("ıİşŞğĞüÜöÖçÇ", "iIsSgGuUoOcC")
# The backslash needs no quotes in CSV; `\\.`, where data used to end, is then never bare.
_SPECIAL = re.compile(r'[",\n\r\\]')
_NOT_WORD = re.compile(r"[\W_]+")


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
    #: Columns that the loader fills itself (`processed_at`, `file_source`); such a header is ignored with a warning.
    reserved: tuple[str, ...] = ()
    #: Keys of digits alone are padded with zeros to this width; 0 leaves them.
    key_width: int = 0
    #: Rows of one file, blank ones not counted.
    max_rows: int = 5_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A header row."""

    #: 1-based, as the spreadsheet program shows it.
    row: int
    #: Clean names by place, each once; "" where the cell is empty.
    names: tuple[str, ...]
    #: Names as written.
    written: tuple[str, ...]


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


def clean_name(name: str) -> str:
    """A header as an identifier: lower case, words joined by `_`, Turkish letters plain, at most 63 bytes; "" for nothing."""
    plain = unicodedata.normalize("NFKC", name.replace("\0", ""))
    # Twice: lower() itself makes a combining dot out of some capitals.
    plain = unicodedata.normalize("NFKC", plain.translate(_TURKISH).lower())
    words = _NOT_WORD.sub("_", plain).strip("_")
    return _cut(words, 63) or ("column" if plain.strip() else "")


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore").rstrip("_")


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Clean names told apart: name, name_2, name_3; "" stays."""
    taken: set[str] = set()
    seen: dict[str, int] = {}
    out = []
    for name in names:
        own = name
        while own and own in taken:
            seen[name] = seen.get(name, 1) + 1
            suffix = f"_{seen[name]}"
            own = _cut(name, 63 - len(suffix)) + suffix
        taken.add(own)
        out.append(own)
    return tuple(out)


def find_header(rows: Iterable[Sequence[Cell]], key: str) -> Header | None:
    """The first of the rows (numbered from 1) with a cell that has the key's name."""
    wanted = clean_name(key)
    for number, row in enumerate(rows, 1):
        if number > HEADER_ROWS:
            break
        written = tuple(text_of(cell).strip() for cell in row)
        if any(wanted == clean_name(name) for name in written if len(name) <= 1_000):
            names = unique_names(clean_name(name) for name in written)
            return Header(row=number, names=names, written=written)
    return None


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
                f"column {header.written[place]!r} is ignored: the table's {name!r} is filled by the loader"
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


def filled(header: Header) -> list[str]:
    """The names of a header as written, without the empty ones."""
    return [name for name in header.written if name]


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


def infer_types(layouts: Sequence[tuple[Layout, Iterable[Sequence[Sequence[Cell]]]]]) -> dict[str, str]:
    """Types of the columns that have none yet, from all rows of all sheets: text in the last row makes it text."""
    types = {column.name: TypeOf() for column in layouts[0][0].new if not column.type}
    for layout, batches in layouts:
        watched = [(place, types[column.name]) for place, column in layout.placed if column.name in types]
        for rows in batches:
            columns = list(zip(*rows, strict=True))
            for place, type_of in watched:
                type_of.look(columns[place])
    return {name: type_of.name for name, type_of in types.items()}


def with_types(layout: Layout, types: dict[str, str]) -> Layout:
    """The layout with the types of its new columns filled in."""

    def typed(column: Column) -> Column:
        return column if column.type else replace(column, type=types[column.name])

    placed = tuple((place, typed(column)) for place, column in layout.placed)
    return replace(layout, placed=placed, new=tuple(map(typed, layout.new)))


def quoted(texts: Sequence[str]) -> Sequence[str]:
    """CSV fields of a column; most columns hold nothing to quote, and one look at all of them tells."""
    special = _SPECIAL.search
    if not special("".join(texts)):
        return texts
    return ['"' + text.replace('"', '""') + '"' if special(text) else text for text in texts]


@dataclass(kw_only=True, slots=True)
class RowWriter:
    """Turns batches of cells into CSV and keeps the counts; one for all sheets of a file."""

    layout: Layout
    contract: RowContract
    #: Rows that were not blank.
    read: int = 0
    rejected: int = 0
    blank: int = 0
    nuls: int = 0
    warnings: list[str] = field(default_factory=list)
    #: Added to a row's number to get `_row`: the rows of the sheets before.
    offset: int = 0
    _converters: list[Converter] = field(init=False)
    #: Which of the columns is the key.
    _key: int = field(init=False)
    _nameless: set[int] = field(init=False)
    _rows_hash: hashlib._Hash = field(init=False)
    _rejects_hash: hashlib._Hash = field(init=False)

    def __post_init__(self) -> None:
        key = self.contract.key
        names = [column.name for column in self.layout.columns]
        self._key = (
            names.index(key) if key in names else [clean_name(name) for name in names].index(clean_name(key))
        )
        self._converters = [
            converter(
                column.type, key=at == self._key, key_width=self.contract.key_width if at == self._key else 0
            )
            for at, column in enumerate(self.layout.columns)
        ]
        self._rows_hash = hashlib.sha256("\0".join(names).encode())
        self._rejects_hash = hashlib.sha256()
        self.turn_to(self.layout)

    def turn_to(self, layout: Layout) -> None:
        """Go on with another sheet: the same columns in the same order, from other places."""
        self.layout = layout
        self._nameless = set(layout.nameless)

    def batch(
        self, sheet: str, first: int, rows: Sequence[Sequence[Cell]]
    ) -> tuple[bytes, list[RejectedRow]]:
        """CSV lines of some rows, the first of which has the number `first`, and those rejected."""
        if not rows:
            return b"", []
        columns = list(zip(*rows, strict=True))
        self._look_at_nameless(sheet, columns)
        fields = []
        bad: dict[int, tuple[Column, str]] = {}
        blank: set[int] = set()
        for order, (place, column) in enumerate(self.layout.placed):
            conversion = self._converters[order]
            done = conversion.column(columns[place])
            self.nuls += done.nuls
            for at, reason in done.misfits.items():
                bad.setdefault(at, (column, reason))
            if order == self._key or not column.nullable:
                reason = "no key" if order == self._key else "empty, where the column must have a value"
                for at in [at for at, text in enumerate(done.texts) if not text and at not in done.misfits]:
                    if all(map(is_blank, rows[at])):
                        blank.add(at)
                    else:
                        bad.setdefault(at, (column, reason))
            fields.append(quoted(done.texts) if conversion.free else done.texts)
        self._count(len(rows), len(bad), len(blank))
        lines = list(map(",".join, zip(*fields, strict=True)))
        kept = (
            range(len(rows))
            if not bad and not blank
            else [at for at in range(len(rows)) if at not in bad and at not in blank]
        )
        if len(kept) < len(rows):
            lines = [lines[at] for at in kept]
        self._rows_hash.update("\n".join([*lines, ""]).encode())
        base = self.offset + first
        text = "".join([f"{base + at},{line}\n" for at, line in zip(kept, lines, strict=True)])
        return text.encode(), self._rejects(sheet, first, rows, bad)

    def _count(self, rows: int, bad: int, blank: int) -> None:
        self.blank += blank
        self.rejected += bad
        self.read += rows - blank
        if self.read > self.contract.max_rows:
            raise Reject(
                f"more than {self.contract.max_rows:,} rows; split the file, or raise the limit of rows"
            )

    def _rejects(
        self, sheet: str, first: int, rows: Sequence[Sequence[Cell]], bad: dict[int, tuple[Column, str]]
    ) -> list[RejectedRow]:
        places = {column.name: place for place, column in self.layout.placed}
        out = []
        for at, (column, reason) in sorted(bad.items()):
            value = text_of(rows[at][places[column.name]]).replace("\0", "")
            self._rejects_hash.update(f"{column.name}\0{value}\0{reason}\0".encode())
            out.append(
                RejectedRow(
                    sheet=sheet,
                    row=first + at,
                    column=column.name,
                    value=value[:VALUE_CHARACTERS],
                    reason=reason,
                )
            )
        return out

    def _look_at_nameless(self, sheet: str, columns: Sequence[Sequence[Cell]]) -> None:
        for place in sorted(self._nameless):
            if not all(map(is_blank, columns[place])):
                self._nameless.discard(place)
                self.warnings.append(
                    f"sheet {sheet!r}: a column without a header holds data, which was ignored"
                )

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) over columns, cleaned rows in their order, and rejects; neither file format nor blank rows change it."""
        return hashlib.sha256(self._rows_hash.digest() + self._rejects_hash.digest()).hexdigest()
