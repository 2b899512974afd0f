"""From the feeds' table and the ledger into the queue: what is due, by the database's clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mailferry import database
from mailferry.clock import local_zone
from mailferry.mailbox.ledger import leases

if TYPE_CHECKING:
    from mailferry.database import Pool
    from mailferry.service.plan import Plan
    from mailferry.service.store import Store
    from mailferry.service.tasks import Tasks

#: Seconds between two looks, at most: a user may have retried a job by hand.
LONGEST = 2.0
SHORTEST = 0.05


class Dispatcher:
    """Fills the queue. Every worker has one; a feed that one worker has locked, the other workers skip."""

    def __init__(self, store: Store, plan: Plan, tasks: Tasks, pool: Pool) -> None:
        self._store = store
        self._plan = plan
        self._tasks = tasks
        self._pool = pool
        self._zone = local_zone()

    async def tick(self) -> float:
        """Queue what is due; seconds until there may be more."""
        waits = [LONGEST]
        names = list(self._plan.entries)
        if names:
            seconds = await self._store.next_due(names)
            if seconds is not None and seconds <= 0:
                await self._feeds(names)
                seconds = await self._store.next_due(names)
            waits += [] if seconds is None else [seconds]
        if self._plan.mailboxes:
            loads = await asyncio.to_thread(self._loads)
            due = [target for target, seconds in loads if seconds <= 0]
            await self._tasks.defer_loads(due)
            waits += [seconds for _, seconds in loads if seconds > 0]
        return max(SHORTEST, min(waits))

    async def _feeds(self, names: list[str]) -> None:
        async with self._store.transaction() as conn:
            for row in await self._store.due(conn, names):
                name = row["name"]
                schedule = self._plan.entries[name].schedule
                await self._store.plan(conn, name, schedule.next(row["now"].astimezone(self._zone), name))
                if not row["queued"]:
                    await self._tasks.defer_feed(name, conn)

    def _loads(self) -> list[tuple[str, float]]:
        """Tables that this host has something to load into, and in how many seconds."""
        with database.transaction(self._pool) as conn:
            return leases.due(conn, self._plan.mailboxes_here())
