"""How far event feeds got, by what their destinations keep; what has not changed is not read again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mailferry.events.coverage import HOUR

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.progress import Progress
    from mailferry.events.windows import Gap

#: Hours before the position whose events are counted one by one.
_RECENT = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What is shown of one feed's progress. None is not known."""

    #: Unix seconds.
    position: int
    #: When it last got on.
    at: datetime | None
    events: int
    late: int
    counts: dict[str, int]
    gaps: int
    gap_kinds: dict[str, int]
    open_gaps: list[Gap]
    missing: int
    covered_from: datetime | None
    audited_to: datetime | None
    #: Events written by hour (Unix seconds / 3600), of the last days.
    hours: dict[int, int]


class Reaches:
    """Of the feeds of one configuration, for one who looks again and again."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[tuple[int, ...], Reach | None]] = {}
        self._rows: dict[str, tuple[dict[str, Any], Reach]] = {}

    def of_file(self, feed: EventFeed) -> Reach | None:
        """By the checkpoint on this host; None where there is none. Raises MailferryError where it cannot be used."""
        from mailferry.events import checkpoint

        path = feed.position_file
        try:
            stat = os.stat(path)  # noqa: PTH116 - a thousand feeds: no Path for each
        except OSError:
            # That it is not there, or why it cannot be read, is said by who reads it.
            return _reach(found.progress, feed, None) if (found := checkpoint.load(path)) else None
        # Each new one takes the place of the old one, so it is another file.
        signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._files.get(path)
        if known is None or known[0] != signature:
            found = checkpoint.load(path)
            at = datetime.fromtimestamp(stat.st_mtime, UTC)
            self._files[path] = known = (signature, _reach(found.progress, feed, at) if found else None)
        return known[1]

    def of_row(self, feed: EventFeed, row: dict[str, Any]) -> Reach:
        """By its row of `mailferry.event_progress`."""
        from mailferry.events.table import progress_of

        known = self._rows.get(feed.section)
        if known is None or known[0] != row:
            known = (dict(row), _reach(progress_of(row), feed, row["committed_at"]))
            self._rows[feed.section] = known
        return known[1]


def _reach(progress: Progress, feed: EventFeed, at: datetime | None) -> Reach:
    coverage, delays = progress.coverage, feed.audit_delays
    hours: dict[int, int] = {}
    for span in coverage.within(progress.position - _RECENT * HOUR, progress.position):
        # Spans of the last days lie within one hour each.
        hours[span.start // HOUR] = hours.get(span.start // HOUR, 0) + span.held
    audited_to = coverage.audited_to(delays[-1]) if delays else None
    return Reach(
        position=progress.position,
        at=at,
        events=progress.events,
        late=progress.late,
        counts=progress.counts,
        gaps=progress.gap_count,
        gap_kinds=progress.gap_kinds,
        open_gaps=progress.open_gaps,
        missing=coverage.missing,
        covered_from=_time(coverage.spans[0].start) if coverage.spans else None,
        audited_to=None if audited_to is None else _time(audited_to),
        hours=hours,
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
