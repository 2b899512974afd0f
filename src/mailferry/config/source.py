"""What a reader of one format hands to `build.py`: options as they were found, and what no option can be made of."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mailferry.config.alert_settings import AlertSettings
    from mailferry.config.database import DatabaseSettings
    from mailferry.config.event_feed import EventFeed
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.page_settings import PageSettings
    from mailferry.config.tables import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """One option, as a file or the environment has it."""

    place: Place
    #: Its name there; "" says only that the table is there.
    option: str
    #: Text, or in TOML a value of its own type.
    value: Any
    #: As faults begin: "/etc/x/config.env, line 3: EMAIL_PORT".
    label: str
    #: As faults show the value behind the label: "=993", ' = "x"'.
    shown: str = ""
    #: The environment's are not.
    in_file: bool = True


@dataclass(kw_only=True)
class Source:
    """One file, or the environment alone."""

    path: Path | None
    #: Name of the section of a place; "" where the file is one feed as a whole.
    section: Callable[[Place], str]
    #: Values have types of their own; else all are text, and an empty one counts as not given.
    typed: bool = False
    #: Options are variables.
    variables: bool = False
    #: Variables are those of a mailbox feed.
    has_mailbox: bool = True
    #: Where data goes that is placed nowhere else, unless the file says so.
    data_dir: Path
    given: list[Given] = field(default_factory=list)
    #: What cannot be used, by the place to which it belongs; () for the file as a whole.
    faults: list[tuple[Place, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where relative paths count from. Absolute."""
        return self.path.parent if self.path else Path.cwd()

    def label(self, place: Place, option: str) -> str:
        """As faults about an option begin."""
        return f"{self.about(place)}{option}"

    def about(self, place: Place) -> str:
        """As faults about a table as a whole begin."""
        file = str(self.path) if self.path else "environment (no file was read)"
        section = self.section(place)
        return f"{file}: [{section}] " if section else f"{file}: "

    def fault(self, place: Place, text: str) -> None:
        """Note what is wrong, where, and what would be right."""
        self.faults.append((place, text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A feed, and where it stands."""

    path: Path | None
    #: Table or section; "" where the file is one feed as a whole.
    table: str

    def __str__(self) -> str:
        """As faults begin: "/etc/mailferry/mailferry.toml: [events.example]"."""
        return f"{self._file}: [{self.table}]" if self.table else self._file

    @property
    def other(self) -> str:
        """As other feeds' faults name it."""
        return f"[{self.table}] of {self._file}" if self.table else self._file

    @property
    def _file(self) -> str:
        return str(self.path or "environment")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file's feeds and settings; `faults` says what of it cannot be used."""

    path: Path | None
    #: Options of `ServiceSettings` that the file sets and that can be used.
    service: dict[str, Any]
    #: Where data goes that is placed nowhere else; None where the file does not decide that.
    data_dir: Path | None
    #: None where the file has no settings of a database.
    database: DatabaseSettings | None
    #: None where the file has none.
    page: PageSettings | None
    #: None where the file has none.
    alerts: AlertSettings | None
    events: tuple[tuple[Placed, EventFeed], ...]
    mailboxes: tuple[tuple[Placed, MailboxFeed], ...]
    #: By section; "" for those of the file as a whole.
    faults: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    #: What to do about a file with secrets that every user can read; "" where none can.
    exposed: str


def unknown(
    name: str,
    known: Iterable[str],
    what: str = "unknown option",
    *,
    cutoff: float = 0.6,
    else_: str = "take it out",
) -> str:
    """The message for an unknown name."""
    close = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f"{what}; {f'did you mean {close[0]}?' if close else else_}"
