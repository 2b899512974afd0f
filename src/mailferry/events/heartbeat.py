"""The heartbeat file: one JSON object that says whether a section is alive and how far it got."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from mailferry import __version__, disk
from mailferry.events.progress import falls_behind
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.journal import Journal
    from mailferry.events.metrics import Metrics
    from mailferry.events.progress import Progress

#: Seconds between two writes while a section runs.
INTERVAL = 5.0
#: Open gaps shown.
SHOWN = 10


class Heartbeat:
    """Writes a section's heartbeat, whole or not at all; a failure to do so is logged and stops nothing."""

    def __init__(
        self, feed: EventFeed, metrics: Metrics, journal: Journal, clock: Callable[[], float] = time.time
    ) -> None:
        self._feed = feed
        self._metrics = metrics
        self._journal = journal
        self._clock = clock
        self._started = clock()

    def write(
        self, status: str, progress: Progress | None, error: str = "", warnings: Sequence[str] = ()
    ) -> None:
        """`status`: running, completed, stopped (by a signal) or error; `warnings`: what a person has to see to."""
        now = self._clock()
        feed = self._feed
        behind = falls_behind(progress.position, now, feed.keeps) if progress else ""
        beat: dict[str, Any] = {
            "section": feed.section,
            "status": status,
            "last_heartbeat": _iso(now),
            "started": _iso(self._started),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "version": __version__,
            "domain": feed.domain,
            "category": feed.category,
            "type": feed.type,
            "position": progress.position if progress else None,
            "position_time": _iso(progress.position) if progress else None,
            "lag_seconds": max(0, round(now - progress.position)) if progress else None,
            "late_events": progress.late if progress else 0,
            "counts": progress.counts if progress else {},
            "gaps": progress.gap_count if progress else 0,
            "open_gaps": len(progress.open_gaps) if progress else 0,
            "last_gaps": [
                {"kind": gap.kind, "start": _iso(gap.start), "end": _iso(gap.end)}
                for gap in progress.open_gaps[-SHOWN:]
            ]
            if progress
            else [],
            "warning": mask("; ".join(filter(None, [behind, *warnings]))) or None,
            "error": mask(error) or None,
            "metrics": self._metrics.to_json(),
        }
        try:
            disk.replace_file(
                feed.heartbeat_file, orjson.dumps(beat, option=orjson.OPT_INDENT_2) + b"\n", durable=False
            )
        except OSError as failure:
            self._journal.message(f"cannot write the heartbeat {feed.heartbeat_file}: {failure.strerror}")


def _iso(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None  # beyond the calendar
