"""The event feeds of one file, as `mailferry collect` chooses among them."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mailferry.config import ini
from mailferry.config.build import build
from mailferry.config.event_feed import names_of
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mailferry.config.alert_settings import AlertSettings
    from mailferry.config.database import DatabaseSettings
    from mailferry.config.event_feed import EventFeed
    from mailferry.config.service_settings import ServiceSettings
    from mailferry.config.source import Placed

#: Formats of file names, the data's first; and a time for which they are compared.
_NAMES = ("log_file_name_format", "message_log_file_name", "error_log_file_name")
_SAMPLE = datetime(2026, 1, 31, 14, 15, 16, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFeeds:
    """The event feeds of a file by full section name, and the faults of those that cannot be used."""

    path: Path
    #: "MailLogger:example" -> feed, in the file's order; None where the section has faults.
    feeds: dict[str, EventFeed | None]
    #: Faults by full section name; "" for those of the file as a whole.
    faults: dict[str, list[str]]
    #: Things that were understood, but perhaps not as they were meant.
    warnings: tuple[str, ...]
    #: The database of all feeds that write into a table; None where the file names none.
    database: DatabaseSettings | None = None
    #: None where the file has no such settings: the environment alone says how to log.
    service: ServiceSettings | None = None
    #: None where the file can have no such settings: the environment alone sets them up.
    alerts: AlertSettings | None = None

    def choose(self, section: str | None, *, every: bool) -> list[EventFeed]:
        """The feeds to run: all that have no faults, the named one, or the only one.

        Raises:
            ConfigError: nothing fits, more than one does, or what fits has faults (with all of them).
        """
        names = list(self.feeds)
        if section is not None:
            full = section if section in self.feeds else f"{ini.PREFIX}:{section}"
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
                f"{self.path}: no event feed in it; add [{ini.PREFIX}:<name>] (in a mailferry.toml [events.<name>]) with api_key and domain"
            ]
        if faults:
            raise ConfigError(faults)
        return sound


def read(path: Path, environ: Mapping[str, str] | None = None) -> EventFeeds:
    """Read an INI file. API keys may come from elsewhere, see `secret.py`.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    source = ini.read(path)
    part = build(source, os.environ if environ is None else environ)
    sections = [
        source.section(one.place) for one in source.given if one.place[0] == "events" and not one.option
    ]
    feeds: dict[str, EventFeed | None] = dict.fromkeys(sections)
    faults: dict[str, list[str]] = {}
    for section, fault in part.faults:
        faults.setdefault(section if section in feeds else "", []).append(fault)
    feeds |= {placed.table: feed for placed, feed in part.events}
    for placed, fault in shared_files(part.events):
        faults.setdefault(placed.table, []).append(fault)
        feeds[placed.table] = None
    return EventFeeds(
        path=source.folder / path.name,
        feeds=feeds,
        faults=faults,
        warnings=part.warnings,
        database=part.database,
    )


def shared_files(events: Sequence[tuple[Placed, EventFeed]]) -> list[tuple[Placed, str]]:
    """Feeds that would write one file, each with its fault: neither could then say what is in it."""
    faults = []
    owner: dict[tuple[str, str], Placed] = {}
    for placed, feed in events:
        if feed.destination == "table":
            continue
        data_file = str(feed.folder / feed.fill(feed.log_file_name_format))
        into_one = "put {section} into one of them, or give it its own log_directory"
        remedy = "put {section} into the name"
        for option, value, what_to_do in (
            ("log_file_name_format", data_file, into_one),
            ("position_file", str(feed.position_file), remedy),
            ("lock_file_path", str(feed.lock_file_path), remedy),
            ("heartbeat_file", str(feed.heartbeat_file), remedy),
        ):
            other = owner.setdefault((option, value), placed)
            if other is not placed:
                what = f"writes the same file as [{other.table}] ({value}); {what_to_do}"
                faults.append((placed, f"{placed} {option}: {what}"))
    return faults + _alike(events)


def _alike(events: Sequence[tuple[Placed, EventFeed]]) -> list[tuple[Placed, str]]:
    """Names that one file could have from two formats: retention of the one would delete the other."""
    # Only names that are alike but for their digits and letters' lengths can be meant: feeds may be a thousand.
    buckets: dict[tuple[Path, str], list[_Named]] = {}
    for placed, feed in events:
        if feed.destination == "files":
            for option in _NAMES:
                named = _Named.of(placed, option, feed.fill(getattr(feed, option)))
                buckets.setdefault((feed.folder, named.shape), []).append(named)
    faults = []
    for bucket in buckets.values():
        for at, one in enumerate(bucket):
            for other in bucket[:at]:
                if one.option == other.option != _NAMES[0]:
                    continue  # feeds of one folder may share their message and error logs
                if one.pattern.fullmatch(other.sample) or other.pattern.fullmatch(one.sample):
                    what = (
                        f"{one.option}: its names are also those of {other.option} of [{other.placed.table}]"
                    )
                    faults.append((one.placed, f"{one.placed} {what}; give them another beginning"))
    return faults


class _Named(NamedTuple):
    """The names that an option's format makes."""

    placed: Placed
    option: str
    pattern: re.Pattern[str]
    sample: str
    #: The sample without digits and with one letter for a word.
    shape: str

    @classmethod
    def of(cls, placed: Placed, option: str, format_: str) -> _Named:
        sample = _SAMPLE.strftime(format_)
        shape = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d", "0", sample))
        return cls(placed, option, names_of(format_), sample, shape)
