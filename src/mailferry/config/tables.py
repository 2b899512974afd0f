"""The tables of `mailferry.toml` and their options: what the reader takes, the writer writes and the schema describes."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

from mailferry.config.database import DatabaseSettings
from mailferry.config.event_feed import EventFeed
from mailferry.config.mailbox import MailboxSettings, OAuthSettings
from mailferry.config.mailbox_feed import MailboxFeed
from mailferry.config.part import ServiceSettings
from mailferry.config.spreadsheet import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Options of one table that fill fields of one model; each is called as its field."""

    model: type[BaseModel | Limits]
    #: In the order in which they are written.
    options: tuple[str, ...]

    @property
    def secrets(self) -> tuple[str, ...]:
        """Options that may also be given as `<option>_file`."""
        return self._of_type(SecretStr)

    @property
    def paths(self) -> tuple[str, ...]:
        return self._of_type(Path)

    @property
    def keys(self) -> tuple[str, ...]:
        """All that may stand in the table."""
        return (*self.options, *(f"{option}_file" for option in self.secrets))

    def default(self, option: str) -> Any:
        """None where there is none, or where it depends on others."""
        if issubclass(self.model, BaseModel):
            field = self.model.model_fields[option]
            return None if field.is_required() else field.default
        return getattr(Limits(), option)

    def _of_type(self, wanted: type) -> tuple[str, ...]:
        if not issubclass(self.model, BaseModel):
            return ()
        fields = self.model.model_fields
        return tuple(
            option
            for option in self.options
            if wanted in (fields[option].annotation, *get_args(fields[option].annotation))
        )


def _fields(model: type[BaseModel], *, without: Iterable[str] = ()) -> tuple[str, ...]:
    return tuple(name for name in model.model_fields if name not in without)


SERVICE = Table(model=ServiceSettings, options=_fields(ServiceSettings))
DATABASE = Table(model=DatabaseSettings, options=_fields(DatabaseSettings, without=("data_dir",)))
EVENTS = Table(model=EventFeed, options=_fields(EventFeed, without=("section",)))
#: A mailbox feed's own table has options of two models.
MAILBOX = Table(
    model=MailboxFeed,
    options=_fields(
        MailboxFeed, without=("name", "mailbox", "database", "limits", "max_concurrent_jobs", "log_level")
    ),
)
_IMAP = (
    *("host", "port", "username", "password", "ssl", "allow_plaintext", "ca_file", "auth"),
    *("connect_timeout", "read_timeout"),
)
MESSAGES = Table(
    model=MailboxSettings, options=_fields(MailboxSettings, without=("kind", "path", "oauth", *_IMAP))
)
IMAP = Table(model=MailboxSettings, options=_IMAP)
OAUTH = Table(model=OAuthSettings, options=_fields(OAuthSettings))
LIMITS = Table(model=Limits, options=tuple(field.name for field in dataclasses.fields(Limits)))
#: Option of a mailbox feed's table: a Maildir's folder, in place of its `imap` table.
MAILDIR = "maildir"
#: Tables within a mailbox feed's.
WITHIN = {"imap": IMAP, "oauth": OAUTH, "limits": LIMITS}


def event_paths(name: str, data_dir: Path) -> dict[str, Path]:
    """Where an event feed's files are unless it says otherwise; its heartbeat file lies beside the data."""
    return {
        "log_directory": data_dir / "output",
        "position_file": data_dir / "positions" / f"{name}.pos",
        "lock_file_path": data_dir / "locks" / f"{name}.lock",
    }


def base_dir(name: str, data_dir: Path) -> Path:
    """Where a mailbox feed's files are unless it says otherwise; a name may hold what no folder's can."""
    return data_dir / "mailbox" / re.sub(r"^\.+", "_", quote(name, safe=" @+,="))
