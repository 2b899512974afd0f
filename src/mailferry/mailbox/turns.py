"""What a process does for mailbox feeds, one step at a time: a look into a mailbox, or a job of a table."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mailferry import database, logs, tracing
from mailferry.errors import MailferryError, Stop
from mailferry.mailbox.intake import gather
from mailferry.mailbox.ledger import leases, records
from mailferry.mailbox.ledger.rows import job_of
from mailferry.mailbox.load import load_job
from mailferry.mailbox.search import LeftOpen
from mailferry.mailbox.settle import settle, settle_rest
from mailferry.mailbox.source.message import Unavailable
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import Job
    from mailferry.mailbox.pool import MailPool

log = logs.of(__name__, logs.FILES)

#: Seconds to wait for a job that is due and that another process had this moment.
_MOMENT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Polled:
    """The result of one look into a mailbox."""

    #: Messages that were recorded.
    arrived: int
    #: Earlier jobs whose messages still cannot be marked, or files put away, each with its reason.
    troubles: tuple[str, ...]


def poll(mail: MailPool, feed: str, on_recorded: Callable[[Job], object] = lambda _job: None) -> Polled:
    """Record what has arrived, oldest first, and settle what earlier work has left.

    `on_recorded` is called with each job as soon as it can be claimed, so that loading need not wait for the rest. Raises
    Retry, for the caller to try again after 1, 2 and 4 seconds, and Stop; what was recorded by then stays.
    """
    with tracing.span("poll", feed=feed), mail.acquire(feed) as work:
        with work.transaction() as conn:
            leases.resume(conn, feed)
        arrived, left_open = 0, ""
        try:
            for job in gather(work):
                arrived += 1
                on_recorded(job)
        except LeftOpen as error:
            left_open = str(error)
        mail.note_reached(feed, reached=True)
        # A job that ended within the lease may be settled by its worker at this moment.
        ago = dt.timedelta(0) if mail.alone else mail.lease
        troubles = tuple(settle_rest(work, ago))
        if left_open:
            raise LeftOpen("; ".join((left_open, *troubles)))
        return Polled(arrived=arrived, troubles=troubles)


class StepResult(StrEnum):
    """What became of a step at a table."""

    #: A job was done or attempted: `Step.job`.
    WORKED = "worked"
    #: The table has no job that waits.
    NOTHING = "nothing"
    #: The next job is due, or its worker's lease over, in `Step.wait` seconds.
    LATER = "later"
    #: The next job is another process's to do; `Step.why` says whose.
    HELD_BACK = "held back"
    #: A person has to act, see `Step.why`; the job is tried again in a minute, and after the next poll begins.
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step at a table."""

    result: StepResult
    #: The job that was attempted, as it is afterwards.
    job: Job | None = None
    #: Seconds, more than 0, after which to come again; None after WORKED and NOTHING.
    wait: float | None = None
    #: For people. After WORKED: why the message is not marked yet, or "".
    why: str = ""


def load_next(mail: MailPool, target: str, feeds: Collection[str]) -> Step:
    """Do the table's next job, if it is due and one of these feeds'; else say what comes next.

    `target` as `leases.due` and `Job.target` name it. A job that fails has that on record: no error is raised for
    it. Raises Retry where the ledger cannot be reached, Stop where folders cannot be used.
    """
    usable = mail.usable(feeds)
    held = mail.claim(target, usable)
    if held is None:
        return _what_comes(mail, target, feeds, usable)
    ids = logs.bound(feed=held.job.feed, job=held.job.id)
    with ids, mail.working(held), mail.acquire(held.job.feed) as work:
        try:
            with tracing.span("job", feed=held.job.feed, job=held.job.id):
                job = load_job(work, held)
        except Stop as error:
            wait = records.AFTER_STOP.total_seconds()
            return Step(
                result=StepResult.BLOCKED, job=_as_it_is(work, held.job), wait=wait, why=mask(str(error))
            )
        if job is None:
            return Step(result=StepResult.WORKED, job=_as_it_is(work, held.job))
        why = _settle(mail, work, job) if job.ended else ""
        return Step(result=StepResult.WORKED, job=job, why=why)


def _as_it_is(work: Work, job: Job) -> Job:
    """The job as the ledger has it now."""
    with work.transaction() as conn:
        return job_of(conn, job.id) or job


def _settle(mail: MailPool, work: Work, job: Job) -> str:
    """Put away and mark, unless the mailbox is unreachable: the next poll does the rest. Why that is so, or ""."""
    feed = work.feed.name
    if mail.is_unreachable(feed):
        return "its mailbox is unreachable"
    try:
        settle(work, job)
    except MailferryError as error:
        if isinstance(error, Unavailable | Stop):
            mail.note_reached(feed, reached=False)
        log.warning("job %d: not settled yet, the next poll does it: %s", job.id, error)
        return mask(str(error))
    return ""


def _what_comes(mail: MailPool, target: str, feeds: Collection[str], usable: Collection[str]) -> Step:
    with database.transaction(mail.pool) as conn:
        first = leases.first_of(conn, target)
    if first is None:
        return Step(result=StepResult.NOTHING)
    wait = max(first.wait, _MOMENT)
    what = f"job {first.job_id} of feed {first.feed!r} comes first for {target}"
    if first.feed not in feeds:
        why = f"{what}, and is done where that feed is run"
    elif first.feed not in usable:
        why = f"{what}, and a `mailferry load` works in its folders"
    else:
        return Step(result=StepResult.LATER, wait=wait, why=what)
    return Step(result=StepResult.HELD_BACK, wait=wait, why=why)
