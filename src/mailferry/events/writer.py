"""Gathers events in order and commits them together with the position that they reach."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mailferry.events.destination import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mailferry.events.coverage import Coverage
    from mailferry.events.destination import Destination, Line
    from mailferry.events.metrics import Metrics
    from mailferry.events.progress import Progress
    from mailferry.events.reader import Done
    from mailferry.events.windows import Gap, Range

#: A commit is made after so many events, bytes or seconds, whichever comes first.
COMMIT_EVENTS = 5_000
COMMIT_BYTES = 16 * 2**20
COMMIT_SECONDS = 5.0


class Writer:
    """One run's way into its destination. `progress` is how far the feed gets, and is changed here alone."""

    def __init__(
        self,
        destination: Destination,
        progress: Progress,
        look_back: int,
        metrics: Metrics,
        delays: Sequence[int] = (),
    ) -> None:
        """`delays`: seconds after which time is audited; see `Coverage`."""
        self._delays = delays
        self._destination = destination
        self._progress = progress
        self._look_back = look_back
        self._metrics = metrics
        self._lines: list[Line] = []
        self._bytes = 0
        #: Ends of the last range that listed a pending line, and of the latest that did.
        self._last_end = self._latest_end = progress.position
        #: Time that is audited: what is late is a find of that audit.
        self._audited: Range | None = None
        #: That was asked for by a person: what it finds is not late.
        self._refilling = False
        self._lists = metrics.lists
        self._unreadable = metrics.unreadable
        self._changed = False
        self._broken = False
        self._committed_at = time.monotonic()

    def due_in(self) -> float | None:
        """Seconds until what is pending has to be committed; None where nothing is."""
        return max(0.0, self._committed_at + COMMIT_SECONDS - time.monotonic()) if self._changed else None

    async def add(self, line: Line, listed_to: int) -> None:
        """Append one event that a range up to `listed_to` (Unix seconds) listed."""
        progress = self._progress
        again = line.changed and line.key in progress.details_missing
        if again and line.stands_in:
            return  # its detail is still not there
        progress.seen.add(line.key, listed_to, line.state)
        if again:
            left = {key: at for key, at in progress.details_missing.items() if key != line.key}
            progress.details_missing = left
            self._metrics.completed += 1
        elif line.changed:
            self._has_changed(1)
        else:
            self._is_new(line)
        self._lines.append(line)
        self._bytes += len(line.data) + 1
        self._last_end = listed_to
        self._latest_end = max(self._latest_end, listed_to)
        self._changed = True
        if len(self._lines) >= COMMIT_EVENTS or self._bytes >= COMMIT_BYTES or self.due_in() == 0:
            await self.flush()

    def _is_new(self, line: Line) -> None:
        progress = self._progress
        if line.time < progress.position and not self._refilling:
            progress.late += 1
            self._metrics.late += 1
            if self._audited:
                self._metrics.audit_late += 1
                progress.coverage = replace(progress.coverage, audit_late=progress.coverage.audit_late + 1)
        progress.events += 1
        progress.coverage = progress.coverage.wrote(line.time)
        if not line.timed:
            progress.count("without_time")
        if line.stands_in:
            progress.misses_detail(line.key, line.time)

    def _has_changed(self, number: int) -> None:
        self._metrics.changed += number
        if number:
            self._progress.count("changed", number)

    async def covered(self, done: Done) -> list[Gap]:
        """Everything before the end of the batch's range has been taken. Returns the gaps that are new on record."""
        progress = self._progress
        end = done.batch.range.end
        self._metrics.repeated += len(done.repeated)
        for key in done.repeated:
            if key in progress.seen:
                progress.seen.add(key, end)
        for key, state in done.changed:
            progress.seen.add(key, end, state)
            progress.note_change(key, state)
        self._has_changed(len(done.changed))
        start, asked_at = done.batch.range.start, done.batch.asked_at
        if asked_at is not None:
            progress.coverage = progress.coverage.listed(
                start, end, asked_at, done.times, self._delays, behind=self._refilling
            )
        found_at = int(time.time()) if asked_at is None else asked_at
        new = [replace(gap, found_at=found_at) for gap in done.batch.gaps]
        gaps = [gap for gap in new if progress.add_gap(gap)]
        self._metrics.gaps += len(gaps)
        progress.position = max(progress.position, end)
        self._changed = True
        if self.due_in() == 0:
            await self.flush()
        return gaps

    async def audit(self, audited: Range, *, refilling: bool = False) -> None:
        """From here on time is listed again that lies before the position; what was pending is committed.

        `refilling`: as a person asked for it; what it finds does not count as late.
        """
        await self.flush()
        self._audited, self._refilling = audited, refilling

    async def audited(self, asked_at: int, times: Mapping[int, int]) -> None:
        """All of that time was listed again: so many events of each second."""
        await self._audit_ends(self._progress.coverage.audited, asked_at, times)

    async def taken(self, asked_at: int, there: Mapping[int, int]) -> None:
        """It was not listed, as of the events written then only these are still there, by their second."""
        await self._audit_ends(self._progress.coverage.taken, asked_at, there)

    async def _audit_ends(
        self, change: Callable[..., Coverage], asked_at: int, times: Mapping[int, int]
    ) -> None:
        assert self._audited
        self._progress.coverage = change(*self._audited, asked_at, times, self._delays)
        if not self._refilling:
            self._metrics.audited_seconds += self._audited.end - self._audited.start
        self._changed = True
        await self.flush()
        self._audited = None

    async def flush(self) -> None:
        """Commit what is pending. After a commit that failed there is nothing more to be done in this run."""
        if not self._changed or self._broken:
            return
        progress, lines = self._progress, self._lines
        if lines:
            # Events come in order, so all before the last one's second have been taken.
            progress.position = max(progress.position, min(lines[-1].time, self._last_end))
        # What is forgotten must not be listed again, should `look_back` be raised.
        progress.floor = progress.begin(self._look_back)
        progress.seen.forget_before(progress.floor)
        self._count_lists()
        if self._unreadable < self._metrics.unreadable:
            progress.count("unreadable", self._metrics.unreadable - self._unreadable)
            self._unreadable = self._metrics.unreadable
        self._broken = True
        committed = await in_thread(self._destination.commit, lines, progress, self._latest_end)
        self._broken = False
        self._metrics.events += sum(not line.changed for line in lines) - committed.repeated
        self._metrics.repeated += committed.repeated
        self._metrics.as_text += committed.as_text
        self._metrics.bytes_written += self._bytes
        self._lines, self._bytes, self._changed = [], 0, False
        self._committed_at = time.monotonic()

    def _count_lists(self) -> None:
        progress, made = self._progress, self._metrics.lists - self._lists
        name = "audit_lists" if self._audited and not self._refilling else "lists"
        progress.coverage = replace(progress.coverage, **{name: getattr(progress.coverage, name) + made})
        self._metrics.audit_lists += made if name == "audit_lists" else 0
        self._lists = self._metrics.lists
