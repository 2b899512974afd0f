"""One run of one mailbox, start to end. The only file that knows the whole story.

find, choose, store, record (`intake`) -> read, load (`load`) -> put away, mark (`settle`). Any crash is repaired
by running again: the ledger knows every job, a message is marked only after the commit that holds its rows, and what
was stored but not recorded is fetched again under the same name.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.clock import local_now
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.cleanup import expire, sweep
from mailferry.mailbox.context import only_runner, opened
from mailferry.mailbox.folders import Folders
from mailferry.mailbox.intake import gather
from mailferry.mailbox.ledger import arrivals, leases, records
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.load import process
from mailferry.mailbox.search import Undecided
from mailferry.mailbox.settle import settle_rest
from mailferry.secrets import mask

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import Details
    from mailferry.mailbox.source.message import MessageRef

log = logs.of(__name__, logs.EMAIL)

#: Seconds that a run waits for a job's next attempt; one that is further off is left to the next run.
_WAIT = 10.0


@dataclass(kw_only=True, slots=True)
class Run:
    """What one run came to."""

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

    @property
    def exit_status(self) -> int:
        """0 done, skipped or stopped; 1 the run or a job failed; 3 nothing could be reached."""
        if self.status == "failed" and not self.reached:
            return 3
        failed = any(
            details.job.state in (JobState.FAILED, JobState.PENDING) for details in self.jobs.values()
        )
        return int(self.status in ("failed", "blocked") or bool(self.troubles) or failed)


def run(
    feed: MailboxFeed,
    *,
    stop: threading.Event | None = None,
    clock: Callable[[], dt.datetime] = local_now,
) -> Run:
    """Load everything that has arrived. Faults are in the result, not raised; `stop` ends it after the current step.

    Passing faults of mailbox or database are tried again after 1, 2 and 4 seconds, as are those of a single job.
    """
    result = Run(feed=feed.name)
    stop = stop or threading.Event()
    folders = Folders(base=feed.base_dir)
    try:
        folders.prepare()
        with folders.alone() as alone:
            if alone:
                _tries(feed, folders, result, stop, clock)
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


def _tries(
    feed: MailboxFeed,
    folders: Folders,
    result: Run,
    stop: threading.Event,
    clock: Callable[[], dt.datetime],
) -> None:
    failures: Counter[MessageRef] = Counter()
    attempt = 0
    while True:
        before = len(result.jobs)
        try:
            with opened(feed, folders, clock=clock, stop=stop) as work:
                result.reached = True
                work.failures = failures
                with only_runner(work) as alone:
                    if alone:
                        _once(work, result)
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


def _once(work: Work, result: Run) -> None:
    with work.transaction() as conn:
        arrivals.resume(conn, work.feed.name)
    undecided: list[str] = []
    try:
        for _ in gather(work):
            result.arrived += 1
    except Undecided as error:
        undecided.append(str(error))
    except Retry:
        # What is recorded need not wait for the mailbox.
        with contextlib.suppress(Retry):
            _work_off(work, result)
        raise
    sweep(work, alone=True)
    settle_rest(work)
    held_back = _work_off(work, result)
    result.troubles = [*undecided, *held_back, *settle_rest(work)]
    expire(work)


def _work_off(work: Work, result: Run) -> list[str]:
    """Every job that is due; a short wait for one whose next attempt is near. Gives what of others holds back the rest."""
    overdue = False
    while not work.stop.is_set():
        with work.transaction() as conn:
            # We are the only run of this feed: what such a one has in progress is left over from a crash.
            held = leases.claim(conn, runner=work.runner, feed=work.feed.name, take_over=True)
            wait = None if held else arrivals.first_due(conn, work.feed.name)
        if held:
            try:
                process(work, held)
            finally:
                with contextlib.suppress(Retry):
                    _note(work, result, held.job.id)
        elif wait is not None and 0 < wait <= _WAIT:
            work.stop.wait(wait)
        elif wait is not None and wait <= 0 and not overdue:
            # Due since a moment ago; if it cannot be claimed now either, another feed's job holds it back.
            overdue = True
            continue
        else:
            return [] if wait is None else _left(work)
        overdue = False
    return []


def _left(work: Work) -> list[str]:
    """Why jobs are left for a later run, where another feed has to do something about it."""
    log.info("%s: jobs are left for a later run", work.feed.name)
    with work.transaction() as conn:
        held_back = arrivals.held_back(conn, work.feed.name)
    for trouble in held_back:
        log.error("%s: %s", work.feed.name, trouble)
    return held_back


def _note(work: Work, result: Run, job_id: int) -> None:
    with work.transaction() as conn:
        details = records.show(conn, job_id)
    if details:
        result.jobs[job_id] = details
