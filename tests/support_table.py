"""Event feeds into a table: a site whose feeds have a database, runs of it, and what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support_database import Queried
from support_events import Clock, Ended, Site, a_site, suffix
from support_fork import Forked

from mailferry import database, logs
from mailferry.config import event_feeds
from mailferry.events import run, writer
from mailferry.events.collector import Collector
from mailferry.events.connections import Connections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Pool
    from mailferry.events.collector import Result
    from mailferry.testing.population import Feed, Traits
    from mailferry.testing.provider import Settings


@dataclass(kw_only=True)
class TableSite(Site, Queried):
    """A site whose feeds all write into one table."""

    settings: DatabaseSettings
    table: str = "mail_events"

    #: The port of something that stands before the database.
    wire: int | None = None

    def configure(self, **options: object) -> None:
        """Write the INI file."""
        s = self.settings
        direct = f"host={s.host}&port={s.port}"
        where = direct if self.wire is None else f"host=127.0.0.1&port={self.wire}&sslmode=disable"
        url = f"postgresql://{s.user}@/{s.name}?{where}"
        given = {"destination": "table", "table": self.table, "database_url": url}
        super().configure(**given, **options)

    def collect(self, *, workers: int = 8, take_over: bool = False) -> Ended:
        return collect(self.config, self.clock, workers=workers, take_over=take_over)

    def forked(self, *, commit_events: int = 40, take_over: bool = False, **options: Any) -> Forked:
        """One run as a process, with a commit after so many events."""
        work = (one_run, self.config, self.clock.now, commit_events, take_over)
        return Forked(*work, **options)

    def lines(self, feed: Feed) -> list[bytes]:
        """What was written, in the order of arrival, as a file would have it."""
        if self.query("SELECT to_regclass(%s)", self.table) == [(None,)]:
            return []
        text = f"SELECT coalesce(raw, record::text) FROM {self.table} WHERE feed = %s ORDER BY number"
        return [line.encode() for (line,) in self.query(text, suffix(feed))]

    def progress(self, feed: Feed) -> dict[str, Any]:
        """The feed's row of `mailferry.event_progress`."""
        text = "SELECT to_jsonb(p) FROM mailferry.event_progress AS p WHERE feed = %s"
        row: dict[str, Any] = self.query(text, suffix(feed))[0][0]
        return row

    def start_again(self) -> None:
        """As if nothing had been collected yet."""
        self.query("TRUNCATE mailferry.event_progress, mailferry.event_seen")
        self.query(f"DROP TABLE IF EXISTS {self.table} CASCADE")

    def assert_exactly_once(self, feed: Feed, *, late: int = 0, end: int | None = None) -> None:
        super().assert_exactly_once(feed, late=late, end=end)
        progress = self.progress(feed)
        assert progress["events"] == len(self.lines(feed))


@contextlib.contextmanager
def a_table_site(
    folder: Path,
    feeds: Mapping[Feed, Traits],
    settings: DatabaseSettings,
    provider: Settings | None = None,
    *,
    now: float | None = None,
    seed: int = 1,
) -> Iterator[TableSite]:
    """As `a_site`, with a database."""
    with a_site(folder, feeds, provider, now=now, seed=seed) as site:
        yield TableSite(
            folder=site.folder,
            provider=site.provider,
            clock=site.clock,
            feeds=site.feeds,
            start=site.start,
            settings=settings,
        )


def collect(config: Path, clock: Clock, *, workers: int = 8, take_over: bool = False) -> Ended:
    """One run of all sections in this process."""
    file = event_feeds.read(config)
    feeds = file.choose(None, every=True)
    run.prepare(feeds, config)
    assert file.database
    settings = file.database.model_copy(update={"pool_max": workers, "lock_timeout": 20})
    with database.connect(settings) as pool:
        working = _taking_over(feeds, pool, clock) if take_over else _all(feeds, pool, clock, workers)
        results = asyncio.run(working)
    return Ended(status=run.exit_status(results), results={result.section: result for result in results})


async def _all(feeds: Sequence[EventFeed], pool: Pool, clock: Clock, workers: int) -> list[Result]:
    results, _ = await run.collect(feeds, pool=pool, workers=workers, clock=clock)
    return results


async def _taking_over(feeds: Sequence[EventFeed], pool: Pool, clock: Clock) -> list[Result]:
    """As the service does."""
    connections = Connections()
    try:
        runs = (
            Collector(feed, connections, pool=pool, worker_id="test", take_over=True, clock=clock)
            for feed in feeds
        )
        return [await one.run() for one in runs]
    finally:
        await connections.close()


def one_run(config: Path, now: float, commit_events: int, take_over: bool) -> None:
    writer.COMMIT_EVENTS = commit_events
    logs.set_up()
    ended = collect(config, Clock(now), take_over=take_over)
    skipped = any(result.status == "skipped" for result in ended.results.values())
    sys.exit(75 if skipped else ended.status)
