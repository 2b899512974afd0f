"""What is known of feeds, mailboxes, jobs and workers at one moment. Values only; all times are aware."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from mailferry.events.windows import Gap
    from mailferry.mailbox.ledger.jobs import Refusal, Statistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """One thing that a person has to look at."""

    #: The same for as long as it is the same thing: "job:12", "feed:NAME:run", "gap:FEED:START:KIND".
    key: str
    #: "job", "rows", "gap", "failing", "blocked", "behind", "silent", "missing", "disk", "workers", "configuration" or "database".
    kind: str
    #: What it is about, for a headline.
    subject: str
    #: What is wrong.
    reason: str
    #: What to do.
    advice: str
    #: Since when, where that is known.
    since: datetime | None = None
    #: "" where it is about none.
    feed: str = ""
    job_id: int | None = None
    #: Only this host can see it: its disks, its checkpoints, its way to the database.
    local: bool = False


@dataclass(kw_only=True, slots=True)
class FeedStatus:
    """One feed. None is not known."""

    name: str
    #: "events" or "mailbox".
    kind: str
    schedule: str
    #: The host that it is bound to, "" for any.
    host: str = ""
    #: "new", "running", or how the last run ended: completed, stopped, skipped, failed, blocked, cut off. "unknown" where
    #: the database cannot be asked.
    state: str = "new"
    #: What is wrong, in one line.
    error: str = ""
    #: Something is wrong that a person should look at.
    unhealthy: bool = False
    runner: str = ""
    last_run: datetime | None = None
    last_good: datetime | None = None
    next_run: datetime | None = None
    #: How the last run that has ended did, and its error; "" before any.
    ended: str = ""
    run_error: str = ""
    #: Runs in a row that failed by a passing fault; the service repeats the first of them within seconds.
    failures: int = 0
    #: It has been due for minutes, and no worker runs it.
    overdue: bool = False
    #: It should have succeeded twice since `last_good`.
    silent: bool = False
    #: Events written, or rows read, of each of the last 24 hours of the clock, the oldest first; [] where that is not known.
    hours: list[int] = field(default_factory=list)
    # Event feeds
    position: datetime | None = None
    lag_seconds: int | None = None
    #: Written since the feed began.
    events: int = 0
    gaps: int = 0
    #: Gaps that were neither filled nor acknowledged: their number, and each.
    open_gaps: int = 0
    gap_list: list[Gap] = field(default_factory=list)
    #: All that were ever found, by kind.
    gap_kinds: dict[str, int] = field(default_factory=dict)
    late: int = 0
    #: What is odd about events since the feed began: without_time, changed, details_missing, unreadable.
    counts: dict[str, int] = field(default_factory=dict)
    #: A warning where the provider may soon have lost what is not collected yet.
    behind: str = ""
    #: Its gaps are on record on this host alone.
    local: bool = False
    #: Why the checkpoint on this host cannot be used.
    checkpoint_error: str = ""
    #: Time up to which every hour was listed again after the last of the delays of `audit`.
    audited_to: datetime | None = None
    #: Since when it is on record which time was listed.
    covered_from: datetime | None = None
    #: Events written that were found to be there no longer.
    missing: int = 0
    # Mailbox feeds
    #: "watching", "polling", "unreachable" and the like; "" where no worker watches it.
    watch: str = ""
    last_answer: datetime | None = None
    watch_error: str = ""
    statistics: Statistics | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """A file system of this host that is written to."""

    path: str
    #: Bytes.
    free: int
    total: int
    #: Below so many bytes feeds that write there wait.
    floor: int = 0


@dataclass(kw_only=True, slots=True)
class Status:
    """Everything, as far as it can be known."""

    at: datetime
    #: The host that was asked.
    host: str
    feeds: list[FeedStatus]
    #: host, pid, version, started_at, heartbeat_at, alive, running, reload_error.
    workers: list[dict[str, Any]] = field(default_factory=list)
    #: Jobs of the queue by queue and state.
    queue: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Sums of all feeds that only grow, by metric and label, as in `mailferry.totals`: rows by what became of them; durations
    #: by the upper bound of their bucket, and their sum, in seconds.
    totals: dict[str, dict[str, float]] = field(default_factory=dict)
    #: Refused jobs, the oldest first, and how many more there are.
    refusals: list[Refusal] = field(default_factory=list)
    more_refusals: int = 0
    disks: list[Disk] = field(default_factory=list)
    #: Why the database could not be asked.
    database_error: str = ""
    #: What a person has to look at, see `needs.py`.
    needs: list[Need] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Nothing needs a person."""
        return not self.needs
