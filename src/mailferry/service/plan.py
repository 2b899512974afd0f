"""What one worker may run, of a configuration. Values only."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.config.mailbox import MailboxKind

if TYPE_CHECKING:
    from mailferry.config.event_feed import EventFeed
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.schedule import Schedule
    from mailferry.config.service import Configuration


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A feed as the scheduler sees it."""

    name: str
    #: "events" or "mailbox".
    kind: str
    #: The configured host, "" for none.
    host: str
    #: It works with files of one host, so it stays on the first that ran it where no host is configured.
    bound: bool
    schedule: Schedule


@dataclass(kw_only=True)
class Plan:
    """The feeds of a configuration, from where one host stands."""

    configuration: Configuration
    host: str
    entries: dict[str, Entry] = field(init=False)
    events: dict[str, EventFeed] = field(init=False)
    mailboxes: dict[str, MailboxFeed] = field(init=False)
    #: The host that each feed is bound to, "" for any; as the database has it.
    hosts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        configuration = self.configuration
        self.events = {feed.section: feed for feed in configuration.events}
        self.mailboxes = {feed.name: feed for feed in configuration.mailboxes}
        self.entries = {
            name: _entry(name, "events", feed, of_one_host=feed.destination == "files")
            for name, feed in self.events.items()
        } | {
            name: _entry(name, "mailbox", feed, of_one_host=feed.mailbox.kind is MailboxKind.MAILDIR)
            for name, feed in self.mailboxes.items()
        }

    @property
    def source(self) -> Path:
        """Where the configuration comes from, for messages."""
        paths = self.configuration.paths
        return paths[0] if len(paths) == 1 else Path("configuration")

    def here(self, name: str) -> bool:
        """Whether this host may run the feed."""
        return self.hosts.get(name) in ("", self.host)

    def mailboxes_here(self) -> list[str]:
        """Mailbox feeds that this host may run."""
        return [name for name in self.mailboxes if self.here(name)]

    def loaders(self, target: str) -> list[str]:
        """Mailbox feeds of a table that this host may run."""
        return [name for name in self.mailboxes_here() if self.mailboxes[name].target_table == target]

    def load_host(self, target: str) -> str:
        """The host that has to load a table's jobs, "" for any."""
        return self.host if any(self.hosts[name] for name in self.loaders(target)) else ""


def host_name(configuration: Configuration) -> str:
    """The name of this host: the configured one, or the machine's."""
    return configuration.service.host or socket.gethostname()


def _entry(name: str, kind: str, feed: EventFeed | MailboxFeed, *, of_one_host: bool) -> Entry:
    bound = bool(feed.host) or of_one_host
    return Entry(name=name, kind=kind, host=feed.host, bound=bound, schedule=feed.due)
