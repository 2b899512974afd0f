"""The configuration of a service: feeds of both kinds from one file or several, one database, one data folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from mailferry.config import env, ini, toml
from mailferry.config.alert_settings import AlertSettings
from mailferry.config.build import build
from mailferry.config.database import DatabaseSettings
from mailferry.config.env import SYSTEM_FILE
from mailferry.config.event_feeds import shared_files
from mailferry.config.mailbox_feed import account_of
from mailferry.config.page_settings import PageSettings
from mailferry.config.service_settings import ServiceSettings, systemd_log_dir
from mailferry.config.text import present
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.source import Part, Placed

__all__ = ["Configuration", "DatabaseSettings", "ServiceSettings", "default_paths", "read"]

_Apart = TypeVar("_Apart", PageSettings, AlertSettings)

#: Where a configuration is looked for: the files that exist of the first group that has any.
PLACES = (
    (Path("mailferry.toml"),),
    (Path("uzmanposta.ini"), Path("config.env")),
    (Path("/etc/mailferry/mailferry.toml"),),
    (Path("/etc/mailferry/uzmanposta.ini"), SYSTEM_FILE),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """All that a service needs to know. Feeds are in the files' order; their names differ."""

    service: ServiceSettings
    #: The one database of the service and of every feed.
    database: DatabaseSettings
    page: PageSettings
    alerts: AlertSettings
    events: tuple[EventFeed, ...]
    mailboxes: tuple[MailboxFeed, ...]
    #: Things that were understood, but perhaps not as they were meant.
    warnings: tuple[str, ...]
    #: The files that were read, absolute; none where it is all in the environment.
    paths: tuple[Path, ...]


def read(paths: Sequence[Path | None] = (), environ: Mapping[str, str] | None = None) -> Configuration:
    """The configuration of these files: `.toml`, `.ini`, any other is of variables. Without any: of those in PLACES.

    None in place of a file is the environment alone. Relative paths in a file count from its folder. Secrets are hidden from logs from here on.

    Raises:
        ConfigError: with every fault of every file.
    """
    environ = os.environ if environ is None else environ
    found = list(dict.fromkeys(path.absolute() for path in paths or default_paths() if path))
    if not found and not paths and not any(environ.get(name) for name in ("EMAIL_USERNAME", "EMAIL_MAILDIR")):
        places = ", ".join(str(path) for group in PLACES for path in group)
        raise ConfigError(
            [f"no configuration is there (looked for {places}); make one, or name it by --config PATH"]
        )
    parts, faults = _parts(found, environ)
    for part in parts:
        faults += [fault for _, fault in part.faults]
    service = _service(parts, environ, faults)
    database = _database(parts, service, environ, faults)
    apart = list(parts)
    if all(_suffix(part.path) == ".ini" for part in parts):
        # INI files have no such tables: there the environment has.
        apart.append(_apart_of_environment(environ, faults))
    page = _one_of([(part.path, part.page) for part in apart], "page", faults) or PageSettings()
    alerts = _one_of([(part.path, part.alerts) for part in apart], "alerts", faults) or AlertSettings()
    mailboxes = [
        (place, feed.model_copy(update={"database": database}))
        for part in parts
        for place, feed in part.mailboxes
    ]
    events = [one for part in parts for one in part.events]
    faults += [
        *_names(events, mailboxes),
        *(fault for _, fault in shared_files(events)),
        *_shared_mailboxes(mailboxes),
    ]
    if not faults and not events and not mailboxes:
        faults.append(f"{', '.join(map(str, found))}: no feed in it; add one")
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return Configuration(
        service=service,
        database=database,
        page=page,
        alerts=alerts,
        events=tuple(feed for _, feed in events),
        mailboxes=tuple(feed for _, feed in mailboxes),
        warnings=tuple(
            dict.fromkeys(
                [
                    *(warning for part in parts for warning in (*part.warnings, part.exposed) if warning),
                    *_spellings(mailboxes),
                ]
            )
        ),
        paths=tuple(found),
    )


def default_paths(places: Iterable[tuple[Path, ...]] = PLACES) -> tuple[Path, ...]:
    """The files of the first group in PLACES that has any; none where there is no file at all."""
    for group in places:
        if there := tuple(path for path in group if present(path)):
            return there
    return ()


def _parts(paths: list[Path], environ: Mapping[str, str]) -> tuple[list[Part], list[str]]:
    """What each file says, and the faults of those that cannot be read at all."""
    parts, faults = [], []
    feeds = any(_suffix(path) for path in paths)
    sources: list[Path | None] = [*paths] or [None]
    for path in sources:
        try:
            if path and _suffix(path) == ".toml":
                source = toml.read(path)
            elif path and _suffix(path) == ".ini":
                source = ini.read(path)
            else:
                source = env.read(path, environ, needs_mailbox=not feeds)
        except ConfigError as error:
            faults += error.faults
        else:
            parts.append(build(source, environ))
    return parts, faults


def _suffix(path: Path | None) -> str:
    """Which format a file has, an example's too: ".toml", ".ini", or "" for variables."""
    suffix = Path(path.name.lower().removesuffix(".example")).suffix if path else ""
    return suffix if suffix in (".toml", ".ini") else ""


def _service(parts: list[Part], environ: Mapping[str, str], faults: list[str]) -> ServiceSettings:
    """The options of all files together; two must not say different things. The environment wins."""
    own = _everywhere(environ)
    faults += [fault for _, fault in own.faults]
    values: dict[str, Any] = {}
    said_by: dict[str, Path | None] = {}
    for part in parts:
        for option, value in part.service.items():
            if option in own.service:
                continue
            if values.setdefault(option, value) != value:
                faults.append(
                    f"{part.path}: {option} is {value} here, but {values[option]} in {said_by[option]}; keep one"
                )
            said_by.setdefault(option, part.path)
    usual = {"log_dir": systemd_log_dir(environ), "data_dir": _data_dir(parts)}
    return ServiceSettings(**usual | values | own.service)


def of_environment(environ: Mapping[str, str], data_dir: Path) -> tuple[ServiceSettings, list[str]]:
    """The settings that no file makes, as far as they can be used; and the faults of the rest."""
    own = _everywhere(environ)
    usual = {"log_dir": systemd_log_dir(environ), "data_dir": data_dir}
    return ServiceSettings(**usual | own.service), [fault for _, fault in own.faults]


def _everywhere(environ: Mapping[str, str]) -> Part:
    # None of these is a secret.
    return build(env.environment(environ, lambda setting: setting.everywhere), {})


def _data_dir(parts: list[Part]) -> Path:
    """Of a `mailferry.toml`, else of a `config.env`, else the INI file's folder: the first that chooses one."""
    rank = {".toml": 0, "": 1, ".ini": 2}
    choosing = [part for part in parts if part.data_dir is not None]
    ranked = sorted(choosing, key=lambda part: rank[_suffix(part.path)])
    return (ranked and ranked[0].data_dir) or Path.cwd()


def _database(
    parts: list[Part], service: ServiceSettings, environ: Mapping[str, str], faults: list[str]
) -> DatabaseSettings:
    """The one that a file names; beside INI files alone, the environment's; else the private one."""
    named = [
        (part.path, part.database)
        for part in parts
        if part.database and not (part.database.private and _suffix(part.path) == "")
    ]
    for path, database in named[1:]:
        if _identity(database) != _identity(named[0][1]):
            faults.append(
                f"{path}: names another database than {named[0][0]}: a service has one for all feeds; keep one of the two"
            )
    # Variables may say how to use the private one.
    named = named or [(part.path, part.database) for part in parts if part.database]
    if named:
        return named[0][1].model_copy(update={"data_dir": service.data_dir})
    if parts and all(_suffix(part.path) == ".ini" for part in parts):
        try:
            return database_of_environment(environ, service.data_dir)
        except ConfigError as error:
            faults += error.faults
    return DatabaseSettings(data_dir=service.data_dir)


def database_of_environment(environ: Mapping[str, str], data_dir: Path) -> DatabaseSettings:
    """The database that the environment's DB_ variables name; without any, the private one in `data_dir`.

    Raises:
        ConfigError: with every fault of them.
    """
    of_database = DatabaseSettings.declared().values()
    part = build(env.environment(environ, lambda setting: setting in of_database), environ)
    if part.faults:
        raise ConfigError([fault for _, fault in part.faults])
    return (part.database or DatabaseSettings(data_dir=data_dir)).model_copy(update={"data_dir": data_dir})


def alerts_of_environment(environ: Mapping[str, str]) -> tuple[AlertSettings, list[str]]:
    """The alerts that the environment sets up, for feeds of an INI file; and the faults of what cannot be used."""
    faults: list[str] = []
    own = _apart_of_environment(environ, faults)
    return own.alerts or AlertSettings(), faults


def _apart_of_environment(environ: Mapping[str, str], faults: list[str]) -> Part:
    wanted = [*PageSettings.declared().values(), *AlertSettings.declared().values()]
    own = build(env.environment(environ, lambda setting: setting in wanted), environ)
    faults += [fault for _, fault in own.faults]
    return own


def _one_of(named: list[tuple[Path | None, _Apart | None]], what: str, faults: list[str]) -> _Apart | None:
    """The page's or the alerts' settings, of whichever file has them; a fault where two files differ."""
    found = [(path, one) for path, one in named if one is not None]
    for path, one in found[1:]:
        if one != found[0][1]:
            faults.append(
                f"{path}: its settings of the {what} differ from those of {found[0][0]}; keep one of the two"
            )
    return found[0][1] if found else None


def _identity(database: DatabaseSettings) -> tuple[str, int, str, str]:
    """Host, port, database and user: what makes two settings mean one database."""
    if database.url is None:
        return database.host, database.port, database.name, database.user
    text = database.url.get_secret_value()
    try:
        url = urlsplit(text)
    except ValueError:
        return text, 0, "", ""
    place = url.netloc.rpartition("@")[2]
    host, _, port = place.rpartition(":") if place.rpartition(":")[2].isdecimal() else (place, "", "")
    return host, int(port or 5432), unquote(url.path[1:]), unquote(url.username or "")


def _names(events: list[tuple[Placed, EventFeed]], mailboxes: list[tuple[Placed, MailboxFeed]]) -> list[str]:
    """A feed's name is its key in locks, in the queue and in the database."""
    owner: dict[str, Placed] = {}
    faults = []
    named = [(place, feed.section) for place, feed in events] + [
        (place, feed.name) for place, feed in mailboxes
    ]
    for place, name in named:
        other = owner.setdefault(name, place)
        if other is not place:
            faults.append(
                f"{place}: {other.other} is called {name!r} as well; give one of the two feeds another name"
            )
    return faults


def _spellings(mailboxes: list[tuple[Placed, MailboxFeed]]) -> list[str]:
    """Tables that are one, most likely, though feeds write them differently: their jobs are not kept in one order."""
    owner: dict[str, tuple[Placed, str]] = {}
    warnings = []
    for place, feed in mailboxes:
        bare = feed.target_table.replace('"', "").lower().removeprefix("public.")
        other, spelled = owner.setdefault(bare, (place, feed.target_table))
        if spelled != feed.target_table:
            warnings.append(
                f"{place}: target_table: {feed.target_table} may be the table that {other.other} writes {spelled}; "
                "only where both write it alike are its files loaded in the order of arrival"
            )
    return warnings


def _shared_mailboxes(mailboxes: list[tuple[Placed, MailboxFeed]]) -> list[str]:
    """Two feeds that would load the same messages into the same table, or work in the same folders."""
    faults = []
    owner: dict[tuple[str, ...], Placed] = {}
    for place, feed in mailboxes:
        source = (account_of(feed.mailbox), feed.mailbox.folder, feed.target_table)
        other = owner.setdefault(source, place)
        if other is not place:
            faults.append(
                f"{place}: loads folder {feed.mailbox.folder} of {source[0]} into {feed.target_table}, as {other.other} does; "
                "join the two, or give one another folder or table"
            )
        other = owner.setdefault((str(feed.base_dir),), place)
        if other is not place:
            faults.append(
                f"{place}: base_dir: {other.other} works in {feed.base_dir} as well; give each feed its own"
            )
    return faults
