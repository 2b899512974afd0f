"""Reading ahead: from a span of time to its events in order, their details under way. Nothing is written here.

windows -> lists (one batch ahead) -> fresh events, oldest first -> chunks of lines, or of details being fetched
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mailferry import tracing
from mailferry.config.event_feed import RANGE_LIMIT
from mailferry.errors import Retry, Stop
from mailferry.events import order, windows
from mailferry.events import record as records
from mailferry.events.destination import Line
from mailferry.events.source import Expired, Postponed, Unreachable
from mailferry.events.windows import Batch, Gap, Pages, Range

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.coverage import Coverage
    from mailferry.events.held import Held
    from mailferry.events.journal import Journal
    from mailferry.events.metrics import Metrics
    from mailferry.events.order import Placed, Seen
    from mailferry.events.source import Source

#: Events of one chunk where details are fetched, and chunks ahead of the writer: what may be under way at once.
DETAILS_CHUNK = 64
PLAIN_CHUNK = 1024
CHUNKS_AHEAD = 8
_DAY = 86_400
#: A time so many seconds from the range that was asked for is none: it would make a file or a partition of its own.
_FAR = 31 * _DAY
#: Of a range that begins too early for the provider, so many seconds are given up first, then twice as many.
_FINE = 60


class Chunk(NamedTuple):
    """Some events of one batch, in order; those whose detail is still being fetched as tasks."""

    range: Range
    lines: Sequence[Line | asyncio.Task[Line | None]]


class Done(NamedTuple):
    """All events of a batch were passed on: its range is covered."""

    batch: Batch
    #: Identities that were listed again.
    repeated: Sequence[str]
    #: When each of its events is filed, Unix seconds; an event that the answer has twice counts once.
    times: Sequence[int]
    #: Records that made a page full.
    limit: int
    #: Identities and digests of records that are not what they were, and that are not written.
    changed: Sequence[tuple[str, str]] = ()


#: What the writer gets: events, covered ranges, the error that ended the reading at its place, or None for the end.
Item = Chunk | Done | BaseException | None


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it is over, whatever it ends with."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


class Reader:
    """Reads one feed's events from `begin` to `end` (Unix seconds) into `items`."""

    def __init__(
        self,
        feed: EventFeed,
        source: Source,
        metrics: Metrics,
        journal: Journal,
        coverage: Coverage,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`coverage`: what the provider has listed so far, by which answers that leave some of it out are recognised."""
        self._feed = feed
        self._source = source
        self._metrics = metrics
        self._journal = journal
        self._clock = clock
        self._coverage = coverage
        self._pages = Pages(feed.page_limit, coverage.expected)
        self._identity = order.Identity(feed.identity_fields, feed.ignored_fields)
        #: Whether records were compared for fields that change with every answer, and whether there are some.
        self._compared = self._volatile = False
        #: An event that old was listed: the provider still keeps all that came after it. Of quarantine it says what it lacks.
        self._kept = feed.category == "quarantine"
        self.items: asyncio.Queue[Item] = asyncio.Queue(CHUNKS_AHEAD)
        self._step = feed.step
        self._again: Collection[str] = ()
        self._held: Held | None = None
        #: Fields in which details differ from their list records, as they always do.
        self._unlike: set[str] = set()

    async def read(
        self,
        begin: int,
        end: int,
        position: int,
        seen: Seen,
        *,
        held: Held | None = None,
        again: Collection[str] = (),
    ) -> None:
        """Fill `items`. `seen`: what was taken before; it is not changed. Runs as a task of its own.

        `held`: what the destination has of that time, which is asked for in one window; `again`: events whose detail could not
        be had before.
        """
        known = seen.copy()
        self._position = position
        self._step = end - begin if held else self._feed.step
        self._held = held
        self._again = again
        try:
            async with contextlib.aclosing(self._ahead(begin, end, position)) as batches:
                async for batch in batches:
                    await self._pass_on(batch, known)
            await self.items.put(None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again by the writer, after all that came before
            await self.items.put(error)

    async def listed(self, begin: int, end: int) -> AsyncGenerator[tuple[Batch, list[Placed]], None]:
        """The batches of a range, oldest first, with their events as the lists have them; nothing else is asked for."""
        self._step = max(1, min(end - begin, RANGE_LIMIT))
        async with contextlib.aclosing(self._ahead(begin, end, end)) as batches:
            async for batch in batches:
                yield batch, order.oldest_first(batch.answer, batch.range.start)

    async def discard(self) -> None:
        """End the details that are no longer needed."""
        lines: list[Line | asyncio.Task[Line | None]] = []
        while not self.items.empty():
            item = self.items.get_nowait()
            if isinstance(item, Chunk):
                lines += item.lines
        await cancel(lines)

    # --- lists

    async def _ahead(self, begin: int, end: int, position: int) -> AsyncGenerator[Batch, None]:
        """All batches, oldest first; the next list is under way while one is worked on."""
        queue: asyncio.Queue[Batch | BaseException | None] = asyncio.Queue(1)

        async def run() -> None:
            try:
                async with contextlib.aclosing(self._batches(begin, end, position)) as batches:
                    async for batch in batches:
                        await queue.put(batch)
                await queue.put(None)
            except Exception as error:  # noqa: BLE001 - raised again below
                await queue.put(error)

        running = asyncio.create_task(run())
        try:
            while (batch := await queue.get()) is not None:
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
        finally:
            await stopped(running)

    async def _batches(self, begin: int, end: int, position: int) -> AsyncGenerator[Batch, None]:
        start = begin
        while start < end:
            kept_from = int(self._clock()) - self._feed.keeps
            if self._feed.category == "quarantine" and self._feed.keeps and start < kept_from:
                gone = Range(start, min(end, kept_from))  # the provider would refuse it
            elif not self._kept and end > position and self._was_listed_before(start):
                gone = await self._no_longer_kept(start, end)
            elif not self._kept and self._feed.keeps and start < kept_from + _DAY:
                gone = await self._no_longer_kept(start, min(end, kept_from + _DAY))
            else:
                gone = Range(start, start)
            if gone.end > start:
                yield _expired(gone, position)
                start = gone.end
                continue
            window = Range(start, min(start + self._step, end))
            async for batch in self._as_far_as_kept(window, position):
                yield batch
            start = window.end

    def _was_listed_before(self, start: int) -> bool:
        """Whether a feed that is behind has events on record of the day before: if they are gone, so may be later ones."""
        return start < self._clock() - _DAY and self._coverage.expected(start - _DAY, start) > 0

    async def _no_longer_kept(self, start: int, end: int) -> Range:
        """How much of that old time the provider has lost: all before the first event that it still has.

        Where it has events from before `start`, it has lost nothing: it deletes the oldest first.
        """
        lost = Range(start, start)
        if not await self._list(Range(start - _DAY, start)):
            asked = Range(start, min(end, start + RANGE_LIMIT))
            answer = await self._list(asked)
            while self._pages.full(len(answer)) and asked.end - start > self._feed.step:
                asked = Range(start, (start + asked.end) // 2)
                answer = await self._list(asked)
            times = [entry.time for entry in answer if entry.time is not None]
            if not answer:
                return asked
            lost = Range(start, max(start, min(times, default=start)))
        self._kept = True
        return lost

    async def _as_far_as_kept(
        self, window: Range, position: int, seconds: int = _FINE
    ) -> AsyncGenerator[Batch, None]:
        """The batches of a window; the provider may refuse its beginning as too old."""
        try:
            now = int(self._clock())
            async for batch in self._window(window):
                yield replace(batch, asked_at=now)
        except Expired:
            if window.start > self._clock() - (self._feed.keeps or 7 * _DAY) + 2 * _DAY:
                raise  # recent time cannot be out of reach: something else is wrong
            lost = Range(window.start, min(window.end, window.start + seconds))
            yield _expired(lost, position)
            if lost.end < window.end:
                rest = Range(lost.end, window.end)
                async for batch in self._as_far_as_kept(rest, position, 2 * seconds):
                    yield batch

    async def _window(self, window: Range) -> AsyncGenerator[Batch, None]:
        reading = windows.read(window, self._pages)
        answer: list[order.Entry] = []
        with contextlib.suppress(StopIteration):
            step = next(reading)
            while True:
                limit = self._pages.limit
                if isinstance(step, Range):
                    answer = await self._list(step)
                else:
                    yield step
                step = reading.send(answer)
                if self._pages.limit < limit:
                    self._journal.error(
                        f"an answer of exactly {self._pages.limit:,} records had more behind it: the provider returns no more at "
                        f"once, not {limit:,}; such answers are now taken for full pages",
                        level=logging.WARNING,
                    )

    async def _list(self, asked: Range) -> list[order.Entry]:
        between = (asked.start - _FAR, min(asked.end + _FAR, self._clock() + _DAY))
        with tracing.span("window", start=int(asked.start), end=int(asked.end)):
            return order.entries(await self._source.list(asked), self._identity, between=between)

    # --- events

    async def _pass_on(self, batch: Batch, known: Seen) -> None:
        """Pass on a batch's fresh events in chunks, then that it is done."""
        start, end = batch.range
        known.forget_before(start)
        size = DETAILS_CHUNK if self._feed.has_detail else PLAIN_CHUNK
        answer = order.matched(batch.answer, known)
        events = order.oldest_first(answer, start)
        differing = {event.key for event in events if self._differs(event, known)}
        if not self._compared and (differing or self._suspicious(answer, known, end)):
            await self._compare(batch)
        if self._volatile:
            differing = set()
        repeated: list[str] = []
        changed: list[tuple[str, str]] = []
        times: dict[str, int] = {}
        lines: list[Line | asyncio.Task[Line | None]] = []
        try:
            for event in events:
                times[event.key] = event.time
                differs = event.key in differing or (event.key in self._again and self._feed.writes_changes)
                if event.key not in known or (differs and self._feed.writes_changes):
                    lines.append(self._line(event, changed=differs))
                    if len(lines) == size:
                        await self.items.put(Chunk(batch.range, lines))
                        lines = []
                elif differs:
                    changed.append((event.key, event.state))
                else:
                    repeated.append(event.key)
                known.add(event.key, end, event.state)
            if lines:
                await self.items.put(Chunk(batch.range, lines))
            lines = []
            done = Done(batch, repeated, list(times.values()), self._pages.limit, changed)
            await self.items.put(done)
        finally:
            await cancel(lines)

    def _differs(self, event: Placed, known: Seen) -> bool:
        """Whether the record of a known event is not what it was: as it was listed last, or else as it was written."""
        if event.key in known.states:
            return known.changed(event.key, event.state)
        if self._held is None or event.key not in known:
            return False
        names = self._held.differing(event, event.record, self._identity.ignored)
        return not self._unlike.issuperset(names)

    def _suspicious(self, answer: Sequence[order.Entry], known: Seen, end: int) -> bool:
        """Whether none of the records that must be known is."""
        plain = [entry.key for entry in answer if not entry.base]
        return (
            bool(plain)
            and end <= self._position
            and len(known) > 0
            and not any(key in known for key in plain)
        )

    async def _compare(self, batch: Batch) -> None:
        """Ask again for the same: what differs now changes with every answer, and says nothing about an event."""
        self._compared = True
        names = order.volatile(batch.answer, await self._list(batch.range))
        if names:
            self._volatile = True
            self._journal.error(
                f"{', '.join(names)} of the same record is another in each answer: its events are taken for new or changed "
                f"ones each time. Set ignore_fields = {', '.join(names)}",
                level=logging.WARNING,
            )

    def _line(self, event: Placed, *, changed: bool) -> Line | asyncio.Task[Line | None]:
        if not changed:
            self._count(event)
        if self._feed.has_detail and records.queue_id(event.record):
            times = records.time_spellings(event.record)
            if times:
                return asyncio.create_task(self._detail(event, times, changed=changed))
        return self._ready(event, event.record, changed=changed)

    def _count(self, event: Placed) -> None:
        if not isinstance(event.record, dict):
            self._metrics.not_objects += 1
        elif not event.timed:
            self._metrics.without_time += 1

    async def _detail(self, event: Placed, times: Sequence[str], *, changed: bool) -> Line | None:
        """The event's line; None where its detail is what was written before, and only its list record says otherwise."""
        try:
            detail = await self._source.detail(event.record, times)
        except (Stop, Postponed, Unreachable):
            raise
        except Retry as error:
            self._metrics.stand_ins += 1
            self._journal.error(f"{error}. The list record stands in for the detail", level=logging.WARNING)
            return self._ready(event, event.record, changed=changed, stands_in=True)
        if changed and self._held and event.key not in self._again and self._is_held(event, detail):
            return None
        return self._ready(event, detail, changed=changed)

    def _is_held(self, event: Placed, detail: dict[str, Any]) -> bool:
        assert self._held
        if self._held.differing(event, detail, self._identity.ignored):
            return False
        self._unlike.update(self._held.differing(event, event.record, self._identity.ignored))
        return True

    def _ready(self, event: Placed, record: Any, *, changed: bool, stands_in: bool = False) -> Line:
        timed = event.timed or not isinstance(record, dict)
        return Line(event.time, event.key, records.encode(record), event.state, changed, timed, stands_in)


def _expired(window: Range, position: int) -> Batch:
    """Time that the provider no longer has; what lies before the position had been read in time."""
    start = max(window.start, position)
    gaps = (Gap(kind="expired", start=start, end=window.end),) if start < window.end else ()
    return Batch(range=window, answer=(), gaps=gaps)


async def cancel(lines: Sequence[Line | asyncio.Task[Line | None]]) -> None:
    """Cancel all at once: one by one, each would hand its slot to the next, which would begin its request."""
    tasks = [line for line in lines if isinstance(line, asyncio.Task)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
