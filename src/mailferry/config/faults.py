"""Pydantic's faults as messages for the user. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Of values with types of their own.
_TYPES = {
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "bool_type": "must be true or false, without quotes",
    "string_type": "must be text in quotes",
    "path_type": "must be text in quotes",
    "string_too_short": "must not be empty",
}
_OPTIONS = {"max_parallel_details": 'must be a whole number from 1 to 256, or "auto"'}


def message_of(fault: Any, spelled: Callable[[str], str]) -> tuple[str, str]:
    """Field ("" for the model as a whole) and message; settings that it names in backticks are named as they are written."""
    field = str(fault["loc"][0]) if fault["loc"] else ""
    text = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    text = _OPTIONS.get(field, _TYPES.get(fault["type"], f"{text[:1].lower()}{text[1:]}"))
    if not field and (named := re.match(r"([a-z_]+): ", text)):
        field, text = named[1], text[named.end() :]
    return field, re.sub(r"`([a-z_]+)`", lambda found: spelled(found[1]), text)


def no_plain_value(value: Any) -> str:
    """What a value is that no option takes; "" for text, a number, true or false."""
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite number"
    if isinstance(value, str | int | float | bool):
        return ""
    return "list" if isinstance(value, list) else "table" if isinstance(value, dict) else "date or time"


def leaves(value: Any) -> Iterator[Any]:
    """The values in a list or table, however deep."""
    if isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    else:
        yield value
