"""What is on record of one event feed's past: coverage, gaps, and the requests of its last run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from mailferry import database
from mailferry.events.coverage import Coverage

if TYPE_CHECKING:
    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Pool
    from mailferry.events.progress import Progress
    from mailferry.events.windows import Gap


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Empty where nothing is on record, or it cannot be asked."""

    coverage: Coverage = field(default_factory=Coverage)
    gaps: tuple[Gap, ...] = ()
    #: Of the last run, as its heartbeat has them; {} where there is none on this host.
    metrics: dict[str, Any] = field(default_factory=dict)


def of_feed(feed: EventFeed, pool: Pool | None) -> History:
    """The past of a feed. Raises MailferryError where it is there and cannot be read."""
    progress = _progress(feed, pool)
    metrics = _metrics(feed)
    if progress is None:
        return History(metrics=metrics)
    return History(coverage=progress.coverage, gaps=tuple(progress.gaps), metrics=metrics)


def _progress(feed: EventFeed, pool: Pool | None) -> Progress | None:
    if feed.destination == "files":
        from mailferry.events import checkpoint

        found = checkpoint.load(feed.position_file)
        return found.progress if found else None
    if pool is None:
        return None
    from mailferry.events.table import progress_of

    with database.transaction(pool) as conn, conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(database.queries("status")["progress"], {"names": [feed.section]}).fetchone()
    return progress_of(row) if row else None


def _metrics(feed: EventFeed) -> dict[str, Any]:
    try:
        found = json.loads(feed.heartbeat_file.read_bytes())["metrics"]
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
