"""`uzmanposta.ini` as people have it: sections of event feeds, all values text."""

from __future__ import annotations

import configparser
import difflib
from typing import TYPE_CHECKING

from mailferry.config.secret import hide_url
from mailferry.config.source import Given, Source, unknown
from mailferry.config.tables import EVENTS
from mailferry.config.text import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mailferry.config.tables import Place

PREFIX = "MailLogger"
#: `id` is made, and one database is for all feeds of a file.
OPTIONS = frozenset(EVENTS.keys) - {"id"} | {"database_url"}
#: Begins the names of sections that were set aside; it cannot be typed.
_ASIDE = "\0"


def read(path: Path) -> Source:
    """The options of a file. Raises ConfigError where it cannot be read at all."""
    path = path.absolute()
    sections = {("defaults", "events"): "DEFAULT", ("events",): PREFIX}
    source = Source(path=path, section=lambda place: sections.get(place, ""), data_dir=path.parent)
    parser = _parsed(read_text(path), source)
    defaults = parser.defaults()
    _options(source, ("defaults", "events"), "DEFAULT", defaults)
    urls = {defaults["database_url"]: "DEFAULT"} if defaults.get("database_url") else {}
    for name in parser.sections():
        if name != PREFIX and not name.startswith(f"{PREFIX}:"):
            _foreign(source, name)
            continue
        place = ("events", name.partition(":")[2] or "default")
        if place in sections:
            what = f"[{sections[place]}] is called {place[1]} as well; keep one of the two"
            source.fault(place, f"{path}: [{name}]: {what}")
            continue
        sections[place] = name
        own: dict[str, str] = parser._sections[name]  # type: ignore[attr-defined]  # noqa: SLF001 - the only way to find a section's own options
        _options(source, place, name, own)
        if url := own.get("database_url"):
            urls.setdefault(url, name)
    if len(urls) > 1:
        names = " and ".join(f"[{name}]" for name in urls.values())
        what = f"{names} name different databases; all feeds of a file use one, best named in [DEFAULT]"
        source.fault((), f"{path}: database_url: {what}")
    return source


def _options(source: Source, place: Place, section: str, options: Mapping[str, str]) -> None:
    """The options of a section, and that it is there."""
    source.given.append(Given(place=place, option="", value=None, label=""))
    for option, text in options.items():
        label, value = f"{source.path}: [{section}] {option}", text.strip()
        if "\n" in value:
            what = "the line after it begins with a blank and so belongs to it; move it to the margin"
            source.fault(place, f"{label}: {what}")
            value = value.split("\n")[0]
        where = place
        if option == "database_url":
            hide_url(value)
            where, option = ("database",), "url"  # noqa: PLW2901 - what it fills is called otherwise
        elif option not in OPTIONS:
            source.fault(place, f"{label}: {unknown(option, OPTIONS)}")
            continue
        source.given.append(Given(place=where, option=option, value=value, label=label, shown=f" = {value}"))


def _foreign(source: Source, name: str) -> None:
    """Another program's section, or one of ours whose name is misspelt."""
    begin = name.split(":", maxsplit=1)[0].lower()
    if difflib.get_close_matches(begin, [PREFIX.lower()], 1, 0.7):
        source.fault((), f"{source.path}: [{name}]: section names begin with {PREFIX}:")
    else:
        source.warnings.append(f"{source.path}: [{name}] is no [{PREFIX}:<name>] section and is not run")


def _parsed(text: str, source: Source) -> configparser.RawConfigParser:
    """Parse, setting aside one faulty line after the other, so that each is reported."""
    lines = text.split("\n")

    def fault(number: int, what: str, *, aside: str = "") -> None:
        source.fault((), f"{source.path}, line {number}: {what}")
        lines[number - 1] = aside

    while True:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string("\n".join(lines))
        except configparser.DuplicateSectionError as error:
            number = error.lineno or 1
            fault(
                number, f"section [{error.section}] stands twice; join the two", aside=f"[{_ASIDE}{number}]"
            )
        except configparser.DuplicateOptionError as error:
            fault(error.lineno or 1, f"option {error.option} stands twice in [{error.section}]; keep one")
        except configparser.MissingSectionHeaderError as error:
            fault(error.lineno, "stands before any [section]; begin with [DEFAULT] or [MailLogger:<name>]")
        except configparser.ParsingError as error:
            for number, line in error.errors:
                # As much of the line as may be shown: it may hold the key.
                begin = "".join(line.split()[:1])[:20]
                what = f"cannot be understood; write `option = value` (it begins with {begin!r})"
                fault(number, what)
        else:
            break
    for name in parser.sections():
        if name.startswith(_ASIDE):
            parser.remove_section(name)
    return parser
