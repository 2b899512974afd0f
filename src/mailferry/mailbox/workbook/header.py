"""Header rows: how names are compared, and in which row they stand. Pure."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.mailbox.workbook.cells import is_blank, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.mailbox.workbook.cells import Cell

#: The header is looked for in this many rows from the top.
HEADER_ROWS = 50

_TURKISH = str.maketrans("ıİşŞğĞüÜöÖçÇ", "iIsSgGuUoOcC")
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A header row."""

    #: 1-based, as the spreadsheet program shows it.
    row: int
    #: Clean names by place, each once; "" where the cell is empty.
    names: tuple[str, ...]
    #: Names as written.
    written: tuple[str, ...]


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


def filled(header: Header) -> list[str]:
    """The names of a header as written, without the empty ones."""
    return [name for name in header.written if name]


def group_names(header: Header, above: Sequence[Cell], below: Sequence[Cell], key: str) -> tuple[int, str]:
    """The row beside the header that looks like a second header row: its distance (-1 or 1) and texts; (0, "") for none.

    One of the two holds the names of groups: names that repeat, or stand over columns that the other one names.
    """
    place = header.names.index(clean_name(key))
    names = [clean_name(name) for name in header.written]
    open_places = {at for at, name in enumerate(names) if not name or names.count(name) > 1}
    for distance, row in ((1, below), (-1, above)):
        cells = {at: cell for at, cell in enumerate(row) if not is_blank(cell)}
        if not cells or place in cells or not all(isinstance(cell, str) for cell in cells.values()):
            continue
        # A title stands alone; names of groups stand over several columns.
        if open_places & set(cells) and (distance == 1 or len(cells) > 1):
            return distance, ", ".join(text_of(cell)[:40] for cell in list(cells.values())[:10])
    return 0, ""
