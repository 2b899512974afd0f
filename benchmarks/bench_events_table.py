"""Event feeds into a table of a private PostgreSQL as users have it (on disk, fsync on), against a bare COPY."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import psycopg
from harness import Figure, postgres
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mailferry import database
from mailferry.config import event_feeds
from mailferry.config.database import DatabaseSettings
from mailferry.events import collector, order, partitions
from mailferry.events import record as records
from mailferry.events import rows as table_rows
from mailferry.events.connections import Connections
from mailferry.events.destination import Line
from mailferry.events.metrics import Metrics
from mailferry.events.progress import Progress
from mailferry.events.table import EventTable
from mailferry.events.writer import Writer
from mailferry.testing.population import Feed, Population, Traits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Connection, Pool
    from mailferry.events.windows import Range

#: A full hour; 112 windows of 50 seconds with some 900 events of 2 KB each.
START = 1_750_000_000 - 1_750_000_000 % 3600
WINDOW, WINDOWS, RATE = 50, 112, 18
END = START + WINDOW * WINDOWS
ROUNDS = 3


class Pages:
    """In the place of the API client: list answers that have come already, as bytes."""

    bodies: dict[int, bytes]

    def __init__(self, *_: object) -> None:
        pass

    async def list(self, asked: Range) -> list[Any]:
        body: list[Any] = records.decode(self.bodies[asked.start])
        return body


def table(folder: Path) -> Iterator[Figure]:
    """100,000 events: the writer alone, and all from the bytes of list answers on; and the same rows by one bare COPY."""
    gc.set_threshold(10_000, 20, 20)  # as all command lines have it
    Pages.bodies = dict(_bodies())
    feed = _feed(folder)
    lines = _lines()
    ready = list(table_rows.copied(feed.section, table_rows.rows(lines, 0)))
    count = len(lines)
    rounds = []
    with (
        postgres(folder) as where,
        database.pooled(dict(where), DatabaseSettings(data_dir=folder)) as pool,
        psycopg.connect(make_conninfo(**where), autocommit=True) as conn,
    ):
        database.prepare(dict(where), "temp_processing")
        for _ in range(ROUNDS):
            bare = count / _copied(conn, ready)
            written = count / _written(conn, pool, feed, lines)
            rounds.append((bare, written, count / _collected(conn, pool, feed, count)))
    for name, which, target in (
        ("events into a table, 2 KB", 1, 0.5),
        ("the same, from list answers on", 2, 0.25),
    ):
        middle = sorted(rounds, key=lambda one: one[which] / one[0])[ROUNDS // 2]
        yield Figure(
            name=name,
            value=middle[which],
            limit=middle[0],
            unit="events/s",
            against="bare COPY of the same rows",
            at_least=target,
        )


def _bodies() -> Iterator[tuple[int, bytes]]:
    source = Feed(api_key="key", domain="example.com", category="mail", type="incominglog")
    population = Population({source: Traits(rate=RATE, detail_bytes=1700)})
    for start in range(START, END, WINDOW):
        values = [event.value for event in population.events(source, start, start + WINDOW)]
        assert len(values) < 1000
        yield start, b"[" + b",".join(reversed(values)) + b"]"


def _lines() -> list[Line]:
    """The same events as they are written."""
    return [
        Line(entry.time or 0, entry.key, records.encode(entry.record))
        for body in Pages.bodies.values()
        for entry in reversed(order.entries(records.decode(body)))
    ]


def _feed(folder: Path) -> EventFeed:
    path = folder / "uzmanposta.ini"
    path.write_text(
        "[MailLogger:example]\napi_key = 0123456789abcdef\ncategory = authentication\ndestination = table\n"
        f"start_time = {START}\nsplit_interval = {WINDOW}\nverbose = False\n"
    )
    return event_feeds.read(path).choose(None, every=True)[0]


def _emptied(conn: Connection, name: str) -> partitions.Table:
    """The table made again, and nothing left over for a checkpoint to do."""
    conn.execute("TRUNCATE mailferry.event_progress, mailferry.event_seen")
    conn.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(name)))
    made = partitions.prepared(conn, name)
    partitions.make_room(conn, made, [START, END])
    conn.execute("CHECKPOINT")
    return made


def _copied(conn: Connection, ready: list[bytes]) -> float:
    """Seconds of one transaction with one COPY of what has been made ready before."""
    made = _emptied(conn, "bare")
    columns = sql.SQL(", ").join(map(sql.Identifier, table_rows.COLUMNS))
    begun = time.monotonic()
    statement = partitions.statement("copy", table=made.identifier, columns=columns)
    with conn.transaction(), conn.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in ready:
            copy.write(piece)
    return time.monotonic() - begun


def _written(conn: Connection, pool: Pool, feed: EventFeed, lines: list[Line]) -> float:
    """Seconds from events in order to committed rows, with all that a run's commits do."""
    _emptied(conn, feed.table)

    async def run() -> None:
        destination = EventTable(feed, pool)
        assert destination.acquire()
        destination.open()
        progress = Progress(position=START, floor=START)
        destination.commit([], progress, START)
        writer = Writer(destination, progress, feed.look_back, Metrics())
        for line in lines:
            await writer.add(line, line.time - line.time % WINDOW + WINDOW)
        await writer.flush()
        destination.release()

    begun = time.monotonic()
    asyncio.run(run())
    return time.monotonic() - begun


def _collected(conn: Connection, pool: Pool, feed: EventFeed, count: int) -> float:
    """Seconds of a whole run of the collector."""
    _emptied(conn, feed.table)

    async def run() -> collector.Result:
        connections = Connections()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(collector, "Source", Pages))
            result = await collector.Collector(
                feed, connections, pool=pool, clock=lambda: END + feed.settle
            ).run()
        await connections.close()
        return result

    logging.getLogger("mailferry").setLevel(logging.WARNING)
    begun = time.monotonic()
    result = asyncio.run(run())
    seconds = time.monotonic() - begun
    assert (result.status, result.metrics.events) == ("completed", count), result
    return seconds


BENCHMARKS = {"events-table": table}
