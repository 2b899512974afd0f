"""The tasks of the queue: collect an event feed, poll a mailbox, load a table's jobs. Each records in the feed's row how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mailferry import logs
from mailferry.errors import MailferryError, Retry
from mailferry.secrets import mask
from mailferry.service.queue import EVENTS, LOAD, MAIL, feed_lock, queue_name, table_lock
from mailferry.service.store import Ended

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable, Collection, Iterator
    from concurrent.futures import Executor

    import procrastinate
    from procrastinate import JobContext

    from mailferry.database import Pool
    from mailferry.events.connections import Connections
    from mailferry.mailbox.ledger.jobs import Job
    from mailferry.mailbox.pool import MailPool
    from mailferry.service.plan import Plan
    from mailferry.service.store import Begun, Store

log = logs.of(__name__)
load_log, mail_log = log.about(logs.DATABASE), log.about(logs.EMAIL)
#: Seconds that one queue job loads into one table before it goes to the end of the queue.
TURN = 30.0
#: Debounce interval, in seconds, between a recorded message and the job that loads it.
DEBOUNCE = 0.2
#: A feed that is not in this host's configuration is left to the other hosts for so long.
LEFT = timedelta(seconds=5)
#: When a mailbox is polled again that was unreachable when a message was to be marked.
UNMARKED = timedelta(minutes=1)


class Tasks:
    """What this worker does, and what it is doing."""

    def __init__(
        self,
        app: procrastinate.App,
        store: Store,
        plan: Plan,
        *,
        connections: Connections,
        pool: Pool,
        mail: MailPool,
        threads: Executor,
        stop: asyncio.Event,
        thread_stop: threading.Event,
    ) -> None:
        self._app = app
        self._store = store
        self._plan = plan
        self._connections = connections
        self._pool = pool
        self._mail = mail
        self._threads = threads
        self._stop = stop
        self._thread_stop = thread_stop
        self._loop = asyncio.get_running_loop()
        #: Label of each queue job under work, by its id.
        self.running: dict[int, str] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._prepared: set[str] = set()
        self._wanted: set[str] = set()
        self._owed: list[Callable[[], Awaitable[None]]] = []
        app.task(name="collect", pass_context=True)(self.collect)
        app.task(name="poll", pass_context=True)(self.poll)
        app.task(name="load", pass_context=True)(self.load)

    async def settle(self) -> None:
        """Record in the database what could not be recorded when it happened."""
        while self._owed:
            await self._owed[0]()
            self._owed.pop(0)

    # --- into the queue

    async def defer_feed(self, name: str, conn: Any = None) -> None:
        """Queue a run of a feed; does nothing where one is queued already."""
        kind, task = (EVENTS, "collect") if self._plan.entries[name].kind == "events" else (MAIL, "poll")
        host = self._plan.hosts[name]
        await self._defer(task, queue_name(kind, host), feed_lock(name, host), conn, feed=name)

    async def defer_load(self, target: str) -> None:
        """Have a table's jobs loaded soon."""
        host = self._plan.load_host(target)
        await self._defer("load", queue_name(LOAD, host), table_lock(target, host), target=target)

    async def defer_loads(self, targets: Collection[str]) -> None:
        """As `defer_load`, for many tables: one query finds those that are queued already."""
        if not targets:
            return
        locks = {target: table_lock(target, self._plan.load_host(target)) for target in targets}
        waiting = await self._store.queued(list(locks.values()))
        for target, lock in locks.items():
            if lock not in waiting:
                await self.defer_load(target)

    def news(self, feed: str) -> None:
        """Mail has arrived; may be called from any thread."""
        self._soon(lambda: self._spawn(self.defer_feed(feed)))

    def _recorded(self, job: Job) -> None:
        self._soon(lambda: self._want(job.target))

    def _want(self, target: str) -> None:
        if target not in self._wanted:
            self._wanted.add(target)
            self._spawn(self._defer_wanted(target))

    async def _defer_wanted(self, target: str) -> None:
        await asyncio.sleep(DEBOUNCE)
        # From here on, what is recorded asks again.
        self._wanted.discard(target)
        await self.defer_load(target)

    def _soon(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; the next start finds the mail
            self._loop.call_soon_threadsafe(call)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(self._logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Any) -> None:
        try:
            await work
        except MailferryError as error:
            log.warning("%s", error)

    async def _defer(self, task: str, queue: str, lock: str, conn: Any = None, **arguments: Any) -> None:
        from procrastinate.exceptions import AlreadyEnqueued, ConnectorException

        if self._stop.is_set() and conn is None:
            return
        deferrer = self._app.configure_task(task, queue=queue, lock=lock, queueing_lock=lock, connection=conn)
        try:
            # Another worker's job of the same lock must not spoil the whole transaction.
            async with conn.transaction() if conn else contextlib.nullcontext():
                await deferrer.defer_async(**arguments)
        except AlreadyEnqueued:
            return
        except ConnectorException as error:
            raise Retry(f"The queue: {error.__cause__ or error}") from error

    # --- out of the queue

    async def collect(self, context: JobContext, feed: str) -> None:
        """One run of an event feed."""
        with self._noted(context, f"collect {feed}", feed=feed):
            await self._run(context, feed, self._collect)

    async def poll(self, context: JobContext, feed: str) -> None:
        """One poll of a mailbox."""
        with self._noted(context, f"poll {feed}", feed=feed):
            await self._run(context, feed, self._poll)

    async def load(self, context: JobContext, target: str) -> None:
        """Jobs of one table, one after the other, until none is due."""
        with self._noted(context, f"load {target}", table=target):
            until = time.monotonic() + TURN
            while not self._stop.is_set() and await self._load_one(target):
                if time.monotonic() > until:
                    self._spawn(self.defer_load(target))
                    return

    async def _load_one(self, target: str) -> bool:
        """Whether there may be another one; when the next is due the dispatcher knows."""
        from mailferry.mailbox.turns import StepResult, load_next

        try:
            step = await self._in_thread(load_next, self._mail, target, self._plan.loaders(target))
        except MailferryError as error:
            load_log.warning("%s: %s", target, error)
            return False
        if step.result is StepResult.BLOCKED:
            load_log.error("%s: %s", target, step.why)
        if step.result is StepResult.WORKED and step.why and step.job:
            # Its rows are in, its message is not marked: only a look into the mailbox does that now.
            self._spawn(self._store.reschedule(step.job.feed, UNMARKED))
        return step.result is StepResult.WORKED

    async def tidy(self) -> None:
        """Clean up the folders of this host's mailbox feeds: retention, and what crashes have left."""
        from mailferry.mailbox.cleanup import tidy

        def put_in_order(name: str) -> None:
            with self._mail.acquire(name) as work:
                tidy(work)

        for name in self._plan.mailboxes_here():
            try:
                await self._in_thread(put_in_order, name)
            except MailferryError as error:
                log.warning("%s: %s", name, error)

    @contextlib.contextmanager
    def _noted(self, context: JobContext, label: str, **ids: str) -> Iterator[None]:
        """`ids`: what stands on every line of this run."""
        assert context.job.id is not None
        self.running[context.job.id] = label
        with logs.bound(task=os.urandom(4).hex(), **ids):
            try:
                yield
            except Exception as error:
                log.exception("%s: unexpected %s; please report it", label, type(error).__name__)
                raise
            finally:
                del self.running[context.job.id]

    async def _run(self, context: JobContext, name: str, work: Callable[[str], Any]) -> None:
        """Run a feed, and put on record how that ended."""
        assert context.job.id is not None
        try:
            if name not in self._plan.entries or not self._plan.here(name):
                log.warning("%s: not in the configuration of this host; left to other hosts", name)
                await self._store.reschedule(name, LEFT)
                return
            begun = await self._store.begin(name, context.job.id)
        except MailferryError as error:
            log.warning("%s: could not begin: %s", name, error)
            self._owed.append(lambda: self._store.reschedule(name, timedelta(0)))
            return
        if begun is None:
            log.info("%s: its job was reclaimed before it began", name)
            return
        try:
            ended = await work(name)
        except Retry as error:
            status = "stopped" if self._stop.is_set() else "failed"
            ended = Ended(status=status, error=mask(str(error)))
        except MailferryError as error:
            ended = Ended(status="blocked", error=mask(str(error)))
        except asyncio.CancelledError:
            await asyncio.shield(self._end(name, begun, Ended(status="stopped")))
            raise
        except Exception as error:
            await self._end(
                name, begun, Ended(status="failed", error=mask(f"unexpected {type(error).__name__}: {error}"))
            )
            raise
        if ended.status in ("failed", "blocked"):
            (mail_log if self._plan.entries[name].kind == "mailbox" else log).error(
                "%s: %s", name, ended.error
            )
        await self._end(name, begun, ended)

    async def _end(self, name: str, begun: Begun, ended: Ended) -> None:
        try:
            await self._store.end(name, begun, ended)
        except MailferryError as error:
            log.warning("%s: the end of its run could not be put on record yet: %s", name, error)
            self._owed.append(lambda: self._store.end(name, begun, ended))

    async def _collect(self, name: str) -> Ended:
        from mailferry.events.collector import Collector
        from mailferry.events.run import prepare

        feed = self._plan.events[name]
        if name not in self._prepared:
            if faults := prepare([feed], self._plan.source):
                return Ended(status="blocked", error="; ".join(faults[feed.section]))
            self._prepared.add(name)
        result = await Collector(
            feed,
            self._connections,
            pool=self._pool,
            worker_id=self._store.worker_id,
            take_over=True,
            stop=self._stop,
        ).run()
        status = result.status
        if status == "error":
            status = "blocked" if result.blocked else "failed"
        return Ended(
            status=status,
            error=mask("; ".join(filter(None, [result.error, *result.warnings]))),
            position=result.position,
            gaps=result.gap_count,
            late=result.late,
        )

    async def _poll(self, name: str) -> Ended:
        from mailferry.mailbox.turns import poll

        polled = await self._in_thread(poll, self._mail, name, self._recorded)
        if self._thread_stop.is_set():
            return Ended(status="stopped")
        return Ended(
            status="failed" if polled.troubles else "completed", error="; ".join(map(mask, polled.troubles))
        )

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """With the ids of this task's log lines."""
        carried = contextvars.copy_context().run
        return await self._loop.run_in_executor(self._threads, carried, work, *arguments)
