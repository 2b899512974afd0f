"""Keys, values and tables as TOML 1.0 writes them."""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any


def key(name: str) -> str:
    """A bare key where it can be one."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value(name)


def value(given: Any) -> str:
    """Text, number, true or false, a list, a table in one line. JSON's escapes are TOML's, but for the delete character."""
    if isinstance(given, dict):
        return f"{{ {', '.join(option(name, one) for name, one in given.items())} }}" if given else "{}"
    if isinstance(given, list | tuple):
        return f"[{', '.join(map(value, given))}]"
    if isinstance(given, Enum):
        given = given.value
    if isinstance(given, Path):
        given = str(given)
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")


def option(name: str, given: Any) -> str:
    return f"{key(name)} = {value(given)}"
