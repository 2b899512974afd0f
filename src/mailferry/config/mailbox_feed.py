"""One mailbox feed: which mailbox, which table, and the rules in between."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mailferry.config.columns import Blanks, ColumnRule, Hidden, Route
from mailferry.config.database import DatabaseSettings  # noqa: TC001 - pydantic reads the annotations
from mailferry.config.mailbox import MailboxKind, MailboxSettings
from mailferry.config.schedule import OptionalScheduleText, Schedule
from mailferry.config.settings import Joined, Line, Name, Settings, setting
from mailferry.config.spreadsheet import ErrorCells, Limits, UnknownColumns


class Order(StrEnum):
    """Which of two messages has the last word on a row."""

    RECEIVED = "received"  # the one that the mailbox received later
    ARRIVAL = "arrival"  # the one that is loaded later


class Absent(StrEnum):
    """What becomes of rows that the latest list does not have."""

    KEEP = "keep"
    MARK = "mark"  # `absent_since` is set
    DELETE = "delete"

    @property
    def done(self) -> str:
        """As in "have them marked"."""
        return {"keep": "kept", "mark": "marked", "delete": "deleted"}[self]


class AbsentScope(StrEnum):
    """Whose messages are one list."""

    SENDER = "sender"
    FEED = "feed"


class MailboxFeed(Settings):
    """Spreadsheets of one mailbox's messages into one table."""

    #: In `mailferry.toml` the name of its table. Two feeds of one database must differ.
    name: Name = setting(meaning="how the ledger calls it", variable="APP_NAME", option="")
    mailbox: MailboxSettings
    database: DatabaseSettings
    limits: Limits = Limits()
    columns: tuple[ColumnRule, ...] = ()
    routes: tuple[Route, ...] = ()
    columns_file: Path | None = setting(
        None,
        "file of TOML with `[columns]` and `[[routes]]`; in `mailferry.toml` they stand in the feed's own table",
        variable="APP_COLUMNS_FILE",
        option="",
    )
    base_dir: Path = setting(
        Path("/var/lib/trackandtrace"),
        "its folders `pending`, `processed` and `failed`",
        variable="APP_BASE_DIR",
    )
    target_table: Name = setting("tracking_data", "`table` or `schema.table`", variable="DB_TARGET_TABLE")
    unique_key: Annotated[str, Field(min_length=1)] = setting(
        "hawb", "its unique key column", variable="DB_UNIQUE_KEY"
    )
    create_table: bool = setting(
        False,
        "make a table that is missing from the first file; else mail for it waits until the table is there",
        variable="DB_CREATE_TABLE",
    )
    sheet: str = setting(
        "", "a worksheet's name, or `all`; empty: the first visible one with the key", variable="FILE_SHEET"
    )
    unknown_columns: UnknownColumns = setting(
        UnknownColumns.IGNORE, "columns that the table does not have", variable="DB_UNKNOWN_COLUMNS"
    )
    header_row: int = setting(
        0,
        "number of the row with the columns' names, of two the upper; 0: the first that has the key's",
        variable="FILE_HEADER_ROW",
        ge=0,
        le=1_048_576,
    )
    header_rows: int = setting(
        1, "rows that the header has; the names of two are joined", variable="FILE_HEADER_ROWS", ge=1, le=2
    )
    skip_after: int = setting(
        0, "rows below the header that hold no data", variable="FILE_SKIP_AFTER", ge=0, le=1_000
    )
    stop_at: Joined = setting(
        "",
        "patterns (`*`), with commas, of what a row begins with that ends the data, such as a total",
        variable="FILE_STOP_AT",
        plural=True,
    )
    hidden: Hidden = setting(Hidden.LOAD, "what becomes of hidden rows and columns", variable="FILE_HIDDEN")
    errors: ErrorCells = setting(
        ErrorCells.REJECT,
        "what becomes of a row with an error cell (`#N/A`) or a formula that was never calculated",
        variable="FILE_ERRORS",
    )
    passwords_file: Path | None = setting(
        None,
        "file of passwords that protected workbooks are opened with, one a line",
        variable="FILE_PASSWORDS",
    )
    key_width: int = setting(
        0, "pad keys of digits with zeros to this width", variable="DB_KEY_WIDTH", ge=0, le=100
    )
    max_rejected: float = setting(
        0.5,
        "a file with a greater share of rejected rows fails as a whole",
        variable="FILE_MAX_REJECTED",
        ge=0,
        le=1,
    )
    order: Order = setting(
        Order.RECEIVED,
        "which of two messages has the last word on a row: the one received later, or the one loaded later",
        variable="FILE_ORDER",
    )
    blanks: Blanks = setting(
        Blanks.NULL,
        "what an empty cell does to the value that the table has: `null` empties it, `keep` leaves it",
        variable="FILE_BLANKS",
    )
    absent: Absent = setting(
        Absent.KEEP,
        "what becomes of rows that a later list of the same sender does not have, for senders who always send all",
        variable="FILE_ABSENT",
    )
    absent_scope: AbsentScope = setting(
        AbsentScope.SENDER,
        "whose messages are one list: each `sender`'s, or all of the `feed`'s",
        variable="FILE_ABSENT_SCOPE",
    )
    max_absent: float = setting(
        0.2,
        "a file is refused when a greater share of the rows that were sent before is absent",
        variable="FILE_MAX_ABSENT",
        ge=0,
        le=1,
    )
    history: bool = setting(
        False,
        "keep on record what loads change in rows: key, old and new values, when, by which job",
        variable="DB_HISTORY",
    )
    schedule_hours: float = setting(
        1, "without `schedule`: hours between two polls", variable="SCHEDULE_INTERVAL_HOURS", gt=0, le=8760
    )
    schedule: OptionalScheduleText = setting("", "when the service polls it", variable="APP_SCHEDULE")
    host: Line = setting(
        "",
        "the only host whose service may run it; empty: any, or of a Maildir the first that did",
        variable="APP_HOST",
    )
    min_free: int | None = setting(
        None,
        "bytes of the disk of `base_dir` that stay free: before that, mail waits in the mailbox; left out: 256 MiB",
        variable="FILE_MIN_FREE",
        ge=0,
    )
    max_day_bytes: int = setting(
        0,
        "bytes of attachments that are taken in between two midnights: more waits in the mailbox; 0: any number",
        variable="FILE_MAX_DAY_BYTES",
        ge=0,
    )
    max_sender_messages: int = setting(
        0,
        "messages of one sender that are taken in between two midnights: more wait in the mailbox; 0: any number",
        variable="FILE_MAX_SENDER_MESSAGES",
        ge=0,
    )
    retention_days: int = setting(
        30,
        "days that processed and failed files are kept; 0: for ever",
        variable="FILE_RETENTION_DAYS",
        ge=0,
        le=36_500,
    )

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
