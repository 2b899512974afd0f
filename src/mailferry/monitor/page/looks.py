"""What the page shows, asked at most every few seconds however many people look; and its transactions.

A database that does not answer must not hold up the page: then it shows what this host knows by itself, and says why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from mailferry import database
from mailferry.clock import local_now
from mailferry.errors import MailferryError, Reject, Retry
from mailferry.monitor import status as monitor
from mailferry.monitor.connected import Connected
from mailferry.monitor.reach import Reaches
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from mailferry.config.service import Configuration
    from mailferry.database import Connection, Pool
    from mailferry.monitor.facts import Status

#: Seconds for which a look is shown again; after a failure that took long, it is longer.
FRESH = 2.0
#: Seconds that a request waits for the database.
PATIENCE = 3.0


class Looks:
    """One configuration's statistics and connections, for all requests. Any thread may ask."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._lock = threading.Lock()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="mailferry page asks")
        self._connected = Connected()
        self._pool: Pool | None = None
        self._last: tuple[float, Status] | None = None
        self._coming: Future[Status] | None = None
        self._reaches = Reaches()

    @property
    def configuration(self) -> Configuration:
        return self._configuration

    def take(self, configuration: Configuration) -> None:
        """From now on, this configuration."""
        with self._lock:
            self._configuration = configuration
            self._last = self._coming = None
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._asking.submit(self._begin_again)

    def close(self) -> None:
        """Close the connections; what still waits for the database is not waited for."""
        self._asking.submit(self._disconnect)
        self._asking.shutdown(wait=False, cancel_futures=False)

    def forget(self) -> None:
        """Something was changed: the next look asks again, and does not wait for one that began before."""
        with self._lock:
            self._last = self._coming = None

    def status(self) -> Status:
        """The latest statistics, at most FRESH seconds old where the database answers."""
        with self._lock:
            now = time.monotonic()
            if self._last and now - self._last[0] < FRESH:
                return self._last[1]
            if self._coming is None:
                self._coming = self._asking.submit(self._look, self._configuration)
            coming = self._coming
        wait([coming], PATIENCE)
        over = coming.done()
        found = None
        try:
            # What comes too late is taken by a later request; until then, none waits as long.
            found = coming.result() if over else self._without_answer()
            return found
        finally:
            with self._lock:
                if self._coming is coming:
                    self._last = (time.monotonic(), found) if found else None
                    self._coming = None if over else coming

    def _without_answer(self) -> Status:
        error = f"no answer from the database within {PATIENCE:g} s"
        return monitor.look_without(self._configuration, local_now(), error, self._reaches)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction on the ledger. Raises Reject where there is no database; Retry where it does not answer."""
        status = self.status()
        if status.database_error:
            raise Retry(status.database_error)
        pool = self._pool
        if pool is None:
            raise Reject("No database is configured: event feeds that write files need none.")
        with database.transaction(pool) as conn:
            conn.execute("SET LOCAL statement_timeout = '10s'")
            yield conn

    @property
    def pool(self) -> Pool | None:
        """The open connections; None where there is no database, or it did not answer."""
        return self._pool

    # In the thread that asks

    def _look(self, configuration: Configuration) -> Status:
        if not monitor.has_database(configuration):
            return monitor.look_without(configuration, local_now(), "", self._reaches)
        try:
            self._pool = self._connected.pool(configuration.database)
            found = monitor.look_with(self._pool, configuration, local_now(), self._reaches)
        except MailferryError as error:
            found = monitor.look_without(configuration, local_now(), mask(str(error)), self._reaches)
        if found.database_error:
            # The private server may come back on another port.
            self._disconnect()
        return found

    def _begin_again(self) -> None:
        self._reaches = Reaches()
        self._disconnect()

    def _disconnect(self) -> None:
        self._pool = None
        self._connected.close()
