"""Feeds and workers in the database: when a feed is due, how its runs end, who is alive. All times are the database's."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from mailferry import __version__
from mailferry.clock import local_zone
from mailferry.database import queries, translated
from mailferry.retry import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from uuid import UUID

    from psycopg_pool import AsyncConnectionPool

    from mailferry.service.plan import Entry

#: Runs in a row that may end together with their worker, or fail by a passing fault, and are made again at once.
MOST_RETRIES = 3
#: A feed for which a person has to act first is not run again sooner: servers lock out accounts after wrong passwords.
REST = timedelta(minutes=5)
#: A worker whose heartbeat is older does not count as alive.
ALIVE = timedelta(seconds=30)

_Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A run that has begun."""

    run: int
    #: Runs before it, in a row, that failed by a passing fault.
    failures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a run ended, for the feed's row."""

    #: 'completed', 'stopped', 'skipped', 'failed' (it may pass) or 'blocked' (a person has to act).
    status: str
    error: str = ""
    position: int | None = None
    gaps: int | None = None
    late: int | None = None


def worker_id_of(host: str) -> str:
    """Who this process is, for people."""
    return f"{host}:{os.getpid()}"


class Store:
    """The tables `feeds` and `workers`, for one worker. Errors come out as Retry or Stop."""

    def __init__(self, pool: AsyncConnectionPool[Any], worker: UUID, host: str) -> None:
        self._pool = pool
        self._worker = worker
        self._host = host
        #: The same name as in the ledger.
        self.worker_id = worker_id_of(host)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Connection]:
        """One transaction."""
        try:
            async with self._pool.connection() as conn, conn.transaction():
                yield conn
        except psycopg.Error as error:
            raise translated(error) from error

    async def register(self, entries: Iterable[Entry], *, alone: bool = False) -> dict[str, str]:
        """Record the configured feeds; returns the host that each is bound to, "" for any.

        `alone`: no other machine shares the database, so whatever this one is called, its files are here.
        """
        hosts = {}
        now = datetime.now(local_zone())
        async with self.transaction() as conn:
            # In one order, as two workers may do this at once.
            for entry in sorted(entries, key=lambda entry: entry.name):
                values = {
                    "name": entry.name,
                    "kind": entry.kind,
                    "host": entry.host,
                    "bound": entry.bound and not alone,
                    "schedule": entry.schedule.text,
                    "next": entry.schedule.next(now, entry.name),
                    "here": self._host,
                }
                row = await (await conn.execute(_sql("register"), values)).fetchone()
                assert row
                hosts[entry.name] = row[0]
        return hosts

    async def due(self, conn: _Connection, names: Sequence[str]) -> list[dict[str, Any]]:
        """Feeds to be run now, locked until the transaction ends: name, the time, and whether it is queued already."""
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_sql("due"), {"names": list(names), "host": self._host})
            return await cursor.fetchall()

    async def plan(self, conn: _Connection, name: str, next_run: datetime) -> None:
        """When the feed is due next."""
        await conn.execute(_sql("plan"), {"name": name, "next": next_run})

    async def next_due(self, names: Sequence[str]) -> float | None:
        """Seconds until a feed is due; None where there is none."""
        row = await self._one("next_due", names=list(names), host=self._host)
        return row["seconds"] if row else None

    async def queued(self, locks: Sequence[str]) -> set[str]:
        """Those of the queueing locks under which a job waits already."""
        async with self.transaction() as conn:
            rows = await (await conn.execute(_sql("queued"), {"locks": list(locks)})).fetchall()
        return {lock for (lock,) in rows}

    async def begin(self, name: str, job: int) -> Begun | None:
        """A run begins; None where the queue's job was reclaimed meanwhile."""
        row = await self._one("begin", name=name, job=job, runner=self.worker_id)
        return Begun(run=row["run"], failures=row["failures"]) if row else None

    async def end(self, name: str, begun: Begun, ended: Ended) -> None:
        """A run has ended. After a passing fault the feed is due again in 1, 2 and 4 seconds, then by its schedule.

        One that was stopped is due at once, for another worker to continue.
        """
        again = ended.status == "failed" and begun.failures < MOST_RETRIES
        again_in = timedelta(seconds=pause(begun.failures + 1)) if again else None
        await self._do(
            "end",
            name=name,
            run=begun.run,
            status=ended.status,
            error=ended.error or None,
            again_in=again_in,
            rest=REST,
            position=ended.position,
            gaps=ended.gaps,
            late=ended.late,
        )

    async def reclaim(self, job: int, of: int | None, feed: str | None) -> str | None:
        """Reclaim a queue job of the dead worker `of`, and its feed's run with it.

        Returns the error that was recorded, "" for none; None where another worker was faster.
        """
        async with self.transaction() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_sql("reclaim"), {"job": job, "of": of})
            if not await cursor.fetchone():
                return None
            if feed is None:
                return ""
            await cursor.execute(_sql("cut_off"), {"name": feed, "most": MOST_RETRIES})
            if row := await cursor.fetchone():
                return str(row["error"])
            # It had not begun, or its end is on record.
            await cursor.execute(_sql("reschedule"), {"name": feed, "within": timedelta(0)})
            return ""

    async def reschedule(self, name: str, within: timedelta) -> None:
        """The feed is due within that time."""
        await self._do("reschedule", name=name, within=within)

    async def watch(self, names: Sequence[str], lease: timedelta) -> set[str]:
        """The mailboxes that this worker is to watch until `lease` is over."""
        values = {"worker": self._worker, "names": list(names), "host": self._host, "lease": lease}
        async with self.transaction() as conn:
            return {name for (name,) in await (await conn.execute(_sql("watch"), values)).fetchall()}

    async def watched(self, name: str, state: str, good_at: datetime | None, error: str) -> None:
        """How the watching goes."""
        await self._do(
            "watched", worker=self._worker, name=name, state=state, good_at=good_at, error=error or None
        )

    async def mailbox_trouble(self, names: Sequence[str]) -> str | None:
        """What is wrong with the first of the mailboxes, where none has answered well; None where one has."""
        row = await self._one("mailbox_trouble", names=list(names), worker=self._worker)
        return row["trouble"] if row else None

    async def beat(self, running: Sequence[str]) -> bool:
        """This worker is alive; whether it is asked to read its configuration again."""
        row = await self._one(
            "beat",
            id=self._worker,
            host=self._host,
            pid=os.getpid(),
            version=__version__,
            running=list(running),
        )
        return bool(row and row["reload"])

    async def loaded(self, error: str = "") -> None:
        """The configuration was read again; `error`: it was refused, and the old one stays."""
        await self._do("loaded", id=self._worker, error=error)

    async def leave(self, *, for_good: bool) -> None:
        """End this worker's watches; `for_good`: and delete its row."""
        async with self.transaction() as conn:
            await conn.execute(_sql("unwatch"), {"worker": self._worker})
            if for_good:
                await conn.execute(_sql("leave"), {"id": self._worker})

    async def forget_workers(self) -> None:
        """Delete the rows of workers that were killed long ago."""
        await self._do("forget_workers")

    async def _one(self, query: str, /, **values: Any) -> dict[str, Any] | None:
        async with self.transaction() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_sql(query), values)
            return await cursor.fetchone()

    async def _do(self, query: str, /, **values: Any) -> None:
        async with self.transaction() as conn:
            await conn.execute(_sql(query), values)


def _sql(name: str) -> bytes:
    return queries("service")[name]
