"""A link between a client and a server of this machine, for everything that can happen on the way."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from support_fork import Forked

    from mailferry.config.database import DatabaseSettings

    #: What passes instead of a piece; None ends the connection.
    Change = Callable[[bytes], bytes | None]

#: Large enough that a client's statement or a server's greeting comes in one.
_PIECE = 262_144
#: Closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


def unchanged(piece: bytes) -> bytes:
    return piece


class Link:
    """Passes what both sides say, changes the server's answers, is cut, or swallows everything.

    Leads to PostgreSQL where settings are given, else to a port of this machine. `answer` gets every piece from the
    server and returns what the client gets instead, or None to end the connection.
    """

    def __init__(self, server: DatabaseSettings | int, answer: Change = unchanged) -> None:
        self._server = server
        self.answer = answer
        #: Connections that clients have made, refused ones among them.
        self.connections = 0
        #: Bytes that went to clients.
        self.bytes = 0
        self._lock = threading.Lock()
        self._open: frozenset[socket.socket] = frozenset()
        self._passing = threading.Event()
        self._passing.set()
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._refusing = True
        _shut(self._listener)
        self._threads[0].join()
        self._passing.set()
        self.drop()
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()
        self._listener.close()

    # --- what befalls it

    def drop(self) -> None:
        """End all connections; new ones are welcome."""
        with self._lock:
            for one in self._open:
                _shut(one)

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._refusing = True
        self.drop()

    def swallow(self) -> None:
        """Keep all connections open, and let nothing through: a cable that was pulled."""
        self._passing.clear()

    def mend(self) -> None:
        """All well again; what was swallowed meanwhile arrives late."""
        self._refusing = False
        self._passing.set()

    # --- passing

    def changes(self) -> tuple[Change, Change]:
        """What a new connection's requests and answers go through."""
        return unchanged, self._answered

    def _answered(self, piece: bytes) -> bytes | None:
        changed = self.answer(piece)
        self.bytes += len(changed or b"")
        return changed

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = self._connect()
            except OSError:  # the server is down
                server = None
            if server is None or not self._opened(client, server):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            with server:
                ask, answer = self.changes()
                down = threading.Thread(target=self._relay, args=(server, client, answer), daemon=True)
                down.start()
                self._relay(client, server, ask)
                down.join()
                with self._lock:
                    self._open -= {client, server}

    def _connect(self) -> socket.socket | None:
        if self._refusing:
            return None
        if isinstance(self._server, int):
            return socket.create_connection(("127.0.0.1", self._server))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(f"{self._server.host}/.s.PGSQL.{self._server.port}")
        except OSError:
            server.close()
            raise
        return server

    def _opened(self, client: socket.socket, server: socket.socket) -> bool:
        """Whether both may stay open: the link may have been cut while they were being connected."""
        with self._lock:
            if not self._refusing:
                self._open |= {client, server}
                return True
        server.close()
        return False

    def _relay(self, source: socket.socket, target: socket.socket, change: Change) -> None:
        try:
            with contextlib.suppress(OSError):
                while piece := source.recv(_PIECE):
                    self._passing.wait()
                    if (passed := change(piece)) is None:
                        break
                    target.sendall(passed)
        finally:
            _shut(source)
            _shut(target)


def _shut(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A moment of a run, by what it says to the database."""

    #: The client's statement, as a pattern.
    statement: str
    #: The commit of its transaction is meant.
    commit: bool = False
    #: Not before the server has it, but when it has answered, and the client has not heard it.
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {'the commit of ' * self.commit}{self.statement}"


class Wire(Link):
    """A link to PostgreSQL that calls `react` at a step, and ends the connection."""

    def __init__(self, settings: DatabaseSettings) -> None:
        super().__init__(settings)
        self.step: Step | None = None
        self._react: Callable[[], object] = bool

    def at(self, step: Step | None, react: Callable[[], object] = bool) -> None:
        """Call `react` at the next such step, once."""
        self.step, self._react = step, react

    def kills(self, step: Step) -> Callable[[Forked], None]:
        """What a process is killed by at the step, before it begins."""
        return lambda process: self.at(step, process.kill)

    def reached(self) -> Callable[[], object]:
        self.step = None
        return self._react

    def changes(self) -> tuple[Change, Change]:
        watched = _Watched(self)
        return watched.ask, watched.answer


class _Watched:
    """One connection of a wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        #: The step's statement was said in this connection; its commit is to come.
        self._said = False
        self._held: Callable[[], object] | None = None

    def ask(self, piece: bytes) -> bytes | None:
        step = self._wire.step
        if step and self._is_at(step, piece):
            react = self._wire.reached()
            if not step.after:
                react()
                return None
            self._held = react
        return piece

    def answer(self, piece: bytes) -> bytes | None:
        if self._held:
            self._held()
            return None
        return piece

    def _is_at(self, step: Step, piece: bytes) -> bool:
        said = re.search(step.statement.encode(), piece) is not None
        if not step.commit:
            return said
        self._said = self._said or said
        return self._said and b"COMMIT\0" in piece
