"""`mailferry.toml`: any number of feeds of both kinds, their service and their database, in one file.

[service]                  [defaults.events]        [defaults.mailbox]       what feeds of a kind share
[database], [page], [alerts]         [events.<name>]          [mailbox.<name>]         one table a feed
[mailbox.<name>.imap], .oauth, .limits
"""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

from mailferry.config.source import Given, Source, unknown
from mailferry.config.tables import WITHIN
from mailferry.config.text import read_text
from mailferry.config.toml_text import key
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mailferry.config.tables import Place

_TOP = ("service", "database", "page", "alerts", "defaults", "events", "mailbox")
#: Tables of options.
_PLAIN = ("service", "database", "page", "alerts")
_KINDS = ("events", "mailbox")
#: What a fault of the syntax mostly comes from, by the beginning of what tomllib says.
_SYNTAX = {
    "Invalid value": "text stands in quotes",
    "Unescaped '\\'": "write a path with \\ in single quotes",
    "Cannot declare": "a table stands twice; join the two",
    "Cannot overwrite": "an option stands twice; keep one",
}


def read(path: Path) -> Source:
    """The options of a file. Raises ConfigError: it cannot be read, or is no TOML."""
    path = path.absolute()
    return source_of(_document(path), path)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        fault = str(error)
        hint = next((f"; {hint}" for begin, hint in _SYNTAX.items() if fault.startswith(begin)), "")
        raise ConfigError([f"{path}: is not TOML: {fault[:1].lower()}{fault[1:]}{hint}"]) from None


def source_of(document: dict[str, Any], path: Path) -> Source:
    """The options of a document that stands in a file."""
    source = Source(
        path=path, section=lambda place: ".".join(map(key, place)), typed=True, data_dir=path.parent / "data"
    )
    source.given += _tables(document, source)
    return source


def _tables(document: dict[str, Any], source: Source) -> Iterator[Given]:
    for name, value in _known(document, (), _TOP, source):
        if name in _PLAIN:
            yield from _table(value, (name,), source)
        elif name == "defaults":
            for kind, shared in _known(_checked(value, (name,), source), (name,), _KINDS, source):
                yield from _table(shared, (name, kind), source)
        else:
            for feed, table in _checked(value, (name,), source).items():
                if isinstance(table, dict):
                    yield from _table(table, (name, feed), source)
                else:
                    what = f"must stand in the table of one feed, [{name}.<name>], or in [defaults.{name}]"
                    source.fault((name,), f"{source.label((name,), feed)}: {what}")


def _known(
    tables: dict[str, Any], place: Place, known: tuple[str, ...], source: Source
) -> Iterator[tuple[str, Any]]:
    for name, value in tables.items():
        if name in known:
            yield name, value
        else:
            what = "unknown table" if isinstance(value, dict) else "unknown option"
            fault = unknown(name, known, what, else_=f"there are: {', '.join(known)}")
            source.fault(place, f"{source.label(place, name)}: {fault}")


def _checked(value: Any, place: Place, source: Source) -> dict[str, Any]:
    """A table; empty where there is something else in its place."""
    if isinstance(value, dict):
        return value
    section = source.section(place)
    source.fault((), f"{source.path}: {section}: is a table: write [{section}] and its options below it")
    return {}


def _table(value: Any, place: Place, source: Source) -> Iterator[Given]:
    """That the table is there, and its options."""
    yield Given(place=place, option="", value=None, label="")
    for option, one in _checked(value, place, source).items():
        of_mailbox = place == ("defaults", "mailbox") or (place[0] == "mailbox" and len(place) == 2)
        if option in WITHIN and of_mailbox:
            yield from _table(one, (*place, option), source)
        elif option == "columns" and (of_mailbox or place[-2:-1] == ("routes",)):
            yield from _columns(one, (*place, option), source)
        elif option == "routes" and of_mailbox:
            yield from _routes(one, (*place, option), source)
        else:
            shown = f" = {json.dumps(one, ensure_ascii=False, default=str)}"
            yield Given(place=place, option=option, value=one, label=source.label(place, option), shown=shown)


def _columns(value: Any, place: Place, source: Source) -> Iterator[Given]:
    """The rules of declared columns, each a table of its own."""
    for name, rule in _checked(value, place, source).items():
        if isinstance(rule, dict):
            yield from _table(rule, (*place, name), source)
        else:
            what = f'is a table: write {key(name)} = {{ headers = ["..."] }}'
            source.fault(place, f"{source.label(place, name)}: {what}")


def _routes(value: Any, place: Place, source: Source) -> Iterator[Given]:
    """The routes, called by their numbers from 1."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        source.fault(
            place[:-1], f"{source.label(place[:-1], 'routes')}: write [[{source.section(place)}]] before each"
        )
        return
    for number, route in enumerate(value, 1):
        yield from _table(route, (*place, str(number)), source)


def read_columns(path: Path) -> Source:
    """`[columns]` and `[[routes]]` in a file of their own: those of the one feed of variables. Raises ConfigError."""
    source = Source(
        path=path, section=lambda place: ".".join(map(key, place[2:])), typed=True, data_dir=path.parent
    )
    document = _document(path)
    for name, value in _known(document, (), ("columns", "routes"), source):
        read_them = _columns if name == "columns" else _routes
        source.given += read_them(value, ("mailbox", "", name), source)
    return source
