"""One run of one event feed, start to end. The only file that knows the whole story.

    lock -> recover -> read ahead (reader.py) -> write in order, commit (writer.py) -> sign of life, retention -> unlock

What is written leaves strictly in order, so a crash, a signal or an error at any moment leaves a prefix behind, and
the destination says how long.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailferry import logs, tracing
from mailferry.errors import MailferryError, Stop
from mailferry.events import audit, heartbeat
from mailferry.events.destination import Line, in_thread
from mailferry.events.held import Held
from mailferry.events.metrics import Metrics
from mailferry.events.order import Seen
from mailferry.events.progress import Progress, falls_behind
from mailferry.events.reader import Done, Reader, cancel, stopped
from mailferry.events.source import Source, Unreachable
from mailferry.events.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Pool
    from mailferry.events.connections import Connections
    from mailferry.events.destination import Destination
    from mailferry.events.places import Place
    from mailferry.events.reader import Item
    from mailferry.events.windows import Range

log = logs.of("mailferry.events")

#: Seconds that requests in flight get to finish when a signal asks to stop.
GRACE = 2.0
#: A position so many seconds ahead of the clock is no mere clock adjustment.
CLOCK_TOLERANCE = 300
#: A detail may show a time so many seconds off that of its list record, and count in a neighbouring hour.
BLUR = 300


@dataclass(kw_only=True)
class Result:
    """How one section's run ended."""

    section: str
    #: "completed", "skipped" (locked), "stopped" (signal) or "error".
    status: str = "stopped"
    error: str = ""
    #: The provider gave no answer at all.
    unreachable: bool = False
    #: A person has to act before it can go on.
    blocked: bool = False
    #: It was not run, as its configuration has faults.
    misconfigured: bool = False
    #: Unix seconds, or None where the feed has not begun yet.
    position: int | None = None
    #: How far that is behind the clock.
    lag_seconds: int | None = None
    #: What a person has to see to while events go on being collected: what could not be deleted or sealed.
    warnings: list[str] = field(default_factory=list)
    new_gaps: int = 0
    #: Gaps and late events since the feed began.
    gap_count: int = 0
    late: int = 0
    #: Names of the files written to, in `folder`; for a table, the table.
    files: list[str] = field(default_factory=list)
    folder: str = ""
    table: str = ""
    metrics: Metrics = field(default_factory=Metrics)


class Collector:
    """Collects one feed's events into its destination."""

    def __init__(
        self,
        feed: EventFeed,
        connections: Connections,
        *,
        pool: Pool | None = None,
        worker_id: str = "",
        take_over: bool = False,
        stop: asyncio.Event | None = None,
        place: Place | None = None,
        watch: Callable[[str, float, int], None] = lambda _section, _share, _events: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`watch` receives the share of the run that is done, 0 to 1; `stop` is set to end early and in good order.

        For a feed whose destination is a table: `pool`, of which the run holds one connection until its end; `worker_id`, a
        name for people; `take_over`, to end whatever run still holds the feed instead of skipping it.
        """
        self._feed = feed
        self._connections = connections
        self._stop = stop or asyncio.Event()
        self._place = place
        self._watch = watch
        self._clock = clock
        self._metrics = Metrics()
        self._result = Result(section=feed.section, metrics=self._metrics)
        self._destination: Destination
        if feed.destination == "table":
            from mailferry.events.table import EventTable

            if pool is None:
                raise ValueError(f"{feed.section}: a pool is needed")
            self._destination = EventTable(feed, pool, worker_id=worker_id, take_over=take_over, clock=clock)
            self._result.table = feed.table
        else:
            from mailferry.events.files import HourlyFiles

            self._destination = HourlyFiles(feed, self._metrics, clock)
            self._result.folder = str(feed.folder)
        self._journal = self._destination.journal
        self._deadline: float | None = None

    async def run(self) -> Result:
        """Collect everything up to now. An error is returned in the result, not raised."""
        try:
            with tracing.span("collect", feed=self._feed.section):
                if await self._acquired():
                    await self._held()
        finally:
            await in_thread(self._destination.release)
        return self._result

    async def _acquired(self) -> bool:
        try:
            if await in_thread(self._destination.acquire):
                return True
        except MailferryError as error:
            self._fail(str(error), blocked=isinstance(error, Stop))
            log.error("%s: %s", self._feed.section, self._result.error)  # noqa: TRY400 - its text says all
            return False
        self._result.status = "skipped"
        log.info("%s: another process is collecting this section; skipped", self._feed.section)
        return False

    async def _held(self) -> None:
        beating = asyncio.create_task(self._keep_beating())
        try:
            await self._guarded()
        finally:
            await stopped(beating)
            self._report()

    async def _guarded(self) -> None:
        try:
            await self._collect()
            self._result.status = "stopped" if self._stop.is_set() else "completed"
            await self._tidy()
        except MailferryError as error:
            self._fail(str(error), blocked=isinstance(error, Stop))
            self._result.unreachable = isinstance(error, Unreachable) and not self._metrics.succeeded
        except Exception as error:  # noqa: BLE001 - one section's defect must not end the others
            self._fail(f"unexpected {type(error).__name__}: {error}; please report it with the error log")
            self._journal.error("".join(traceback.format_exception(error)))

    async def _tidy(self) -> None:
        """Delete, compress and seal. What fails there waits, and the run says so; the events are written."""
        try:
            for what in await in_thread(self._destination.expire):
                self._journal.step(f"deleted {what}")
        except MailferryError as error:
            self._warn(f"retention: {error}")
        try:
            await in_thread(self._destination.close)
        except MailferryError as error:
            self._warn(f"closing of files: {error}")

    def _warn(self, warning: str) -> None:
        self._journal.error(warning, level=logging.WARNING)
        self._result.warnings.append(warning)

    def _fail(self, error: str, *, blocked: bool = False) -> None:
        self._result.status, self._result.error, self._result.blocked = "error", error, blocked

    async def _keep_beating(self) -> None:
        while True:
            self._destination.beat("running")
            await asyncio.sleep(heartbeat.INTERVAL)

    def _report(self) -> None:
        """The end of the run, for people and for monitoring."""
        result, committed = self._result, self._destination.committed
        self._metrics.ended = time.monotonic()
        if committed:
            result.position, result.gap_count, result.late = (
                committed.position,
                committed.gap_count,
                committed.late,
            )
            result.lag_seconds = max(0, round(self._clock() - committed.position))
        result.files = self._destination.written
        if result.error:
            self._journal.error(result.error, level=logging.ERROR)
        if committed and (warning := falls_behind(committed.position, self._clock(), self._feed.keeps)):
            self._journal.error(warning, level=logging.WARNING)
        state = f"{result.status}: {self._metrics.events:,} events"
        if self._metrics.late:
            state += f", {self._metrics.late} of them late"
        if self._metrics.as_text:
            state += f", {self._metrics.as_text} of them kept as text too"
        if result.new_gaps:
            state += f", {result.new_gaps} new gaps on record"
        if committed:
            state += f"; up to {_utc(committed.position)}"
        self._journal.message(state)
        self._destination.beat(result.status, result.error, result.warnings)

    # --- reading

    async def _collect(self) -> None:
        progress = await self._open()
        feed = self._feed
        now = self._clock()
        if progress.position > now + CLOCK_TOLERANCE:
            raise Stop(
                f"[{feed.section}] the position {progress.position} ({_utc(progress.position)}) lies in the future; was this "
                f"machine's clock set back? It says {_utc(now)}. Nothing was collected or changed: correct the clock, or "
                f"{self._destination.checkpoint}"
            )
        begin, end = progress.begin(feed.look_back), int(now) - feed.settle
        if begin >= end:
            self._journal.step("nothing to collect yet")
            return
        self._journal.step(f"collecting from {_utc(begin)} to {_utc(end)}")
        self._span = (begin, end)
        self._source = Source(feed, self._connections, self._metrics, self._journal, self._place)
        progress.coverage = progress.coverage.not_after(int(now))
        reader = self._reader(progress)
        reading = asyncio.create_task(reader.read(begin, end, progress.position, progress.seen))
        self._writer = Writer(self._destination, progress, feed.look_back, self._metrics, feed.audit_delays)
        self._stopping = asyncio.create_task(self._stop.wait())
        try:
            await self._write(reader, reading, self._covered)
            await self._audit(progress)
        finally:
            await stopped(self._stopping)

    async def _open(self) -> Progress:
        feed = self._feed
        progress, recovered = await in_thread(self._destination.open)
        if progress is None:
            now = self._clock()
            start = int(now) if feed.start_time is None else feed.start_time
            if start > now + CLOCK_TOLERANCE:
                raise Stop(
                    f"[{feed.section}] start_time = {start} lies in the future; give Unix seconds, not milliseconds. "
                    f"Now is {int(now)}"
                )
            progress = Progress(position=start, floor=start)
            await in_thread(self._destination.commit, [], progress, start)
        elif recovered.adopted or recovered.cut:
            self._metrics.adopted = recovered.adopted
            self._journal.message(
                f"{recovered.adopted} events found written before and kept, {recovered.cut} torn bytes cut"
            )
        return progress

    def _reader(self, progress: Progress) -> Reader:
        return Reader(self._feed, self._source, self._metrics, self._journal, progress.coverage, self._clock)

    # --- looking again

    async def _audit(self, progress: Progress) -> None:
        """List again what is due for it, until nothing is, or until it is time to let the next run go on."""
        feed = self._feed
        days = min(feed.log_retention_days or audit.REACH, audit.REACH)
        # A day's margin, as the provider's clock is not ours.
        reach = min(days * 86_400, feed.keeps - 86_400 if feed.keeps else days * 86_400)
        until = time.monotonic() + audit.LONGEST
        while not self._stop.is_set() and time.monotonic() < until:
            now = int(self._clock())
            due = audit.due(
                progress.coverage, feed.audit_delays, now, since=now - reach, page_limit=feed.page_limit
            )
            if due is None:
                return
            await self._audit_one(due, now, progress)

    async def _audit_one(self, due: Range, now: int, progress: Progress) -> None:
        await self._writer.audit(due)
        held = await self._holds(due)
        written = progress.coverage.held(*due)
        there = held.untimed + sum(
            count for time, count in held.times.items() if due.start - BLUR <= time < due.end + BLUR
        )
        if there < written:
            self._journal.error(
                f"of {written:,} events written from {_utc(due.start)} to {_utc(due.end)} {there:,} are still there: they "
                "were moved or deleted. That time is not audited; mailferry verify looks closer, and can write them again",
                level=logging.WARNING,
            )
            await self._writer.taken(now, held.times)
            return
        late = self._metrics.audit_late
        before = progress.coverage.expected(*due)
        times = await self._list_again(due, held, progress)
        if self._stop.is_set():
            return
        if times.total() < before:
            self._journal.error(
                f"of {before:,} events that the provider has listed from {_utc(due.start)} to {_utc(due.end)} it lists only "
                f"{times.total():,} now; what was written stays",
                level=logging.WARNING,
            )
        await self._writer.audited(now, times)
        late = self._metrics.audit_late - late
        self._journal.step(
            f"audited {_utc(due.start)} to {_utc(due.end)}: {times.total():,} events, {late} of them late"
        )

    async def _holds(self, some: Range) -> Held:
        """What the destination has of that time."""
        return await in_thread(lambda: Held(self._destination.found(*some)))

    async def _list_again(self, asked: Range, held: Held, progress: Progress) -> Counter[int]:
        """List a range, and write what is not held of it; the number of its events by their second."""
        times: Counter[int] = Counter()

        async def count(done: Done) -> None:
            times.update(done.times)
            await self._gaps(done)

        reader = self._reader(progress)
        states = progress.newer | progress.seen.states
        seen = Seen(dict.fromkeys(held.keys, asked.end) | progress.seen.ends, states)
        again = progress.details_missing.keys()
        reading = asyncio.create_task(reader.read(*asked, progress.position, seen, held=held, again=again))
        await self._write(reader, reading, count)
        return times

    # --- writing

    async def _write(
        self, reader: Reader, reading: asyncio.Task[None], covered: Callable[[Done], Awaitable[None]]
    ) -> None:
        """Write and commit what the reader passes on, in order, until it ends or fails, or until a stop is asked for."""
        try:
            await self._pass_on(reader, reading, covered)
        finally:
            await stopped(reading)
            await reader.discard()
            await self._writer.flush()

    async def _pass_on(
        self, reader: Reader, reading: asyncio.Task[None], covered: Callable[[Done], Awaitable[None]]
    ) -> None:
        while (item := await self._next(reader, reading)) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Done):
                await covered(item)
                continue
            try:
                for line in item.lines:
                    if isinstance(line, Line):
                        ready: Line | None = line
                    elif line.done():
                        ready = line.result()
                    else:
                        ready = await self._ready(line)
                    if ready:
                        await self._writer.add(ready, item.range.end)
            except BaseException as error:
                await cancel(item.lines)
                if isinstance(error, _OutOfTime):
                    return
                raise

    async def _next(self, reader: Reader, reading: asyncio.Task[None]) -> Item:
        """The next item; after a stop only what has been read already, then None."""
        if reader.items.empty() and not self._stop.is_set():
            getting = asyncio.create_task(reader.items.get())
            await asyncio.wait({getting, self._stopping}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            await stopped(getting)
        if self._stop.is_set():
            await stopped(reading)
            if reader.items.empty():
                return None
        return reader.items.get_nowait()

    async def _ready(self, line: asyncio.Task[Line | None]) -> Line | None:
        """The line when its detail is there; after a stop, details in flight get `GRACE` seconds in all."""
        while not line.done():
            if self._stop.is_set():
                self._deadline = self._deadline or time.monotonic() + GRACE
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise _OutOfTime
                await asyncio.wait({line}, timeout=left)
            else:
                waited = {line, self._stopping}
                due_in = self._writer.due_in()
                await asyncio.wait(waited, timeout=due_in, return_when=asyncio.FIRST_COMPLETED)
                if self._writer.due_in() == 0:
                    await self._writer.flush()
        return line.result()

    async def _covered(self, done: Done) -> None:
        await self._gaps(done)
        share = (done.batch.range.end - self._span[0]) / (self._span[1] - self._span[0])
        self._watch(self._feed.section, share, self._metrics.events)

    async def _gaps(self, done: Done) -> None:
        for gap in await self._writer.covered(done):
            self._result.new_gaps += 1
            reason = {
                "saturated": f"it holds more than the {done.limit} records that the provider returns at once",
                "expired": "the provider no longer has events of that time",
            }[gap.kind]
            self._journal.error(
                f"gap from {_utc(gap.start)} to {_utc(gap.end)}: {reason}", level=logging.WARNING
            )


class _OutOfTime(Exception):  # noqa: N818 - ends the writing after a stop
    """What is still in flight is left for the next run."""


def _utc(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "beyond the calendar"
