"""`mailferry load`: the steps of the service (`turns`) for one feed, until nothing is due.

find, choose, store, record (`intake`) -> read, load (`load`) -> put away, mark (`settle`). Any crash is repaired
by running again: the ledger knows every job, a message is marked only after the commit that holds its rows, and what
was stored but not recorded is fetched again under the same name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry import database, logs
from mailferry.clock import local_now
from mailferry.errors import MailferryError, Retry, Stop
from mailferry.mailbox.cleanup import expire, sweep
from mailferry.mailbox.folders import Folders
from mailferry.mailbox.ledger import admin, leases, records
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.pool import MailPool
from mailferry.mailbox.search import LeftOpen
from mailferry.mailbox.settle import settle_rest
from mailferry.mailbox.source.message import Unreachable
from mailferry.mailbox.turns import StepResult, load_next, poll
from mailferry.secrets import mask

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.ledger.jobs import Details
    from mailferry.mailbox.source.message import MessageRef

    _Failures = defaultdict[str, Counter[MessageRef]]

log = logs.of(__name__, logs.EMAIL)

#: Seconds that a run waits for a job's next attempt; one that is further off is left to the next run.
_WAIT = 8.0


@dataclass(kw_only=True, slots=True)
class Run:
    """The result of one run."""

    feed: str
    #: "done", "skipped" (another run is at it), "stopped" (asked to), "failed" (a passing fault that did not pass),
    #: "blocked" (a person has to act).
    status: str = "done"
    #: Jobs that this run finished or attempted, as they are at its end; by id.
    jobs: dict[int, Details] = field(default_factory=dict)
    #: Messages that were recorded.
    arrived: int = 0
    #: Whether database and mailbox were open at any time.
    reached: bool = False
    #: What the next run has to make good, each with its object.
    troubles: list[str] = field(default_factory=list)
    error: str = ""
    #: Called after each job, as `run` says.
    watch: Callable[[str, float, int], None] = field(default=lambda _feed, _share, _rows: None, repr=False)

    @property
    def exit_status(self) -> int:
        """0 done, skipped or stopped; 1 the run failed, or a job failed, waits or a file of it was refused; 3 nothing could be reached."""
        if self.status == "failed" and not self.reached:
            return 3
        open_or_failed = (JobState.FAILED, JobState.PENDING)
        jobs = [details.job for details in self.jobs.values()]
        failed = any(job.state in open_or_failed or (job.refused and job.error) for job in jobs)
        return int(self.status in ("failed", "blocked") or bool(self.troubles) or failed)


def run(
    feed: MailboxFeed,
    *,
    stop: threading.Event | None = None,
    clock: Callable[[], dt.datetime] = local_now,
    watch: Callable[[str, float, int], None] = lambda _feed, _share, _rows: None,
) -> Run:
    """Load everything that has arrived. Faults are in the result, not raised; `stop` ends it after the current step.

    `watch` is called after each job with the share of the known jobs that are done, 0 to 1, and the rows read.

    Passing faults of mailbox or database are tried again after 1, 2 and 4 seconds, as are those of a single job.
    """
    result = Run(feed=feed.name, watch=watch)
    stop = stop or threading.Event()
    folders = Folders(base=feed.base_dir)
    try:
        folders.prepare()
        with folders.alone() as alone:
            if alone:
                _tries(feed, result, stop, clock)
            else:
                _skip(result, f"another process works in {folders.base}")
    except Retry as error:
        result.status, result.error = "failed", mask(str(error))
    except MailferryError as error:
        result.status, result.error = "blocked", mask(str(error))
    if result.error:
        log.error("%s: %s", feed.name, result.error)
    elif stop.is_set():
        result.status = "stopped"
    return result


def _skip(result: Run, why: str) -> None:
    result.status = "skipped"
    log.info("%s: skipped, %s", result.feed, why)


def _tries(feed: MailboxFeed, result: Run, stop: threading.Event, clock: Callable[[], dt.datetime]) -> None:
    failures: _Failures = defaultdict(Counter)
    worker_id = f"{socket.gethostname()}:{os.getpid()}"
    attempt = 0
    while True:
        before = len(result.jobs)
        try:
            with (
                database.connect(feed.database) as pool,
                MailPool(
                    {feed.name: feed},
                    pool,
                    worker_id=worker_id,
                    stop=stop,
                    clock=clock,
                    failures=failures,
                    alone=True,
                ) as mail,
                leases.only_run(pool, feed.name) as alone,
            ):
                if alone:
                    _once(mail, feed.name, result)
                else:
                    _skip(result, "another host is running it")
        except Retry as error:
            # What gets on a little is not at its end.
            attempt = 1 if len(result.jobs) > before else attempt + 1
            if attempt > records.MOST_RETRIES or stop.is_set():
                raise
            wait = records.retry_delay(attempt).total_seconds()
            log.warning("%s: %s; again in %g s", feed.name, error, wait)
            if stop.wait(wait):
                return
        else:
            return


def _once(mail: MailPool, feed: str, result: Run) -> None:
    def recorded(_job: object) -> None:
        result.arrived += 1

    left_open: list[str] = []
    try:
        poll(mail, feed, recorded)
    except LeftOpen as error:
        left_open.append(str(error))
    except MailferryError as error:
        result.reached |= not isinstance(error, Unreachable)
        # What is recorded need not wait for the mailbox.
        with contextlib.suppress(MailferryError):
            _load_all(mail, feed, result)
        raise
    result.reached = True
    with mail.acquire(feed) as work:
        sweep(work, alone=True)
    _load_all(mail, feed, result)
    with mail.acquire(feed) as work:
        unsettled = settle_rest(work)
        expire(work)
    ended = (details.job for details in result.jobs.values() if details.job.ended)
    if unsettled and any(job.marked_at is None for job in ended):
        raise Retry("; ".join(unsettled))
    result.troubles = [*left_open, *_held_back(mail, feed), *unsettled]


def _load_all(mail: MailPool, feed: str, result: Run) -> None:
    """Every job that is due; a short wait for one whose next attempt is near."""
    while not mail.stop.is_set():
        with database.transaction(mail.pool) as conn:
            due = leases.due(conn, [feed], reclaim=True)
        waits = [wait if wait > 0 else _load_table(mail, feed, target, result) for target, wait in due]
        nearest = min(filter(None, waits), default=None)
        if nearest is None:
            return
        if nearest > _WAIT:
            log.info("%s: jobs are left for a later run", feed)
            return
        mail.stop.wait(nearest)


def _load_table(mail: MailPool, feed: str, target: str, result: Run) -> float:
    """The jobs of a table that are due; seconds until the next one is, 0 where there is none."""
    while not mail.stop.is_set():
        step = load_next(mail, target, [feed])
        if step.job:
            _note(mail, result, step.job.id)
        if step.result is StepResult.BLOCKED:
            raise Stop(step.why)
        if step.result is not StepResult.WORKED:
            return step.wait or 0
    return 0


def _held_back(mail: MailPool, feed: str) -> list[str]:
    """Why jobs are left for a later run, where another feed has to do something about it."""
    with database.transaction(mail.pool) as conn:
        held_back = leases.held_back(conn, feed)
    for trouble in held_back:
        log.error("%s: %s", feed, trouble)
    return held_back


def _note(mail: MailPool, result: Run, job_id: int) -> None:
    with database.transaction(mail.pool) as conn:
        details = admin.show(conn, job_id)
    if details:
        result.jobs[job_id] = details
        done = len(result.jobs)
        rows = sum(file.counts.read for one in result.jobs.values() for file in one.files)
        result.watch(result.feed, done / max(done, result.arrived), rows)
