"""Header rows: how names are compared, and in which row they stand. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from mailferry.mailbox.workbook.cells import is_blank, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mailferry.mailbox.workbook.cells import Cell

#: The header is looked for in this many rows from the top.
HEADER_ROWS = 50
#: Characters of a name at most.
_LONGEST = 1_000

_TURKISH = str.maketrans("ıİşŞğĞüÜöÖçÇ", "iIsSgGuUoOcC")
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A header of one row or two."""

    #: The (lower) row, 1-based, as the spreadsheet program shows it.
    row: int
    #: Clean names by place, each once; "" where the cell is empty.
    names: tuple[str, ...]
    #: Names as written; of two rows joined.
    written: tuple[str, ...]
    #: Of two rows, the names of the lower one alone.
    lower: tuple[str, ...] = ()
    #: The place of the key's header.
    key: int = 0

    @property
    def alternatives(self) -> list[tuple[str, ...]]:
        """By place, the names that the column may have."""
        return (
            list(zip(self.written, self.lower, strict=True))
            if self.lower
            else [(name,) for name in self.written]
        )


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
    """Clean names made unique: name, name_2, name_3; "" stays."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Finder:
    """How the header of a sheet is found."""

    #: Whether a header of these names is the key's.
    is_key: Callable[[Sequence[str]], bool]
    #: The row of the header, of two the upper; 0 looks for the key.
    row: int = 0
    #: Rows of the header, 1 or 2.
    height: int = 1

    @property
    def depth(self) -> int:
        """Rows from the top in which a header may stand."""
        return max(HEADER_ROWS, self.row + self.height - 1)

    def find(self, rows: Iterable[Sequence[Cell]]) -> Header | None:
        """The header in the rows (numbered from 1), where it has the key."""
        top = list(islice(rows, self.depth + 1))
        for number in [self.row + self.height - 1] if self.row else range(1, HEADER_ROWS + 1):
            if number <= len(top) and (header := self._at(top, number)):
                return header
        return None

    def _at(self, top: Sequence[Sequence[Cell]], number: int) -> Header | None:
        if self.height == 1:
            return self._header(number, _texts(top[number - 1]))
        if not self.row and (alone := self._header(number, _texts(top[number - 1]))):
            # A key that is merged over both rows stands in the upper one, with nothing below it.
            below = top[number] if number < len(top) else ()
            if number == 1 or (any(below) and not any(_texts(below[alone.key : alone.key + 1]))):
                number += 1
        if number > len(top):
            return None
        return self._header(number, _texts(top[number - 1]), _texts(top[number - 2]))

    def _header(
        self, row: int, written: tuple[str, ...], upper: tuple[str, ...] | None = None
    ) -> Header | None:
        """The row as a header, the upper one joined to it; None where it has no key."""
        lower: tuple[str, ...] = ()
        if upper is not None:
            width = max(len(written), len(upper))
            lower = (*written, *[""] * (width - len(written)))
            written = _joined((*upper, *[""] * (width - len(upper))), lower)
        names = unique_names(map(clean_name, written))
        header = Header(row=row, names=names, written=written, lower=lower)
        for place, names in enumerate(header.alternatives):
            if any(names) and all(len(name) <= _LONGEST for name in names) and self.is_key(names):
                return replace(header, key=place)
        return None


def named(key: str) -> Callable[[Sequence[str]], bool]:
    """Whether one of some names is the key's clean name."""
    wanted = clean_name(key)
    return lambda names: any(wanted == clean_name(name) for name in names)


def _texts(row: Sequence[Cell]) -> tuple[str, ...]:
    return tuple(text_of(cell).strip() for cell in row)


def _joined(upper: Sequence[str], lower: Sequence[str]) -> tuple[str, ...]:
    """The names of two rows of one length; one in the upper row stands over those to its right as well."""
    names = []
    over = ""
    for above, own in zip(upper, lower, strict=True):
        over = above or over
        names.append(f"{over} {own}".strip() if own else above)
    return tuple(names)


def filled(header: Header) -> list[str]:
    """The names of a header as written, without the empty ones."""
    return [name for name in header.written if name]


def group_names(header: Header, above: Sequence[Cell], below: Sequence[Cell]) -> tuple[int, str]:
    """The row beside the header that looks like a second header row: its distance (-1 or 1) and texts; (0, "") for none.

    One of the two holds the names of groups: names that repeat, or stand over columns that the other one names.
    """
    place = header.key
    names = [clean_name(name) for name in header.written]
    often = Counter(names)
    open_places = {at for at, name in enumerate(names) if not name or often[name] > 1}
    for distance, row in ((1, below), (-1, above)):
        cells = {at: cell for at, cell in enumerate(row) if not is_blank(cell)}
        if not cells or place in cells or not all(isinstance(cell, str) for cell in cells.values()):
            continue
        # A title stands alone; names of groups stand over several columns.
        if open_places & set(cells) and (distance == 1 or len(cells) > 1):
            return distance, ", ".join(text_of(cell)[:40] for cell in list(cells.values())[:10])
    return 0, ""
