"""The alerts of a service: a thread of their own, that holds up no work and no other alert for long."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.clock import local_now
from mailferry.errors import MailferryError

if TYPE_CHECKING:
    from mailferry.config.service import Configuration
    from mailferry.monitor.alerts.memory import FileStore
    from mailferry.monitor.alerts.turn import Pauses
    from mailferry.monitor.connected import Connected
    from mailferry.monitor.facts import Status

log = logs.of(__name__)
#: Seconds between two looks, and between two pings.
LOOK, PING = 20.0, 60.0


class Alerts:
    """Goes along with a service; whatever goes wrong here is logged, and the work goes on."""

    def __init__(self) -> None:
        self._changed = threading.Event()
        self._ended = False
        self._configuration: Configuration | None = None
        self._thread: threading.Thread | None = None
        self._pings = _Pings()
        # Imported when they are needed.
        self._pauses: Pauses | None = None
        self._file: FileStore | None = None

    def take(self, configuration: Configuration) -> None:
        """Go by this configuration from now on."""
        self._configuration = configuration
        self._changed.set()
        if self._thread is None and configuration.alerts.any:
            self._thread = threading.Thread(target=self._run, name="mailferry alerts", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """The process ends; a message under way is not waited for, and is sent again by the next one."""
        self._ended = True
        self._changed.set()

    def _run(self) -> None:
        from mailferry.monitor.connected import Connected

        with Connected() as connected:
            while not self._ended:
                self._changed.clear()
                configuration = self._configuration
                if configuration and configuration.alerts.any:
                    try:
                        self._turn(configuration, connected)
                    except MailferryError as error:
                        log.warning("alerts: %s", error)
                    except Exception:
                        log.exception("alerts: unexpected; tried again")
                self._changed.wait(LOOK)

    def _turn(self, configuration: Configuration, connected: Connected) -> None:
        from mailferry.monitor.alerts.memory import FileStore
        from mailferry.monitor.alerts.turn import MEMORY, Pauses, turn

        if self._pauses is None or self._file is None:
            self._pauses, self._file = Pauses(), FileStore(configuration.service.data_dir / MEMORY)
        self._pings.start(configuration)
        status = turn(configuration, self._file, local_now(), self._pauses, connected)
        self._pings.send(configuration, status)


class _Pings:
    """A ping a minute: success while nothing needs a person, else failure. Silence says that the service is gone."""

    def __init__(self) -> None:
        self._began = False
        self._at = -PING
        self._well: bool | None = None

    def start(self, configuration: Configuration) -> None:
        if not self._began:
            self._began = True
            self._ping(configuration, "start")

    def send(self, configuration: Configuration, status: Status) -> None:
        now = time.monotonic()
        if now - self._at >= PING or self._well is not status.healthy:
            self._at, self._well = now, status.healthy
            text = "\n".join(need.subject for need in status.needs[:100])
            self._ping(configuration, "" if status.healthy else "fail", text)

    def _ping(self, configuration: Configuration, what: str, text: str = "") -> None:
        from mailferry.monitor.alerts.once import ping_quietly

        ping_quietly(configuration.alerts, what, text)
