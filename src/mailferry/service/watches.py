"""Which mailboxes this worker watches: one worker a mailbox, by a lease."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.secrets import mask

if TYPE_CHECKING:
    from mailferry.mailbox.pool import MailPool
    from mailferry.mailbox.source.watch import Watcher
    from mailferry.service.plan import Plan
    from mailferry.service.store import Store
    from mailferry.service.tasks import Tasks

log = logs.of(__name__, logs.EMAIL)
#: A watcher whose worker has not renewed its lease is replaced by another worker's.
LEASE = timedelta(seconds=30)


class Watches:
    """This worker's watchers. They only trigger the poll; what they miss, the scheduled poll finds."""

    def __init__(self, store: Store, plan: Plan, tasks: Tasks, mail: MailPool) -> None:
        self._store = store
        self._plan = plan
        self._tasks = tasks
        self._mail = mail
        self._watchers: dict[str, Watcher] = {}
        self._states: dict[str, str] = {}

    async def tick(self) -> None:
        """Renew our leases, take over mailboxes without a watcher, and record each watcher's state."""
        names = self._plan.mailboxes_here()
        mine = await self._store.watch(names, LEASE) if names else set()
        for name in self._watchers.keys() - mine:
            log.info("%s: no longer watched here", name)
            await self._drop(name)
        for name in sorted(mine - self._watchers.keys()):
            self._watchers[name] = self._start(name)
        for name, watcher in self._watchers.items():
            with logs.bound(feed=name):
                watcher.tend()
                await self._record(name, watcher)

    async def close(self) -> None:
        """End all watchers."""
        await asyncio.gather(*(self._drop(name) for name in list(self._watchers)))

    def _start(self, name: str) -> Watcher:
        from mailferry.mailbox.source.open import watcher

        feed = self._plan.mailboxes[name]
        started = watcher(feed.mailbox, lambda: self._tasks.news(name), tokens=self._mail.tokens(name))
        with logs.bound(feed=name):
            started.start()
        return started

    async def _drop(self, name: str) -> None:
        watcher = self._watchers.pop(name)
        self._states.pop(name, None)
        await asyncio.to_thread(watcher.stop)

    async def _record(self, name: str, watcher: Watcher) -> None:
        health = watcher.health
        state, error = health.state.value, mask(health.error)
        if self._states.get(name) != state:
            self._states[name] = state
            level = logging.WARNING if error else logging.INFO
            log.log(level, "%s: mailbox %s%s", name, state, f": {error}" if error else "")
        await self._store.watched(name, state, health.last_good, error)
