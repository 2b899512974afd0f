"""What a text means as a number, a date or a time: only where it has one reading, never a guess.

- numbers: `1234.5`, `1234,5`, `1.234,50`, `1,234.50`, `1.234.567`; not `1.234` or `1,234` (thousand or decimal?)
- dates: ISO 8601 (`2024-01-31`, `2024/01/31`, `20240131`), day first with dots (`31.01.2024`); year last with slashes or
  dashes only where one of the other numbers is over 12 or both are equal; two-digit years never
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

_PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
TWO_READINGS = re.compile(r"[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}")
_THOUSANDS_DOT = re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]*)?")
_THOUSANDS_COMMA = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
WHOLE = re.compile(r"([+-]?[0-9]+)(?:[.,]0*)?")

_CLOCK = r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,6}))?)?"
_YEAR_FIRST = re.compile(r"([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})")
_COMPACT = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})")
_YEAR_LAST = re.compile(r"([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4})")
_MOMENT = re.compile(
    rf"(\S+?)(?:(?:[T ]|,\s)\s*{_CLOCK}\s*(Z|[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?)?)?", re.IGNORECASE
)
TIME = re.compile(_CLOCK)


class Misfit(ValueError):  # noqa: N818 - named for what the cell is
    """A cell that does not fit its column; the text is the reason."""


def decimal(text: str) -> Decimal:
    """A number written as text, where it has one reading."""
    text = text.strip()
    if TWO_READINGS.fullmatch(text):
        raise Misfit("thousands or decimals? Write it as a number, not as text")
    if _PLAIN.fullmatch(text):
        return Decimal(text)
    if _COMMA.fullmatch(text):
        return Decimal(text.replace(",", "."))
    if _THOUSANDS_DOT.fullmatch(text):
        return Decimal(text.replace(".", "").replace(",", "."))
    if _THOUSANDS_COMMA.fullmatch(text):
        return Decimal(text.replace(",", ""))
    raise Misfit("not a number")


def _day(text: str) -> dt.date:
    """A day written as text, where it has one reading."""
    if found := _YEAR_FIRST.fullmatch(text):
        year, month, day = found[1], found[3], found[4]
    elif found := _COMPACT.fullmatch(text):
        year, month, day = found.groups()
    elif found := _YEAR_LAST.fullmatch(text):
        day, mark, month, year = found.groups()
        if mark != "." and int(day) <= 12:
            if int(month) <= 12 and int(day) != int(month):
                raise Misfit("day or month first? Write it as a date, as 2024-01-31 or as 31.01.2024")
            day, month = month, day
    else:
        raise Misfit("not a date that has one reading (2024-01-31, 31.01.2024)")
    try:
        return dt.date(int(year), int(month), int(day))
    except ValueError:
        raise Misfit("not a date: there is no such day") from None


def moment(text: str) -> tuple[dt.date, dt.time | None, str]:
    """Day, time of day if there is one, and offset from UTC, or "", of a text."""
    found = _MOMENT.fullmatch(text.strip())
    if not found:
        raise Misfit("not a date that has one reading (2024-01-31 14:30:00, 31.01.2024 14:30)")
    day, hour, *rest, offset = found.groups()
    return _day(day), clock_of(hour, *rest) if hour else None, (offset or "").upper()


def clock_of(hour: str, minute: str, second: str | None, fraction: str | None) -> dt.time:
    """A time of day from its parts, the fraction without its point."""
    try:
        return dt.time(int(hour), int(minute), int(second or 0), int((fraction or "0").ljust(6, "0")))
    except ValueError:
        raise Misfit("not a time of day: there is no such time") from None
