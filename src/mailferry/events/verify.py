"""Whether files or table hold what they should, hour by hour: listed again and compared, or checked by themselves.

The first look takes no lock, so that the feed goes on meanwhile. Where something seems wrong a run may just have been
writing: that time is looked at again with the feed's lock held.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.errors import Retry, Stop
from mailferry.events.backfill import Backfill
from mailferry.events.check import BLUR, Lines, compare
from mailferry.events.destination import in_thread
from mailferry.events.hours import HOUR, Hours
from mailferry.events.source import Source
from mailferry.events.windows import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.events.coverage import Coverage
    from mailferry.events.order import Placed
    from mailferry.events.progress import Progress

#: Pages of events that one comparison holds in memory, by what is on record; seconds that it spans at most.
_PAGES = 20
_WIDEST = 24 * HOUR
#: Seconds to wait for a run that has the feed, before what was seen without its lock counts.
PATIENCE = 120.0


@dataclass(kw_only=True)
class Verified:
    """What a verification came to."""

    section: str
    hours: Hours
    #: Events that a repair wrote, or whose detail it got.
    repaired: int = 0
    #: The provider was not asked.
    offline: bool = False
    #: Hours of which some time was never listed: without the provider nothing is known of it.
    never_listed: int = 0

    @property
    def unchecked(self) -> bool:
        """Whether some of that time could not be checked: the provider no longer has it, or was not asked for it."""
        if self.offline:
            return self.never_listed > 0
        return any(hour.listed is None for hour in self.hours)


class Verifier(Backfill):
    """Verifies a feed's time; see `Collector` for what it takes."""

    async def verify(self, start: int, end: int, *, offline: bool = False, repair: bool = False) -> Verified:
        """Check the time from `start` up to `end`, Unix seconds, as far as the feed has got.

        `repair`: what is missing is collected; nothing is ever deleted.

        Raises:
            Retry: the provider or the disk fails.
            Stop: nothing of that time was collected.
        """
        progress = await self.looked()
        # What became visible within the look-back the next run finds.
        end = min(end, progress.position - self._feed.look_back)
        if start >= end:
            raise Stop(f"[{self._feed.section}] has not collected that time yet; nothing to verify")
        hours = await self._again(await self._examined(progress, start, end, offline=offline), offline)
        verified = Verified(section=self._feed.section, hours=hours, offline=offline)
        holes = list(progress.coverage.holes(start, end)) if offline else []
        verified.never_listed = sum(
            any(hour.start < until and since < hour.start + HOUR for since, until in holes) for hour in hours
        )
        wanted = [
            Range(max(start, hour.start), min(end, hour.start + HOUR))
            for hour in hours
            if hour.missing or (hour.without_detail and self._feed.writes_changes)
        ]
        if repair and wanted:
            for one in wanted:
                verified.repaired += (await self.fill(*one)).written
            verified.repaired += self._metrics.completed
            verified.hours = await self._examined(await self.looked(), start, end, offline=offline)
        return verified

    async def _again(self, hours: Hours, offline: bool) -> Hours:
        """Look again at what seems wrong, while no run writes."""
        wrong = [hour.start for hour in hours if not hour.clean]
        if not wrong:
            return hours
        start, end = max(hours.start, wrong[0]), min(hours.end, wrong[-1] + HOUR)
        try:
            async with self._marked(), self._locked(PATIENCE) as progress:
                hours.replace(await self._examined(progress, start, end, offline=offline))
        except Retry as error:
            self._journal.message(f"{error}; what was found may be a write under way")
        return hours

    async def _examined(self, progress: Progress, start: int, end: int, *, offline: bool) -> Hours:
        hours = Hours(start, end)
        lines = Lines(hours, progress.coverage, alone=offline)
        await in_thread(self._destination.check, lines)
        for key, time in progress.details_missing.items():
            if hour := hours.of(time):
                hour.note("without_detail", f"identity {key}")
        if offline:
            lines.count()
            return hours
        for piece in _pieces(progress.coverage, start, end, _PAGES * self._feed.page_limit):
            await self._compare(hours, piece, progress)
            self._watch(self._feed.section, (piece.end - start) / (end - start), self._metrics.lists)
        return hours

    async def _compare(self, hours: Hours, piece: Range, progress: Progress) -> None:
        self._source = Source(self._feed, self._connections, self._metrics, self._journal)
        reader = self._reader(progress)
        listed: list[Placed] = []
        start = piece.start
        async for batch, events in reader.listed(piece.start - BLUR, piece.end + BLUR):
            if batch.asked_at is None:
                start = max(start, batch.range.end)  # the provider no longer has it
            listed += events
        if start < piece.end:
            found = self._destination.found(start, piece.end)
            comparing = functools.partial(
                compare, ignored=self._feed.ignored_fields, appended=self._feed.appends_changes
            )
            await in_thread(comparing, hours, start, piece.end, listed, found)


def _pieces(coverage: Coverage, start: int, end: int, most: int) -> Iterator[Range]:
    """The time in pieces of whole hours, each with no more than about `most` events on record."""
    while start < end:
        stop = start // HOUR * HOUR + HOUR
        while stop < end and stop - start < _WIDEST and coverage.held(start, stop + HOUR) <= most:
            stop += HOUR
        yield Range(start, min(stop, end))
        start = stop
