"""Batches of cells to CSV lines and rejected rows, with the counts and the hash of what was read. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry.config.columns import placeholders
from mailferry.config.spreadsheet import ErrorCells
from mailferry.errors import Reject
from mailferry.mailbox.workbook.cells import Fault, is_blank, text_of
from mailferry.mailbox.workbook.cleaning import Cleaner
from mailferry.mailbox.workbook.converters import Converter, converter
from mailferry.mailbox.workbook.header import clean_name
from mailferry.mailbox.workbook.values import Column, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.contract import Layout, RowContract

#: A rejected value is kept to this many characters.
VALUE_CHARACTERS = 200
_TOTALS = frozenset(
    form
    for word in ("toplam", "genel toplam", "ara toplam", "total", "grand total", "subtotal", "sum")
    for text in (word, f"{word}:")
    for form in (text, text.upper(), text.capitalize(), text.title())
)
#: The backslash needs no quotes in CSV; `\\.`, where data used to end, is then never bare.
_SPECIAL = '",\n\r\\'


def quoted(texts: Sequence[str]) -> Sequence[str]:
    """CSV fields of a column; most columns hold nothing to quote, and one look at all of them shows it."""
    together = "".join(texts)
    found = [mark for mark in _SPECIAL if mark in together]
    if not found:
        return texts
    if found == [","]:  # as in names and addresses
        return [f'"{text}"' if "," in text else text for text in texts]
    special = re.compile(f"[{re.escape(_SPECIAL)}]").search
    return ['"' + text.replace('"', '""') + '"' if special(text) else text for text in texts]


def _fault(text: str, encoding: str) -> str | None:
    """The first characters that the encoding does not have."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        return text[error.start : error.end][:10]
    return None


@dataclass(kw_only=True, slots=True)
class RowWriter:
    """Turns batches of cells into CSV and keeps the counts; one for all sheets of a file."""

    layout: Layout
    contract: RowContract
    #: Rows that were not blank.
    read: int = 0
    rejected: int = 0
    nuls: int = 0
    #: Sheet, row and key of the first row that was loaded although it looks like a line of totals.
    total: tuple[str, int, str] | None = None
    warnings: list[str] = field(default_factory=list)
    #: Added to a row's number to get `_row`: the rows of the sheets before.
    offset: int = 0
    _converters: list[Converter | Cleaner] = field(init=False)
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
        self._converters = [self._converter(at, column) for at, column in enumerate(self.layout.columns)]
        self._rows_hash = hashlib.sha256("\0".join(names).encode())
        self._rejects_hash = hashlib.sha256()
        self.turn_to(self.layout)

    def _converter(self, order: int, column: Column) -> Converter | Cleaner:
        is_key = order == self._key
        plain = converter(column.type, key=is_key, key_width=self.contract.key_width if is_key else 0)
        rule = self.layout.rules.get(column.name)
        return Cleaner(rule=rule, converter=plain, type=column.type) if rule and rule.cleans else plain

    def turn_to(self, layout: Layout) -> None:
        """Go on with another sheet: the same columns in the same order, from other places."""
        self.layout = layout
        self._nameless = set(layout.nameless)

    def batch(
        self, sheet: str, first: int, rows: Sequence[Sequence[Cell]]
    ) -> tuple[bytes, list[RejectedRow]]:
        """CSV lines of some rows, numbered from `first`, and the rejected rows."""
        if not rows:
            return b"", []
        columns = list(zip(*rows, strict=True))
        self._look_at_nameless(sheet, columns)
        fields = []
        bad: dict[int, tuple[Column, str]] = {}
        blank: set[int] = set()
        for order, (place, column) in enumerate(self.layout.placed):
            conversion = self._converters[order]
            cells = columns[place] if place is not None else self._filled(column, sheet, first, len(rows))
            if self.contract.errors is ErrorCells.NULL:
                cells = tuple("" if isinstance(cell, Fault) and cell.is_empty else cell for cell in cells)
            done = conversion.column(cells)
            self.nuls += done.nuls
            for at, reason in done.misfits.items():
                bad.setdefault(at, (column, reason))
            for at, reason in self._unholdable(done.texts):
                bad.setdefault(at, (column, reason))
            if order == self._key and not self.total and not _TOTALS.isdisjoint(done.texts):
                at = next(at for at, text in enumerate(done.texts) if text in _TOTALS)
                self.total = (sheet, first + at, done.texts[at])
            if order == self._key or not column.nullable:
                reason = "no key" if order == self._key else "empty, where the column must have a value"
                for at in [at for at, text in enumerate(done.texts) if not text and at not in done.misfits]:
                    if all(map(is_blank, rows[at])):
                        blank.add(at)
                    else:
                        bad.setdefault(at, (column, reason))
            fields.append(quoted(done.texts) if conversion.free else done.texts)
        if self.layout.rules:
            # A value that is filled in makes no row, nor is a row bad whose empty cells are none of `values`.
            blank |= {at for at in bad if all(map(is_blank, rows[at]))}
            blank |= self._blank_rows(rows)
            bad = {at: why for at, why in bad.items() if at not in blank}
        self._count(len(rows) - len(blank), len(bad))
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

    def _filled(self, column: Column, sheet: str, first: int, count: int) -> list[Cell]:
        """What the rule of a column puts in place of cells."""
        template = self.layout.rules[column.name].value
        known = {**self.contract.about, "sheet": sheet}
        if "row" not in placeholders(template):
            return [template.format(**known)] * count
        return [template.format(**known, row=first + at) for at in range(count)]

    def _blank_rows(self, rows: Sequence[Sequence[Cell]]) -> set[int]:
        """Where the key is filled in, the rows without any cell."""
        if self.layout.placed[self._key][0] is not None:
            return set()
        return {at for at, row in enumerate(rows) if all(map(is_blank, row))}

    def _unholdable(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Texts that the database's encoding does not have."""
        encoding = self.contract.encoding
        if not encoding or _fault("".join(texts), encoding) is None:
            return
        for at, text in enumerate(texts):
            if found := _fault(text, encoding):
                yield (
                    at,
                    f"the database's encoding, {encoding}, does not have {found!r}; one in UTF8 holds every character",
                )

    def _count(self, rows: int, bad: int) -> None:
        self.rejected += bad
        self.read += rows
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
            place = places[column.name]
            cell = rows[at][place] if place is not None else self._filled(column, sheet, first + at, 1)[0]
            value = text_of(cell).replace("\0", "")
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

    @property
    def all_warnings(self) -> list[str]:
        """What a person should know of the rows that were read."""
        warnings = list(self.warnings)
        if self.nuls:
            warnings.append(f"{self.nuls} NUL characters were taken out of the text")
        if self.total:
            sheet, row, key = self.total
            warnings.append(
                f"sheet {sheet!r}: row {row}, key {key!r}, looks like a line of totals and was loaded"
            )
        return warnings
