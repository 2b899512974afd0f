"""One configuration at work in one process: opened, kept going whatever fails, and ended in good order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
from procrastinate.exceptions import ConnectorException

from mailferry import database, logs, retry
from mailferry.errors import MailferryError, Retry
from mailferry.secrets import mask
from mailferry.service import queue
from mailferry.service.connections import WatchedConnections
from mailferry.service.dispatch import Dispatcher
from mailferry.service.plan import Plan, host_name
from mailferry.service.store import Store, worker_id_of
from mailferry.service.tasks import Tasks
from mailferry.service.watches import Watches
from mailferry.service.worker import ServiceWorker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.service import Configuration
    from mailferry.service.notify import Notifier

log = logs.of(__name__, logs.DATABASE)
#: Mailboxes looked into at once.
POLLS = 4
#: Seconds that an answer of the database may take where it should come at once.
ANSWER = 45.0
#: Seconds for closing, and for recording in the database that this worker has ended.
CLOSING, LEAVING = 1.5, 1.0


class Service:
    """Runs the feeds of a configuration until it is stopped."""

    def __init__(
        self,
        configuration: Configuration,
        worker: UUID,
        notifier: Notifier,
        *,
        on_reload: Callable[[], None] = lambda: None,
    ) -> None:
        """To be made in a running loop. `worker`: who this process is, whatever its configuration."""
        self._configuration = configuration
        self._worker = worker
        self._notifier = notifier
        self._on_reload = on_reload
        self._stopped = False
        self._for_good = False
        self._stop = asyncio.Event()
        self._thread_stop = threading.Event()
        self._store: Store | None = None
        self._at_work: ServiceWorker | None = None

    def stop(self, *, for_good: bool = False) -> None:
        """End in good order; from the loop's own thread. `for_good`: the whole process ends."""
        self._stopped = True
        self._for_good = for_good
        self._end()

    def _end(self) -> None:
        """End what is open at the moment."""
        self._stop.set()
        self._thread_stop.set()

    async def run(self) -> None:
        """Until `stop`. Raises Stop where a person has to act before anything can be done: a database that refuses us, or is newer."""
        while not self._stopped:
            self._stop, self._thread_stop = asyncio.Event(), threading.Event()
            try:
                async with contextlib.AsyncExitStack() as stack:
                    where = await self._reach(stack)
                    if where is not None:
                        await self._work(stack, where)
            except Retry as error:
                log.warning("%s; starting again", error)
                await self._unless_stopped(asyncio.sleep(1))

    async def refuse(self, error: str) -> None:
        """A new configuration cannot be used: this one goes on."""
        if self._at_work and self._store:
            self._at_work.announce_again()
            with contextlib.suppress(MailferryError):
                await self._store.loaded(error)

    # --- the database

    async def _reach(self, stack: contextlib.AsyncExitStack) -> dict[str, Any] | None:
        """Where the database is, as soon as it is there; None when it was stopped first."""
        failures = 0
        while not self._stop.is_set():
            located = database.located(self._configuration.database)
            entering = asyncio.ensure_future(asyncio.to_thread(_prepared, located))
            await self._unless_stopped(entering)
            if not entering.done():
                return None
            try:
                where = entering.result()
            except Retry as error:
                failures += 1
                pause = retry.pause(failures, longest=10)
                said = f"waiting for the database: {mask(str(error))}"
                log.warning("%s; again in %g s", said, pause)
                self._notifier.waiting(pause + 60, said)
                await self._unless_stopped(asyncio.sleep(pause))
            else:
                stack.push_async_callback(asyncio.to_thread, located.__exit__, None, None, None)
                return where
        return None

    async def _unless_stopped(self, work: Awaitable[Any]) -> None:
        """Wait for something, or for the end; a sign of life every second."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        while not task.done() and not stopping.done():
            self._notifier.alive()
            await asyncio.wait({task, stopping}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()

    # --- work

    async def _work(self, stack: contextlib.AsyncExitStack, where: dict[str, Any]) -> None:
        """Open everything, work, and close it again in `CLOSING` seconds, whatever hangs. Raises Retry."""
        from mailferry.events.connections import Connections
        from mailferry.mailbox.pool import MailPool

        configuration = self._configuration
        plan = Plan(configuration=configuration, host=host_name(configuration))
        settings = configuration.service
        slots = settings.max_concurrent_jobs + POLLS
        # Twice as many as work at once: a thread may still hang in a job that was released long ago.
        threads = ThreadPoolExecutor(2 * slots + 2, thread_name_prefix="mailferry job")
        stack.callback(threads.shutdown, wait=False)
        tables = any(feed.destination == "table" for feed in configuration.events)
        # A job has one connection that loads and one that renews its claim; a table feed's run has one.
        most = 2 * slots + (settings.max_concurrent_feeds if tables else 0)
        watched = WatchedConnections(short=ANSWER, long=configuration.database.statement_timeout + ANSWER)
        pooled = database.pooled(
            where, configuration.database.model_copy(update={"pool_max": most}), watched.blocking
        )
        pool = await asyncio.to_thread(pooled.__enter__)
        app = queue.make_app(where, settings.max_concurrent_feeds, watched)
        connections = Connections()
        mail = MailPool(plan.mailboxes, pool, worker_id=worker_id_of(plan.host), stop=self._thread_stop)
        stack.push_async_callback(
            _close,
            watched,
            asyncio.to_thread(mail.close),
            app.close_async(),
            connections.close(),
            asyncio.to_thread(pooled.__exit__, None, None, None),
        )
        try:
            await app.open_async()
        except (psycopg.Error, ConnectorException) as error:
            raise Retry(f"The database cannot be reached, or was lost: {error.__cause__ or error}") from error
        store = Store(app.connector.pool, self._worker, plan.host)  # type: ignore[attr-defined] # psycopg's has it
        plan.hosts = await store.register(plan.entries.values(), alone=configuration.database.private)
        tasks = Tasks(
            app,
            store,
            plan,
            connections=connections,
            pool=pool,
            mail=mail,
            threads=threads,
            stop=self._stop,
            thread_stop=self._thread_stop,
        )
        await store.beat([])
        await store.loaded()
        log.info("%d event feeds, %d mailboxes, as host %s", len(plan.events), len(plan.mailboxes), plan.host)
        if elsewhere := [f"{name} ({host})" for name, host in plan.hosts.items() if not plan.here(name)]:
            log.info("left to the host that each is bound to: %s", ", ".join(elsewhere))
        self._store = store
        self._at_work = ServiceWorker(
            app,
            store,
            plan,
            tasks,
            watched=watched,
            dispatcher=Dispatcher(store, plan, tasks, pool),
            watches=Watches(store, plan, tasks, mail),
            mail=mail,
            notifier=self._notifier,
            slots={
                queue.EVENTS: settings.max_concurrent_feeds,
                queue.MAIL: POLLS,
                queue.LOAD: settings.max_concurrent_jobs,
            },
            stop=self._stop,
            on_reload=self._on_reload,
            on_lost=self._end,
        )
        await self._at_work.run()
        await self._leave(store)

    async def _leave(self, store: Store) -> None:
        if self._stopped:
            with contextlib.suppress(MailferryError, TimeoutError):
                await asyncio.wait_for(store.leave(for_good=self._for_good), LEAVING)


async def _close(watched: WatchedConnections, *closing: Awaitable[Any]) -> None:
    """Close what is open, at once and side by side; what still waits on the database is cut off."""
    watched.close_waiting()
    tasks = [asyncio.ensure_future(one) for one in closing]
    _, pending = await asyncio.wait(tasks, timeout=CLOSING)
    for task in pending:
        task.cancel()
    # What fails at closing is closed as well.
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            log.debug("closing: %s", error)


def acceptable(settings: DatabaseSettings) -> None:
    """Raises Stop for a database that a person has to repair first; one that is unreachable may come back."""
    if settings.private:
        return
    with contextlib.suppress(Retry):
        database.prepare(database.parameters(settings), settings.temp_schema)


def _prepared(located: contextlib.AbstractContextManager[dict[str, Any]]) -> dict[str, Any]:
    """The database, with the queue's tables in it. In a thread."""
    where = located.__enter__()
    try:
        with psycopg.connect(**where) as conn:
            queue.prepare(conn)
    except BaseException as error:
        located.__exit__(type(error), error, error.__traceback__)
        if isinstance(error, psycopg.Error):
            raise database.translated(error) from error
        raise
    return where
