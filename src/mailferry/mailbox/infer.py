"""The PostgreSQL type of a new column, from all of its cells."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry.mailbox.cells import EXACT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.mailbox.cells import Cell


@dataclass(kw_only=True, slots=True)
class TypeOf:
    """Looks at cells, and then says which type holds all of them.

    A cell's own kind counts, never what its text looks like: `"007"` is text. Cells of more than one kind are text.
    """

    _types: set[type] = field(default_factory=set)
    #: What numbers need: 0 bigint, 1 numeric, 2 double precision.
    _width: int = 0

    def look(self, cells: Sequence[Cell]) -> None:
        """Take in more of the column."""
        types = set(map(type, cells))
        if str in types and not any(cell for cell in cells if type(cell) is str):
            types.discard(str)
        self._types |= types
        if self._width < 2 and types & {int, float}:
            self._width = max(
                self._width, _width([float(cell) for cell in cells if isinstance(cell, int | float)])
            )

    @property
    def name(self) -> str:
        """The type, as `format_type()` writes it; text where nothing was seen."""
        types = self._types
        if types and types <= {int, float}:
            return ("bigint", "numeric", "double precision")[self._width]
        if types == {dt.date}:
            return "date"
        if types and types <= {dt.date, dt.datetime}:
            return "timestamp without time zone"
        single: dict[type, str] = {
            bool: "boolean",
            dt.time: "time without time zone",
            dt.timedelta: "interval",
        }
        return single.get(next(iter(types)), "text") if len(types) == 1 else "text"


def _width(numbers: list[float]) -> int:
    if not all(map(math.isfinite, numbers)):
        return 2
    if all(map(float.is_integer, numbers)) and min(numbers) >= -EXACT and max(numbers) <= EXACT:
        return 0
    # Decimal notation while Python writes it so; beyond that nobody means decimals.
    return 2 if any("e" in text for text in map(repr, numbers)) else 1
