"""The PostgreSQL type of a new column, from all of its cells.

The table stays when the file has gone, so the type is one that later files of the same column fit as well: numbers that
happen to be whole today are `numeric`, never an integer type, and dates without a time of day are `timestamp`, never `date`.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry.mailbox.workbook.cells import Fault

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


_TIMES = {"time without time zone", "interval"}
#: What a message calls the cells of a type.
_CALLED = {
    "numeric": "numbers",
    "timestamp without time zone": "dates",
    "boolean": "true or false",
    "time without time zone": "times of day",
    "interval": "durations",
}


@dataclass(kw_only=True, slots=True)
class TypeOf:
    """Looks at cells, and then says which type holds all of them.

    A cell's own kind counts, never what its text looks like: `"007"` is text. Cells of more than one kind are text.
    """

    #: Cells by type.
    _counts: Counter[str] = field(default_factory=Counter)
    #: The first that is text.
    _text: str = ""

    def look(self, cells: Sequence[Cell]) -> None:
        """Take in more of the column."""
        types = set(map(type, cells))
        if types == {str}:  # nearly all columns are of one kind
            self._add("text", cells if all(cells) else [cell for cell in cells if cell])
            return
        kinds = Counter(map(type, cells))
        kinds.pop(Fault, 0)
        if kinds.pop(str, 0):
            self._add("text", [cell for cell in cells if type(cell) is str and cell])
        for kind, count in kinds.items():
            self._counts[TYPES[kind]] += count

    def _add(self, kind: str, texts: Sequence[Cell]) -> None:
        if texts:
            self._counts[kind] += len(texts)
            self._text = self._text or str(texts[0])

    @property
    def name(self) -> str:
        """The type, as `format_type()` writes it; text where nothing was seen."""
        if set(self._counts) == _TIMES:
            return "interval"  # times of day, and durations of more than one, in some formats
        return next(iter(self._counts)) if len(self._counts) == 1 else "text"

    @property
    def mixture(self) -> str:
        """What the column holds where that is of several kinds; "" where it is of one."""
        if len(self._counts) < 2 or set(self._counts) == _TIMES:
            return ""
        kinds = [f"{count} {_CALLED[kind]}" for kind, count in self._counts.most_common() if kind != "text"]
        texts = self._counts["text"]
        return " and ".join([*kinds, *([f"{texts} texts, the first {self._text[:40]!r}"] if texts else [])])
