"""What a worker of the service does, one turn at a time: a look into a mailbox, or a job of a table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mailferry import database, logs
from mailferry.errors import MailferryError, Stop
from mailferry.mailbox.intake import gather
from mailferry.mailbox.ledger import arrivals, records
from mailferry.mailbox.ledger.jobs import OutOfReach
from mailferry.mailbox.load import as_it_is, attempt
from mailferry.mailbox.settle import settle, settle_rest
from mailferry.mailbox.source.imap_connection import Dropped
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import Job
    from mailferry.mailbox.pool import Stations

log = logs.of(__name__, logs.FILES)

#: Seconds to wait for a job that is due and was in somebody's hands this moment.
_MOMENT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Polled:
    """What one look into a mailbox came to."""

    #: Messages that were recorded.
    arrived: int
    #: Earlier jobs whose messages still cannot be marked, or files put away, each with its reason.
    troubles: tuple[str, ...]


def poll(work: Work, on_recorded: Callable[[Job], object] = lambda _job: None) -> Polled:
    """Record what has arrived, oldest first, and settle what earlier work has left.

    `on_recorded` is called with each job as soon as it can be claimed, so that loading need not wait for the rest. Raises
    Retry, for the caller to try again after 1, 2 and 4 seconds, and Stop; what was recorded by then stays.
    """
    with work.transaction() as conn:
        arrivals.resume(conn, work.feed.name)
    arrived = 0
    for job in gather(work):
        arrived += 1
        on_recorded(job)
    return Polled(arrived=arrived, troubles=tuple(settle_rest(work, work.lease)))


class Turn(StrEnum):
    """What became of a turn at a table."""

    #: A job was done or attempted, as it is told by `Step.job`.
    WORKED = "worked"
    #: The table has no job that waits.
    NOTHING = "nothing"
    #: The next job is due, or its runner's lease over, in `Step.wait` seconds.
    LATER = "later"
    #: The next job is another process's to do; `Step.why` says whose.
    HELD_BACK = "held back"
    #: A person has to act, see `Step.why`; the job is tried again in a minute, and after the next poll begins.
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One turn at a table."""

    turn: Turn
    #: The job that was attempted, as it is afterwards.
    job: Job | None = None
    #: Seconds, more than 0, after which to come again; None where that is told by other events.
    wait: float | None = None
    #: For people. After WORKED: why the message is not marked yet, or "".
    why: str = ""


def load_next(stations: Stations, target: str, feeds: Collection[str]) -> Step:
    """Do the table's next job, if it is due and one of these feeds'; tells what comes otherwise.

    `target` as `arrivals.due` and `Job.target` name it. A job that fails has that on record: no error is raised for
    it. Raises Retry where the ledger cannot be reached, Stop where folders cannot be used.
    """
    ready = stations.ready(feeds)
    held = stations.claim(target, ready)
    if held is None:
        return _what_comes(stations, target, feeds, ready)
    ids = logs.bound(feed=held.job.feed, job=held.job.id)
    with ids, stations.working(held), stations.lend(held.job.feed) as work:
        try:
            job = attempt(work, held)
        except Stop as error:
            wait = records.AFTER_STOP.total_seconds()
            return Step(turn=Turn.BLOCKED, job=as_it_is(work, held.job), wait=wait, why=mask(str(error)))
        if job is None:
            return Step(turn=Turn.WORKED, job=as_it_is(work, held.job))
        why = _settle(stations, work, job) if job.ended else ""
        return Step(turn=Turn.WORKED, job=job, why=why)


def _settle(stations: Stations, work: Work, job: Job) -> str:
    """Put away and mark, unless the mailbox is away: the next poll that reaches it does the rest. Why that is so, or ""."""
    feed = work.feed.name
    if stations.away(feed):
        return "its mailbox is away"
    try:
        settle(work, job)
    except MailferryError as error:
        if isinstance(error, OutOfReach | Dropped | Stop):
            stations.found_away(feed)
        log.warning("job %d: not settled yet, the next poll does it: %s", job.id, error)
        return mask(str(error))
    return ""


def _what_comes(stations: Stations, target: str, feeds: Collection[str], ready: Collection[str]) -> Step:
    with database.transaction(stations.pool) as conn:
        first = arrivals.first_of(conn, target)
    if first is None:
        return Step(turn=Turn.NOTHING)
    wait = max(first.wait, _MOMENT)
    what = f"job {first.job_id} of feed {first.feed!r} comes first for {target}"
    if first.feed not in feeds:
        return Step(turn=Turn.HELD_BACK, wait=wait, why=f"{what}, and is done where that feed is run")
    if first.feed not in ready:
        return Step(
            turn=Turn.HELD_BACK, wait=wait, why=f"{what}, and a `mailferry load` works in its folders"
        )
    return Step(turn=Turn.LATER, wait=wait, why=what)
