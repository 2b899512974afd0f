"""The columns that a mailbox feed declares, and its routes. Without pydantic: the reading child gets them as data.

A rule that cannot be is a ValueError where it is made, "option: what is wrong".
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import string
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

#: What `value` may fill in.
PLACEHOLDERS = ("sender", "sender_domain", "subject", "received", "file", "sheet", "row", "job")
#: Types that a column can be made with, as `format_type()` writes them.
TYPES = re.compile(
    r"(smallint|integer|bigint|numeric(\(\d+,\d+\))?|real|double precision|boolean|date|interval|uuid|text"
    r"|time(stamp)?( with(out)? time zone)?|character varying\(\d+\))"
)
#: Bytes of a name in PostgreSQL.
_NAME_BYTES = 63


class Spaces(StrEnum):
    """What becomes of white space within a text, non-breaking spaces and line breaks among it."""

    KEEP = "keep"
    ONE = "one"  # a run of it is one space
    NONE = "none"  # taken out


class Case(StrEnum):
    """In which letters a text is stored."""

    KEEP = "keep"
    UPPER = "upper"
    LOWER = "lower"


class Form(StrEnum):
    """Unicode normalization forms (UAX #15)."""

    KEEP = ""
    NFC = "NFC"
    NFKC = "NFKC"


class Mark(StrEnum):
    """The decimal mark of numbers that are text; the other one then stands between thousands."""

    EITHER = ""  # only where there is one reading
    COMMA = ","
    POINT = "."


class Blanks(StrEnum):
    """What an empty cell does to the value that the table has."""

    NULL = "null"
    KEEP = "keep"


class Hidden(StrEnum):
    """What becomes of hidden rows and columns; either way it is said that there are some."""

    LOAD = "load"
    SKIP = "skip"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnRule:
    """How one column of the table is found in a sheet, and how its cells are read."""

    #: Of the column in the table.
    name: str
    #: Headers that mean it besides its own name; `*` stands for any text.
    headers: tuple[str, ...] = ()
    #: In place of a cell: text with `PLACEHOLDERS` in braces.
    value: str = ""
    #: A type that a new column is made with; one of the table keeps its own.
    type: str = ""
    #: The sheet must have it, and every row a value.
    required: bool = False
    trim: bool = False
    spaces: Spaces = Spaces.KEEP
    case: Case = Case.KEEP
    unicode: Form = Form.KEEP
    #: Texts, cleaned, and what is stored for each; "" is an empty cell.
    map: dict[str, str] = field(default_factory=dict)
    decimal: Mark = Mark.EITHER
    #: Forms of dates and times that are text, as strptime() knows them; there is then no other.
    formats: tuple[str, ...] = ()
    #: Digits alone are padded with zeros to this width; 0 leaves them.
    pad: int = 0
    #: A regular expression that the whole text matches.
    pattern: str = ""
    #: All that is taken; "" is an empty cell. Empty: anything.
    values: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    #: None: as the feed has it.
    blanks: Blanks | None = None

    @property
    def cleans(self) -> bool:
        """Whether it changes or checks cells, rather than only finding them."""
        found = ColumnRule(name=self.name, headers=self.headers, value=self.value, type=self.type)
        return self != dataclasses.replace(found, required=self.required, blanks=self.blanks)

    def __post_init__(self) -> None:
        for check in (_name_fault, _value_fault, _type_fault, _pattern_fault, _formats_fault, _range_fault):
            if fault := check(self):
                raise ValueError(fault)


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Which sheets of which messages go into which table; an option that is left out is the feed's."""

    #: Pattern (`*`, `?`) of sheets' names, of files' names; text in the subject; address, domain or word of the sender.
    sheet: str = ""
    file: str = ""
    subject: str = ""
    sender: str = ""
    #: "" with the feed's table, and then the feed's columns count as well.
    table: str = ""
    unique_key: str = ""
    columns: tuple[ColumnRule, ...] = ()
    header_row: int | None = None
    header_rows: int | None = None
    skip_after: int | None = None
    stop_at: str | None = None
    hidden: Hidden | None = None

    def __post_init__(self) -> None:
        if not (self.sheet or self.file or self.subject or self.sender):
            raise ValueError("a route needs at least one of sheet, file, subject, sender: what it is for")
        if self.header_rows not in (None, 1, 2):
            raise ValueError("header_rows: must be 1 or 2")
        for name in ("header_row", "skip_after"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}: must not be negative")


def placeholders(template: str) -> list[str]:
    """The names in braces of a template. Raises ValueError where it is none."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def _name_fault(rule: ColumnRule) -> str:
    if not rule.name or "\0" in rule.name or len(rule.name.encode(errors="replace")) > _NAME_BYTES:
        return f"{rule.name!r} cannot be a column's name: 1 to {_NAME_BYTES} bytes, no NUL"
    if any(not header.strip() for header in rule.headers):
        return "headers: one of them is empty"
    return "pad: must be from 0 to 100" if not 0 <= rule.pad <= 100 else ""


def _value_fault(rule: ColumnRule) -> str:
    if rule.value and rule.headers:
        return "value: takes the place of a cell; leave out headers"
    try:
        parts = list(string.Formatter().parse(rule.value))
    except ValueError as error:
        return f"value: {error}; a brace that is meant as such is written twice"
    for _, name, spec, conversion in parts:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            return f"value: {{{name}}} is not known; there are: {', '.join(PLACEHOLDERS)}"
    return ""


def _type_fault(rule: ColumnRule) -> str:
    if rule.type and not TYPES.fullmatch(rule.type):
        return (
            "type: cannot be made; there are text, integer, bigint, numeric(10,2), date, boolean and the like"
        )
    return ""


def _pattern_fault(rule: ColumnRule) -> str:
    try:
        re.compile(rule.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"pattern: is no regular expression ({error})"
    return ""


def _formats_fault(rule: ColumnRule) -> str:
    for form in rule.formats:
        try:
            moment = dt.datetime(2001, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
            found = dt.datetime.strptime(moment.strftime(form), form)  # noqa: DTZ007 - only whether it can be read
        except (ValueError, re.error) as error:
            return f"formats: {form!r} cannot be read back ({error})"
        if "%" not in form:
            return f"formats: {form!r} has no directive such as %d, %m, %Y"
        if found.date() not in (moment.date(), dt.date(1900, 1, 1)):
            return f"formats: {form!r} leaves out day, month or year"
    return ""


def _range_fault(rule: ColumnRule) -> str:
    if rule.min is not None and rule.max is not None and Decimal(rule.min) > Decimal(rule.max):
        return "min: is greater than max"
    return ""
