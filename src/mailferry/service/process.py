"""The life of a service process: start, signals, a new configuration, the end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from mailferry import logs
from mailferry.config import service as service_config
from mailferry.errors import ConfigError, MailferryError, Stop
from mailferry.events.run import blocking
from mailferry.secrets import mask
from mailferry.service.notify import Notifier
from mailferry.service.service import Service, acceptable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import NoReturn

    from mailferry.config.service import Configuration

    class Beside(Protocol):
        """A part of the process that must not disturb the service: the status page, the alerts."""

        def take(self, configuration: Configuration) -> None:
            """Go by this configuration from now on; must not block."""

        def stop(self) -> None:
            """The process ends."""


log = logs.of(__name__)
#: Seconds from SIGTERM to the end of the process, whatever hangs.
LAST = 9.5
#: Threads for blocking calls beside the jobs; started when they are needed.
THREADS = 64


def run(paths: Sequence[Path], configuration: Configuration, beside: Sequence[Beside]) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status. SIGHUP reloads the configuration.

    `paths` is where `configuration` was read from. Raises Stop where a person has to act first.
    """
    if sys.platform == "win32":
        raise Stop(
            "The service does not run on Windows; run `mailferry collect` and `mailferry load` on a schedule."
        )
    try:
        try:
            blocking(_Process(paths, configuration, beside).main())
        finally:
            for one in beside:
                one.stop()
    except MailferryError as error:
        if threading.active_count() == 1:
            raise
        log.error("%s", error)  # noqa: TRY400 - its text says all
        _leave(1)
    log.info("ended")
    if threading.active_count() > 1:
        # The claims of threads that still work were released; waiting for those threads could take for ever.
        _leave(0)
    return 0


def _leave(status: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _leave_late() -> NoReturn:
    log.warning("ended while a thread still worked; another worker takes its job when the lease has run out")
    _leave(0)


class _Process:
    def __init__(self, paths: Sequence[Path], configuration: Configuration, beside: Sequence[Beside]) -> None:
        self._paths = paths
        self._beside = beside
        self._configuration = configuration
        self._notifier = Notifier()
        self._worker = uuid.uuid4()
        self._ending = False
        self._reading: asyncio.Task[None] | None = None
        #: A reload was asked for while one was running: the files may have changed since they were read.
        self._asked_again = False

    def _take_beside(self, configuration: Configuration) -> None:
        for one in self._beside:
            one.take(configuration)

    def _made(self) -> Service:
        return Service(self._configuration, self._worker, self._notifier, on_reload=self._reload)

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="mailferry"))
        loop.set_exception_handler(_report)
        self._service = self._made()
        self._take_beside(self._configuration)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        while True:
            await self._service.run()
            if self._ending:
                return
            self._service = self._made()

    def _end(self, number: int) -> None:
        if self._ending:
            return
        log.info("%s: ending the running tasks", signal.Signals(number).name)
        self._ending = True
        last = threading.Timer(LAST, _leave_late)
        last.daemon = True
        last.start()
        self._notifier.stopping("ending")
        self._service.stop(for_good=True)

    def _reload(self) -> None:
        if self._reading and not self._reading.done():
            self._asked_again = True
        elif not self._ending:
            self._reading = asyncio.ensure_future(self._take_newest())

    async def _take_newest(self) -> None:
        self._asked_again = True
        while self._asked_again and not self._ending:
            self._asked_again = False
            await self._take_new()

    async def _take_new(self) -> None:
        """Read the configuration before the running one is stopped: a broken one is refused, and the old one stays."""
        self._notifier.reloading()
        try:
            configuration = await asyncio.to_thread(service_config.read, self._paths)
            if configuration.database != self._configuration.database:
                await asyncio.to_thread(acceptable, configuration.database)
        except Stop as error:
            faults = error.faults if isinstance(error, ConfigError) else [str(error)]
            for fault in faults:
                log.error("not taken: %s", fault)  # noqa: TRY400 - its text says all
            await self._service.refuse(mask("; ".join(faults)))
            return
        for warning in configuration.warnings:
            log.warning("%s", warning)
        settings = configuration.service
        logs.set_up(settings.log_level, folder=settings.log_dir, style=settings.log_format)
        log.info("a new configuration is taken")
        self._configuration = configuration
        await asyncio.to_thread(self._take_beside, configuration)
        self._service.stop()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Log the error of a task of the queue library that nothing awaited: a job's end that could not be recorded.

    Such a job is found and reclaimed, see `worker.py`.
    """
    error = context.get("exception")
    if "asyncgen" in context:
        return  # it still waited for the database when the process ended
    if isinstance(error, Exception):
        log.warning("%s: %s", type(error).__name__, error.__cause__ or error)
    else:
        loop.default_exception_handler(context)
