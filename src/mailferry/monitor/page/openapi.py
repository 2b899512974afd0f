"""The API's description (OpenAPI 3.1), made of the very classes whose fields it returns."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from mailferry import __version__
from mailferry.events.windows import Gap
from mailferry.mailbox.ledger import jobs
from mailferry.mailbox.source import message
from mailferry.mailbox.workbook import values
from mailferry.monitor import facts

#: Names that annotations use and their own modules import for the type checker only.
_NAMES = {
    name: one
    for module in (jobs, message, values, facts)
    for name, one in vars(module).items()
    if isinstance(one, type)
} | {"datetime": datetime, "Path": Path, "Gap": Gap, "Any": Any}
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
    datetime: {"type": "string", "format": "date-time"},
    Path: {"type": "string"},
    Any: {},
}
#: Limits of a list of jobs.
MOST, USUAL = 500, 100
_LARGEST = 2**63 - 1


class _Schemas:
    """Schemas of classes, each once."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        if kind in _PLAIN:
            return _PLAIN[kind]
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (types.UnionType, typing.Union):
            return {"anyOf": [self.of(one) for one in arguments]}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin in (list, tuple):
            return {"type": "array", "items": self.of(arguments[0])}
        if issubclass(kind, Enum):
            return {"type": "string", "enum": [one.value for one in kind]}
        return self.object_of(kind)

    def object_of(self, kind: Any, *, name: str = "", more: dict[str, Any] | None = None) -> dict[str, Any]:
        """A reference to a dataclass's schema: all its fields are there, and `more` of ours."""
        name = name or kind.__name__
        if name not in self.found:
            self.found[name] = {}
            hints = typing.get_type_hints(kind, localns=_NAMES)
            fields = {field.name: self.of(hints[field.name]) for field in dataclasses.fields(kind)}
            self.found[name] = _object(fields | (more or {}))
        return {"$ref": f"#/components/schemas/{name}"}


@functools.cache
def document() -> dict[str, Any]:
    """The whole description."""
    schemas = _Schemas()
    ours = {"version": {"type": "integer", "const": 1}}
    status = schemas.object_of(facts.Status, more=ours | {"healthy": {"type": "boolean"}})
    job = schemas.object_of(jobs.Job)
    passed = _object({name: {"type": "string"} for name in ("section", "name", "reason")})
    details = schemas.object_of(
        jobs.Job,
        name="JobDetails",
        more={
            "files": {"type": "array", "items": schemas.of(jobs.File)},
            "passed": {"type": "array", "items": passed},
        },
    )
    row = schemas.object_of(
        values.RejectedRow, more={"file": {"type": "string"}, "file_id": {"type": "integer"}}
    )
    schemas.found["Error"] = _object(ours | {"error": {"type": "string"}})

    def several(name: str, one: dict[str, Any]) -> dict[str, Any]:
        return _object(ours | {name: {"type": "array", "items": one}})

    number = _parameter("number", {"type": "integer", "minimum": 0, "maximum": _LARGEST}, where="path")
    texts = [
        _parameter(name, {"type": "string", "maxLength": 500}) for name in ("feed", "table", "sender", "text")
    ]
    state = _parameter("state", {"type": "string", "enum": [*(str(one) for one in jobs.JobState), "refused"]})
    limit = _parameter("limit", {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL})
    offset = _parameter("offset", {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0})
    named = {
        "type": "object",
        "required": ["feed"],
        "additionalProperties": False,
        "properties": {"feed": {"type": "string"}},
    }
    paths: dict[str, Any] = {
        "/api/v1/status": {"get": _operation("Everything that `mailferry status --json` reports.", status)},
        "/api/v1/needs": {
            "get": _operation(
                "What needs a person; nothing: all is well.", several("needs", schemas.of(facts.Need))
            )
        },
        "/api/v1/feeds": {"get": _operation("Every feed.", several("feeds", schemas.of(facts.FeedStatus)))},
        "/api/v1/feeds/run": {
            "post": _operation(
                "Have a worker run a feed at once.", _object(ours | {"feed": {"type": "string"}}), body=named
            )
        },
        "/api/v1/jobs": {
            "get": _operation(
                "Jobs, the latest arrival first.",
                several("jobs", job),
                parameters=[state, *texts, limit, offset],
            )
        },
        "/api/v1/jobs/{number}": {
            "get": _operation("All about one job.", _object(ours | {"job": details}), parameters=[number])
        },
        "/api/v1/jobs/{number}/rejected": {
            "get": _operation(
                "Its rows that were not loaded.", several("rows", row), parameters=[number, limit]
            )
        },
    }
    for action, text in (
        ("retry", "Do it again: its files and rows that were not loaded."),
        ("cancel", "Nothing more of it is loaded."),
        ("acknowledge", "Take it off the list of what needs a person."),
    ):
        post = _operation(
            text,
            _object(ours | {"job": job}),
            parameters=[number],
            body={"type": "object", "additionalProperties": False},
        )
        paths[f"/api/v1/jobs/{{number}}/{action}"] = {"post": post}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailferry",
            "version": __version__,
            "description": "Times are ISO 8601 with their offset. New fields may come with any release; a field that changes its meaning comes under "
            "another version.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _parameter(name: str, schema: dict[str, Any], where: str = "query") -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": schema}


def _operation(
    text: str,
    answer: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    def json(schema: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": schema}}

    faults = {
        400: "What is asked for is not understood.",
        401: "No sign-in.",
        403: "From another site.",
        429: "Too many wrong tokens.",
        503: "The database cannot be asked.",
    }
    if parameters and parameters[0]["in"] == "path":
        faults[404] = "There is no such job."
    if body:
        faults |= {
            404: "There is none of that number or name.",
            409: "It is not in a state for that.",
            413: "Too large.",
        }
    responses = {
        str(code): {"description": why, "content": json({"$ref": "#/components/schemas/Error"})}
        for code, why in faults.items()
    }
    made: dict[str, Any] = {
        "summary": text,
        "parameters": parameters or [],
        "responses": {
            "200": {"description": "Done.", "content": json(answer)},
            **dict(sorted(responses.items())),
        },
    }
    if body:
        made["requestBody"] = {"required": True, "content": json(body)}
    return made
