"""The queue: Procrastinate in our schema, its tables brought up to date, and the names of queues and locks.

Nothing depends on the queue alone: it wakes workers, and keeps two of them from working on one feed or table. What is
due stands in the feeds' table and in the ledger, and who may commit is decided there, by fencing tokens.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailferry.database import SCHEMA, advisory_key
from mailferry.errors import Stop

if TYPE_CHECKING:
    import procrastinate
    import psycopg

    from mailferry.database import Connection
    from mailferry.service.connections import WatchedConnections

#: Kinds of work. Each has its queue and its slots, so that none waits behind another kind.
EVENTS, MAIL, LOAD = "events", "mail", "load"
#: Age of a worker's heartbeat, in seconds, after which its jobs are reclaimed.
STALLED = 30.0
HEARTBEAT = 10.0
#: Seconds between two looks for jobs whose lock has become free; new jobs are announced at once.
POLLING = 3.0


def queue_name(kind: str, host: str) -> str:
    """The queue of jobs that any host may do (""), or that one host has to do."""
    return f"{kind}@{host}" if host else kind


def feed_lock(feed: str, host: str) -> str:
    """Names the host as the queue does: a job that waits for a host which is gone must not hold up other hosts."""
    return queue_name(f"feed:{feed}", host)


def table_lock(target: str, host: str) -> str:
    return queue_name(f"table:{target}", host)


def prepare(conn: Connection) -> None:
    """Bring the queue's tables up to date, in our schema. Commits. Raises Stop for those of a newer program."""
    from procrastinate.schema import SchemaManager

    steps = {path.name: path for path in sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))}
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_key("migrate"),))
        # Its statements name no schema.
        conn.execute(b"SET LOCAL search_path TO " + SCHEMA.encode())
        taken = {name for (name,) in conn.execute("SELECT name FROM mailferry.queue_versions")}
        if newer := sorted(taken - steps.keys()):
            raise Stop(
                f"The database's queue is of a newer mailferry (it has step {newer[-1]}). Upgrade this host."
            )
        if not taken:
            conn.execute(SchemaManager.get_schema().encode())
        else:
            for name in sorted(steps.keys() - taken):
                conn.execute(steps[name].read_bytes())
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO mailferry.queue_versions (name) VALUES (%s)",
                [(name,) for name in sorted(steps.keys() - taken)],
            )


def make_app(where: dict[str, Any], slots: int, watched: WatchedConnections) -> procrastinate.App:
    """The queue library's App on the database that `where` says; `slots` jobs may want a connection at once."""
    from procrastinate import App, PsycopgConnector

    # They log every job's start and end, and every try to connect, with tracebacks; our lines say it shorter.
    debug = logging.getLogger("mailferry").isEnabledFor(logging.DEBUG)
    logging.getLogger("procrastinate").setLevel(logging.NOTSET if debug else logging.CRITICAL)
    logging.getLogger("psycopg").setLevel(logging.NOTSET if debug else logging.ERROR)
    connector = PsycopgConnector(
        kwargs=where,
        connection_class=watched.asynchronous,
        configure=_configure,
        min_size=1,
        max_size=min(4 + slots, 12),
        timeout=10,
        # Else its pauses between two tries double for five minutes, however long the database has been back.
        reconnect_timeout=5,
    )
    return App(connector=connector)


async def _configure(conn: psycopg.AsyncConnection[Any]) -> None:
    values = {
        "search_path": SCHEMA,
        "statement_timeout": "60s",
        "lock_timeout": "30s",
        # A worker that is frozen in a transaction must not hold up those who take its work.
        "idle_in_transaction_session_timeout": "10s",
        "tcp_keepalives_idle": "20",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
    for name, value in values.items():
        await conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    await conn.commit()
