"""Results for programs: every command prints one versioned JSON object; see docs/reference/json.md."""

from __future__ import annotations

import json
from typing import Any

from mailferry.secrets import mask

#: Raised when a field changes its meaning or is removed; new fields do not raise it.
VERSION = 1
_SENTENCES = {"error", "reason", "warnings", "troubles", "text"}


def dumped(**content: Any) -> str:
    """One JSON object; times are ISO 8601 with their offset."""
    return json.dumps({"version": VERSION, **_masked(content)}, ensure_ascii=False, default=_plain)


def _masked(value: Any, key: str = "") -> Any:
    """Our own sentences without secrets; what came by mail stays as it is."""
    if isinstance(value, dict):
        return {name: _masked(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(one, key) for one in value]
    return mask(value) if isinstance(value, str) and key in _SENTENCES else value


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)
