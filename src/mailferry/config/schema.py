"""A JSON schema (draft 2020-12) of `mailferry.toml`, for editors and for those who write it by programs."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from mailferry.config import tables

_TEXT = {"type": "string"}


def schema() -> dict[str, Any]:
    """Structure, types and ranges; rules between options are the reader's, see `mailferry config check`."""
    definitions: dict[str, Any] = {}

    def table(*parts: tables.Table, **more: Any) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for part in parts:
            properties |= _properties(part, definitions)
        return {"type": "object", "properties": properties | more, "additionalProperties": False}

    events = table(tables.EVENTS)
    columns = {"type": "object", "additionalProperties": {"$ref": "#/$defs/column"}}
    mailbox = table(
        tables.MAILBOX,
        tables.MESSAGES,
        imap=table(tables.IMAP),
        oauth=table(tables.OAUTH),
        limits=table(tables.LIMITS),
        columns=columns,
        routes={"type": "array", "items": {"$ref": "#/$defs/route"}},
    )
    inner = {"column": table(tables.COLUMN), "route": table(tables.ROUTE, columns=columns)}
    defaults = {"events": {"$ref": "#/$defs/events"}, "mailbox": {"$ref": "#/$defs/mailbox"}}
    properties = {
        "service": table(tables.SERVICE),
        "database": table(tables.DATABASE),
        "page": table(tables.PAGE),
        "alerts": table(tables.ALERTS),
        "defaults": {"type": "object", "properties": defaults, "additionalProperties": False},
        "events": {"type": "object", "additionalProperties": {"$ref": "#/$defs/events"}},
        "mailbox": {"type": "object", "additionalProperties": {"$ref": "#/$defs/mailbox"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mailferry.toml",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {**definitions, "events": events, "mailbox": mailbox, **inner},
    }


def _properties(table: tables.Table, definitions: dict[str, Any]) -> dict[str, Any]:
    """The options of a table as its model has them, the models' own definitions put among all."""
    whole = TypeAdapter(table.model).json_schema()
    definitions |= {name: one for name, one in whole.get("$defs", {}).items() if "enum" in one}
    found = {}
    for option, setting in table.options.items():
        one = {name: value for name, value in whole["properties"][setting.field].items() if name != "title"}
        if "anyOf" in one:
            # There is no null in TOML: an option is left out.
            kinds = [kind for kind in one.pop("anyOf") if kind != {"type": "null"}]
            one |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if one.get("default", "") in (None, "**********") or setting.path:
            one.pop("default", None)
        if setting.plural and one.get("type") in ("string", "array"):
            one = {name: rest for name, rest in one.items() if name not in ("type", "items")}
            one["type"], one["items"] = ["string", "array"], _TEXT
        if option == "schedule":
            one["type"] = ["string", "integer"]
        if table is tables.LIMITS and not setting.choices:
            one["exclusiveMinimum"] = 0
        found[option] = one
    return found | {f"{one.option}_file": _TEXT for one in table.secrets}
