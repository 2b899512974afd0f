"""Time collected again because a person asks for it: a back-fill, a repair, another try at a gap.

What the destination holds already is not fetched again, so the same command goes on where one was stopped. The position
does not move. The feed's lock is held for one piece of time after the other; a run that comes meanwhile waits for its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mailferry.errors import Retry, Stop
from mailferry.events.collector import Collector
from mailferry.events.destination import in_thread
from mailferry.events.reader import stopped
from mailferry.events.source import Source
from mailferry.events.windows import Range
from mailferry.events.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from mailferry.events.progress import Progress
    from mailferry.events.reader import Done
    from mailferry.events.windows import Gap

#: Seconds that a piece of work should take, as runs of the feed wait for its end; seconds of time that it may have.
PIECE = 5.0
SHORTEST, LONGEST = 60, 6 * 3600
#: Seconds between two pieces, in which a run that waits gets the feed.
PAUSE = 0.2
#: Seconds to wait for a run that has the feed.
PATIENCE = 3600.0


@dataclass(kw_only=True)
class Filled:
    """What a back-fill came to."""

    #: Unix seconds: what is to be filled, and how far that got.
    start: int
    end: int
    reached: int
    #: Events that the provider listed; that were not there, and were written unless it was a trial.
    listed: int = 0
    written: int = 0
    new_gaps: int = 0
    stopped: bool = False


class Backfill(Collector):
    """Fills a feed's time from `start` up to `end`, Unix seconds; see `Collector` for what it takes."""

    async def fill(self, start: int, end: int, *, dry: bool = False) -> Filled:
        """List that time, and write what is not held of it. `dry`: count only.

        Raises:
            Retry: the provider fails, or another run holds the feed for too long; what was filled stays.
            Stop: a person has to act first.
        """
        #: Time that could not be fetched as a whole.
        self._still: list[Range] = []
        async with self._marked():
            progress = await self.looked()
            filled = Filled(start=start, end=min(end, progress.position), reached=start)
            if filled.start >= filled.end:
                raise Stop(
                    f"[{self._feed.section}] nothing to fill: that time is not before the position, {progress.position}; the feed "
                    "collects it by itself"
                )
            width = float(self._feed.step)
            while filled.reached < filled.end and not self._stop.is_set():
                piece = Range(filled.reached, min(filled.end, filled.reached + int(width)))
                began = time.monotonic()
                await (self._tried(piece, progress, filled) if dry else self._filled(piece, filled))
                took = time.monotonic() - began
                width = min(LONGEST, max(SHORTEST, width * min(2.0, PIECE / max(took, 0.01))))
                share = (filled.reached - filled.start) / (filled.end - filled.start)
                self._watch(self._feed.section, share, filled.listed)
            if filled.written and not dry and not self._stop.is_set():
                await self._recount(filled)
            filled.stopped = self._stop.is_set()
            return filled

    async def retry(self, gap: Gap) -> Gap:
        """Ask for a gap's time again; what became of it.

        Raises:
            Retry, Stop: as `fill`.
        """
        filled = await self.fill(gap.start, gap.end)
        still = any(start < gap.end and gap.start < end for start, end in self._still)
        # No more than before of a second that was a full page: there may still be others behind them.
        unclear = gap.kind == "saturated" and not filled.written
        if still or unclear or filled.stopped:
            return gap
        return (await self.close([gap], "filled", f"{filled.written:,} events written"))[0]

    async def close(self, gaps: Sequence[Gap], state: str, reason: str) -> list[Gap]:
        """Put on record what became of gaps. Raises as `fill`."""
        async with self._locked() as progress:
            now = int(self._clock())
            closed = [replace(gap, state=state, reason=reason, closed_at=now) for gap in gaps]
            changed = dict(zip(gaps, closed, strict=True))
            progress.gaps = [changed.get(gap, gap) for gap in progress.gaps]
            await in_thread(self._destination.commit, [], progress, progress.position)
        return closed

    async def let_go(self) -> None:
        """Release what it holds of the destination."""
        await in_thread(self._destination.release)

    async def _gaps(self, done: Done) -> None:
        self._still += [Range(gap.start, gap.end) for gap in done.batch.gaps]
        if done.batch.asked_at is None:
            self._still.append(done.batch.range)
        await super()._gaps(done)

    async def looked(self) -> Progress:
        """How far the feed got. Raises Stop where it has never run."""
        progress = await in_thread(self._destination.look)
        if progress is None:
            raise Stop(
                f"[{self._feed.section}] has not collected anything yet; set its start_time, and run mailferry collect"
            )
        return progress

    @contextlib.asynccontextmanager
    async def _marked(self) -> AsyncIterator[None]:
        """Others see that a back-fill runs, and wait for their turn; a second one does not begin."""
        if not await in_thread(self._destination.mark):
            raise Retry(f"[{self._feed.section}] another back-fill or repair of this feed is running")
        try:
            yield
        finally:
            await in_thread(self._destination.unmark)

    @contextlib.asynccontextmanager
    async def _locked(self, patience: float = PATIENCE) -> AsyncIterator[Progress]:
        until = time.monotonic() + patience
        while not await in_thread(self._destination.acquire):
            if time.monotonic() > until or self._stop.is_set():
                raise Retry(f"[{self._feed.section}] a run holds the feed; try again when it has ended")
            await asyncio.sleep(PAUSE)
        try:
            progress, _ = await in_thread(self._destination.open)
            assert progress, "it was looked at before"
            yield progress
        finally:
            await in_thread(self._destination.unlock)
            await asyncio.sleep(PAUSE)

    async def _filled(self, piece: Range, filled: Filled) -> None:
        async with self._locked() as progress:
            now, events = int(self._clock()), progress.events
            held = await self._holds(piece)
            feed = self._feed
            self._source = Source(feed, self._connections, self._metrics, self._journal)
            self._writer = Writer(
                self._destination, progress, feed.look_back, self._metrics, feed.audit_delays
            )
            self._stopping = asyncio.create_task(self._stop.wait())
            await self._writer.audit(piece, refilling=True)
            gaps = self._result.new_gaps
            try:
                times = await self._list_again(piece, held, progress)
            finally:
                await stopped(self._stopping)
                filled.written += progress.events - events
                filled.new_gaps += self._result.new_gaps - gaps
            if not self._stop.is_set():
                await self._writer.audited(now, times)
                filled.listed += times.total()
                filled.reached = piece.end

    async def _tried(self, piece: Range, progress: Progress, filled: Filled) -> None:
        held = await self._holds(piece)
        self._source = Source(self._feed, self._connections, self._metrics, self._journal)
        reader = self._reader(progress)
        keys = set()
        async for _, events in reader.listed(*piece):
            keys |= {event.key for event in events if piece.start <= event.time < piece.end}
        filled.listed += len(keys)
        filled.written += len(keys - held.keys - progress.seen.ends.keys())
        filled.reached = piece.end

    async def _recount(self, filled: Filled) -> None:
        """Lines that were gone and are there again count once: read what the spans hold that were filled."""
        async with self._locked() as progress:
            for span in progress.coverage.within(filled.start, filled.end):
                times: Counter[int] = Counter()
                for start, end in _pieces(span.start, span.end):
                    held = await self._holds(Range(start, end))
                    if held.untimed:
                        return  # which second those belong to is unknown
                    times.update({t: n for t, n in held.times.items() if start <= t < end})
                progress.coverage = progress.coverage.recounted(span.start, span.end, times)
            await in_thread(self._destination.commit, [], progress, progress.position)


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, LONGEST):
        yield at, min(end, at + LONGEST)
