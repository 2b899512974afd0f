"""What people ask of the ledger and change in it: jobs listed, shown, done again, cancelled; statistics.

As in `records`, every function takes a connection and leaves the transaction to its caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from psycopg.rows import class_row, dict_row

from mailferry.database import queries, storable
from mailferry.errors import Reject
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.ledger.jobs import Details, Job, JobState, Refusal, Statistics, Tally
from mailferry.mailbox.ledger.rows import files_of, job_of, many, one
from mailferry.mailbox.source.message import PartOutcome, Verdict
from mailferry.mailbox.target import history

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mailferry.database import Connection
    from mailferry.mailbox.target.history import Undone


class NoSuchJob(Reject):
    """There is no job of that number."""


def cancel(conn: Connection, job_id: int) -> Job:
    """Not to be done, or not to be asked about any more. One in progress is cancelled too, and its transaction ended. Raises Reject; Retry when that fails."""
    leases.end_work(conn, job_id)
    job = one(conn, _sql("cancel"), {"id": job_id})
    if job is None:
        raise _cannot(conn, job_id, "cancelled", "pending, in progress or refused")
    return job


def retry(conn: Connection, job_id: int) -> Job:
    """To be done again, at once and with all its attempts: the files that were not loaded, or not all of whose rows.

    A duplicate is loaded where the table no longer holds its rows. Their rows replace those of the same keys, whatever was loaded since. Raises Reject.
    """
    done = _again(conn, [job_id], replayed=False)
    if not done:
        raise _cannot(
            conn,
            job_id,
            "retried",
            "failed, cancelled or waiting, or has files or rows that were not loaded; one in progress can be cancelled"
            " first",
        )
    return done[0]


def replayable(
    conn: Connection,
    *,
    feed: str | None = None,
    state: str | None = None,
    since: datetime | None = None,
) -> list[Job]:
    """Jobs that failed, or that have a rejected file or row, or only those of one kind; oldest message first.

    `state`: "failed" or "rejected". `since`: received then or later.
    """
    wanted = {"feed": feed and storable(conn, feed), "state": state, "since": since}
    return many(conn, _sql("replayable"), wanted)


def replay(conn: Connection, jobs: Sequence[Job]) -> list[Job]:
    """To be done again, as `retry`, but rows of messages that were received later stay as they are."""
    return _again(conn, [job.id for job in jobs], replayed=True)


def _again(conn: Connection, job_ids: list[int], *, replayed: bool) -> list[Job]:
    done = many(conn, _sql("retry"), {"ids": job_ids, "replayed": replayed})
    ids = {"ids": [job.id for job in done]}
    conn.execute(_sql("retry_files"), ids)
    conn.execute(_sql("forget_rejected_of_job"), ids)
    return sorted(done, key=lambda job: (job.received, job.id))


@dataclass(frozen=True, kw_only=True, slots=True)
class Undoing:
    """What `undo` has done."""

    job: Job
    #: None: it was undone before, and nothing was to be done.
    rows: Undone | None
    #: Jobs done since that found rows of its tables as they were; where those are this job's, they went back all the same.
    counted_on: tuple[int, ...] = ()


def undo(conn: Connection, job_id: int) -> Undoing:
    """Put back what a job's files have changed in their tables, as far as it is on record; done twice, it is done once.

    Raises Reject where the job is not done, where its feed kept no history, and as `history.undo`.
    """
    job = one(conn, _sql("job_to_undo"), {"id": job_id})
    if job is None or job.state in (JobState.PENDING, JobState.IN_PROGRESS):
        raise _cannot(conn, job_id, "undone", "completed, failed or cancelled")
    if job.undone_at is not None:
        return Undoing(job=job, rows=None)
    if names := [name for (name,) in conn.execute(_sql("without_history"), {"id": job_id})]:
        raise Reject(
            f"Job {job_id}: what {', '.join(names)} changed is not on record, as the feed kept no history when it was"
            " loaded; set history = true (DB_HISTORY) for those to come"
        )
    counted_on = tuple(number for (number,) in conn.execute(_sql("counted_on"), {"id": job_id}))
    try:
        rows = history.undo(conn, job_id)
    except Reject as error:
        raise Reject(f"Job {job_id} cannot be undone: {error}") from error
    conn.execute(_sql("undo_files"), {"id": job_id})
    undone = one(conn, _sql("undone"), {"id": job_id})
    assert undone is not None
    return Undoing(job=undone, rows=rows, counted_on=counted_on)


def acknowledge(conn: Connection, job_id: int) -> Job:
    """Take a refused job off the list of those that need a person; it keeps its state. Raises Reject."""
    job = one(conn, _sql("acknowledge"), {"id": job_id, "feed": None})
    if job is None:
        raise _cannot(conn, job_id, "acknowledged", "refused and not acknowledged yet")
    return job


def acknowledge_all(conn: Connection, feed: str | None = None) -> list[Job]:
    """As `acknowledge`, all of one feed, or of all."""
    return many(conn, _sql("acknowledge"), {"id": None, "feed": feed and storable(conn, feed)})


def jobs(
    conn: Connection,
    *,
    feed: str | None = None,
    state: JobState | None = None,
    refused: bool = False,
    since: datetime | None = None,
    target: str | None = None,
    sender: str | None = None,
    text: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[Job]:
    """Jobs, latest arrival first, from the `offset`th on.

    `refused`: only those that need a person. `since`: recorded then or later. `target`: the table as the feed has it. `sender`: in
    the sender, any case. `text`: in subject, sender or Message-ID, any case.
    """
    filters = {
        "feed": feed and storable(conn, feed),
        "state": state and str(state),
        "refused": refused,
        "since": since,
        "target": target and storable(conn, target),
        "sender": sender and storable(conn, sender),
        "text": text and storable(conn, text),
    }
    return many(conn, _sql("jobs"), {**filters, "limit": limit, "offset": offset})


def refusals(conn: Connection, feeds: Sequence[str], limit: int) -> list[Refusal]:
    """Jobs of these feeds that need a person, the oldest first."""
    with conn.cursor(row_factory=class_row(Refusal)) as cursor:
        return cursor.execute(_sql("refusals"), {"feeds": list(feeds), "limit": limit}).fetchall()


def show(conn: Connection, job_id: int) -> Details | None:
    """All about one job; None where there is none of that number."""
    job = job_of(conn, job_id)
    if job is None:
        return None
    skipped = conn.execute(_sql("passed"), {"id": job_id}).fetchall()
    return Details(
        job=job,
        files=tuple(files_of(conn, job_id)),
        skipped=tuple(
            PartOutcome(verdict=Verdict.SKIPPED, section=section, name=name, reason=reason)
            for section, name, reason in skipped
        ),
    )


def statistics(conn: Connection, now: datetime, feeds: Sequence[str]) -> dict[str, Statistics]:
    """What was done today and this week, by `now`'s calendar, of each of the feeds; `now` is aware."""
    if now.tzinfo is None:
        raise ValueError("now must be aware")
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    # Midnight is asked for by the calendar: a day of a week may have 23 or 25 hours.
    monday = (midnight.replace(tzinfo=None) - timedelta(days=now.weekday())).replace(tzinfo=now.tzinfo)
    today, week = (_tallies(conn, since, feeds) for since in (midnight, monday))
    names = {"feeds": list(feeds)}
    states: dict[str, dict[JobState, int]] = {}
    for feed, state, count in conn.execute(_sql("states"), names).fetchall():
        states.setdefault(feed, {})[JobState(state)] = count
    refused: dict[str, int] = dict(conn.execute(_sql("refused"), names).fetchall())
    return {
        feed: Statistics(
            today=today.get(feed, Tally()),
            week=week.get(feed, Tally()),
            refused=refused.get(feed, 0),
            states=states.get(feed, {}),
        )
        for feed in feeds
    }


def _tallies(conn: Connection, since: datetime, feeds: Sequence[str]) -> dict[str, Tally]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_sql("statistics"), {"since": since, "feeds": list(feeds)}).fetchall()
    return {row.pop("feed"): Tally(**row) for row in rows}


def _sql(name: str) -> bytes:
    return queries("admin")[name]


def _cannot(conn: Connection, job_id: int, done: str, when: str) -> Reject:
    job = job_of(conn, job_id)
    if job is None:
        return NoSuchJob(f"There is no job {job_id}.")
    return Reject(f"Job {job_id} is {job.state.replace('_', ' ')}; a job can be {done} while it is {when}.")
