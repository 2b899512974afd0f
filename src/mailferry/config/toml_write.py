"""A configuration as `mailferry.toml`: to be shown (all of it, secrets masked), or to be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from mailferry.config import secret, tables
from mailferry.config.event_feed import CATEGORIES, EventFeed
from mailferry.config.mailbox import Auth, MailboxKind
from mailferry.config.tables import Table, base_dir, event_paths
from mailferry.config.toml_text import key, option

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mailferry.config.columns import ColumnRule
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.service import Configuration

MASK = "********"
_PATHS = tuple(option for option, setting in tables.EVENTS.options.items() if setting.path)
#: Event options that all feeds may share in [defaults.events]; the others belong to one feed, or to its category.
_SHARED = frozenset(tables.EVENTS.options) - {"id", "domain", "category", "type", "url", "start_time"}


class Style(Enum):
    """What is written of a configuration."""

    #: Every option with its value, secrets masked.
    WHOLE = "whole"
    #: What differs from the defaults; secrets are left out, with a line that says where to put them.
    WITHOUT_SECRETS = "without secrets"
    WITH_SECRETS = "with secrets"


@dataclass(kw_only=True)
class _Section:
    """One table on its way to text: options that are given, and lines about secrets."""

    name: str
    #: NAME of its secrets without the option, see `secret.py`.
    parts: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    #: Written even where nothing is in it.
    needed: bool = False
    #: It is one of several of that name.
    repeated: bool = False


def as_toml(configuration: Configuration, style: Style) -> str:
    """The text of a file that reads as this configuration (but for secrets that are not in it)."""
    sections = [
        _Section(
            name="service", parts=("service",), values=_chosen(tables.SERVICE, configuration.service, style)
        )
    ]
    sections.append(_database(configuration, style))
    apart = (("page", tables.PAGE, configuration.page), ("alerts", tables.ALERTS, configuration.alerts))
    sections += [
        _Section(name=name, parts=(name,), values=_chosen(table, one, style)) for name, table, one in apart
    ]
    events = [_event(feed, configuration.service.data_dir, style) for feed in configuration.events]
    if style is not Style.WHOLE and len(events) > 1:
        sections.append(_common(events))
    sections += events
    for feed in configuration.mailboxes:
        sections += _mailbox(feed, configuration.service.data_dir, style)
    texts = [_text(section, style) for section in sections if section.values or section.needed]
    if configuration.database.private:
        texts.insert(1, "# No database is given: a private PostgreSQL runs in data_dir/postgres.")
    return "\n\n".join(texts) + "\n"


def as_plain(configuration: Configuration) -> dict[str, Any]:
    """The same for JSON: every setting by its model's name; what is not set is null, secrets are masked."""
    return {
        "files": [str(path) for path in configuration.paths],
        "warnings": list(configuration.warnings),
        "service": _plain(configuration.service.model_dump()),
        "database": _plain(configuration.database.model_dump()),
        "page": _plain(configuration.page.model_dump()),
        "alerts": _plain(configuration.alerts.model_dump()),
        "events": [_plain(feed.model_dump()) for feed in configuration.events],
        "mailboxes": [_plain(feed.model_dump(exclude={"database"})) for feed in configuration.mailboxes],
    }


def masked(value: SecretStr) -> str:
    """A secret as people may see it; of a database URL all but its password."""
    text = value.get_secret_value()
    try:
        url = urlsplit(text)
    except ValueError:
        return MASK
    if url.scheme not in ("postgresql", "postgres") or "password" in url.query or url.netloc.count("@") > 1:
        return MASK if text else ""
    user, at, place = url.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    return url._replace(netloc=f"{name}{colon}{MASK if colon else ''}{at}{place}").geturl()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, SecretStr):
        return masked(value) or None
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


# Sections


def _database(configuration: Configuration, style: Style) -> _Section:
    database = configuration.database
    chosen = _chosen(tables.DATABASE, database, style)
    # Of parts and URL only the one that counts is shown.
    parts = {"host", "port", "name", "user", "password"}
    unused = {*parts, "url"} if database.private else parts if database.url else {"url"}
    chosen = {name: value for name, value in chosen.items() if name not in unused}
    return _Section(name="database", parts=("database",), values=chosen)


def _event(feed: EventFeed, data_dir: Path, style: Style) -> _Section:
    url, types = CATEGORIES[feed.category]
    usual: dict[str, Any] = {"type": types[0], "url": url, **event_paths(feed.section, data_dir)}
    usual["heartbeat_file"] = feed.folder / f"{feed.section}_heartbeat.json"
    chosen = _chosen(tables.EVENTS, feed, style, usual)
    given = {name: value for name, value in chosen.items() if name in ("type", "url", "category", "domain")}
    paths = {name: getattr(feed, name) for name in _PATHS}
    made = EventFeed(section=feed.section, api_key=feed.api_key, **paths, **given)
    if style is not Style.WHOLE:
        chosen.pop("id", None)
        if made.id != feed.id:
            chosen["id"] = feed.id  # it comes from how the older file was written
        chosen |= {name: _literal(chosen[name]) for name in _PATHS if name in chosen}
    return _Section(
        name=f"events.{key(feed.section)}", parts=("events", feed.section), values=chosen, needed=True
    )


def _literal(path: Path) -> str:
    """A path as the reader leaves it: there, two % are one."""
    text = str(path)
    return text.replace("%", "%%") if "%%" in text else text


def _common(events: list[_Section]) -> _Section:
    """Take what all feeds have alike out of them."""
    first = events[0].values
    alike = {
        name: first[name]
        for name in first
        if name in _SHARED and all(name in one.values and one.values[name] == first[name] for one in events)
    }
    for one in events:
        one.values = {name: value for name, value in one.values.items() if name not in alike}
    return _Section(name="defaults.events", parts=("events",), values=alike)


def _mailbox(feed: MailboxFeed, data_dir: Path, style: Style) -> list[_Section]:
    place, parts = f"mailbox.{key(feed.name)}", ("mailbox", feed.name)
    mail = feed.mailbox
    own = _chosen(tables.MAILBOX, feed, style, {"base_dir": base_dir(feed.name, data_dir)})
    if style is Style.WHOLE and feed.schedule:
        own.pop("schedule_hours")
    own |= _chosen(tables.MESSAGES, mail, style)
    if mail.kind is MailboxKind.IMAP:
        own.pop("maildir", None)
    sections = [_Section(name=place, parts=parts, values=own, needed=True)]
    if mail.kind is MailboxKind.IMAP:
        usual = {"port": 993 if mail.ssl else 143, "auth": Auth.XOAUTH2 if mail.oauth else Auth.PASSWORD}
        imap = _chosen(tables.IMAP, mail, style, usual)
        imap = {"host": mail.host, "username": mail.username, **imap}
        sections.append(_Section(name=f"{place}.imap", parts=parts, values=imap, needed=True))
    if mail.kind is MailboxKind.IMAP and mail.oauth:
        chosen = _chosen(tables.OAUTH, mail.oauth, style)
        sections.append(_Section(name=f"{place}.oauth", parts=(*parts, "oauth"), values=chosen, needed=True))
    limits = _chosen(tables.LIMITS, feed.limits, style)
    sections.append(_Section(name=f"{place}.limits", parts=parts, values=limits))
    sections.append(_columns(feed.columns, place, parts))
    for route in feed.routes:
        chosen = _chosen(tables.ROUTE, route, Style.WITH_SECRETS)
        sections.append(
            _Section(name=f"{place}.routes", parts=parts, values=chosen, needed=True, repeated=True)
        )
        sections.append(_columns(route.columns, f"{place}.routes", parts))
    return sections


def _columns(rules: Iterable[ColumnRule], place: str, parts: tuple[str, ...]) -> _Section:
    """The declared columns, a line each; only what they declare."""
    values = {rule.name: _chosen(tables.COLUMN, rule, Style.WITH_SECRETS) for rule in rules}
    return _Section(name=f"{place}.columns", parts=parts, values=values)


def _chosen(table: Table, model: Any, style: Style, usual: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options and values that are written: all, or those that differ from what is usual."""
    usual = usual or {}
    values = {option: getattr(model, setting.field) for option, setting in table.options.items()}
    if style is Style.WHOLE:
        return values
    return {
        name: value
        for name, value in values.items()
        if value is not None and value != usual.get(name, table.options[name].default)
    }


# Text


def _text(section: _Section, style: Style) -> str:
    title = f"[[{section.name}]]" if section.repeated else f"[{section.name}]"
    return "\n".join([title, *_lines(section, style)])


def _lines(section: _Section, style: Style) -> Iterable[str]:
    for name, value in section.values.items():
        if value is None or (isinstance(value, SecretStr) and not value.get_secret_value()):
            yield f"# {name}: not set"
        elif not isinstance(value, SecretStr):
            yield option(name, value)
        elif style is Style.WITH_SECRETS:
            yield option(name, value.get_secret_value())
        elif style is Style.WHOLE:
            yield option(name, masked(value))
        else:
            variable = secret.name_of(*section.parts, name)
            yield f"# {name}: name its file here, or give it by the variable or the credential {variable}"
            yield f'#{name}_file = "/etc/mailferry/secrets/{variable}"'
