"""`uzmanposta.ini` as people have it: every fault is found in one reading, before anything is fetched."""

from __future__ import annotations

import configparser
import difflib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import SecretStr, ValidationError

from mailferry.config.event_feed import CATEGORIES, PAGE_LIMIT, EventFeed, names_of, type_fault
from mailferry.config.text import read_text
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.part import ServiceSettings

PREFIX = "MailLogger"
_OF_FEEDS = frozenset(EventFeed.model_fields) - {"section", "id"}
OPTIONS = _OF_FEEDS | {"api_key_file", "database_url"}
_BOOLEANS = {"use_session", "verbose"}
#: Formats of file names, the data's first; and a time for which they are compared.
_NAMES = ("log_file_name_format", "message_log_file_name", "error_log_file_name")
_SAMPLE = datetime(2026, 1, 31, 14, 15, 16, tzinfo=UTC)
#: Begins the names of sections that were set aside; nobody can type it.
_ASIDE = "\0"


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFeeds:
    """What a file holds of event feeds: those by full section name, and what is wrong with the others."""

    path: Path
    #: "MailLogger:example" -> feed, in the file's order; None where the section has faults.
    feeds: dict[str, EventFeed | None]
    #: Faults by full section name; "" for those of the file as a whole.
    faults: dict[str, list[str]]
    #: Things that were understood, but not as somebody may think.
    warnings: tuple[str, ...]
    #: The database of all feeds that write into a table; None where the file names none.
    database: DatabaseSettings | None = None
    #: None where the file does not speak of a service: the environment alone says how to log.
    service: ServiceSettings | None = None

    def choose(self, section: str | None, *, every: bool) -> list[EventFeed]:
        """The feeds to run: all that have no faults, the named one, or the only one.

        Raises:
            ConfigError: nothing fits, more than one does, or what fits has faults (with all of them).
        """
        names = list(self.feeds)
        if section is not None:
            full = section if section in self.feeds else f"{PREFIX}:{section}"
            if full not in self.feeds:
                close = difflib.get_close_matches(full, names, 1, 0.5)
                hint = (
                    f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names) or 'none'}"
                )
                raise ConfigError([*self.faults.get("", ()), f"{self.path}: no section [{section}]{hint}"])
            names = [full]
        elif not every and len(names) > 1:
            raise ConfigError(
                [
                    *self.faults.get("", ()),
                    f"{self.path}: has {len(names)} sections; choose one by --section NAME or run --all of them: "
                    + ", ".join(names),
                ]
            )
        faults = [*self.faults.get("", ())]
        for name in names:
            faults += self.faults.get(name, ())
        sound = [feed for name in names if (feed := self.feeds[name]) is not None]
        if sound and every and "" not in self.faults:
            return sound  # those with faults must not keep them waiting
        if not names and not faults:
            faults = [
                f"{self.path}: no event feed in it; add [{PREFIX}:<name>] (in a mailferry.toml [events.<name>]) with api_key and domain"
            ]
        if faults:
            raise ConfigError(faults)
        return sound


def read(path: Path, environ: Mapping[str, str] | None = None) -> EventFeeds:
    """Read `path`; relative paths in it are resolved against its folder. API keys may come from elsewhere: `secret.py`.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    path = path.absolute()
    environ = os.environ if environ is None else environ
    text = read_text(path)
    parser, faults = _parse(path, text)
    warnings: list[str] = []
    feeds: dict[str, EventFeed | None] = {}
    for name in parser.sections():
        if name != PREFIX and not name.startswith(f"{PREFIX}:"):
            close = difflib.get_close_matches(name.split(":")[0].lower(), [PREFIX.lower()], 1, 0.7)
            if close:
                faults.setdefault("", []).append(f"{path}: [{name}]: section names begin with {PREFIX}:")
            else:
                warnings.append(f"{path}: [{name}] is no [{PREFIX}:<name>] section and is not run")
            continue
        found, feed = _feed(path, parser, name, environ, warnings)
        feeds[name] = feed
        if found:
            faults.setdefault(name, []).extend(found)
        if feed and feed.max_records_per_page > PAGE_LIMIT:
            warnings.append(
                f"{path}: [{name}] max_records_per_page: the provider's limit, {PAGE_LIMIT}, is used"
            )
        if feed and feed.url.startswith("http://") and not _loopback(feed.url):
            warnings.append(f"{path}: [{name}] url: http:// sends the api_key unencrypted; use https://")
    for name in parser.defaults():
        if name not in OPTIONS:
            faults.setdefault("", []).append(_unknown(path, "DEFAULT", name))
    shared_paths(path, feeds, faults)
    database = _database(path, parser, faults)
    return EventFeeds(path=path, feeds=feeds, faults=faults, warnings=tuple(warnings), database=database)


def _parse(path: Path, text: str) -> tuple[configparser.RawConfigParser, dict[str, list[str]]]:
    """Parse, setting aside one faulty line after the other, so that each is told."""
    lines = text.split("\n")
    faults: dict[str, list[str]] = {}

    def fault(number: int, what: str, *, aside: str = "") -> None:
        faults.setdefault("", []).append(f"{path}, line {number}: {what}")
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
                fault(
                    number,
                    f"cannot be understood; write `option = value` (it begins with {_first_word(line)!r})",
                )
        else:
            break
    for name in parser.sections():
        if name.startswith(_ASIDE):
            parser.remove_section(name)
    return parser, faults


def _database(
    path: Path, parser: configparser.RawConfigParser, faults: dict[str, list[str]]
) -> DatabaseSettings | None:
    """The one database that the file has a URL of, which is hidden from logs from here on."""
    from mailferry.config.database import DatabaseSettings
    from mailferry.config.secret import hide_url

    found: dict[str, str] = {}
    settings = None
    for name in (parser.default_section, *parser.sections()):
        url = parser.get(name, "database_url", fallback="").strip()
        if not url or url in found:
            continue
        found[url] = name
        hide_url(url)
        try:
            settings = DatabaseSettings(url=SecretStr(url), data_dir=path.parent)
        except ValidationError as error:
            what = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            faults.setdefault("", []).append(f"{path}: [{name}] database_url: {what}")
    if len(found) > 1:
        names = " and ".join(f"[{name}]" for name in found.values())
        faults.setdefault("", []).append(
            f"{path}: database_url: {names} name different databases; all feeds of a file use one, best named in [DEFAULT]"
        )
    return settings


def _first_word(line: str) -> str:
    """As much of a line as may be shown: it may hold the key."""
    return line.strip().split(maxsplit=1)[0][:20] if line.strip() else ""


def _feed(
    path: Path,
    parser: configparser.RawConfigParser,
    name: str,
    environ: Mapping[str, str],
    warnings: list[str],
) -> tuple[list[str], EventFeed | None]:
    """One section's feed, or its faults."""
    given = {key: value.strip() for key, value in parser.items(name) if value.strip()}
    own = set(parser._sections[name])  # type: ignore[attr-defined]  # noqa: SLF001 - the only way to tell a section's own options
    faults = [_unknown(path, name, key) for key in given if key not in OPTIONS and key in own]
    values: dict[str, Any] = {key: value for key, value in given.items() if key in _OF_FEEDS}
    category = values["category"] = values.get("category", "mail").lower()
    if category != "mail" and "url" not in own:
        values.pop("url", None)  # one in [DEFAULT] is the mail list's
    for key in [key for key, value in values.items() if "\n" in value]:
        faults.append(
            f"{path}: [{name}] {key}: the line after it begins with a blank and so belongs to it; move it to the margin"
        )
        values[key] = values[key].split("\n")[0]
    if values.get("max_parallel_details", "").lower() == "auto":
        values["max_parallel_details"] = "auto"
    for key in _BOOLEANS & values.keys():
        values[key] = parser.BOOLEAN_STATES.get(values[key].lower(), values[key])
    values["section"] = name.partition(":")[2] or "default"
    try:
        values["api_key"] = _key(path, values["section"], given, own, environ, warnings)
    except ConfigError as error:
        return [*faults, *(f"{path}: [{name}] {fault}" for fault in error.faults)], None
    _paths(path, values)
    try:
        feed = EventFeed.model_validate(values)
    except ValidationError as error:
        # The model looks at the type only when all fields are right.
        if category in CATEGORIES and (fault := type_fault(category, values.get("type", ""))):
            faults.append(f"{path}: [{name}] type: {fault}")
        faults += [_explain(path, name, fault, values) for fault in error.errors()]
        return list(dict.fromkeys(faults)), None
    return faults, None if faults else _with_names(path, feed, given)


def _key(
    path: Path,
    suffix: str,
    given: dict[str, str],
    own: set[str],
    environ: Mapping[str, str],
    warnings: list[str],
) -> str:
    """The API key, or ""; what a section has of its own goes before what all share. Raises ConfigError."""
    from mailferry.config import secret

    for names, mine in ((("events", suffix, "api_key"), True), (("events", "api_key"), False)):
        file = given.get("api_key_file", "") if ("api_key_file" in own) == mine else ""
        found = secret.find(
            secret.name_of(*names), environ, folder=path.parent, file=file, option="api_key_file"
        )
        if found:
            warnings += [found.warning] if found.warning else []
            return found.value
        if ("api_key" in own) == mine and "api_key" in given:
            return given["api_key"]
    return ""


def _paths(path: Path, values: dict[str, Any]) -> None:
    base = path.parent
    values["log_directory"] = base / values.get("log_directory", "output")
    suffix = values["section"]
    values["position_file"] = base / values.get("position_file", f"positions/{suffix}.pos")
    values["lock_file_path"] = base / values.get("lock_file_path", f"locks/{suffix}.lock")
    values["heartbeat_file"] = base / values.get("heartbeat_file", f"{suffix}_heartbeat.json")


def _with_names(path: Path, feed: EventFeed, given: dict[str, str]) -> EventFeed:
    """Fill placeholders into the paths; a heartbeat file without a folder lies beside the data."""
    update = {
        key: feed.fill(str(getattr(feed, key))).replace("%%", "%")
        for key in ("position_file", "lock_file_path")
    }
    heartbeat = feed.fill(given.get("heartbeat_file", f"{feed.section}_heartbeat.json")).replace("%%", "%")
    folder = path.parent if "/" in heartbeat or "\\" in heartbeat else feed.folder
    paths = {key: path.parent / value for key, value in update.items()}
    return feed.model_copy(update={**paths, "heartbeat_file": folder / heartbeat})


def _unknown(path: Path, section: str, option: str) -> str:
    close = difflib.get_close_matches(option, OPTIONS, 1, 0.6)
    return f"{path}: [{section}] {option}: unknown option" + (
        f"; did you mean {close[0]}?" if close else "; take it out"
    )


def _explain(path: Path, section: str, fault: Any, values: dict[str, Any]) -> str:
    """One line of a pydantic fault: where, what was given, what would be right. Never the api_key."""
    option = str(fault["loc"][0]) if fault["loc"] else ""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if not option:
        option, _, message = message.partition(": ")
    elif fault["type"] != "value_error":
        shown = "" if option == "api_key" else f" = {values.get(option)!s}"
        if option == "category":
            message = f"unknown category; one of {', '.join(CATEGORIES)}"
        elif option == "max_parallel_details":
            message = "a whole number from 1 to 256, or auto"
        elif option in _BOOLEANS:
            message = "True or False"
        option, message = f"{option}{shown}", message[0].lower() + message[1:]
    return f"{path}: [{section}] {option}: {message}"


def shared_paths(path: Path, feeds: dict[str, EventFeed | None], faults: dict[str, list[str]]) -> None:
    """Two sections must never write one file: neither could then vouch for what is in it."""
    owner: dict[tuple[str, str], str] = {}
    for name, feed in feeds.items():
        if feed is None or feed.destination == "table":
            continue
        data_file = str(feed.folder / feed.fill(feed.log_file_name_format))
        for option, value, remedy in (
            (
                "log_file_name_format",
                data_file,
                "put {section} into one of them, or give it its own log_directory",
            ),
            ("position_file", str(feed.position_file), "put {section} into the name"),
            ("lock_file_path", str(feed.lock_file_path), "put {section} into the name"),
            ("heartbeat_file", str(feed.heartbeat_file), "put {section} into the name"),
        ):
            other = owner.setdefault((option, value), name)
            if other != name:
                what = f"writes the same file as [{other}] ({value})"
                faults.setdefault(name, []).append(f"{path}: [{name}] {option}: {what}; {remedy}")
    _alike(path, feeds, faults)
    for name in faults:
        if name in feeds:
            feeds[name] = None


def _alike(path: Path, feeds: dict[str, EventFeed | None], faults: dict[str, list[str]]) -> None:
    """Names that one file could have from two formats: retention of the one would delete the other."""
    # Only names that are alike but for their digits and letters' lengths can be meant: feeds may be a thousand.
    buckets: dict[tuple[Path, str], list[_Named]] = {}
    for name, feed in feeds.items():
        if feed and feed.destination == "files":
            for option in _NAMES:
                named = _Named.of(name, option, feed.fill(getattr(feed, option)))
                buckets.setdefault((feed.folder, named.shape), []).append(named)
    for bucket in buckets.values():
        for at, one in enumerate(bucket):
            for other in bucket[:at]:
                if one.option == other.option != _NAMES[0]:
                    continue  # feeds of one folder may share their message and error logs
                if one.pattern.fullmatch(other.sample) or other.pattern.fullmatch(one.sample):
                    what = f"{one.option}: its names are also those of {other.option} of [{other.name}]; give them another beginning"
                    faults.setdefault(one.name, []).append(f"{path}: [{one.name}] {what}")


class _Named(NamedTuple):
    """The names that an option's format gives."""

    name: str
    option: str
    pattern: re.Pattern[str]
    sample: str
    #: The sample without digits and with one letter for a word.
    shape: str

    @classmethod
    def of(cls, name: str, option: str, format_: str) -> _Named:
        sample = _SAMPLE.strftime(format_)
        shape = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d", "0", sample))
        return cls(name, option, names_of(format_), sample, shape)


def _loopback(url: str) -> bool:
    return url.split("/")[2].rsplit(":", 1)[0] in {"localhost", "127.0.0.1", "[::1]"}
