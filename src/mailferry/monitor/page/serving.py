"""The page on its address: beside the service, in a thread of its own, or as all that a process does."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.errors import Stop

if TYPE_CHECKING:
    from mailferry.config.page_settings import PageSettings
    from mailferry.config.service import Configuration

log = logs.of(__name__)
#: Seconds that the end may take, with requests that are being answered.
_LAST = 2.0
#: Requests at once; one more is answered with 503.
_AT_ONCE = 64


class Site:
    """What is served on one address, until `stop`. Raises Stop where the address cannot be used."""

    def __init__(self, configuration: Configuration) -> None:
        from uvicorn import Config, Server

        from mailferry.monitor.page.app import application
        from mailferry.monitor.page.looks import Looks

        self._socket = _listening(configuration.page)
        self._looks = Looks(configuration)
        self._server = Server(
            Config(
                application(self._looks),
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                http="h11",
                loop="asyncio",
                limit_concurrency=_AT_ONCE,
                timeout_graceful_shutdown=1,
            )
        )

    def run(self) -> None:
        """Serve; in any thread but the main one, whose signals uvicorn would take."""
        try:
            self._server.run([self._socket])
        finally:
            self._looks.close()

    def take(self, configuration: Configuration) -> None:
        """Show another configuration, on the same address."""
        self._looks.take(configuration)

    def stop(self) -> None:
        self._server.should_exit = True


class Beside:
    """The page of a process that has other work: whatever goes wrong with it is a warning, and the work goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._configuration: Configuration | None = None
        self._thread: threading.Thread | None = None
        self._site: Site | None = None

    def take(self, configuration: Configuration) -> None:
        """Serve this configuration; from another address, where that has changed."""
        before, self._configuration = self._configuration, configuration
        if before and before.page.listen == configuration.page.listen:
            with self._lock:
                if self._site:
                    self._site.take(configuration)
            return
        self._end()
        if configuration.page.listen:
            self._thread = threading.Thread(
                target=self._serve, args=(configuration,), name="mailferry page", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End it, with the process."""
        self._configuration = None
        self._end()

    def _serve(self, configuration: Configuration) -> None:
        try:
            # Starting takes a moment, in which the service has its own to do.
            site = Site(configuration)
            with self._lock:
                wanted = self._configuration
                if wanted is None or wanted.page.listen != configuration.page.listen:
                    site.stop()
                self._site = site
                if wanted is not None and wanted is not configuration:
                    site.take(wanted)
            log.info("status page: http://%s/", configuration.page.listen)
            site.run()
        except Stop as error:
            log.warning("%s", error)
        except Exception:
            log.exception("the status page has ended; the work goes on without it")

    def _end(self) -> None:
        with self._lock:
            site, self._site = self._site, None
        if site:
            site.stop()
        if self._thread:
            self._thread.join(_LAST)
            self._thread = None


def _listening(settings: PageSettings) -> socket.socket:
    host, port = settings.address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds the address to the system's words, and name services have numbers below zero.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise Stop(
            f"The status page cannot be served on {settings.listen}: {why}. Set another address: "
            "listen of [page] (PAGE_LISTEN)."
        ) from error
