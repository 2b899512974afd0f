"""One mailbox feed: which mailbox, which table, and the rules in between."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mailferry.config.database import DatabaseSettings  # noqa: TC001 - pydantic reads the annotations
from mailferry.config.mailbox import MailboxKind, MailboxSettings
from mailferry.config.schedule import OptionalScheduleText, Schedule
from mailferry.config.spreadsheet import Limits, UnknownColumns
from mailferry.config.text import one_line

_Text = Annotated[str, Field(min_length=1)]
_Name = Annotated[_Text, AfterValidator(one_line)]


class MailboxFeed(BaseModel):
    """Spreadsheets of one mailbox's messages into one table."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: How the ledger calls it; two feeds of one database must differ.
    name: _Name
    mailbox: MailboxSettings
    database: DatabaseSettings
    #: Holds `pending`, `processed`, `failed`, and the private database where that is used. Absolute.
    base_dir: Path = Path("/var/lib/trackandtrace")
    #: `table` or `schema.table`.
    target_table: _Name = "tracking_data"
    unique_key: _Text = "hawb"
    #: A worksheet's name; "" for the first visible one with the key, "all" for every such.
    sheet: str = ""
    unknown_columns: UnknownColumns = UnknownColumns.IGNORE
    #: Keys of digits alone are padded with zeros to this width; 0 leaves them.
    key_width: int = Field(default=0, ge=0, le=100)
    #: A file with a greater share of rejected rows fails as a whole.
    max_rejected: float = Field(default=0.5, ge=0, le=1)
    #: For the service: jobs of different tables done at the same time.
    max_concurrent_jobs: int = Field(default=1, ge=1, le=64)
    #: Hours from the start of one run to the start of the next.
    schedule_hours: float = Field(default=1, gt=0, le=8760)
    #: In its place, see `config/schedule.py`; "" for the hours.
    schedule: OptionalScheduleText = ""
    #: For the service: the only host that may run this feed; "" for any, or of a Maildir for the first that did.
    host: Annotated[str, AfterValidator(one_line)] = ""
    #: How long processed and failed files are kept; 0 for ever.
    retention_days: int = Field(default=30, ge=0, le=36_500)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$")
    limits: Limits = Limits()

    @property
    def due(self) -> Schedule:
        """When the service runs this feed."""
        if self.schedule:
            return Schedule.parse(self.schedule)
        return Schedule.every(timedelta(hours=self.schedule_hours))


def account_of(mailbox: MailboxSettings) -> str:
    """The account as the mailboxes themselves name it in a `MessageRef`."""
    if mailbox.kind is MailboxKind.MAILDIR:
        assert mailbox.path is not None
        return str(mailbox.path.absolute())
    return f"{mailbox.username}@{mailbox.host}"


def default_name(mailbox: MailboxSettings, target_table: str) -> str:
    """A feed's name where none is given: different as soon as mailbox, folder or table are."""
    return f"{account_of(mailbox)}/{mailbox.folder} to {target_table}"
