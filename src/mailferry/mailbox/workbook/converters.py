"""Cells to the text that `COPY ... (FORMAT csv)` reads, by the PostgreSQL type of the column they go to.

A column of a batch is converted at once: uniform columns, nearly all of them, take a path without Python code per
cell; any other goes cell by cell.

A number is no date and a date no number; a date column takes no time of day, nor a `timestamp` an offset. What text means
as a number or date is in `text_values`.
Numbers beyond 2^53 have lost digits in the file (spreadsheets hold binary doubles): no column of integers or text, nor
any key, takes them. More decimals than `numeric(p,s)` has are rounded by the server, as it does for everyone.
Dates outside 1900-9999 cannot be stored in Excel files; negative ones arrive as a time of day and are a misfit.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mailferry.mailbox.workbook.cells import EXACT, Fault, duration, is_blank, text_of
from mailferry.mailbox.workbook.plain_text import (
    FALSE,
    TRUE,
    plain_booleans,
    plain_dates,
    plain_moments,
    plain_numbers,
)
from mailferry.mailbox.workbook.text_values import (
    TIME,
    TWO_READINGS,
    WHOLE,
    Misfit,
    clock_of,
    decimal,
    moment,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailferry.mailbox.workbook.cells import Cell


_LOST_DIGITS = "a number this large has lost digits in the file; store it as text there"
_NUMBERS = frozenset({int, float})

_TYPE = re.compile(r"([a-z ]+?)\s*(?:\((\d+)(?:,(-?\d+))?\))?( with(?:out)? time zone)?")
_UUID = re.compile(
    r"\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?", re.IGNORECASE
)

_INTEGERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
_DOTS = str.maketrans("\u0131\u0130", "iI")


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A column of a batch: one text a cell (`""` is NULL), not yet quoted."""

    texts: Sequence[str]
    #: Reason by place in the batch.
    misfits: dict[int, str]
    #: NUL characters taken out; PostgreSQL has no place for them.
    nuls: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Converter:
    """How the cells of one column become text."""

    #: One non-empty cell; raises Misfit.
    one: Callable[[Cell], str]
    #: A whole column without empty cells, or None where it takes a look at each; given the types that occur.
    fast: Callable[[Sequence[Any], set[type]], Sequence[str] | None]
    #: Whether the text may hold what CSV has to quote.
    free: bool = False
    #: A column of text that is what the server reads already, or None where it takes a look at each; `""` stays.
    plain: Callable[[Sequence[str]], Sequence[str] | None] | None = None

    def column(self, cells: Sequence[Cell]) -> Converted:
        """All cells of a column."""
        together = joined(cells)
        if together is not None:
            return self._texts(cells, together)  # type: ignore[arg-type]  # all are texts
        types = set(map(type, cells))
        nuls = 0
        if Fault in types:
            kept = self.column(["" if isinstance(cell, Fault) else cell for cell in cells])
            faults = {at: cell.reason for at, cell in enumerate(cells) if isinstance(cell, Fault)}
            return replace(kept, misfits=kept.misfits | faults)
        if str in types:
            strings = [cell for cell in cells if type(cell) is str]
            if not any(strings):
                return self._with_empty(cells, types - {str})
            nuls = "".join(strings).count("\0")
            if nuls:
                cells = [cell.replace("\0", "") if type(cell) is str else cell for cell in cells]
            return self._each(cells, nuls)
        texts = self.fast(cells, types)
        return self._each(cells, nuls) if texts is None else Converted(texts=texts, misfits={})

    def _texts(self, cells: Sequence[str], together: str) -> Converted:
        """A column of nothing but text."""
        nuls = together.count("\0")
        if nuls:
            return self._each([cell.replace("\0", "") for cell in cells], nuls)
        texts = self.plain(cells) if self.plain else None
        if texts is None and self.free and not any(map(str.isspace, cells)):
            texts = self.fast(cells, {str})
        return self._each(cells, 0) if texts is None else Converted(texts=texts, misfits={})

    def _with_empty(self, cells: Sequence[Cell], types: set[type]) -> Converted:
        present = [cell for cell in cells if cell != ""]
        texts = self.fast(present, types) if present else ()
        if texts is None:
            return self._each(cells, 0)
        following = iter(texts)
        return Converted(texts=["" if cell == "" else next(following) for cell in cells], misfits={})

    def _each(self, cells: Sequence[Cell], nuls: int) -> Converted:
        texts = []
        misfits = {}
        for place, cell in enumerate(cells):
            text = ""
            if not is_blank(cell):
                try:
                    text = self.one(cell)
                except Misfit as misfit:
                    misfits[place] = str(misfit)
            texts.append(text)
        return Converted(texts=texts, misfits=misfits, nuls=nuls)


def joined(cells: Sequence[Cell]) -> str | None:
    """The texts of a column together, or None where not all are texts: much cheaper than a look at the type of each."""
    try:
        return "".join(cells)  # type: ignore[arg-type]  # what is no text raises
    except TypeError:
        return None


def converter(type_name: str, *, key: bool = False, key_width: int = 0) -> Converter:
    """The converter for a type as `format_type()` writes it; a type it does not know gets the cell's text as it is.

    A key is trimmed, and one of digits alone is padded with zeros to `key_width`.
    """
    found = _TYPE.fullmatch(type_name)
    name, first, second, zone = found.groups() if found else (type_name, None, None, None)
    if name in _INTEGERS:
        return _integer(_INTEGERS[name])
    if name == "numeric":
        return _numeric(int(first), int(second or 0)) if first else _numeric(131_072, 0)
    if name in {"real", "double precision"}:
        return _floating(real=name == "real")
    if name == "boolean":
        return Converter(one=_boolean, fast=_fast_boolean, plain=plain_booleans)
    if name == "date":
        return Converter(one=_date, fast=_fast_date, plain=plain_dates)
    if name == "timestamp":
        return _timestamp(zoned=zone == " with time zone")
    if name == "time" and zone != " with time zone":
        return Converter(
            one=_time, fast=lambda cells, types: list(map(str, cells)) if types == {dt.time} else None
        )
    if name == "uuid":
        return Converter(one=_uuid, fast=_never)
    if name in {"json", "jsonb"}:
        return Converter(one=_json, fast=_never, free=True)
    if key:
        return _key(int(first) if first else None, key_width)
    return _text(int(first) if first and name in {"character varying", "character"} else None)


def _never(_cells: Sequence[Cell], _types: set[type]) -> None:
    return None


def _what(cell: Cell) -> str:
    """What a cell of the wrong kind is."""
    names: dict[type, str] = {
        bool: "true or false", float: "a number", int: "a number", dt.date: "a date", dt.datetime: "a date and time",
        dt.time: "a time of day", dt.timedelta: "a duration",
    }  # fmt: skip
    return names.get(type(cell), "text")


def _text(limit: int | None) -> Converter:
    def one(cell: Cell) -> str:
        if isinstance(cell, int | float) and math.isfinite(cell) and abs(cell) > EXACT:
            raise Misfit(_LOST_DIGITS)
        text = text_of(cell)
        if limit is not None and len(text) > limit:
            raise Misfit(f"{len(text)} characters, where the column takes {limit}")
        return text

    def fast(cells: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if types & _NUMBERS and not (types <= _NUMBERS and _within(cells, EXACT)):
            return None
        texts = cells if types == {str} else list(map(text_of, cells))
        return texts if limit is None or max(map(len, texts)) <= limit else None

    return Converter(one=one, fast=fast, free=True)


def _key(limit: int | None, width: int) -> Converter:
    plain = _text(limit)

    def one(cell: Cell) -> str:
        if isinstance(cell, int | float) and not abs(cell) <= EXACT:
            raise Misfit(_LOST_DIGITS)
        text = text_of(cell).strip()
        return plain.one(text.zfill(width) if text.isdecimal() else text)

    def fast(cells: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if width or types - {str, float}:
            return None
        if float in types and not (
            types == {float} and all(map(float.is_integer, cells)) and _within(cells, EXACT)
        ):
            return None
        texts = list(map(str.strip, cells)) if types == {str} else list(map(str, map(int, cells)))
        return plain.fast(texts, {str})

    return Converter(one=one, fast=fast, free=True)


def _within(cells: Sequence[Any], bound: int) -> bool:
    return bool(-bound <= min(cells) and max(cells) <= bound)


def _integer(bound: int) -> Converter:
    def one(cell: Cell) -> str:
        if isinstance(cell, str):
            text = cell.strip()
            whole = None if TWO_READINGS.fullmatch(text) else WHOLE.fullmatch(text)
            value = Decimal(whole[1]) if whole else decimal(text)
        elif isinstance(cell, bool) or not isinstance(cell, int | float):
            raise Misfit(f"{_what(cell)}, where the column takes whole numbers")
        elif not math.isfinite(cell):
            raise Misfit("not a number")
        else:
            value = Decimal(cell)
            if isinstance(cell, float) and abs(cell) > EXACT:
                raise Misfit("a number this large has lost digits in the file")
        if not -bound <= value < bound:
            raise Misfit("out of range for the column")
        if value != int(value):
            raise Misfit("has decimals, where the column takes whole numbers")
        return str(int(value))

    exact = min(bound - 1, EXACT)

    def fast(cells: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        whole = types == {float} and all(map(float.is_integer, cells))
        return list(map(str, map(int, cells))) if whole and _within(cells, exact) else None

    # One digit less than the bound has.
    return Converter(one=one, fast=fast, plain=plain_numbers(len(str(exact)) - 1, fraction=False))


def _numeric(precision: int, scale: int) -> Converter:
    """Whether the number fits before the point; what is behind it the server rounds."""
    limit = Decimal(10) ** (precision - scale)
    # The largest number that is still below the limit after rounding.
    half = Decimal(10) ** -scale / 2 if precision < 1_001 else Decimal(0)

    def one(cell: Cell) -> str:
        if isinstance(cell, str):
            value = decimal(cell)
        elif isinstance(cell, bool) or not isinstance(cell, int | float):
            raise Misfit(f"{_what(cell)}, where the column takes numbers")
        elif not math.isfinite(cell):
            raise Misfit("not a number")
        else:
            value = Decimal(repr(cell))
        if value.copy_abs() >= limit - half:
            raise Misfit("out of range for the column")
        return _number_text(cell) if isinstance(cell, float) else str(value)

    def fast(cells: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if types != {float} or not all(map(math.isfinite, cells)):
            return None
        largest = max(abs(min(cells)), abs(max(cells)))
        return _number_texts(cells) if Decimal(largest) < limit - half else None

    # One digit less than fits, for the server rounds.
    digits = min(precision - scale - 1, 15)
    return Converter(one=one, fast=fast, plain=plain_numbers(digits, fraction=True) if digits > 0 else None)


def _number_text(value: float) -> str:
    return repr(value).removesuffix(".0")


def _number_texts(values: Sequence[float]) -> list[str]:
    # A slice costs less than a call.
    return [text[:-2] if text[-2:] == ".0" else text for text in map(repr, values)]


def _floating(*, real: bool) -> Converter:
    # What the server takes without "out of range": of doubles all that are finite.
    high, low = (3.4e38, 1.2e-38) if real else (sys.float_info.max, 0.0)

    def one(cell: Cell) -> str:
        if isinstance(cell, str):
            value = float(decimal(cell))
        elif isinstance(cell, bool) or not isinstance(cell, int | float):
            raise Misfit(f"{_what(cell)}, where the column takes numbers")
        else:
            value = float(cell)
        if math.isnan(value):
            raise Misfit("not a number")
        if value and not low <= abs(value) <= high:
            raise Misfit("out of range for the column")
        return _number_text(value)

    def fast(cells: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        if types != {float} or real or not all(map(math.isfinite, cells)):
            return None
        return _number_texts(cells)

    return Converter(one=one, fast=fast)


def _boolean(cell: Cell) -> str:
    word = text_of(cell).strip().translate(_DOTS).lower()
    if word in TRUE:
        return "true"
    if word in FALSE:
        return "false"
    raise Misfit("neither true nor false (true, false, yes, no, evet, hay\u0131r, 1, 0)")


def _fast_boolean(cells: Sequence[Cell], types: set[type]) -> Sequence[str] | None:
    return ["true" if cell else "false" for cell in cells] if types == {bool} else None


def _not_a_date(cell: Cell) -> Misfit:
    if isinstance(cell, dt.time):
        return Misfit(
            "a time of day, or a date before 1900, which this format cannot hold; write it as 1899-12-31"
        )
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return Misfit("a number, not a date; format the cells as dates")
    return Misfit(f"{_what(cell)}, not a date")


def _date(cell: Cell) -> str:
    clock: dt.time | None
    if isinstance(cell, str):
        day, clock, _ = moment(cell)
    elif isinstance(cell, dt.datetime):
        day, clock = cell.date(), cell.time()
    elif isinstance(cell, dt.date):
        day, clock = cell, None
    else:
        raise _not_a_date(cell)
    if clock and clock != dt.time():
        raise Misfit("has a time of day, where the column takes dates")
    return day.isoformat()


def _fast_date(cells: Sequence[Cell], types: set[type]) -> Sequence[str] | None:
    return list(map(str, cells)) if types == {dt.date} else None


def _timestamp(*, zoned: bool) -> Converter:
    """Without an offset the moment is in the time zone of the database session that copies it."""

    def one(cell: Cell) -> str:
        if isinstance(cell, str):
            day, clock, offset = moment(cell)
            if offset and not zoned:
                raise Misfit("has an offset from UTC, where the column has no time zone")
            return f"{day} {clock or dt.time()}{offset}"
        if isinstance(cell, dt.date):
            return str(cell)
        raise _not_a_date(cell)

    def fast(cells: Sequence[Any], types: set[type]) -> Sequence[str] | None:
        return list(map(str, cells)) if types <= {dt.date, dt.datetime} else None

    return Converter(one=one, fast=fast, plain=plain_moments)


def _time(cell: Cell) -> str:
    if isinstance(cell, dt.time):
        return str(cell)
    if isinstance(cell, dt.timedelta) and dt.timedelta() <= cell < dt.timedelta(days=1):
        return duration(cell)
    found = TIME.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if not found:
        raise Misfit("not a time of day (14:30, 14:30:05)")
    return str(clock_of(found[1], found[2], found[3], found[4]))


def _uuid(cell: Cell) -> str:
    found = _UUID.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if not found:
        raise Misfit("not a UUID")
    return "-".join(found.groups()).lower()


def _json(cell: Cell) -> str:
    """JSON text as it is; numbers and truth as JSON writes them."""
    import orjson

    if isinstance(cell, bool | int | float):
        if not math.isfinite(cell):
            raise Misfit("not a number")
        return text_of(cell)
    try:
        orjson.loads(text_of(cell))
    except ValueError:
        raise Misfit("not JSON") from None
    if "\\u0000" in text_of(cell):
        raise Misfit("JSON with a NUL character, which PostgreSQL cannot hold")
    return text_of(cell)
