"""Database connections with a watchdog: one that has waited too long for an answer is closed.

Against a server that hangs, or a network that drops packets, the server's own time-outs do not help, and those of TCP
only where the other machine is down. So every connection records since when it waits for an answer, and one that has
waited too long is shut down: the wait ends with an error.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import TupleRow

if TYPE_CHECKING:
    from psycopg.abc import PQGen

#: Seconds between two looks whether a thread that waits is to be interrupted, after psycopg's own default.
_INTERVAL = 0.1
#: The same in an event loop, which ends a wait by itself: ten looks a second would be half of what an idle service costs.
_ASYNC_INTERVAL = 60.0


class WatchedConnections:
    """The connections of one service; its pools make them of the two classes here."""

    def __init__(self, *, short: float, long: float) -> None:
        """Seconds that an answer may take: `short` on the event loop's connections, `long` on those of threads."""
        self._open: weakref.WeakSet[_Async | _Blocking] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.asynchronous: type[_Async] = type("Line", (_Async,), {"home": self, "patience": short})
        self.blocking: type[_Blocking] = type("Line", (_Blocking,), {"home": self, "patience": long})

    def close_overdue(self) -> int:
        """Close the connections that have waited too long; returns their number. Call it every few seconds."""
        now = time.monotonic()
        late = [line for line in self._all() if line.since is not None and now - line.since > line.patience]
        return sum(_shut(line) for line in late)

    def close_waiting(self) -> int:
        """Close every connection that waits for an answer; returns their number."""
        return sum(_shut(line) for line in self._all() if line.since is not None)

    def add(self, line: _Async | _Blocking) -> None:
        with self._lock:
            self._open.add(line)

    def _all(self) -> list[_Async | _Blocking]:
        with self._lock:
            return list(self._open)


class _Watched:
    home: WatchedConnections
    patience: float
    #: Monotonic time since when it waits for an answer; None while it does not.
    since: float | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.home.add(self)  # type: ignore[arg-type] # both classes with this base are connections


class _Async(_Watched, psycopg.AsyncConnection[TupleRow]):
    async def wait(
        self,
        gen: PQGen[Any],
        interval: float = _ASYNC_INTERVAL,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own parameter
    ) -> Any:
        self.since = time.monotonic()
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            self.since = None


class _Blocking(_Watched, psycopg.Connection[TupleRow]):
    def wait(self, gen: PQGen[Any], interval: float = _INTERVAL, timeout: float | None = None) -> Any:
        self.since = time.monotonic()
        try:
            return super().wait(gen, interval, timeout)
        finally:
            self.since = None


def _shut(line: _Async | _Blocking) -> bool:
    """End a connection as if the other side had closed it: what waits on it gets an error."""
    with contextlib.suppress(psycopg.Error, OSError):
        # A second handle: the first is libpq's to close.
        with socket.socket(fileno=os.dup(line.fileno())) as handle:
            handle.shutdown(socket.SHUT_RDWR)
        return True
    return False
