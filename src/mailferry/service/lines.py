"""The connections to the database, on none of which anybody waits for ever.

A server that hangs, or a network that swallows what is sent, leaves whoever asked waiting without a word. Time-outs of
the server do not help there, and those of TCP only where the far machine itself is gone. So every connection notes since
when it waits for an answer, and one that has waited for too long is shut: the wait ends with an error.
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

#: Seconds between two looks, after psycopg's own default.
_INTERVAL = 0.1


class Lines:
    """The connections of one service, as classes that its pools make them of."""

    def __init__(self, *, short: float, long: float) -> None:
        """Seconds that an answer may take: `short` on the event loop's connections, `long` on those of threads."""
        self._open: weakref.WeakSet[_Async | _Blocking] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.asynchronous: type[_Async] = type("Line", (_Async,), {"home": self, "patience": short})
        self.blocking: type[_Blocking] = type("Line", (_Blocking,), {"home": self, "patience": long})

    def tend(self) -> int:
        """Shut what has waited for too long; how many that were. To be called every few seconds."""
        now = time.monotonic()
        late = [line for line in self._all() if line.since is not None and now - line.since > line.patience]
        return sum(_shut(line) for line in late)

    def cut(self) -> int:
        """Shut every connection that somebody waits on; how many that were."""
        return sum(_shut(line) for line in self._all() if line.since is not None)

    def add(self, line: _Async | _Blocking) -> None:
        with self._lock:
            self._open.add(line)

    def _all(self) -> list[_Async | _Blocking]:
        with self._lock:
            return list(self._open)


class _Async(psycopg.AsyncConnection[TupleRow]):
    home: Lines
    patience: float
    #: Since when an answer is waited for, by the monotonic clock; None while none is.
    since: float | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.home.add(self)

    async def wait(self, gen: PQGen[Any], interval: float = _INTERVAL, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - psycopg's own parameter
        self.since = time.monotonic()
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            self.since = None


class _Blocking(psycopg.Connection[TupleRow]):
    home: Lines
    patience: float
    since: float | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.home.add(self)

    def wait(self, gen: PQGen[Any], interval: float = _INTERVAL, timeout: float | None = None) -> Any:
        self.since = time.monotonic()
        try:
            return super().wait(gen, interval, timeout)
        finally:
            self.since = None


def _shut(line: _Async | _Blocking) -> bool:
    """End a connection under whoever waits on it: as if the other side had closed it."""
    with contextlib.suppress(psycopg.Error, OSError):
        # A second handle: the first is libpq's to close.
        with socket.socket(fileno=os.dup(line.fileno())) as handle:
            handle.shutdown(socket.SHUT_RDWR)
        return True
    return False
