"""What is wrong with a `mailferry.toml`, in its own words: pydantic's and tomllib's findings by table and option. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from mailferry.config import secret
from mailferry.config.event_feed import CATEGORIES
from mailferry.config.tables import DATABASE, EVENTS, IMAP, MAILDIR, OAUTH

_SECRET = {*DATABASE.secrets, *EVENTS.secrets, *IMAP.secrets, *OAUTH.secrets}
_TYPES = {
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "bool_type": "must be true or false, without quotes",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
}
_SYNTAX = {
    "Invalid value": "text stands in quotes",
    "Unescaped '\\'": "write a path with \\ in single quotes",
    "Cannot declare": "a table stands twice; join the two",
    "Cannot overwrite": "an option stands twice; keep one",
}


def syntax(message: str) -> str:
    """What tomllib found, and what it mostly comes from."""
    hint = next((f"; {hint}" for begin, hint in _SYNTAX.items() if message.startswith(begin)), "")
    return f"is not TOML: {message[:1].lower()}{message[1:]}{hint}"


def no_plain_value(value: Any) -> str:
    """What a value is that no option takes; "" for text, a number, true or false."""
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite number"
    if isinstance(value, str | int | float | bool):
        return ""
    return "list" if isinstance(value, list) else "table" if isinstance(value, dict) else "date or time"


def explain(fault: Any, values: dict[str, Any], place: str) -> tuple[str, str, str]:
    """Table, option (with the value that it has, if that is no secret) and message of one pydantic fault.

    `values` is what was validated, `place` the table of the feed or settings.
    """
    loc = [str(part) for part in fault["loc"]]
    message = _message(fault)
    option = ""
    value: Any = values
    for part in loc:
        if not isinstance(value, dict):
            break  # what follows names one of several types that would do
        option, value = part, value.get(part, {})
    table = _table_of(place, loc)
    if isinstance(value, dict):  # of a whole model, or of an option that is not there
        option, _, rest = message.partition(": ")
        option, message = (option, rest) if rest and " " not in option else ("", message)
        return table, option, _missing(message, place, values)
    if option == "api_key" and not value:
        return table, "", _missing("api_key is missing", place, values)
    if option == "max_parallel_details":
        message = 'must be a whole number from 1 to 256, or "auto"'
    if option == "category":
        message = f"must be one of {', '.join(CATEGORIES)}"
    shown = fault["type"] != "value_error" and option not in _SECRET
    option = MAILDIR if option == "path" else option
    return table, f"{option} = {json.dumps(value, ensure_ascii=False)}" if shown else option, message


def _message(fault: Any) -> str:
    text = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return _TYPES.get(fault["type"], f"{text[:1].lower()}{text[1:]}")


def _missing(message: str, place: str, values: dict[str, Any]) -> str:
    """Of a secret that is missing, where it may come from."""
    option = message.removesuffix(" is missing")
    if option == message or option not in _SECRET:
        return message
    name = secret.name_of(place.partition(".")[0], values.get("section", values.get("name", "")), option)
    return f"{message}: give {option}_file, {option}, or the variable or credential {name}"


def _table_of(place: str, loc: list[str]) -> str:
    """The table in which a field of a mailbox feed's models stands."""
    if not place.startswith("mailbox."):
        return place
    if loc[:1] == ["limits"]:
        return f"{place}.limits"
    if loc[:2] == ["mailbox", "oauth"]:
        return f"{place}.oauth"
    if loc[:1] == ["mailbox"] and (len(loc) == 1 or loc[1] in IMAP.options):
        return f"{place}.imap"
    return place
