"""`mailferry.toml`: any number of feeds of both kinds, their service and their database, in one file.

    [service]                  [defaults.events]        [defaults.mailbox]       what feeds of a kind share
    [database]                 [events.<name>]          [mailbox.<name>]         one table a feed
                                                        [mailbox.<name>.imap], .oauth, .limits

Every fault is found in one reading, each with file, table and option.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from mailferry.config import secret
from mailferry.config.database import DatabaseSettings, is_local
from mailferry.config.event_feed import CATEGORIES, PAGE_LIMIT, EventFeed, type_fault
from mailferry.config.mailbox import Auth, MailboxKind
from mailferry.config.mailbox_feed import MailboxFeed
from mailferry.config.part import Part, Placed, ServiceSettings
from mailferry.config.tables import (
    DATABASE,
    EVENTS,
    IMAP,
    MAILBOX,
    MAILDIR,
    MESSAGES,
    OAUTH,
    SERVICE,
    WITHIN,
    Table,
    base_dir,
    event_paths,
)
from mailferry.config.text import is_placeholder, read_text, resolved
from mailferry.config.toml_faults import explain, no_plain_value, syntax
from mailferry.config.toml_text import key
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_Model = TypeVar("_Model", bound=BaseModel)
_TOP = ("service", "database", "defaults", "events", "mailbox")
#: Examples have values of these that are nobody's.
_PERSONAL = {"host", "username", "user", "client_id"}
#: Where a table or a value is not there.
_NOTHING: dict[str, Any] = {}


def read(path: Path, environ: Mapping[str, str]) -> Part:
    """The feeds and settings of a file; relative paths in it count from its folder, secrets come as `secret.py` says.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    path = path.absolute()
    try:
        document = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{path}: {syntax(str(error))}"]) from None
    reader = _Reader(path=path, environ=environ)
    return reader.part(document)


@dataclass(kw_only=True)
class _Reader:
    """From tables to models; faults are collected, not raised."""

    path: Path
    environ: Mapping[str, str]
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Whether a secret stands in the file itself.
    holds: str = ""

    def part(self, document: dict[str, Any]) -> Part:
        tables = self._known(document, "", _TOP)
        defaults = self._known(self._table(tables, "defaults"), "defaults", ("events", "mailbox"))
        service = self._service(self._table(tables, "service"))
        data_dir = service.data_dir if service else self.path.parent
        database = self._database(self._table(tables, "database"), data_dir)
        shared_events = self._known(
            self._table(defaults, "events", "defaults"), "defaults.events", EVENTS.keys
        )
        shared_mailbox = self._mailbox_table(self._table(defaults, "mailbox", "defaults"), "defaults.mailbox")
        events, mailboxes = [], []
        for name, place, table in self._feeds(tables, "events"):
            if event := self._event(name, self._known(table, place, EVENTS.keys), shared_events, data_dir):
                events.append((Placed(path=self.path, table=place), event))
        for name, place, table in self._feeds(tables, "mailbox"):
            given = self._mailbox_table(table, place)
            if feed := self._mailbox(name, given, shared_mailbox, service, data_dir):
                mailboxes.append((Placed(path=self.path, table=place), feed))
        if self.holds and secret.readable_by_others(self.path):
            self.warnings.append(
                f"{self.path}: holds {self.holds} and can be read by every user; chmod 640 or 600 it"
            )
        said = self._table(tables, "service") if service else {}
        return Part(
            path=self.path,
            service={option: getattr(service, option) for option in said if option in SERVICE.options},
            data_dir=data_dir,
            database=database if "database" in tables or (database and not database.private) else None,
            events=tuple(events),
            mailboxes=tuple(mailboxes),
            faults=tuple(dict.fromkeys(self.faults)),
            warnings=tuple(dict.fromkeys(self.warnings)),
        )

    # Tables

    def _table(self, tables: Mapping[str, Any], name: str, within: str = "") -> dict[str, Any]:
        """A table by its name, empty where it is not there."""
        table = tables.get(name, _NOTHING)
        if isinstance(table, dict):
            return table
        full = f"{within}.{name}" if within else name
        self._fault("", full, f"is a table: write [{full}] and its options below it")
        return {}

    def _known(self, table: Mapping[str, Any], place: str, known: Iterable[str]) -> dict[str, Any]:
        """The table without what does not belong into it, which is told."""
        known = tuple(known)
        for name in [name for name in table if name not in known]:
            close = difflib.get_close_matches(name, known, 1, 0.6)
            what = "table" if isinstance(table[name], dict) else "option"
            hint = (
                f"did you mean {close[0]}?"
                if close
                else "take it out"
                if place
                else f"there are: {', '.join(known)}"
            )
            self._fault(place, name, f"unknown {what}; {hint}")
        return {name: value for name, value in table.items() if name in known}

    def _mailbox_table(self, table: Mapping[str, Any], place: str) -> dict[str, Any]:
        known = self._known(table, place, (*MAILBOX.keys, *MESSAGES.keys, MAILDIR, *WITHIN))
        for name, within in WITHIN.items():
            if name in known:
                known[name] = self._known(self._table(known, name, place), f"{place}.{name}", within.keys)
        return known

    def _feeds(self, tables: Mapping[str, Any], kind: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Name, place and table of each feed of a kind."""
        feeds: dict[str, tuple[str, str, dict[str, Any]]] = {}
        named = self._table(tables, kind)
        for name in named:
            if not isinstance(named[name], dict):
                self._fault(
                    kind,
                    name,
                    f"must stand in the table of one feed, [{kind}.<name>], or in [defaults.{kind}]",
                )
                continue
            other = feeds.setdefault(secret.name_of(name), (name, f"{kind}.{key(name)}", named[name]))
            if other[0] != name:
                self._fault(
                    kind, name, f"too like {other[0]!r}: their secrets would have the same name; rename one"
                )
        return list(feeds.values())

    # Feeds and settings

    def _service(self, table: dict[str, Any]) -> ServiceSettings | None:
        values = self._values(SERVICE, self._known(table, "service", SERVICE.keys), "service")
        values.setdefault("data_dir", str(self.path.parent / "data"))
        return self._model(ServiceSettings, values, "service")

    def _database(self, table: dict[str, Any], data_dir: Path) -> DatabaseSettings | None:
        known = self._known(table, "database", DATABASE.keys)
        values = self._values(DATABASE, known, "database")
        self._find_secrets(DATABASE, values, ("database",), (known, "database"))
        if "url" in values and "host" in values:
            self._fault("database", "host", "url holds everything by itself; keep one of the two")
        values["data_dir"] = str(data_dir)
        return self._model(DatabaseSettings, values, "database")

    def _event(
        self, name: str, own: dict[str, Any], shared: dict[str, Any], data_dir: Path
    ) -> EventFeed | None:
        place = f"events.{key(name)}"
        values = self._values(EVENTS, shared, "defaults.events") | self._values(EVENTS, own, place)
        self._find_secrets(EVENTS, values, ("events", name), (own, place), (shared, "defaults.events"))
        values.setdefault("api_key", "")
        for option in ("url", "type"):
            # As in an INI file, these two belong to a category.
            if (
                option in shared
                and option not in own
                and values.get("category", "mail") != shared.get("category", "mail")
            ):
                values.pop(option, None)
        given = [option for option in event_paths(name, data_dir) if option in values]
        defaults = {option: str(path) for option, path in event_paths(name, data_dir).items()}
        beside = f"{name}_heartbeat.json"
        values = {"section": name, **defaults, "heartbeat_file": beside, **values}
        feed = self._model(EventFeed, values, place)
        if feed is None:
            category = str(values.get("category", "mail"))
            if category in CATEGORIES and (fault := type_fault(category, str(values.get("type", "")))):
                self._fault(place, "type", fault)
            return None
        self._event_warnings(feed, place)
        filled = {option: Path(_filled(feed, str(getattr(feed, option)))) for option in given}
        feed = feed.model_copy(update=filled)
        heartbeat = own.get("heartbeat_file", shared.get("heartbeat_file"))
        named = _filled(feed, heartbeat) if heartbeat else beside
        elsewhere = "/" in named or "\\" in named
        file = Path(self._path(named, place, "heartbeat_file")) if elsewhere else feed.folder / named
        return feed.model_copy(update={"heartbeat_file": file})

    def _event_warnings(self, feed: EventFeed, place: str) -> None:
        if feed.url.startswith("http://") and not is_local(urlsplit(feed.url).hostname or ""):
            self.warnings.append(
                f"{self.path}: [{place}] url: http:// sends the api_key unencrypted; use https://"
            )
        if feed.max_records_per_page > PAGE_LIMIT:
            self.warnings.append(
                f"{self.path}: [{place}] max_records_per_page: the provider's limit, {PAGE_LIMIT}, is used"
            )

    def _mailbox(
        self,
        name: str,
        own: dict[str, Any],
        shared: dict[str, Any],
        service: ServiceSettings | None,
        data_dir: Path,
    ) -> MailboxFeed | None:
        place = f"mailbox.{key(name)}"
        values: dict[str, Any] = {"name": name, "base_dir": str(base_dir(name, data_dir))}
        for table, where in ((shared, "defaults.mailbox"), (own, place)):
            values |= self._values(MAILBOX, table, where)
        mail = self._mail(name, own, shared)
        if mail is None:
            mail = {"kind": "maildir", "path": "unset"}  # so that the other faults come to light as well
        values["mailbox"] = mail
        values["limits"] = self._within("limits", own, shared, place)
        for option, value in values["limits"].items():
            if isinstance(value, int | float) and value <= 0:
                self._fault(f"{place}.limits", option, "must be greater than 0")
        if service:
            values["max_concurrent_jobs"] = service.max_concurrent_jobs
            values["log_level"] = service.log_level
        values["database"] = {"data_dir": str(data_dir)}  # the service's takes its place
        return self._model(MailboxFeed, values, place)

    def _mail(self, name: str, own: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any] | None:
        """The fields of MailboxSettings."""
        place = f"mailbox.{key(name)}"
        values = self._values(MESSAGES, shared, "defaults.mailbox") | self._values(MESSAGES, own, place)
        if MAILDIR in own and "imap" in own:
            self._fault(
                place,
                MAILDIR,
                f"there is [{place}.imap] as well; one feed has one mailbox, keep one of the two",
            )
        maildir = own.get(MAILDIR, None if "imap" in own else shared.get(MAILDIR))
        if maildir is not None:
            if isinstance(maildir, str) and maildir:
                return values | {
                    "kind": MailboxKind.MAILDIR.value,
                    "path": self._path(maildir, place, MAILDIR),
                }
            self._fault(place, MAILDIR, "must be a folder's name in quotes")
            return None
        if "imap" not in own and "imap" not in shared:
            self._fault(place, "", f'no mailbox: write a table [{place}.imap], or {MAILDIR} = "folder"')
            return None
        values |= self._within("imap", own, shared, place)
        self._find_secrets(IMAP, values, ("mailbox", name), *_inner("imap", own, shared, place))
        if values.get("ssl") is False:
            values.setdefault("port", 143)  # STARTTLS is never spoken on the port of implicit TLS
        if "oauth" in own or ("oauth" in shared and "password" not in values):
            oauth = self._within("oauth", own, shared, place)
            self._find_secrets(OAUTH, oauth, ("mailbox", name, "oauth"), *_inner("oauth", own, shared, place))
            values["oauth"] = oauth
            values.setdefault("auth", Auth.XOAUTH2.value)
        return values

    def _within(self, name: str, own: dict[str, Any], shared: dict[str, Any], place: str) -> dict[str, Any]:
        """A feed's inner table: what all share, and its own on top."""
        (inner, where), (common, shared_where) = _inner(name, own, shared, place)
        return self._values(WITHIN[name], common, shared_where) | self._values(WITHIN[name], inner, where)

    # Values

    def _values(self, table: Table, given: dict[str, Any], place: str) -> dict[str, Any]:
        """The options of a table that are no secrets, as JSON values, paths absolute."""
        values: dict[str, Any] = {}
        for option, value in given.items():
            if option not in table.options or option in table.secrets:
                continue
            if option == "schedule" and type(value) is int:
                values[option] = str(value)  # seconds
            elif option in table.paths and isinstance(value, str):
                values[option] = self._path(value, place, option)
            elif option in _PERSONAL and isinstance(value, str) and is_placeholder(value):
                self._fault(place, option, "still the example's value; fill in your own")
                values[option] = "unset"
            elif kind := no_plain_value(value):
                self._fault(place, option, f"takes no {kind}")
            else:
                values[option] = value
        return values

    def _path(self, text: str, place: str, option: str) -> str:
        try:
            return str(resolved(self.path.parent, text))
        except ValueError as error:
            self._fault(place, option, str(error))
            return "unset"

    def _find_secrets(
        self,
        table: Table,
        values: dict[str, Any],
        parts: tuple[str, ...],
        *given: tuple[dict[str, Any], str],
    ) -> None:
        """Put the table's secrets among its values: the feed's own, else those that all feeds of its kind share.

        `parts` begins a secret's NAME, with the feed's name in second place. `given` has the feed's own table and the
        shared one, each with its place.
        """
        for option in table.secrets:
            for (options, place), begin in zip(given, (parts, (parts[0], *parts[2:])), strict=False):
                value = self._secret(option, options, place, (*begin, option))
                if value is not None:
                    values[option] = value
                    break

    def _secret(
        self, option: str, given: Mapping[str, Any], place: str, parts: tuple[str, ...]
    ) -> str | None:
        file, written = given.get(f"{option}_file"), given.get(option)
        for name, value in ((f"{option}_file", file), (option, written)):
            if value is not None and (not isinstance(value, str) or not value):
                self._fault(place, name, "must be text in quotes, and not empty")
                return "postgresql://unset" if option == "url" else "unset"
        if file and written:
            self._fault(place, option, f"there is {option}_file as well; keep one of the two")
        label = f"{self.path}: [{place}] {option}_file"
        try:
            found = secret.find(
                secret.name_of(*parts), self.environ, folder=self.path.parent, file=file or "", option=label
            )
        except ConfigError as error:
            self.faults += error.faults
            return "postgresql://unset" if option == "url" else "unset"
        if found:
            self.warnings += [found.warning] if found.warning else []
            return self._filled_in(found.value, place, option)
        if written is None:
            return None
        self.holds = self.holds or f"{option} of [{place}]"
        secret.hide_url(written)
        return self._filled_in(written, place, option)

    def _filled_in(self, value: str, place: str, option: str) -> str:
        if not is_placeholder(value):
            return value
        self._fault(place, option, "still the example's value; fill in your own")
        return "unset"

    # Faults

    def _model(self, model: type[_Model], values: dict[str, Any], place: str) -> _Model | None:
        """Strict: "5" is no number, 1 no true. As JSON, where paths and names of methods are text."""
        try:
            return model.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            for fault in error.errors():
                self._fault(*explain(fault, values, place))
            return None

    def _fault(self, place: str, option: str, message: str) -> None:
        where = f"[{place}] " if place else ""
        self.faults.append(f"{self.path}: {where}{option}{': ' if option else ''}{message}")


def _inner(
    name: str, own: dict[str, Any], shared: dict[str, Any], place: str
) -> tuple[tuple[dict[str, Any], str], tuple[dict[str, Any], str]]:
    """An inner table of a feed and of what all share, each with its place."""
    return (own.get(name, {}), f"{place}.{name}"), (shared.get(name, {}), f"defaults.mailbox.{name}")


def _filled(feed: EventFeed, text: str) -> str:
    """With the placeholders filled in; a % is literal, as in INI files."""
    return feed.fill(text).replace("%%", "%")
