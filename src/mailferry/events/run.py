"""Many sections in one run: a few at a time, on shared connections, ended together by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from mailferry import disk, logs
from mailferry.events.collector import Collector, Result
from mailferry.events.connections import Connections
from mailferry.events.places import Places, Silent
from mailferry.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Pool

_T = TypeVar("_T")
#: New objects that may hold others, before cycles among them are looked for; some tens of MB at most.
_CONTAINERS = 50_000
log = logs.of("mailferry.events")


class Exit:
    """Exit statuses of a run."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    GAP = 4


def prepare(feeds: Sequence[EventFeed], config: Path) -> dict[str, list[str]]:
    """Make the folders that the feeds need; one that writes into a table needs none.

    Returns by section what cannot be made or written; such a section cannot be run, the others can.
    """
    faults: dict[str, list[str]] = {}
    for feed in feeds:
        hide(feed.api_key.get_secret_value(), feed.masked_key)
        if feed.destination == "table":
            continue
        for option, folder in (
            ("log_directory", feed.folder),
            ("position_file", feed.position_file.parent),
            ("lock_file_path", feed.lock_file_path.parent),
            ("heartbeat_file", feed.heartbeat_file.parent),
        ):
            try:
                disk.make_folder(folder)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(0, "no permission")
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                why = error.strerror or type(error).__name__
                remedy = "give the user that runs mailferry a folder it may write"
                faults.setdefault(feed.section, []).append(
                    f"{config}: [{feed.section}] {option}: cannot write in {folder} ({why.lower()}); {remedy}"
                )
    return faults


async def collect(
    feeds: Sequence[EventFeed],
    *,
    pool: Pool | None = None,
    workers: int = 1,
    watch: Callable[[str, float, int], None] = lambda _section, _share, _events: None,
    clock: Callable[[], float] = time.time,
) -> tuple[list[Result], int | None]:
    """Run the feeds, at most `workers` at once, in their order. Returns the results, and the signal that ended it early.

    `pool`: for feeds that write into a table; each takes one connection while it runs.
    """
    stop = asyncio.Event()
    received: list[int] = []
    worker_id = f"{socket.gethostname()}/{os.getpid()}"
    connections = Connections()
    places = Places(workers)
    results: dict[str, Result] = {}

    def ask_to_stop(number: int) -> None:
        received.append(number)
        log.info("%s: writing what is there, then stopping", signal.Signals(number).name)
        stop.set()
        places.stop()

    async def work(feed: EventFeed) -> None:
        place = places.place(feed.url)
        with logs.bound(feed=feed.section):
            try:
                await place.take()
            except Silent as silence:
                error = f"[{feed.section}] not tried: {silence}"
                results[feed.section] = Result(
                    section=feed.section, status="error", error=error, unreachable=True
                )
                log.error("%s: %s", feed.section, error)  # noqa: TRY400 - its text says all
                return
            unreachable = ""
            try:
                if not stop.is_set():
                    collector = Collector(
                        feed,
                        connections,
                        pool=pool,
                        worker_id=worker_id,
                        stop=stop,
                        place=place,
                        watch=watch,
                        clock=clock,
                    )
                    results[feed.section] = result = await collector.run()
                    unreachable = result.error if result.unreachable else ""
            finally:
                place.end(unreachable)

    restore = on_signals(ask_to_stop)
    try:
        with _seldom_collected():
            await asyncio.gather(*map(work, feeds))
    finally:
        restore()
        await connections.close()
    not_run = [
        Result(section=feed.section, status="stopped") for feed in feeds if feed.section not in results
    ]
    ordered = [results[feed.section] for feed in feeds if feed.section in results]
    return ordered + not_run, received[0] if received else None


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """Records are trees, freed as soon as they are written: Python's search for cycles, a twentieth of a run, finds next to nothing."""
    before = gc.get_threshold()
    gc.set_threshold(_CONTAINERS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def blocking(main: Coroutine[Any, Any, _T]) -> _T:
    """As `asyncio.run`, but it does not wait for a name server that does not answer when a signal has ended the rest."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def exit_status(results: Sequence[Result]) -> int:
    """What the run as a whole came to."""
    if any(result.misconfigured for result in results):
        return Exit.USAGE
    failed = [result for result in results if result.status == "error"]
    if failed:
        tried = [result for result in results if result.status != "skipped"]
        unreachable = all(result.unreachable for result in failed) and len(failed) == len(tried)
        return Exit.UNREACHABLE if unreachable else Exit.FAILED
    return Exit.GAP if any(result.new_gaps or result.warnings for result in results) else Exit.DONE


def on_signals(react: Callable[[int], None]) -> Callable[[], None]:
    """Call `react` in the running loop on SIGINT and SIGTERM; returns what undoes that."""
    undo = contextlib.ExitStack()
    if threading.current_thread() is not threading.main_thread():
        return undo.close  # the main thread handles signals
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, react, number)
        except NotImplementedError:  # Windows: the loop takes none
            old = signal.signal(number, lambda got, _: loop.call_soon_threadsafe(react, got))
            undo.callback(signal.signal, number, old)
        else:
            undo.callback(loop.remove_signal_handler, number)
    return undo.close
