"""The state of all feeds, mailboxes, jobs and workers, as `mailferry status` shows it. Nothing is changed by looking."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from mailferry import database
from mailferry.errors import MailferryError
from mailferry.mailbox.ledger import admin
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.config.service import Configuration
    from mailferry.database import Connection
    from mailferry.events.progress import Progress
    from mailferry.mailbox.ledger.jobs import Statistics

#: Seconds past its time from which a feed that has not run counts as neglected.
OVERDUE = 300.0


@dataclass(kw_only=True, slots=True)
class FeedStatus:
    """One feed. Times are aware; None is not known."""

    name: str
    #: "events" or "mailbox".
    kind: str
    schedule: str
    #: The host that it is bound to, "" for any.
    host: str = ""
    #: "new", "running", or how the last run ended: completed, stopped, skipped, failed, blocked, cut off. "unknown" where
    #: the database cannot be asked.
    state: str = "new"
    error: str = ""
    #: Something is wrong that a person should look at.
    unhealthy: bool = False
    runner: str = ""
    last_run: datetime | None = None
    last_good: datetime | None = None
    next_run: datetime | None = None
    # Event feeds
    position: datetime | None = None
    lag_seconds: int | None = None
    gaps: int = 0
    #: Gaps that were neither filled nor acknowledged.
    open_gaps: int = 0
    late: int = 0
    #: What is odd about events since the feed began: without_time, changed, details_missing, unreadable.
    counts: dict[str, int] = field(default_factory=dict)
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


@dataclass(kw_only=True, slots=True)
class Status:
    """Everything, as far as it can be known."""

    feeds: list[FeedStatus]
    #: host, pid, version, started_at, heartbeat_at, alive, running, reload_error.
    workers: list[dict[str, Any]] = field(default_factory=list)
    #: Jobs of the queue by queue and state.
    queue: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Why the database could not be asked.
    database_error: str = ""

    @property
    def healthy(self) -> bool:
        """No feed needs anybody."""
        return not self.database_error and not any(feed.unhealthy for feed in self.feeds)


def look(configuration: Configuration, now: datetime) -> Status:
    """Ask the database, and the checkpoints of this host. `now` is aware; today and this week are by its calendar."""
    feeds = [
        FeedStatus(name=feed.section, kind="events", schedule=feed.due.text) for feed in configuration.events
    ]
    feeds += [
        FeedStatus(name=feed.name, kind="mailbox", schedule=feed.due.text) for feed in configuration.mailboxes
    ]
    status = Status(feeds=feeds)
    if _has_database(configuration):
        try:
            with database.connect(configuration.database) as pool, database.transaction(pool) as conn:
                _ask(conn, status, now, configuration.events)
        except MailferryError as error:
            status.database_error = mask(str(error))
            for unasked in feeds:
                unasked.state = "unknown"
    by_name = {feed.name: feed for feed in feeds}
    for feed in configuration.events:
        if feed.destination == "files":
            _read_checkpoint(feed, by_name[feed.section], now)
        _warn(feed, by_name[feed.section], now)
    return status


def _has_database(configuration: Configuration) -> bool:
    """A private server that was never made is not made for this, unless feeds cannot do without."""
    settings = configuration.database
    if not settings.private or configuration.mailboxes:
        return True
    assert settings.data_dir
    return (settings.data_dir / "postgres" / "data").is_dir()


def _ask(conn: Connection, status: Status, now: datetime, events: Sequence[EventFeed]) -> None:
    from mailferry.events.table import progress_of

    queries = database.queries("status")
    by_name = {feed.name: feed for feed in status.feeds}
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(queries["feeds"], {"names": list(by_name)}).fetchall():
            _fill(by_name[row["name"]], row, now)
        configured = {feed.section: feed for feed in events}
        for row in cursor.execute(queries["progress"], {"names": list(configured)}).fetchall():
            _reached(by_name[row["feed"]], progress_of(row), configured[row["feed"]], now)
        status.workers = cursor.execute(queries["workers"]).fetchall()
    if conn.execute(queries["has_queue"]).fetchone() == (True,):
        for name, state, count in conn.execute(queries["queue"]).fetchall():
            status.queue.setdefault(name, {})[state] = count
    for feed in status.feeds:
        if feed.kind == "mailbox":
            feed.statistics = admin.statistics(conn, now, feed.name)
            feed.unhealthy |= feed.statistics.refused > 0


def _fill(feed: FeedStatus, row: dict[str, Any], now: datetime) -> None:
    feed.host = row["host"]
    feed.state = "running" if row["running"] else row["status"] or "new"
    feed.error = mask(row["error"] or "")
    feed.runner = row["runner"] or ""
    feed.last_run, feed.last_good, feed.next_run = row["started_at"], row["last_good_at"], row["next_run_at"]
    feed.gaps, feed.late = row["gaps"], row["late"]
    if row["position"] is not None:
        _position(feed, row["position"], now)
    feed.watch = row["watch_state"] or ""
    feed.last_answer = max(filter(None, (row["watch_good_at"], row["last_good_at"])), default=None)
    feed.watch_error = mask(row["watch_error"] or "")
    neglected = row["overdue"] > OVERDUE
    if neglected and not feed.error:
        where = f" of host {feed.host}" if feed.host else ""
        feed.error = f"due since {row['next_run_at'].astimezone():%Y-%m-%d %H:%M}: no worker{where} runs it"
    feed.unhealthy = neglected or row["status"] in ("failed", "blocked", "cut off")


def _position(feed: FeedStatus, seconds: int, now: datetime) -> None:
    feed.position = datetime.fromtimestamp(seconds, UTC)
    feed.lag_seconds = max(0, round(now.timestamp() - seconds))


def _reached(feed: FeedStatus, progress: Progress, configured: EventFeed, now: datetime) -> None:
    """How far a feed got by its destination's own word, run by the service or by cron."""
    _position(feed, progress.position, now)
    feed.gaps, feed.late, feed.open_gaps = progress.gap_count, progress.late, len(progress.open_gaps)
    feed.counts = progress.counts
    coverage = progress.coverage
    feed.missing = coverage.missing
    if coverage.spans:
        feed.covered_from = datetime.fromtimestamp(coverage.spans[0].start, UTC)
    audited_to = coverage.audited_to(configured.audit_delays[-1]) if configured.audit_delays else None
    if audited_to is not None:
        feed.audited_to = datetime.fromtimestamp(audited_to, UTC)
    troubles = [feed.error]
    if feed.open_gaps:
        troubles.append(f"{feed.open_gaps:,} open gaps: mailferry gaps list {feed.name}")
    if feed.missing:
        troubles.append(f"{feed.missing:,} events written are no longer there: mailferry verify {feed.name}")
    feed.unhealthy = feed.unhealthy or len(troubles) > 1
    feed.error = "; ".join(filter(None, troubles))
    if feed.state in ("new", "unknown"):
        feed.state = "completed"


def _read_checkpoint(feed: EventFeed, status: FeedStatus, now: datetime) -> None:
    """Of files on this host the checkpoint itself is the newest word."""
    from mailferry.events import checkpoint

    try:
        found = checkpoint.load(feed.position_file)
    except MailferryError as error:
        status.error, status.unhealthy = mask(str(error)), True
        return
    if found:
        _reached(status, found.progress, feed, now)


def _warn(feed: EventFeed, status: FeedStatus, now: datetime) -> None:
    """Time that the provider may soon have lost."""
    from mailferry.events.progress import falls_behind

    if status.position:
        warning = falls_behind(status.position.timestamp(), now.timestamp(), feed.keeps)
        if warning:
            status.error, status.unhealthy = "; ".join(filter(None, (status.error, warning))), True


# For people and for programs


def as_plain(status: Status) -> dict[str, Any]:
    """For JSON; see docs/reference/json.md."""
    plain = dataclasses.asdict(status)
    plain["healthy"] = status.healthy
    return plain


def as_text(status: Status) -> str:
    """A block a feed, then the workers and the queue."""
    lines = [line for feed in status.feeds for line in _feed_lines(feed)]
    if status.database_error:
        # Of workers nothing is known then.
        lines += ["", f"database    {status.database_error}"]
    else:
        alive = [worker for worker in status.workers if worker["alive"]]
        lines += ["", f"workers     {len(alive)} alive"]
    for worker in status.workers:
        state = "" if worker["alive"] else f", not heard of since {_time(worker['heartbeat_at'])}"
        work = f": {', '.join(worker['running'])}" if worker["running"] and worker["alive"] else ""
        lines.append(
            f"  {worker['host']}:{worker['pid']}  {worker['version']}, since {_time(worker['started_at'])}{state}{work}"
        )
        if worker["reload_error"]:
            lines.append(f"    configuration not taken: {worker['reload_error']}")
    for name, states in status.queue.items():
        lines.append(
            f"queue       {name}: {', '.join(f'{count:,} {state}' for state, count in states.items())}"
        )
    return "\n".join(mask(line) for line in lines)


def _feed_lines(feed: FeedStatus) -> Iterable[str]:
    from mailferry.report_jobs import tally_text

    mark = "!" if feed.unhealthy else " "
    yield f"{mark} {feed.name}: {feed.state}" + (f" on {feed.runner}" if feed.state == "running" else "")
    if feed.error:
        yield f"    error     {feed.error}"
    where = f", only on {feed.host}" if feed.host else ""
    yield f"    runs      {feed.schedule}{where}; last {_time(feed.last_run)}, last good {_time(feed.last_good)}, next {_time(feed.next_run)}"
    if feed.kind == "events":
        lag = f"{_span(feed.lag_seconds)} behind" if feed.lag_seconds is not None else "nothing yet"
        extra = "".join(
            f", {count:,} {what.replace('_', ' ')}"
            for what, count in {"gaps": feed.gaps, "late": feed.late, **feed.counts}.items()
            if count
        )
        yield f"    position  {_time(feed.position)}, {lag}{extra}"
        if feed.covered_from:
            audited = f"audited up to {_time(feed.audited_to)}" if feed.audited_to else "not audited yet"
            yield f"    coverage  from {_time(feed.covered_from)}; {audited}"
        return
    watch = feed.watch or "not watched"
    answer = f"; last answer {_time(feed.last_answer)}" if feed.last_answer else ""
    yield f"    mailbox   {watch}{answer}" + (f" ({feed.watch_error})" if feed.watch_error else "")
    if feed.statistics:
        states = (
            ", ".join(f"{count:,} {state}" for state, count in sorted(feed.statistics.states.items()))
            or "none"
        )
        yield f"    jobs      {states}"
        if feed.statistics.refused:
            yield f"    refused   {feed.statistics.refused:,} jobs need a person: `mailferry jobs list --state refused`"
        yield f"    today     {tally_text(feed.statistics.today)}"
        yield f"    week      {tally_text(feed.statistics.week)}"


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else "never"


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
