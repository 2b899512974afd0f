"""What needs a person, from what is known. Pure; the page, `status` and the alerts show the same.

Nothing here means that all is well: what the next run does by itself is no need.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailferry.monitor.facts import Need

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailferry.mailbox.ledger.jobs import Refusal
    from mailferry.monitor.facts import Disk, FeedStatus, Status

__all__ = ["Need", "needs", "summary"]

#: Runs in a row that fail by a passing fault before that needs a person: the service repeats them within seconds.
_PASSING = 3
#: A disk is low when less is free than this share of it, and less than so many bytes; or than twice what feeds leave free.
_LOW_SHARE, _LOW_BYTES = 0.05, 1 << 30
_GAPS = {
    "saturated": "{start} to {end}: one second holds more events than the provider returns at once",
    "expired": "{start} to {end}: the provider no longer has events of that time",
}


def needs(status: Status) -> list[Need]:
    """Everything that a person has to look at, each under a key of its own: the host, then feeds, then jobs."""
    return [
        *_of_database(status),
        *(_low(disk, status.host) for disk in status.disks if is_low(disk)),
        *_of_workers(status),
        *(need for feed in status.feeds for need in _of_feed(feed)),
        *map(_of_job, status.refusals),
        *_more_jobs(status),
    ]


def summary(found: Iterable[Need]) -> str:
    """What is wrong with one feed, jobs apart, in one line."""
    ours = [need for need in found if need.kind not in ("job", "rows")]
    gaps = Counter(need.feed for need in ours if need.kind == "gap")
    texts = [f"{need.reason}: {need.advice}" for need in ours if need.kind != "gap"]
    texts += [f"{count:,} open gaps: mailferry gaps list {feed}" for feed, count in gaps.items()]
    return "; ".join(texts)


def is_low(disk: Disk) -> bool:
    """Whether so little is free that work may soon stop."""
    return disk.free < max(min(_LOW_SHARE * disk.total, _LOW_BYTES), 2 * disk.floor)


def _of_database(status: Status) -> Iterator[Need]:
    if status.database_error:
        yield Need(
            key="database",
            kind="database",
            subject="the database cannot be asked",
            reason=status.database_error,
            advice="mailbox feeds and tables wait until it answers; see that it runs and can be reached from this host",
            local=True,
        )


def _low(disk: Disk, host: str) -> Need:
    mib = 1 << 20
    return Need(
        key=f"disk:{host}:{disk.path}",
        kind="disk",
        subject=f"little room on the disk of {disk.path}",
        reason=f"{disk.free // mib:,} of {disk.total // mib:,} MB are free",
        advice=f"free space there on {host}; when {disk.floor // mib:,} MB are left (min_free), what is written there waits",
        local=True,
    )


def _of_workers(status: Status) -> Iterator[Need]:
    alive = {worker["host"] for worker in status.workers if worker["alive"]}
    last = {worker["host"]: worker["heartbeat_at"] for worker in status.workers}
    for host, heard in last.items():
        if host not in alive:
            yield Need(
                key=f"workers:{host}",
                kind="workers",
                subject=f"no worker on {host}",
                reason="its last worker ended without signing off, or the host is gone",
                advice=f"start it again on {host}: mailferry start",
                since=heard,
            )
    refused = {w["host"]: w["reload_error"] for w in status.workers if w["alive"] and w["reload_error"]}
    for host, error in refused.items():
        yield Need(
            key=f"configuration:{host}",
            kind="configuration",
            subject=f"new configuration not taken on {host}",
            reason=error,
            advice="the old one is still at work; correct the new one, then: mailferry reload",
        )


def _of_feed(feed: FeedStatus) -> Iterator[Need]:
    if found := _run(feed):
        yield found
    if feed.ended == "completed" and feed.run_error:
        advice = "correct that; events go on being collected"
        yield _need(feed, "files", "blocked", "cannot delete, compress or seal files", feed.run_error, advice)
    if feed.checkpoint_error:
        yield _need(
            feed,
            "checkpoint",
            "blocked",
            "cannot go on",
            feed.checkpoint_error,
            f"then: mailferry collect --section {feed.name}",
            local=True,
        )
    if feed.behind:
        advice = "see why it is slow or does not run: mailferry status"
        yield _need(feed, "behind", "behind", "far behind", feed.behind, advice, since=feed.position)
    if feed.missing:
        reason = f"{feed.missing:,} events written are no longer there"
        yield _need(feed, "missing", "missing", "events are missing", reason, f"mailferry verify {feed.name}")
    for gap in feed.gap_list:
        start, end = (
            f"{datetime.fromtimestamp(t, UTC).astimezone():%Y-%m-%d %H:%M:%S}" for t in (gap.start, gap.end)
        )
        yield Need(
            key=f"gap:{feed.name}:{gap.start}:{gap.kind}",
            kind="gap",
            subject=f"{feed.name}: open gap",
            reason=_GAPS.get(gap.kind, "{start} to {end}: {kind}").format(
                start=start, end=end, kind=gap.kind
            ),
            advice=f"mailferry gaps retry {feed.name}, or: mailferry gaps acknowledge {feed.name} --reason TEXT",
            since=datetime.fromtimestamp(gap.found_at, UTC) if gap.found_at else None,
            feed=feed.name,
            local=feed.local,
        )


def _run(feed: FeedStatus) -> Need | None:
    """How its runs go: one need at most, so that one cause is one thing to look at."""
    where = f" of host {feed.host}" if feed.host else ""
    if feed.ended == "blocked":
        advice = "correct that; the next run goes on"
        return _need(
            feed, "run", "blocked", "waits for a person", feed.run_error, advice, since=feed.last_good
        )
    if feed.ended == "cut off" or (feed.ended == "failed" and feed.failures > _PASSING):
        advice = "the next run tries again; see the log"
        return _need(feed, "run", "failing", "runs fail", feed.run_error, advice, since=feed.last_good)
    if feed.overdue and feed.next_run:
        reason = f"due since {feed.next_run.astimezone():%Y-%m-%d %H:%M}: no worker{where} runs it"
        return _need(
            feed, "run", "silent", "is not run", reason, "start one: mailferry start", since=feed.next_run
        )
    if feed.silent and feed.last_good:
        reason = f"no run has succeeded since {feed.last_good.astimezone():%Y-%m-%d %H:%M}"
        return _need(
            feed,
            "run",
            "silent",
            "has gone silent",
            reason,
            "see that `mailferry collect` or `mailferry load` still runs by its schedule, and its log",
            since=feed.last_good,
        )
    return None


def _need(
    feed: FeedStatus,
    what: str,
    kind: str,
    headline: str,
    reason: str,
    advice: str,
    *,
    since: datetime | None = None,
    local: bool = False,
) -> Need:
    return Need(
        key=f"feed:{feed.name}:{what}",
        kind=kind,
        subject=f"{feed.name}: {headline}",
        reason=reason,
        advice=advice,
        since=since,
        feed=feed.name,
        local=local,
    )


def _of_job(job: Refusal) -> Need:
    advice = f"mailferry jobs show {job.id}; then retry, cancel or acknowledge it"
    rows = f"{job.rejected_rows:,} rows were rejected" if job.rejected_rows != 1 else "1 row was rejected"
    if not job.error:
        advice = f"mailferry jobs show {job.id} lists them; then send a corrected file, or acknowledge it"
    return Need(
        key=f"job:{job.id}",
        kind="job" if job.error else "rows",
        subject=f'{job.feed}: job {job.id}, "{job.subject}" from {job.sender or "an unknown sender"}',
        reason=job.error or rows,
        advice=advice,
        since=job.finished_at,
        feed=job.feed,
        job_id=job.id,
    )


def _more_jobs(status: Status) -> Iterator[Need]:
    if status.more_refusals:
        yield Need(
            key="jobs:more",
            kind="job",
            subject=f"{status.more_refusals:,} more refused jobs",
            reason="so many that they are not listed one by one",
            advice="mailferry jobs list --state refused; then: mailferry jobs acknowledge --all",
        )
