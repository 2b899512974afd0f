"""The values of the ledger: jobs, their files, and what became of each. All times are aware."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from mailferry.errors import Retry
from mailferry.mailbox.source.message import MessageRef
from mailferry.mailbox.workbook.values import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from mailferry.mailbox.source.message import PartOutcome
    from mailferry.mailbox.target.table import Target
    from mailferry.mailbox.workbook.values import Kind, RejectedRow


class JobState(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FileState(StrEnum):
    PENDING = "pending"
    LOADED = "loaded"
    DUPLICATE = "duplicate"
    UNDONE = "undone"  # it was loaded, and a person has put back what it changed
    REJECTED = "rejected"  # it will never load
    FAILED = "failed"  # what kept it from loading did not pass in time


class ClaimLost(Retry):
    """Another worker has claimed this job, or a user has cancelled it; nothing of this attempt may be committed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One message of one feed. All times are aware."""

    id: int
    feed: str
    ref: MessageRef
    header_sha256: str
    message_id: str
    subject: str
    sender: str
    received: datetime
    #: The table's name as the feed's configuration has it.
    target: str
    state: JobState
    #: Attempts begun, the one in progress included.
    attempts: int
    next_attempt_at: datetime
    #: `host:pid` or the like of the worker that claimed it last.
    runner: str | None
    recorded_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: When the message was marked in the mailbox.
    marked_at: datetime | None
    #: How it was last marked: "completed" or "failed"; it stays so while the job is done again.
    marked_as: str | None
    #: "retry", "reject" or "stop", with the text of the last error.
    error_kind: str | None
    error: str | None
    #: It has ended, and rows of it, a file, or all of it, were refused.
    refused: bool
    #: When a person took note of that, so that it is no longer shown.
    acknowledged_at: datetime | None
    #: Warnings about its files.
    warnings: int
    #: When a person has put back what it changed.
    undone_at: datetime | None = None
    #: A person has asked for it again by itself.
    retried: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From a row of `mailferry.jobs`."""
        ref = MessageRef(**{key: row[key] for key in ("account", "folder", "uidvalidity", "uid")})
        rest = {key: row[key] for key in cls.__dataclass_fields__ if key not in {"ref", "state"}}
        return cls(ref=ref, state=JobState(row["state"]), **rest)

    @property
    def ended(self) -> bool:
        """Whether it has completed or failed, so that its message is to be marked."""
        return self.state in (JobState.COMPLETED, JobState.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A job that needs a person, in short."""

    id: int
    feed: str
    subject: str
    sender: str
    #: Of files that were refused; "" where only rows were.
    error: str
    #: Rows of its loaded files.
    rejected_rows: int
    finished_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One spreadsheet of a job."""

    id: int
    job_id: int
    section: str
    member: str
    #: Of a file that several routes of the feed load, the number of this one; 0 is the first of them, and the file itself.
    route: int
    name: str
    path: str
    #: Where the attachment is that it lay in; "" where it is the attachment itself.
    original: str
    kind: Kind
    size: int
    sha256: str
    content_sha256: str | None
    state: FileState
    #: `schema.table` as found; None before it is finished.
    target: str | None
    duplicate_of: int | None
    counts: Counts
    error: str | None
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOutcome:
    """What became of a file, for the ledger."""

    state: FileState
    #: The table that holds its rows, whether it was loaded or is a duplicate.
    target: Target | None = None
    counts: Counts = field(default_factory=Counts)
    content_sha256: str | None = None
    duplicate_of: int | None = None
    error: str | None = None
    #: Stored as they come, however many.
    rejected: Iterable[RejectedRow] = ()
    #: Whether what it changed is on record.
    history: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The right to work on a job, until the lease runs out or another worker claims it."""

    job: Job
    #: The fencing token: who holds an older one can commit nothing.
    fence: int

    @property
    def fencing(self) -> dict[str, int]:
        """Job and token, for a statement that asks for both."""
        return {"id": self.job.id, "fence": self.fence}


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """All about one job."""

    job: Job
    files: tuple[File, ...]
    #: Parts of the message that were not taken.
    skipped: tuple[PartOutcome, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Finished jobs of a span of time, and their rows."""

    completed: int = 0
    failed: int = 0
    files: int = 0
    #: Files rejected or failed.
    errors: int = 0
    rows_read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    #: About the files.
    warnings: int = 0
    #: Mean time from the start of the last attempt to the end, or None without any job.
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """`week` begins on Monday; both begin at midnight of the time zone asked for."""

    today: Tally
    week: Tally
    #: Jobs that were refused, of all time, and that no person has acted on.
    refused: int
    #: Number of jobs by state, of all time.
    states: dict[JobState, int] = field(default_factory=dict)
