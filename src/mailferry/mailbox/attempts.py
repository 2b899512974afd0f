"""The attempts of one run of `mailferry load`; apart from `run_once`, as all that is heavy to import is imported here."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from mailferry import database, logs
from mailferry.errors import MailferryError, Retry, Stop
from mailferry.mailbox.cleanup import expire, sweep
from mailferry.mailbox.ledger import admin, leases, records
from mailferry.mailbox.pool import MailPool
from mailferry.mailbox.search import LeftOpen
from mailferry.mailbox.settle import settle_rest
from mailferry.mailbox.source.message import Unreachable
from mailferry.mailbox.turns import StepResult, load_next, poll

if TYPE_CHECKING:
    import datetime as dt
    import threading
    from collections.abc import Callable

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.run_result import Run
    from mailferry.mailbox.source.message import MessageRef
    from mailferry.mailbox.workbook.reader import Reader

    _Failures = defaultdict[str, Counter[MessageRef]]

log = logs.of(__name__, logs.EMAIL)

#: Seconds that a run waits for a job's next attempt; one that is further off is left to the next run.
_WAIT = 8.0


def run(
    feed: MailboxFeed,
    result: Run,
    reader: Reader,
    *,
    stop: threading.Event,
    clock: Callable[[], dt.datetime],
) -> None:
    """What `run_once.run` does where no other process does it; `reader` for the first files. Raises Retry or Stop."""
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
                    mail.keep(feed.name, reader)
                    _once(mail, feed.name, result)
                else:
                    result.skip("another host is running it")
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
