"""Who works on which job, and what is due: claims, their leases, and the fencing that keeps every other worker from committing.

Any number of workers on any number of hosts work from one ledger. A claim holds as long as its lease is renewed; its
fencing token is checked in every transaction that works on the job, so a worker that lost it can commit nothing. As in
`records`, every function takes a connection and leaves the transaction to its caller.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from mailferry import logs
from mailferry.database import advisory_key, queries, transaction, translated
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.ledger.jobs import Claim, ClaimLost, Job

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mailferry.database import Connection, Pool

log = logs.of(__name__, logs.DATABASE)

#: Seconds in which the session of a run that was killed should have ended in the database.
_SESSION_END = 5.0
#: How long a claim holds without `renew`.
LEASE = timedelta(seconds=30)
#: Times, 10 ms apart, that the database is asked to end a transaction before that is given up.
_EVICTIONS = 500
#: Seconds that a transaction which works on a job may wait for its workbook to be read; another worker can end it sooner.
_IDLE = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class First:
    """The first in order of a table's jobs that are not done."""

    job_id: int
    feed: str
    #: In progress; else it is pending.
    running: bool
    #: Seconds until its next attempt is due, or until its lease runs out; 0 or less: now.
    wait: float


@contextlib.contextmanager
def only_run(pool: Pool, feed: str, *, patience: float = _SESSION_END) -> Iterator[bool]:
    """Whether no other single run of this feed is on; held until the end, or until the connection that holds it is lost.

    Waits up to `patience` seconds for the other: the database may still be closing the session of one that was killed.
    What such a run has in progress is then left over from a crash: `claim(reclaim=True)`. Workers of the service do
    not ask. Raises Retry or Stop where the database cannot be asked.
    """
    key = (advisory_key("feed", feed),)
    with contextlib.ExitStack() as stack:
        try:
            conn = stack.enter_context(pool.connection())
            conn.autocommit = True
            deadline = time.monotonic() + patience
            while not (alone := conn.execute("SELECT pg_try_advisory_lock(%s)", key).fetchone() == (True,)):
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.05)
        except psycopg.Error as error:
            raise translated(error) from error
        try:
            yield alone
        finally:
            # A connection that was lost has lost its locks, too.
            with contextlib.suppress(psycopg.Error):
                conn.execute("SELECT pg_advisory_unlock_all()")
                conn.autocommit = False
                stack.close()


def claim(
    conn: Connection,
    *,
    worker_id: str,
    feeds: Collection[str] | None = None,
    target: str | None = None,
    job_id: int | None = None,
    reclaim: bool = False,
    by_lease: bool = False,
    lease: timedelta = LEASE,
) -> Claim | None:
    """The next job that is due, of these feeds, for this table, or that one; None where there is none. Commit at once.

    Jobs of one table come strictly in the order of arrival, so one that waits for its next attempt holds back those
    behind it. A job in progress is claimed as well when its lease has run out: the transaction that its worker still
    has open is ended first, so that a frozen worker neither blocks the table nor commits. `reclaim`: so is one whose
    lease has not, unless it was claimed `by_lease`, by one of many workers that may well be alive.
    """
    wanted = {
        "feeds": None if feeds is None else list(feeds),
        "target": target,
        "reclaim": reclaim,
        "by_lease": by_lease,
        "runner": worker_id,
        "lease": lease,
    }
    if held := _claimed(conn, {**wanted, "id": job_id, "orphan": False}):
        return held
    for (orphan,) in conn.execute(_sql("orphans"), {**wanted, "id": job_id}).fetchall():
        key = advisory_key("take over", str(orphan))
        if conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (key,)).fetchone() != (True,):
            continue  # another worker reclaims it at this moment
        # Asked again now that no other worker can: one may have it by now.
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
    # So that an attempt that fails by this cannot say so first; unless its worker has the row at this moment.
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
    """At the beginning of every transaction that works on a job: raises ClaimLost where another worker does.

    Lets the worker that reclaims the job find and end this transaction. The `finish` functions check again.
    """
    conn.execute(_sql("shared"), {"key": advisory_key("job", str(held.job.id)), "idle": f"{_IDLE}s"})
    if not conn.execute(_sql("held"), held.fencing).fetchone():
        raise lost(held)


def renew(conn: Connection, held: Claim, lease: timedelta = LEASE) -> None:
    """The worker is alive. Raises ClaimLost."""
    if not conn.execute(_sql("renew"), {**held.fencing, "lease": lease}).rowcount:
        raise lost(held)


@contextlib.contextmanager
def renewed(pool: Pool, held: Claim, lease: timedelta = LEASE) -> Iterator[None]:
    """Renew the claim, from a thread of its own, as long as the work on it goes on."""
    done = threading.Event()

    def renew_it() -> None:
        while not done.wait(lease.total_seconds() / 3):
            try:
                with transaction(pool) as conn:
                    renew(conn, held, lease)
            except ClaimLost:
                return  # the work on it fails at its next step
            except Retry as error:
                log.debug("job %s: the claim could not be renewed: %s", held.job.id, error)
            except MailferryError as error:
                log.warning("job %s: the claim cannot be renewed: %s", held.job.id, error)
                return

    # With the ids of this thread's lines.
    carried = contextvars.copy_context().run
    thread = threading.Thread(target=carried, args=[renew_it], name=f"renew-{held.job.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def release(conn: Connection, held: Claim) -> Job:
    """Release a claim: what works on the job is ended, it is due at once, and no attempt is counted. Raises ClaimLost."""
    end_work(conn, held.job.id)
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_sql("release"), held.fencing).fetchone()
    if row is None:
        raise lost(held)
    return Job.of(row)


def hold_to_the_end(conn: Connection, held: Claim) -> None:
    """Before anything is put on record for a claim: no worker can reclaim it until the transaction ends. Raises ClaimLost."""
    if not conn.execute(_sql("hold"), held.fencing).fetchone():
        raise lost(held)


def lost(held: Claim) -> ClaimLost:
    """The error for a claim that does not hold any more."""
    return ClaimLost(
        f"Job {held.job.id} ({held.job.feed}) was taken over by another worker or cancelled; this attempt is void."
    )


def resume(conn: Connection, feed: str) -> None:
    """A new run begins: what waited for a person to act, or for the mailbox, is tried at once."""
    conn.execute(_sql("resume"), {"feed": feed})


def due(conn: Connection, feeds: Collection[str], *, reclaim: bool = False) -> list[tuple[str, float]]:
    """Tables whose first job is one of these feeds' and can be claimed, with the seconds until then, 0 or less for now.

    A table whose first job is in progress is left out until the lease has run out; `reclaim` as for `claim`. Cheap,
    whatever the ledger holds.
    """
    return conn.execute(_sql("due"), {"feeds": list(feeds), "reclaim": reclaim}).fetchall()


def first_of(conn: Connection, target: str) -> First | None:
    """The job of a table that comes next, or is being done; None where there is none."""
    row = conn.execute(_sql("first_of"), {"target": target}).fetchone()
    return First(job_id=row[0], feed=row[1], running=row[2], wait=row[3]) if row else None


def held_back(conn: Connection, feed: str) -> list[str]:
    """What keeps the feed's pending jobs waiting though only another feed's run can end it, with what to do."""
    return [
        f"job {job_id} of feed {other!r} came earlier for {target} and is not done, so {waiting} of this feed's jobs"
        f" wait for it: run feed {other!r}, or give that job up by `mailferry jobs cancel {job_id}`"
        for job_id, other, target, waiting in conn.execute(_sql("held_back"), {"feed": feed})
    ]


def _sql(name: str) -> bytes:
    return queries("leases")[name]
