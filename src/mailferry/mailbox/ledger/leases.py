"""Who works on which job: claims, their leases, and the fencing that keeps all others from committing anything.

Any number of workers on any number of hosts work from one ledger. A claim holds as long as its lease is renewed; its
fencing token is checked in every transaction that works on the job, so a worker that lost it can commit nothing. As in
`records`, every function takes a connection and leaves the transaction to its caller.
"""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from mailferry.database import advisory_key, queries
from mailferry.errors import Retry
from mailferry.mailbox.ledger.jobs import Claim, ClaimLost, Job

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mailferry.database import Connection, Pool

#: Seconds in which the session of a run that was killed should have ended in the database.
_SESSION_END = 5.0
#: How long a claim holds without `renew`.
LEASE = timedelta(seconds=30)
#: Times, 10 ms apart, that a transaction is told to end before that is given up.
_EVICTIONS = 500
#: Seconds that a transaction which works on a job may wait for its workbook to be read; it can be ended by others.
_IDLE = 600


@contextlib.contextmanager
def only_runner(pool: Pool, feed: str, *, patience: float = _SESSION_END) -> Iterator[bool]:
    """Whether no other single run of this feed is on; held until the end, or until the connection that holds it is lost.

    Waits up to `patience` seconds for the other: the database may still be closing the session of one that was killed.
    Who is the only one knows that jobs of the feed that such a run has in progress are left over from a crash:
    `claim(take_over=True)`. Workers of the service do not ask.
    """
    key = (advisory_key("feed", feed),)
    with pool.connection() as conn:
        conn.autocommit = True
        try:
            deadline = time.monotonic() + patience
            while not (alone := conn.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() == (True,)):
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.05)
            yield alone
        finally:
            # A connection that was lost has lost its locks, too.
            with contextlib.suppress(psycopg.OperationalError):
                conn.execute("SELECT pg_advisory_unlock_all()")
                conn.autocommit = False


def claim(
    conn: Connection,
    *,
    runner: str,
    feed: str | None = None,
    feeds: Collection[str] | None = None,
    target: str | None = None,
    job_id: int | None = None,
    take_over: bool = False,
    by_lease: bool = False,
    lease: timedelta = LEASE,
) -> Claim | None:
    """The next job that is due, of these feeds, for this table, or that one; None where there is none. Commit at once.

    Jobs of one table come strictly in the order of arrival, so one that waits for its next attempt holds back those
    behind it. A job in progress is claimed as well when its lease has run out: whatever its runner still has open is
    ended first, so that a frozen one neither blocks the table nor commits. `take_over`: so is one whose lease has
    not, unless it was claimed `by_lease`, by one of many workers that may well be alive.
    """
    wanted = {
        "feeds": [feed] if feed is not None else None if feeds is None else list(feeds),
        "target": target,
        "take_over": take_over,
        "by_lease": by_lease,
        "runner": runner,
        "lease": lease,
    }
    if held := _claimed(conn, {**wanted, "id": job_id, "orphan": False}):
        return held
    for (orphan,) in conn.execute(_sql("orphans"), {**wanted, "id": job_id}).fetchall():
        key = advisory_key("take over", str(orphan))
        if conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (key,)).fetchone() != (True,):
            continue  # somebody else is taking it over at this moment
        # Asked again now that nobody else can: it may be in good hands by now.
        if not conn.execute(_sql("orphans"), {**wanted, "id": orphan}).fetchone():
            continue
        end_work(conn, orphan)
        if held := _claimed(conn, {**wanted, "id": orphan, "orphan": True}):
            return held
    return None


def _claimed(conn: Connection, values: dict[str, Any]) -> Claim | None:
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_sql("claim"), values).fetchone()
    return Claim(job=Job.of(row), fence=row["fence"]) if row else None


def end_work(conn: Connection, job_id: int) -> None:
    """End every transaction that works on the job, and let none begin before this one ends. Raises Retry."""
    # So that an attempt that fails by this cannot say so first; unless its runner has the row at this moment.
    conn.execute("SELECT 1 FROM mailferry.jobs WHERE id = %s FOR UPDATE SKIP LOCKED", (job_id,))
    key = advisory_key("job", str(job_id))
    for _ in range(_EVICTIONS):
        if conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (key,)).fetchone() == (True,):
            return
        conn.execute(_sql("evict"), {"key": key})
        conn.execute("SELECT pg_sleep(0.01)")
    raise Retry(
        f"Job {job_id}: the database does not end the transaction that works on it; it is tried again."
    )


def hold(conn: Connection, held: Claim) -> None:
    """At the beginning of every transaction that works on a job: raises ClaimLost where somebody else does.

    Lets whoever takes the job over find and end this transaction. The `finish` functions check once more.
    """
    conn.execute(_sql("shared"), {"key": advisory_key("job", str(held.job.id)), "idle": f"{_IDLE}s"})
    if not conn.execute(_sql("held"), held.fencing).fetchone():
        raise lost(held)


def renew(conn: Connection, held: Claim, lease: timedelta = LEASE) -> None:
    """The runner is alive. Raises ClaimLost."""
    if not conn.execute(_sql("renew"), {**held.fencing, "lease": lease}).rowcount:
        raise lost(held)


def release(conn: Connection, held: Claim) -> Job:
    """Hand a claim back: what works on the job is ended, it is due at once, and no attempt is counted. Raises ClaimLost."""
    end_work(conn, held.job.id)
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_sql("release"), held.fencing).fetchone()
    if row is None:
        raise lost(held)
    return Job.of(row)


def hold_to_the_end(conn: Connection, held: Claim) -> None:
    """Before anything is put on record for a claim: nobody can take it over until the transaction ends. Raises ClaimLost."""
    if not conn.execute(_sql("hold"), held.fencing).fetchone():
        raise lost(held)


def lost(held: Claim) -> ClaimLost:
    """The error for a claim that does not hold any more."""
    return ClaimLost(
        f"Job {held.job.id} ({held.job.feed}) was taken over by another runner or cancelled; this attempt is void."
    )


def _sql(name: str) -> bytes:
    return queries("leases")[name]
