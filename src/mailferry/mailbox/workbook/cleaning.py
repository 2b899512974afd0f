"""Cells of a declared column: cleaned, read and checked as its rule says, then converted by the column's type. Pure.

In this order: the text is cleaned (Unicode form, white space, case), looked up in `map`, read by `decimal` or `formats`,
converted, padded with zeros, and compared with `pattern`, `values`, `min` and `max`. What is declared is never ambiguous.
A batch is done at once where its cells are alike; else cell by cell.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from mailferry.config.columns import Case, Form, Mark, Spaces
from mailferry.mailbox.workbook.cells import Fault, is_blank, text_of
from mailferry.mailbox.workbook.converters import Converted, joined
from mailferry.mailbox.workbook.plain_text import marked_numbers
from mailferry.mailbox.workbook.text_values import Misfit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailferry.config.columns import ColumnRule
    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.converters import Converter

    _Clean = Callable[[Sequence[str]], Sequence[str]]

#: Readings of texts that are kept: columns of dates repeat themselves.
_KEPT = 50_000
_WHITE = re.compile(r"\s+")
#: White space that is no single plain blank.
_ODD_SPACE = re.compile(r"[^\S ]|  ")
_NUMERIC = re.compile(r"smallint|integer|bigint|numeric|real|double precision")


@dataclass(kw_only=True, slots=True)
class Cleaner:
    """The converter of a column with a rule."""

    rule: ColumnRule
    #: By the column's type.
    converter: Converter
    type: str
    _steps: list[_Clean] = field(init=False)
    _read: Callable[[str], Cell] | None = field(init=False)
    _plain: Callable[[Sequence[str]], Sequence[str] | None] | None = field(init=False)
    _known: dict[str, str | Misfit] = field(init=False, default_factory=dict)
    _pattern: Callable[[str], object] | None = field(init=False)
    _values: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        rule = self.rule
        self._steps = _cleaning(rule)
        self._read = _reading(rule, self.type)
        mark = "" if rule.formats or rule.decimal is Mark.EITHER else rule.decimal.value
        self._plain = marked_numbers(mark, longer=_is_numeric(self.type)) if mark else None
        self._pattern = re.compile(rule.pattern).fullmatch if rule.pattern else None
        self._values = frozenset(rule.values)

    @property
    def free(self) -> bool:
        """Whether the text may hold what CSV has to quote."""
        return self.converter.free

    def column(self, cells: Sequence[Cell]) -> Converted:
        """All cells of a column."""
        bad: dict[int, str] = {}
        if self._steps or self.rule.map:
            cells = self._cleaned(cells)
        done = self._converted(cells, bad)
        texts = self._padded(done.texts)
        bad |= done.misfits
        self._check(texts, bad)
        return replace(done, texts=texts, misfits=bad)

    def _converted(self, cells: Sequence[Cell], bad: dict[int, str]) -> Converted:
        if self._read is None:
            return self.converter.column(cells)
        if joined(cells) is None:
            return self.converter.column(self._readings(cells, bad))
        if self._plain and (texts := self._plain(cells)) is not None:  # type: ignore[arg-type]  # all are texts
            return self.converter.column(texts)
        return Converted(texts=self._known_texts(cells, bad), misfits={})  # type: ignore[arg-type]

    def _cleaned(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        types = {str} if joined(cells) is not None else set(map(type, cells))
        if Fault in types:
            texts = self._cleaned(["" if isinstance(cell, Fault) else cell for cell in cells])
            return [
                cell if isinstance(cell, Fault) else text for cell, text in zip(cells, texts, strict=True)
            ]
        if self._steps and str in types:
            if types == {str}:
                for step in self._steps:
                    cells = step(cells)  # type: ignore[arg-type]  # all are texts
            else:
                cells = [self._clean(cell) if isinstance(cell, str) else cell for cell in cells]
        if self.rule.map:
            get = self.rule.map.get
            if types == {str}:
                cells = [get(cell, cell) for cell in cells]  # type: ignore[arg-type]
            else:
                cells = [get(text_of(cell), cell) for cell in cells]
        return cells

    def _clean(self, text: str) -> str:
        for step in self._steps:
            (text,) = step((text,))
        return text

    def _readings(self, cells: Sequence[Cell], bad: dict[int, str]) -> list[Cell]:
        """Cells of several kinds, the texts among them as numbers or dates."""
        found: list[Cell] = []
        for at, cell in enumerate(cells):
            value = self._reading(cell) if isinstance(cell, str) else cell
            if isinstance(value, Misfit):
                bad[at] = str(value)
                value = ""
            found.append(value)
        return found

    def _known_texts(self, cells: Sequence[str], bad: dict[int, str]) -> list[str]:
        """Texts as numbers or dates, converted; each different one is read once."""
        known = self._known
        if len(known) > _KEPT:
            known.clear()
        different = set(cells)
        for text in different - known.keys():
            known[text] = self._known_text(text)
        misfits = {text for text in different if isinstance(known[text], Misfit)}
        if not misfits:
            return list(map(known.__getitem__, cells))  # type: ignore[arg-type]  # none is a misfit
        bad |= {at: str(known[text]) for at, text in enumerate(cells) if text in misfits}
        return ["" if text in misfits else str(known[text]) for text in cells]

    def _known_text(self, text: str) -> str | Misfit:
        value = self._reading(text)
        if isinstance(value, Misfit) or is_blank(value):
            return value if isinstance(value, Misfit) else ""
        try:
            return self.converter.one(value)
        except Misfit as misfit:
            return misfit

    def _reading(self, text: str) -> Cell | Misfit:
        assert self._read
        if is_blank(text):
            return ""
        try:
            return self._read(text.replace("\0", "").strip())
        except Misfit as misfit:
            return misfit

    def _padded(self, texts: Sequence[str]) -> Sequence[str]:
        width = self.rule.pad
        if not width or min(map(len, texts), default=width) >= width:
            return texts
        return [text.zfill(width) if text.isdecimal() else text for text in texts]

    def _check(self, texts: Sequence[str], bad: dict[int, str]) -> None:
        """Note what `pattern`, `values`, `min` or `max` refuse; cells that are bad already keep their reasons."""
        rule = self.rule
        if self._values and not self._values.issuperset(texts):
            self._note(
                texts, bad, self._values.__contains__, f"is none of {_listed(rule.values)}", blank=True
            )
        if self._pattern and not all(map(self._pattern, filter(None, texts))):
            self._note(texts, bad, self._pattern, f"does not match the pattern {rule.pattern}")
        if (rule.min is not None or rule.max is not None) and not self._all_within(texts):
            self._note(texts, bad, self._is_within, self._bounds())

    def _note(
        self,
        texts: Sequence[str],
        bad: dict[int, str],
        fits: Callable[[str], object],
        reason: str,
        *,
        blank: bool = False,
    ) -> None:
        for at, text in enumerate(texts):
            if at not in bad and (text or blank) and not fits(text):
                shown = f"{text[:80]!r} {reason}" if text else f"empty, and that {reason}"
                bad[at] = shown

    def _all_within(self, texts: Sequence[str]) -> bool:
        """Whether surely all are; as floats, whose rounding never carries one over a bound that it does not touch."""
        low, high = self.rule.min, self.rule.max
        try:
            numbers = list(map(float, filter(None, texts)))
        except ValueError:
            return False
        if not numbers:
            return True
        if (low is not None and min(numbers) < low) or (high is not None and max(numbers) > high):
            return False
        present = filter(None, texts)
        touching = {text for text, number in zip(present, numbers, strict=True) if number in {low, high}}
        return all(map(self._is_within, touching))

    def _is_within(self, text: str) -> bool:
        try:
            number = Decimal(text)
        except ArithmeticError:
            return False
        low, high = self.rule.min, self.rule.max
        # As the user wrote them: 0.1, not its binary neighbour.
        return (low is None or Decimal(repr(low)) <= number) and (
            high is None or number <= Decimal(repr(high))
        )

    def _bounds(self) -> str:
        low, high = self.rule.min, self.rule.max
        if high is None:
            return f"is less than {low:g}"
        if low is None:
            return f"is more than {high:g}"
        return f"is not from {low:g} to {high:g}"


def _listed(values: Sequence[str]) -> str:
    shown = ", ".join(map(repr, values[:20]))
    return shown + (f" and {len(values) - 20} more" if len(values) > 20 else "")


# Cleaning


def _cleaning(rule: ColumnRule) -> list[_Clean]:
    """The steps of a rule, each for all texts of a column at once."""
    steps: list[_Clean] = []
    if rule.unicode is not Form.KEEP:
        steps.append(_normalized(rule.unicode.value))
    if rule.trim:
        steps.append(lambda texts: list(map(str.strip, texts)))
    if rule.spaces is not Spaces.KEEP:
        steps.append(_spaced(" " if rule.spaces is Spaces.ONE else ""))
    if rule.case is Case.UPPER:
        steps.append(lambda texts: list(map(str.upper, texts)))
    if rule.case is Case.LOWER:
        # lower() would make an i with a combining dot of it.
        steps.append(lambda texts: [text.replace("\u0130", "i").lower() for text in texts])
    return steps


def _normalized(form: str) -> _Clean:
    def clean(texts: Sequence[str]) -> Sequence[str]:
        if unicodedata.is_normalized(form, "\n".join(texts)):  # type: ignore[arg-type]
            return texts
        return [unicodedata.normalize(form, text) for text in texts]  # type: ignore[arg-type]

    return clean


def _spaced(instead: str) -> _Clean:
    def clean(texts: Sequence[str]) -> Sequence[str]:
        together = "\0".join(texts)
        if not (_ODD_SPACE.search(together) if instead else _WHITE.search(together)):
            return texts
        return [_WHITE.sub(instead, text) for text in texts]

    return clean


# Reading


def _reading(rule: ColumnRule, type_name: str) -> Callable[[str], Cell] | None:
    """What makes a number or a date of a text that is not blank; None where the type alone decides."""
    if rule.formats:
        return lambda text: _moment(text, rule.formats, type_name)
    if rule.decimal is not Mark.EITHER:
        number = _number(rule.decimal.value)
        # A fourth decimal, so that three of them are not taken for thousands.
        by_type = _is_numeric(type_name)
        return lambda text: _unmistakable(number(text)) if by_type else number(text)
    return None


def _is_numeric(type_name: str) -> bool:
    return _NUMERIC.match(type_name) is not None


def _number(mark: str) -> Callable[[str], str]:
    """A text with this decimal mark, as SQL writes numbers."""
    other = "." if mark == "," else ","
    thousands = re.compile(
        rf"([+-]?[0-9]{{1,3}}(?:(?P<between>[{other}'\u2019 \u00a0\u202f])[0-9]{{3}}(?:(?P=between)[0-9]{{3}})*)?)"
        rf"(?:{re.escape(mark)}([0-9]*))?"
    )
    plain = re.compile(rf"([+-]?[0-9]*)(?:{re.escape(mark)}([0-9]*))?((?:[eE][+-]?[0-9]{{1,3}})?)")
    remove = str.maketrans(dict.fromkeys(f"{other}'\u2019 \u00a0\u202f"))

    def read(text: str) -> str:
        text = text.replace("\u2212", "-")
        if (found := plain.fullmatch(text)) and any(map(str.isdigit, text)):
            whole, decimals, power = found[1], found[2] or "", found[3]
        elif found := thousands.fullmatch(text):
            whole, decimals, power = found[1].translate(remove), found[3] or "", ""
        else:
            raise Misfit(f"not a number with the decimal mark {mark!r}")
        whole = whole if whole.strip("+-") else f"{whole}0"
        return whole + (f".{decimals}" if decimals else "") + power

    return read


def _unmistakable(number: str) -> str:
    whole, point, decimals = number.partition(".")
    return f"{whole}.{decimals}0" if point and len(decimals) == 3 and decimals.isdigit() else number


#: Directives of strptime() that speak of a time of day, and of a day.
_OF_TIME = re.compile(r"%[HIMSfpcX]")
_OF_DAY = re.compile(r"%[dmyYjbBcxaAUWGuV]")


def _moment(text: str, formats: Sequence[str], type_name: str) -> Cell:
    for form in formats:
        try:
            found = dt.datetime.strptime(text, form)  # noqa: DTZ007 - the column says what it means
        except ValueError:
            continue
        if type_name.startswith("time ") or not _OF_DAY.search(form):
            return found.time()
        return found if _OF_TIME.search(form) else found.date()
    raise Misfit(f"is in none of the forms {_listed(formats)}")
