"""The state of all feeds, mailboxes, jobs and workers, as `mailferry status` shows it. Nothing is changed by looking."""

from __future__ import annotations

import dataclasses
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from mailferry import database, disk
from mailferry.errors import MailferryError
from mailferry.events.coverage import HOUR
from mailferry.mailbox.ledger import admin
from mailferry.monitor.facts import Disk, FeedStatus, Status
from mailferry.monitor.needs import needs, summary
from mailferry.monitor.reach import Reaches
from mailferry.secrets import mask
from mailferry.service.plan import host_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed
    from mailferry.config.schedule import Schedule
    from mailferry.config.service import Configuration
    from mailferry.database import Connection, Pool
    from mailferry.monitor.connected import Connected
    from mailferry.monitor.facts import Need
    from mailferry.monitor.reach import Reach

#: Seconds past its time from which a feed that has not run counts as neglected.
OVERDUE = 300.0
#: A feed that has missed two of its times is silent after so long more; one that cron runs, by a schedule that is not
#: known here, after a day.
_SILENCE, _SILENCE_OF_CRON = timedelta(hours=1), timedelta(hours=25)
#: Hours of `FeedStatus.hours`.
HOURS = 24
#: Refused jobs that are listed one by one.
MOST_REFUSALS = 10_000


def look(configuration: Configuration, now: datetime) -> Status:
    """Ask the database, and the checkpoints of this host. `now` is aware; today and this week are by its calendar."""
    if has_database(configuration):
        try:
            with database.connect(configuration.database) as pool:
                return look_with(pool, configuration, now)
        except MailferryError as error:
            return look_without(configuration, now, mask(str(error)))
    return look_without(configuration, now)


def look_with(
    pool: Pool, configuration: Configuration, now: datetime, reaches: Reaches | None = None
) -> Status:
    """As `look`, on connections that are open; `reaches`, kept by one who looks often, spares reading what has not changed."""
    reaches = reaches or Reaches()
    status = _blank(configuration, now)
    error = ""
    try:
        with database.transaction(pool) as conn:
            _ask(conn, status, now, configuration.events, reaches)
    except MailferryError as fault:
        # What was asked before it failed is not half shown.
        status, error = _blank(configuration, now), mask(str(fault))
    return _complete(status, configuration, now, error, reaches)


def look_without(
    configuration: Configuration, now: datetime, error: str = "", reaches: Reaches | None = None
) -> Status:
    """As `look`, without the database: what this host knows; `error`: why the database is not asked, "" where there is none."""
    return _complete(_blank(configuration, now), configuration, now, error, reaches or Reaches())


def _blank(configuration: Configuration, now: datetime) -> Status:
    feeds = [
        FeedStatus(name=feed.section, kind="events", schedule=feed.due.text) for feed in configuration.events
    ]
    feeds += [
        FeedStatus(name=feed.name, kind="mailbox", schedule=feed.due.text) for feed in configuration.mailboxes
    ]
    return Status(at=now, host=host_name(configuration), feeds=feeds)


def _complete(
    status: Status, configuration: Configuration, now: datetime, error: str, reaches: Reaches
) -> Status:
    """What this host knows without the database, and what follows from all of it."""
    from mailferry.events.progress import falls_behind

    status.database_error = error
    by_name = {feed.name: feed for feed in status.feeds}
    if error:
        for feed in status.feeds:
            feed.state = "unknown"
    for events in configuration.events:
        found = by_name[events.section]
        if events.destination == "files":
            _read_checkpoint(events, found, now, reaches)
        if found.position:
            found.behind = falls_behind(found.position.timestamp(), now.timestamp(), events.keeps)
        found.silent = _silent(found, events.due, now)
    for mailbox in configuration.mailboxes:
        by_name[mailbox.name].silent = _silent(by_name[mailbox.name], mailbox.due, now)
    status.disks = _disks(configuration)
    judge(status)
    return status


def judge(status: Status) -> None:
    """Say what needs a person, by what is known."""
    status.needs = needs(status)
    by_feed: dict[str, list[Need]] = {}
    for need in status.needs:
        by_feed.setdefault(need.feed, []).append(need)
    for feed in status.feeds:
        ours = by_feed.get(feed.name, [])
        feed.unhealthy = bool(ours)
        feed.error = summary(ours) or feed.run_error


def _silent(feed: FeedStatus, schedule: Schedule, now: datetime) -> bool:
    """Whether a run should have succeeded since the last one that did."""
    good = feed.last_good
    if good is None or feed.state == "unknown":
        return False
    if feed.next_run is None:
        return now - good > _SILENCE_OF_CRON
    good = good.astimezone(now.tzinfo)
    return schedule.next(schedule.next(good, feed.name), feed.name) + _SILENCE < now


def _disks(configuration: Configuration) -> list[Disk]:
    """The file systems of this host that are written to, each once."""
    settings = configuration.service
    #: What is left free there.
    folders: dict[Path, int | None] = dict.fromkeys([settings.data_dir, *filter(None, [settings.log_dir])])
    folders |= {feed.base_dir: feed.min_free for feed in configuration.mailboxes}
    for feed in configuration.events:
        if feed.destination == "table" and configuration.database.private and configuration.database.data_dir:
            folders |= {configuration.database.data_dir: feed.min_free}
        if feed.destination == "files":
            folders |= {feed.log_directory: feed.min_free, feed.position_file.parent: feed.min_free}
    found: dict[int, Disk] = {}
    for folder, min_free in folders.items():
        try:
            device = os.stat(folder).st_dev  # noqa: PTH116 - a thousand feeds: no Path for each
            known = found.get(device)
            if known is None:
                usage = shutil.disk_usage(folder)
                known = Disk(path=str(folder), free=usage.free, total=usage.total)
            least = max(known.floor, disk.floor(known.total, min_free))
            found[device] = known if known.floor == least else dataclasses.replace(known, floor=least)
        except OSError:
            continue  # not made yet, or of another host
    return list(found.values())


def look_again(connected: Connected, configuration: Configuration, now: datetime) -> Status:
    """As `look`, on connections that stay open."""
    if not has_database(configuration):
        return look_without(configuration, now)
    try:
        return look_with(connected.pool(configuration.database), configuration, now)
    except MailferryError as error:
        connected.close()
        return look_without(configuration, now, mask(str(error)))


def has_database(configuration: Configuration) -> bool:
    """A private server that was never made is not made for this, unless feeds cannot do without."""
    settings = configuration.database
    if not settings.private or configuration.mailboxes:
        return True
    assert settings.data_dir
    return (settings.data_dir / "postgres" / "data").is_dir()


def _ask(
    conn: Connection, status: Status, now: datetime, events: Sequence[EventFeed], reaches: Reaches
) -> None:
    queries = database.queries("status")
    by_name = {feed.name: feed for feed in status.feeds}
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(queries["feeds"], {"names": list(by_name)}).fetchall():
            _fill(by_name[row["name"]], row, now)
        configured = {feed.section: feed for feed in events}
        for row in cursor.execute(queries["progress"], {"names": list(configured)}).fetchall():
            feed = configured[row["feed"]]
            _reached(by_name[feed.section], reaches.of_row(feed, row), now)
        status.workers = cursor.execute(queries["workers"]).fetchall()
    for metric, label, value in conn.execute(queries["totals"]).fetchall():
        status.totals.setdefault(metric, {})[label] = value
    if conn.execute(queries["has_queue"]).fetchone() == (True,):
        for name, state, count in conn.execute(queries["queue"]).fetchall():
            status.queue.setdefault(name, {})[state] = count
    first = _first_hour(now)
    for name, hour, rows in conn.execute(queries["hours"], {"since": first * HOUR}).fetchall():
        if (found := by_name.get(name)) and found.kind == "mailbox" and first <= hour < first + HOURS:
            found.hours = found.hours or [0] * HOURS
            found.hours[hour - first] = rows
    refused = 0
    mailboxes = [feed for feed in status.feeds if feed.kind == "mailbox"]
    found_of = admin.statistics(conn, now, [mailbox.name for mailbox in mailboxes])
    for mailbox in mailboxes:
        mailbox.statistics = found_of[mailbox.name]
        refused += mailbox.statistics.refused
    if refused:
        status.refusals = admin.refusals(conn, [feed.name for feed in mailboxes], MOST_REFUSALS)
        status.more_refusals = refused - len(status.refusals)


def _fill(feed: FeedStatus, row: dict[str, Any], now: datetime) -> None:
    feed.host = row["host"]
    feed.state = "running" if row["running"] else row["status"] or "new"
    feed.ended, feed.failures = row["status"] or "", row["failures"]
    feed.run_error = mask(row["error"] or "")
    feed.runner = row["runner"] or ""
    feed.last_run, feed.last_good, feed.next_run = row["started_at"], row["last_good_at"], row["next_run_at"]
    feed.gaps, feed.late = row["gaps"], row["late"]
    if row["position"] is not None:
        _position(feed, row["position"], now)
    feed.watch = row["watch_state"] or ""
    feed.last_answer = max(filter(None, (row["watch_good_at"], row["last_good_at"])), default=None)
    feed.watch_error = mask(row["watch_error"] or "")
    feed.overdue = row["overdue"] > OVERDUE


def _position(feed: FeedStatus, seconds: int, now: datetime) -> None:
    feed.position = datetime.fromtimestamp(seconds, UTC)
    feed.lag_seconds = max(0, round(now.timestamp() - seconds))


def _reached(feed: FeedStatus, reach: Reach, now: datetime) -> None:
    """How far a feed got, as its destination has it, run by the service or by cron."""
    _position(feed, reach.position, now)
    feed.events, feed.late, feed.counts = reach.events, reach.late, reach.counts
    feed.gaps, feed.gap_list, feed.open_gaps = reach.gaps, reach.open_gaps, len(reach.open_gaps)
    feed.gap_kinds = reach.gap_kinds
    feed.last_good = max(filter(None, (feed.last_good, reach.at)), default=None)
    feed.missing, feed.covered_from, feed.audited_to = reach.missing, reach.covered_from, reach.audited_to
    first = _first_hour(now)
    feed.hours = [reach.hours.get(hour, 0) for hour in range(first, first + HOURS)]
    if feed.state in ("new", "unknown"):
        feed.state = "completed"


def _first_hour(now: datetime) -> int:
    """Of `FeedStatus.hours`, in hours of Unix time."""
    return int(now.timestamp()) // HOUR - HOURS + 1


def _read_checkpoint(feed: EventFeed, status: FeedStatus, now: datetime, reaches: Reaches) -> None:
    """Of files on this host the checkpoint itself is the newest."""
    try:
        if found := reaches.of_file(feed):
            _reached(status, found, now)
            status.local = True
    except MailferryError as error:
        status.checkpoint_error = mask(str(error))


# For people and for programs


def as_plain(status: Status) -> dict[str, Any]:
    """For JSON; see docs/reference/json.md."""
    plain = dataclasses.asdict(status)
    plain["healthy"] = status.healthy
    return plain


def as_text(status: Status) -> str:
    """What needs a person, a block a feed, then the workers and the queue."""
    lines = [line for need in status.needs for line in _need_lines(need)]
    lines += [line for feed in status.feeds for line in _feed_lines(feed)]
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
    lines.append(f"as of       {status.at:%Y-%m-%d %H:%M:%S %Z}")
    return "\n".join(mask(line) for line in lines)


def _need_lines(need: Need) -> Iterable[str]:
    yield f"! {need.subject}: {need.reason}"
    yield f"    to do     {need.advice}"


def _feed_lines(feed: FeedStatus) -> Iterable[str]:
    from mailferry.report_jobs import tally_text

    mark = "!" if feed.unhealthy else " "
    yield f"{mark} {feed.name}: {feed.state}" + (f" on {feed.runner}" if feed.state == "running" else "")
    if feed.error:
        yield f"    error     {feed.error}"
    where = f", only on {feed.host}" if feed.host else ""
    if feed.last_run or feed.next_run:
        last = f"last {_time(feed.last_run)}, last good {_time(feed.last_good)}"
        yield f"    runs      {feed.schedule}{where}; {last}, next {_time(feed.next_run)}"
    else:
        yield f"    runs      by no service so far; last good {_time(feed.last_good)}"
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
