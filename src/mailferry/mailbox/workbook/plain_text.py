"""Columns of text that are what the server reads already: nearly all columns of delimited text, found so at one look.

Each function takes the texts of a column and returns those that COPY reads, or None where a look at each is needed; `""`, an
empty cell, stays. Nothing is accepted here that `text_values` would refuse.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Words for truth, in small letters, `i` for all of its Turkish forms.
TRUE = frozenset({"true", "t", "yes", "y", "on", "1", "evet"})
FALSE = frozenset({"false", "f", "no", "n", "off", "0", "hayir"})
_PLAIN_TRUTH = {"": "", **{form: text for text, words in (("true", TRUE), ("false", FALSE))
                for word in words for form in (word, word.upper(), word.capitalize())}}  # fmt: skip
_DAY_FIRST = re.compile(r"^([0-9]{2})\.([0-9]{2})\.([0-9]{4})$", re.MULTILINE)
_THIRD_DECIMAL = re.compile(r"\.[0-9]{3}$", re.MULTILINE)
_DAYS = re.compile(r"(?:(?:[0-9]{4}-[0-9]{2}-[0-9]{2})?\n)*")
_MOMENTS = re.compile(r"(?:(?:[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})?\n)*")


def plain_numbers(digits: int, *, fraction: bool) -> Callable[[Sequence[str]], Sequence[str] | None]:
    """Texts as they are where all are numbers with one reading, of at most so many digits before the point."""
    number = rf"(?:0|-?[1-9][0-9]{{0,{digits - 1}}}{'|-0' if fraction else ''})"
    # Three decimals may be thousands.
    decimals = r"(?:\.(?:[0-9]{1,2}|[0-9]{4,15}))?" if fraction else ""
    pattern = re.compile(rf"(?:(?:{number}{decimals})?\n)*")

    def plain(texts: Sequence[str]) -> Sequence[str] | None:
        return texts if pattern.fullmatch(_lines(texts)) else None

    return plain


def marked_numbers(mark: str, *, longer: bool) -> Callable[[Sequence[str]], Sequence[str] | None]:
    """Texts with this decimal mark as SQL writes numbers; `longer`: of three decimals four, which are never thousands."""
    pattern = re.compile(rf"(?:(?:-?(?:0|[1-9][0-9]{{0,17}})(?:{re.escape(mark)}[0-9]{{1,18}})?)?\n)*")

    def plain(texts: Sequence[str]) -> Sequence[str] | None:
        lines = _lines(texts)
        if not pattern.fullmatch(lines):
            return None
        lines = lines.replace(mark, ".")
        return (_THIRD_DECIMAL.sub(r"\g<0>0", lines) if longer else lines).split("\n")[:-1]

    return plain


def _lines(texts: Sequence[str]) -> str:
    """The texts, a line each; one that no pattern matches where a text has lines of its own."""
    lines = "\n".join([*texts, ""])
    return lines if lines.count("\n") == len(texts) else "lines"


def plain_booleans(texts: Sequence[str]) -> Sequence[str] | None:
    words = list(map(_PLAIN_TRUTH.get, texts))
    return None if None in words else words  # type: ignore[return-value]  # without None


def plain_dates(texts: Sequence[str]) -> Sequence[str] | None:
    """Days as 2024-01-31 or 31.01.2024."""
    lines = _lines(texts)
    if "." in lines:
        lines = _DAY_FIRST.sub(r"\3-\2-\1", lines)
    return _valid(lines, _DAYS, dt.date.fromisoformat)


def plain_moments(texts: Sequence[str]) -> Sequence[str] | None:
    """Moments as 2024-01-31 14:30:05."""
    return _valid(_lines(texts), _MOMENTS, dt.datetime.fromisoformat)


def _valid(lines: str, form: re.Pattern[str], read: Callable[[str], object]) -> Sequence[str] | None:
    """The lines where all have the form and are in the calendar, or empty."""
    if not form.fullmatch(lines):
        return None
    texts = lines.split("\n")[:-1]
    try:
        # Days come again and again.
        deque(map(read, filter(None, set(texts))), maxlen=0)
    except ValueError:
        return None
    return texts
