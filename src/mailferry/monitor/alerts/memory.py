"""Where a channel's memory is kept: in the database, which all hosts share, or in a file of this host."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Protocol

from mailferry import database, disk, logs
from mailferry.errors import Retry
from mailferry.monitor.alerts.decide import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mailferry.database import Pool

log = logs.of(__name__)
#: Seconds to wait for another process that sends.
_PATIENCE = 60.0
#: Who this process is.
_HOLDER = uuid.uuid4()


class Store(Protocol):
    """The memories of all channels."""

    def look(self, channel: str) -> Memory:
        """What is remembered."""

    def held(
        self, channel: str
    ) -> contextlib.AbstractContextManager[tuple[Memory, Callable[[Memory], None]] | None]:
        """To send: what is remembered, and what remembers; None while another process sends."""


class TableStore:
    """In the database. Errors come out as of `database.transaction`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def look(self, channel: str) -> Memory:
        """What is remembered."""
        with database.transaction(self._pool) as conn:
            row = conn.execute(_sql("look"), {"channel": channel}).fetchone()
        return _read(row[0] if row else None)

    @contextlib.contextmanager
    def held(self, channel: str) -> Iterator[tuple[Memory, Callable[[Memory], None]] | None]:
        """To send; a process that was killed meanwhile keeps the others waiting for five minutes."""
        values = {"channel": channel, "holder": _HOLDER}
        with database.transaction(self._pool) as conn:
            row = conn.execute(_sql("take"), values).fetchone()
        if row is None:
            yield None
            return

        def remember(memory: Memory) -> None:
            with database.transaction(self._pool) as conn:
                conn.execute(_sql("remember"), {**values, "memory": json.dumps(memory.to_json())})

        try:
            yield _read(row[0]), remember
        finally:
            with database.transaction(self._pool) as conn:
                conn.execute(_sql("release"), values)


class FileStore:
    """In one file, whole or not at all; what could not be written is remembered by this process at least."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: dict[str, Memory] = {}

    def look(self, channel: str) -> Memory:
        """What is remembered; nothing where the file is damaged, so that alerts are repeated rather than lost."""
        return self._unwritten.get(channel) or _read(self._all().get(channel))

    @contextlib.contextmanager
    def held(self, channel: str) -> Iterator[tuple[Memory, Callable[[Memory], None]] | None]:
        """To send. Raises Retry where the file cannot be locked."""
        from filelock import FileLock, Timeout

        lock = FileLock(f"{self._path}.lock", timeout=_PATIENCE)
        try:
            with disk.explained("lock", self._path):
                lock.acquire()
        except Timeout:
            yield None
            return
        try:
            yield self.look(channel), lambda memory: self._remember(channel, memory)
        finally:
            lock.release()

    def _remember(self, channel: str, memory: Memory) -> None:
        self._unwritten[channel] = memory
        every = {**self._all(), channel: memory.to_json()}
        with disk.explained("write the memory of alerts", self._path):
            disk.replace_file(self._path, json.dumps({"version": 1, "channels": every}).encode())
        del self._unwritten[channel]

    def _all(self) -> dict[str, object]:
        try:
            found = json.loads(self._path.read_bytes())["channels"]
            return dict(found)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Retry(f"cannot read {self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError):
            log.warning("%s: damaged; alerts that were sent may be sent again", self._path)
            return {}


def _read(state: object) -> Memory:
    try:
        return Memory.from_json(state) if isinstance(state, dict) else Memory()
    except (KeyError, TypeError, ValueError, AttributeError):
        log.warning("the memory of alerts is damaged; alerts that were sent may be sent again")
        return Memory()


def _sql(name: str) -> bytes:
    return database.queries("alerts")[name]
