"""The PostgreSQL type of a new column, from all of its cells.

The table stays when the file has gone, so the type is one that later files of the same column fit as well: numbers that
happen to be whole today are `numeric`, never an integer type, and dates without a time of day are `timestamp`, never `date`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.mailbox.workbook.cells import Cell

#: The type of a new column, by the kind of its cells; any other kind is text.
TYPES: dict[type, str] = {
    int: "numeric",
    float: "numeric",
    dt.date: "timestamp without time zone",
    dt.datetime: "timestamp without time zone",
    bool: "boolean",
    dt.time: "time without time zone",
    dt.timedelta: "interval",
}


@dataclass(kw_only=True, slots=True)
class TypeOf:
    """Looks at cells, and then says which type holds all of them.

    A cell's own kind counts, never what its text looks like: `"007"` is text. Cells of more than one kind are text.
    """

    _types: set[type] = field(default_factory=set)

    def look(self, cells: Sequence[Cell]) -> None:
        """Take in more of the column."""
        types = set(map(type, cells))
        if str in types and not any(cell for cell in cells if type(cell) is str):
            types.discard(str)
        self._types |= types

    @property
    def name(self) -> str:
        """The type, as `format_type()` writes it; text where nothing was seen."""
        names = {TYPES.get(seen, "text") for seen in self._types}
        return names.pop() if len(names) == 1 else "text"
