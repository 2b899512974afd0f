"""This process at work: takes jobs from the queue, fills it, watches, and says that it is alive, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from mailferry import logs, retry
from mailferry.errors import MailferryError
from mailferry.secrets import mask
from mailferry.service import queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import procrastinate
    from procrastinate.jobs import Job
    from procrastinate.worker import Worker

    from mailferry.mailbox.pool import MailPool
    from mailferry.service.connections import WatchedConnections
    from mailferry.service.dispatch import Dispatcher
    from mailferry.service.notify import Notifier
    from mailferry.service.plan import Plan
    from mailferry.service.store import Store
    from mailferry.service.tasks import Tasks
    from mailferry.service.watches import Watches

log = logs.of(__name__, logs.DATABASE)
#: Seconds for tasks to end by themselves after a stop, then for releasing the claims of the rest. With the time that
#: `service.py` needs to close, less than ten.
GRACE, RELEASE = 4.5, 1.5
BEAT = 5.0
HOUSEKEEPING = 5.0
FOLDERS = 3600.0
WATCH = 10.0
#: Seconds between two status notifications to systemd, after the first one of being ready.
STATUS = 2.0
#: Seconds without a turn of the dispatcher after which this process does not count as alive; an answer of the database
#: may take three quarters of it.
PROGRESS = 60.0
#: Seconds without the database after which everything is opened again: a private server may have to be started.
LOST = 10.0


class ServiceWorker:
    """The loops of one process. Each runs by itself; an error in one is logged, and the loop goes on."""

    def __init__(
        self,
        app: procrastinate.App,
        store: Store,
        plan: Plan,
        tasks: Tasks,
        *,
        watched: WatchedConnections,
        dispatcher: Dispatcher,
        watches: Watches,
        mail: MailPool,
        notifier: Notifier,
        slots: dict[str, int],
        stop: asyncio.Event,
        on_reload: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`slots`: jobs at once, by kind. `on_reload` is called when that is asked for through the database, `on_lost` when it is gone."""
        self._app = app
        self._store = store
        self._plan = plan
        self._tasks = tasks
        self._watched = watched
        self._dispatcher = dispatcher
        self._watches = watches
        self._mail = mail
        self._notifier = notifier
        self._slots = slots
        self._stop = stop
        self._on_reload = on_reload
        self._on_lost = on_lost
        self._workers: list[Worker] = []
        #: The queue's numbers of our workers, past and present.
        self._numbers: set[int] = set()
        self._turned = self._reached = time.monotonic()
        self._ready = False
        self._suspects: set[int] = set()
        app.periodic(cron="17 * * * *")(
            app.task(name="housekeeping", queueing_lock="housekeeping", queue=queue.MAIL)(self._tidy)
        )

    async def run(self) -> None:
        """Run until `stop` is set and every task has ended or was released."""
        loops = [
            self._again("dispatcher", self._dispatch),
            self._again("heartbeat", self._beat),
            self._again("housekeeping", self._reclaim_jobs),
            self._again("watches", self._watch),
            self._again("status", self._notify),
            self._again("connections", self._close_overdue),
            self._again("folders", self._tidy_folders),
        ]
        serving = [
            self._again(f"{kind} worker", lambda kind=kind, slots=slots: self._serve(kind, slots))  # type: ignore[misc] # of a lambda's defaults
            for kind, slots in self._slots.items()
        ]
        side = [asyncio.ensure_future(loop) for loop in loops]
        workers = [asyncio.ensure_future(loop) for loop in serving]
        try:
            await self._stop.wait()
        finally:
            await self._end(side, workers)

    def announce_again(self) -> None:
        """Notify systemd again that the service is ready; that also ends a reload."""
        self._ready = False

    async def _end(
        self, side: Sequence[asyncio.Future[None]], workers: Sequence[asyncio.Future[None]]
    ) -> None:
        """End the running tasks; release the claims of those that do not end in time."""
        for task in side:
            task.cancel()
        for worker in self._workers:
            worker.stop()  # type: ignore[no-untyped-call] # the library has no types there
        ending: list[asyncio.Future[None]] = [asyncio.ensure_future(self._watches.close()), *workers]
        await asyncio.wait(ending, timeout=GRACE)
        if self._mail.claims or self._tasks.running:
            log.warning("released: %s", ", ".join(self._tasks.running.values()) or "a job")
            handing = asyncio.ensure_future(self._release())
            await asyncio.wait([handing, *workers], timeout=RELEASE)
        for task in workers:
            task.cancel()

    async def _release(self) -> None:
        await asyncio.to_thread(self._mail.release_claims, RELEASE)

    async def _again(self, name: str, work: Callable[[], Awaitable[float | None]]) -> None:
        """Repeat `work`, which returns the seconds until the next time. Errors are logged, and tried again with growing pauses."""
        failures = 0
        while not self._stop.is_set():
            try:
                wait = await work() or 0
                failures = 0
            except asyncio.CancelledError:
                raise
            except MailferryError as error:
                failures += 1
                wait = retry.pause(failures, longest=15)
                log.warning("%s: %s; again in %g s", name, error, wait)
            except Exception as error:
                from procrastinate.exceptions import ConnectorException

                failures += 1
                wait = retry.pause(failures, longest=15)
                lost = isinstance(error, ConnectorException)
                text = (
                    f"{error.__cause__ or error}" if lost else f"unexpected {type(error).__name__}: {error}"
                )
                log.log(
                    logging.WARNING if lost else logging.ERROR,
                    "%s: %s; again in %g s",
                    name,
                    text,
                    wait,
                    exc_info=not lost,
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    # --- the loops

    async def _serve(self, kind: str, slots: int) -> float:
        """Take jobs from the queues of a kind until the end, or until the database is lost."""
        from procrastinate.worker import Worker

        worker = Worker(
            self._app,
            queues=[kind, queue.queue_name(kind, self._plan.host)],
            name=kind,
            concurrency=slots,
            fetch_job_polling_interval=queue.POLLING,
            shutdown_graceful_timeout=GRACE,
            delete_jobs="successful",
            install_signal_handlers=False,
            update_heartbeat_interval=queue.HEARTBEAT,
            stalled_worker_timeout=queue.STALLED,
        )
        self._workers.append(worker)
        running = asyncio.ensure_future(worker.run())  # type: ignore[no-untyped-call] # the library has no types there
        try:
            # Known once it has begun; gone when it has ended.
            while not running.done() and worker.worker_id is None:
                await asyncio.wait({running}, timeout=0.2)
            if worker.worker_id is not None:
                self._numbers.add(worker.worker_id)
            await running
        finally:
            running.cancel()
            self._workers.remove(worker)
        # Ended without being asked to: its listening was lost, and with it the database for a while.
        return 1.0

    async def _dispatch(self) -> float:
        try:
            wait = await self._dispatcher.tick()
        except MailferryError:
            if time.monotonic() - self._reached > LOST and self._plan.configuration.database.private:
                log.warning("the private database has ended; starting it again")
                self._on_lost()
            raise
        else:
            self._reached = time.monotonic()
        finally:
            self._turned = time.monotonic()
        return wait

    async def _close_overdue(self) -> float:
        if count := self._watched.close_overdue():
            log.warning("%d connections to the database had no answer for long, and were closed", count)
        return BEAT

    async def _beat(self) -> float:
        if await self._store.beat(sorted(self._tasks.running.values())):
            self._on_reload()
        return BEAT

    async def _watch(self) -> float:
        await self._watches.tick()
        await asyncio.to_thread(self._mail.close_idle)
        return WATCH

    async def _tidy_folders(self) -> float:
        await self._tasks.tidy()
        return FOLDERS

    async def _reclaim_jobs(self) -> float:
        """Reclaim the jobs of dead workers, and our own whose end was not recorded."""
        await self._tasks.settle()
        manager = self._app.job_manager
        await manager.prune_stalled_workers(queue.STALLED)
        doing = list(await manager.list_jobs_async(status="doing"))
        # A worker that was pruned leaves its jobs without one.
        lost = [job for job in doing if job.worker_id is None]
        idle = [job for job in doing if job.worker_id in self._numbers and job.id not in self._tasks.running]
        # Only when seen twice: between the queue and the task, a job is listed nowhere for a moment.
        lost += [job for job in idle if job.id in self._suspects]
        self._suspects = {job.id for job in idle if job.id is not None}
        for job in lost:
            await self._give_up(job)
        return HOUSEKEEPING

    async def _give_up(self, job: Job) -> None:
        assert job.id is not None
        feed, target = job.task_kwargs.get("feed"), job.task_kwargs.get("target")
        said = await self._store.reclaim(job.id, job.worker_id, str(feed) if feed else None)
        if said:
            log.warning("%s: %s", feed, said)
        elif said is not None and target:
            log.warning("%s: its worker is dead; its jobs go on when their lease has run out", target)

    async def _tidy(self, timestamp: int) -> None:  # noqa: ARG002 - the library passes when it was due
        await self._app.job_manager.delete_old_jobs(
            nb_hours=24, include_failed=True, include_cancelled=True, include_aborted=True
        )
        await self._store.forget_workers()

    async def _notify(self) -> float:
        """Status, and the watchdog's sign of life as long as the dispatcher runs."""
        if time.monotonic() - self._turned < PROGRESS:
            self._notifier.alive()
        plan, running = self._plan, len(self._tasks.running)
        text = f"{len(plan.events)} event feeds, {len(plan.mailboxes)} mailboxes, {running} tasks at work"
        if self._ready:
            self._notifier.status(text)
        elif not self._notifier.was_ready and (waiting := await self._mailbox_trouble()):
            self._notifier.waiting(60, f"waiting for a mailbox: {waiting}")
        else:
            self._ready = True
            self._notifier.ready(text)
            log.info("ready: %s", text)
        return min(STATUS if self._ready else 1.0, (self._notifier.watchdog or 60) / 4)

    async def _mailbox_trouble(self) -> str | None:
        """Why no mailbox has answered yet; None when one has, or there is none."""
        names = self._plan.mailboxes_here()
        if not names:
            return None
        try:
            return await self._store.mailbox_trouble(names)
        except MailferryError as error:
            return mask(str(error))
