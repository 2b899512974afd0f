"""From the options of a source to feeds and settings: every fault is found here, in one pass, whatever the format."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mailferry.config import secret, tables, toml
from mailferry.config.alert_settings import AlertSettings
from mailferry.config.columns import ColumnRule, Route
from mailferry.config.database import DatabaseSettings, is_local
from mailferry.config.event_feed import CATEGORIES, PAGE_LIMIT, EventFeed, type_fault
from mailferry.config.mailbox import Auth, MailboxSettings, OAuthSettings
from mailferry.config.mailbox_feed import MailboxFeed, default_name
from mailferry.config.page_settings import PageSettings
from mailferry.config.service_settings import ServiceSettings
from mailferry.config.source import Given, Part, Placed, Source
from mailferry.config.spreadsheet import Limits
from mailferry.config.text import joined, present
from mailferry.config.values import UNSET, Values
from mailferry.errors import ConfigError
from mailferry.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mailferry.config.tables import Place

_Apart = TypeVar("_Apart", PageSettings, AlertSettings)
#: With any of these a database of one's own is meant.
_CONNECTION = ("host", "name", "user", "password", "port")


def build(source: Source, environ: Mapping[str, str]) -> Part:
    """What a source says. Secrets may come from elsewhere, see `secret.py`; from here on they are hidden from logs."""
    builder = _Builder(source, environ)
    return builder.part_of_variables() if source.variables else builder.part_of_tables()


class _Builder(Values):
    """Feeds and settings; faults are collected in the source, not raised."""

    def part_of_tables(self) -> Part:
        service = self._service()
        data_dir = Path(service.get("data_dir", self._source.data_dir))
        database = self._database(data_dir)
        events = [(place, self._event(place, data_dir)) for place in self._feeds("events")]
        mailboxes = [(place, self._mailbox(place, data_dir)) for place in self._feeds("mailbox")]
        return self._part(service, data_dir, database, events, mailboxes)

    def part_of_variables(self) -> Part:
        place: Place = ("mailbox", "")
        has_mailbox = self._source.has_mailbox
        base_dir = self._values(tables.MAILBOX, place)[0].get("base_dir")
        data_dir = Path(base_dir or self._source.data_dir)
        # Variables must be right even where no mailbox is named.
        feed = self._mailbox(place, data_dir, has_mailbox=has_mailbox)
        service, database = self._service(), self._database(data_dir)
        mailboxes = [(place, feed)] if has_mailbox else []
        return self._part(service, data_dir if has_mailbox or base_dir else None, database, [], mailboxes)

    def _part(
        self,
        service: dict[str, Any],
        data_dir: Path | None,
        database: DatabaseSettings | None,
        events: Sequence[tuple[Place, EventFeed | None]],
        mailboxes: Sequence[tuple[Place, MailboxFeed | None]],
    ) -> Part:
        source = self._source

        def placed(place: Place) -> Placed:
            return Placed(path=source.path, table=source.section(place))

        exposed = self._holds and source.path and secret.readable_by_others(source.path)
        return Part(
            path=source.path,
            service=service,
            data_dir=data_dir,
            database=database,
            page=self._apart(PageSettings, tables.PAGE, "page"),
            alerts=self._apart(AlertSettings, tables.ALERTS, "alerts"),
            events=tuple((placed(place), feed) for place, feed in events if feed),
            mailboxes=tuple((placed(place), feed) for place, feed in mailboxes if feed),
            faults=tuple(dict.fromkeys((source.section(place), text) for place, text in source.faults)),
            warnings=tuple(dict.fromkeys(source.warnings)),
            exposed=f"{source.path}: holds {self._holds} and can be read by every user; chmod 640 or 600 it"
            if exposed
            else "",
        )

    def _feeds(self, kind: str) -> list[Place]:
        """The feeds of a kind; in a `mailferry.toml`, no two may share the name of a secret."""
        places: list[Place] = [place for place in self._tables if place[0] == kind and len(place) == 2]
        owner: dict[str, Place] = {}
        for place in places:
            other = owner.setdefault(secret.name_of(place[1]), place)
            if other != place and self._source.typed:
                what = f"too like {other[1]!r}: their secrets would have the same name; rename one"
                self._source.fault((kind,), f"{self._source.label((kind,), place[1])}: {what}")
        return list(owner.values()) if self._source.typed else places

    # Feeds and settings

    def _service(self) -> dict[str, Any]:
        """The options that are set and can be used, in their own types."""
        place: Place = ("service",)
        values, given = self._values(tables.SERVICE, place)
        here = {"data_dir": str(self._source.data_dir)}
        found = {}
        # One by one: a bad log format must not cost the level.
        for field, value in values.items():
            if settings := self._model(ServiceSettings, here | {field: value}, given, place):
                found[field] = getattr(settings, field)
        return found

    def _database(self, data_dir: Path) -> DatabaseSettings | None:
        place: Place = ("database",)
        source = self._source
        if place not in self._tables and not source.typed and not source.variables:
            return None
        values, given = self._values(tables.DATABASE, place)
        connection = [field for field in _CONNECTION if field in values]
        spelled = functools.partial(self._spelled, DatabaseSettings)
        if "url" in values:
            clash = connection if source.variables else [field for field in ("host",) if field in values]
            if clash:
                label = given[clash[0]].label if clash[0] in given else source.label(place, spelled(clash[0]))
                what = f"{spelled('url')} holds everything by itself; keep one of the two"
                source.fault(place, f"{label}: {what}")
        elif "host" in values or (connection and source.variables):
            values.setdefault("host", "localhost")
            for field in ("name", "user"):
                if field not in values:
                    why = f"{spelled(connection[0])} says that a database of your own is to be used"
                    self._missing(spelled(field), place, why)
                    values[field] = UNSET
        if not values and place not in self._tables:
            return None
        return self._model(DatabaseSettings, values | {"data_dir": str(data_dir)}, given, place)

    def _apart(self, model: type[_Apart], table: tables.Table, name: str) -> _Apart | None:
        """The settings of [page] or [alerts]; None where the source has none."""
        values, given = self._values(table, (name,))
        if not values and (name,) not in self._tables:
            return None
        return self._model(model, values, given, (name,))

    def _event(self, place: Place, data_dir: Path) -> EventFeed | None:
        source, name, shared = self._source, place[1], ("defaults", "events")
        before = len(source.faults)
        values, given = self._values(tables.EVENTS, place, shared)
        own, common = self._tables[place], self._tables.get(shared, {})
        # An address that all feeds share is one of a category, and so is a type.
        of = common["category"].value if source.typed and "category" in common else "mail"
        for option in ("url", "type") if source.typed else ("url",):
            if option in common and option not in own and values.get("category", "mail") != of:
                values.pop(option, None)
        if "api_key" not in values:
            self._missing_secret(tables.EVENTS.options["api_key"], place)
            values["api_key"] = UNSET
        beside = f"{name}_heartbeat.json"
        paths = {field: str(path) for field, path in tables.event_paths(name, data_dir).items()}
        values = {"section": name, **paths, "heartbeat_file": beside, **values}
        feed = self._model(EventFeed, values, given, place)
        if feed is None:
            # The model looks at the type only when all fields are right.
            category = str(values.get("category", "mail"))
            if category in CATEGORIES and (fault := type_fault(category, str(values.get("type", "")))):
                source.fault(place, f"{source.label(place, 'type')}: {fault}")
        elif (
            feed.url.startswith("http://")
            and not feed.allow_http
            and not is_local(urlsplit(feed.url).hostname or "")
        ):
            what = "http:// sends the api_key unencrypted; use https://, or set allow_http = true"
            source.fault(place, f"{source.label(place, 'url')}: {what}")
        if feed is None or len(source.faults) > before:
            return None
        hide(feed.api_key.get_secret_value(), feed.masked_key)
        if feed.max_records_per_page > PAGE_LIMIT:
            what = f"the provider's limit, {PAGE_LIMIT}, is used"
            source.warnings.append(f"{source.label(place, 'max_records_per_page')}: {what}")
        return self._with_paths(feed, given, beside)

    def _with_paths(self, feed: EventFeed, given: Mapping[str, Given], beside: str) -> EventFeed:
        """Fill placeholders into paths; %% is one %. A heartbeat file without a folder lies beside the data."""

        def filled(field: str) -> str:
            return feed.fill(str(given[field].value)).replace("%%", "%")

        # In an INI file the folder has no placeholders.
        fields = ("log_directory", "position_file", "lock_file_path")[0 if self._source.typed else 1 :]
        feed = feed.model_copy(
            update={
                field: self._resolved(filled(field))
                for field in fields
                if field in given and given[field].value
            }
        )
        named = filled("heartbeat_file") if "heartbeat_file" in given else beside
        elsewhere = "/" in named or "\\" in named
        file = self._resolved(named) if elsewhere else feed.folder / named
        return feed.model_copy(update={"heartbeat_file": file})

    def _mailbox(self, place: Place, data_dir: Path, *, has_mailbox: bool = True) -> MailboxFeed | None:
        source, shared = self._source, ("defaults", "mailbox")
        before = len(source.faults)
        values, given = self._values(tables.MAILBOX, place, shared)
        mailbox = self._mail(place, shared) if has_mailbox else None
        limits, limits_given = self._values(tables.LIMITS, (*place, "limits"), (*shared, "limits"))
        for field in [name for name, one in limits.items() if isinstance(one, int | float) and one <= 0]:
            source.fault(place, f"{limits_given[field].label}: must be greater than 0")
        inner = {
            "mailbox": mailbox,
            "limits": self._model(Limits, limits, limits_given, (*place, "limits")),
        }
        if source.variables:
            table = values.get("target_table", MailboxFeed.declared()["target_table"].default)
            name = self._tables.get(place, {}).get("name")
            if name and name.value:
                values["name"], given["name"] = name.value, name
            values.setdefault("name", default_name(mailbox, table) if mailbox else UNSET)
            values.setdefault("base_dir", str(data_dir))
        else:
            values["name"] = place[1]
            values.setdefault("base_dir", str(tables.base_dir(place[1], data_dir)))
        values["database"] = {"data_dir": str(data_dir)}  # the service's takes its place
        inner |= self._declared(place, shared)
        feed = self._model(MailboxFeed, values, given, place, inner)
        return None if len(source.faults) > before else feed

    def _declared(self, place: Place, shared: Place) -> dict[str, Any]:
        """The declared columns and the routes; of variables in a file of their own."""
        source, named = self._source, self._tables.get(place, {}).get("columns_file")
        if named is None or not named.value:
            return {"columns": self._columns(place, shared), "routes": self._routes(place, shared)}
        try:
            path = self._resolved(named.value)
            if not present(path):
                raise ValueError(f"there is no file {path}; make it, or name another")
            own = toml.read_columns(path)
        except (ConfigError, ValueError) as error:
            source.fault(place, f"{named.label}: {error}")
            return {}
        builder = _Builder(own, {})
        found = {"columns": builder._columns(place), "routes": builder._routes(place)}
        source.faults += own.faults
        return found

    def _columns(self, *places: Place) -> tuple[ColumnRule, ...]:
        """Of a column that stands in several places, the first counts."""
        found: dict[str, Place] = {}
        for place in reversed(places):
            found |= {inner[-1]: inner for inner in self._tables if inner[:-1] == (*place, "columns")}
        rules = []
        for name, place in found.items():
            values, given = self._values(tables.COLUMN, place)
            rules.append(self._model(ColumnRule, {"name": name, **values}, given, place))
        return tuple(rule for rule in rules if rule)

    def _routes(self, *places: Place) -> tuple[Route, ...]:
        """Those of the first place that has any."""
        for place in places:
            inner = [one for one in self._tables if one[:-1] == (*place, "routes")]
            if inner:
                return tuple(route for one in inner if (route := self._route(one)))
        return ()

    def _route(self, place: Place) -> Route | None:
        values, given = self._values(tables.ROUTE, place)
        if isinstance(values.get("stop_at"), list):
            values["stop_at"] = joined(values["stop_at"])
        route = self._model(Route, values, given, place)
        return dataclasses.replace(route, columns=self._columns(place)) if route else None

    def _mail(self, place: Place, shared: Place) -> MailboxSettings | None:
        source = self._source
        own, imap = self._tables.get(place, {}), (*place, "imap")
        values, given = self._values(tables.MESSAGES, place, shared)
        if "maildir" in own and imap in self._tables and not source.variables:
            what = f"there is [{source.section(imap)}] as well; one feed has one mailbox, keep one of the two"
            source.fault(place, f"{own['maildir'].label}: {what}")
        if "path" in given and ("maildir" in own or imap not in self._tables):
            if not given["path"].value:
                self._faulty(given["path"], "must be a folder's name in quotes", shown=False)
            values = {"path": UNSET, **values, "kind": "maildir"}
            return self._model(MailboxSettings, values, given, place)
        values.pop("path", None)
        if not source.variables and not {imap, (*shared, "imap")} & self._tables.keys():
            what = f'no mailbox: write a table [{source.section(imap)}], or maildir = "folder"'
            source.fault(place, f"{source.about(place)}{what}")
            return None
        of_imap, imap_given = self._values(tables.IMAP, imap, (*shared, "imap"))
        values, given = values | of_imap, given | imap_given
        if values.get("ssl") is False:
            values.setdefault("port", 143)  # STARTTLS is never spoken on the port of implicit TLS
        oauth = self._oauth(place, shared, has_password="password" in values)
        if oauth:
            values.setdefault("auth", Auth.XOAUTH2.value)
        if "username" not in values:
            spelled = functools.partial(self._spelled, MailboxSettings)
            why = f"the mailbox's user name (or {spelled('path')}, a Maildir folder)"
            self._missing(spelled("username"), imap, why)
            values["username"] = UNSET
        if (
            not oauth
            and values.get("auth", Auth.PASSWORD.value) == Auth.PASSWORD
            and "password" not in values
        ):
            self._missing_secret(tables.IMAP.options["password"], imap)
            values["password"] = UNSET
        return self._model(MailboxSettings, values, given, place, {"oauth": oauth[0]} if oauth else None)

    def _oauth(
        self, place: Place, shared: Place, *, has_password: bool
    ) -> tuple[OAuthSettings | None] | None:
        """None where the mailbox signs in without; the settings in it are None where they have faults."""
        own, common = (*place, "oauth"), (*shared, "oauth")
        if (
            not self._source.variables
            and own not in self._tables
            and (has_password or common not in self._tables)
        ):
            return None
        values, given = self._values(tables.OAUTH, own, common)
        if not values and own not in self._tables and common not in self._tables:
            return None
        return (self._model(OAuthSettings, values, given, own),)
