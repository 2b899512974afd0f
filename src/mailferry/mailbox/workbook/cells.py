"""What a cell of a spreadsheet holds, whatever the format, and how it reads as text."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Fault:
    """A cell without a value that is not empty either: an error (`#N/A`), a formula never calculated, a broken field."""

    #: Why a row that needs this cell is rejected.
    reason: str
    #: What the cell shows.
    shown: str = ""
    #: Whether the cell may count as empty where the feed wants errors to be; a broken field may not.
    is_empty: bool = True


#: A cell with a formula and no value.
UNCALCULATED = Fault(
    "a formula without a stored value; open the file in a spreadsheet program and save it again"
)


def error_cell(shown: str) -> Fault:
    """A cell that shows an error."""
    return Fault(f"an error ({shown}), not a value", shown)


def unreadable(text: str) -> Fault:
    """A cell whose value is not of the type that it states."""
    return Fault(f"not of the type that the cell states: {text[:40]!r}", text[:200], is_empty=False)


#: What a cell of a spreadsheet holds; `""` is an empty cell.
Cell = str | float | int | bool | dt.time | dt.date | dt.datetime | dt.timedelta | Fault

#: Whole numbers up to here are exact in a binary double.
EXACT = 2**53


def is_blank(cell: Cell) -> bool:
    """Whether a cell holds nothing that a person could see."""
    return type(cell) is str and (not cell or cell.isspace())


def text_of(cell: Cell) -> str:
    """A cell as text: `12345.0` is `12345`, dates are ISO 8601, durations `30:00:00`, truth is `true`.

    A whole number has neither point nor exponent, however large.
    """
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        if not cell.is_integer():
            return repr(cell)
        # Beyond it int() would show digits that were never written.
        return str(int(cell)) if abs(cell) <= EXACT else f"{Decimal(repr(cell)):.0f}"
    if isinstance(cell, dt.timedelta):
        return duration(cell)
    return cell.shown if isinstance(cell, Fault) else str(cell)


def duration(value: dt.timedelta) -> str:
    """Hours, minutes, seconds; as `interval` and people read it."""
    sign, value = ("-", -value) if value < dt.timedelta() else ("", value)
    minutes, seconds = divmod(value.days * 86_400 + value.seconds, 60)
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}:{seconds:02}{fraction}"


def column_letters(place: int) -> str:
    """A, B, ... Z, AA for the columns 0, 1, ... 25, 26."""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
