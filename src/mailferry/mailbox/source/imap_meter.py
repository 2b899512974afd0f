"""What a mail server may answer, in bytes and in time, from the first byte on: none of it is trusted, least of all before TLS."""

from __future__ import annotations

import imaplib
import io
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: No literal of ours is longer: pieces are 256 KiB, header blocks 1 MiB.
MAX_LITERAL = 4 * 1024 * 1024
#: Bytes of all answers to one command: headers of 500 messages, or the numbers of 50,000.
MAX_ANSWER = 64 * 1024 * 1024
#: So many times the time-out of one read may all answers to one command take.
PATIENCE = 5


class _Meter(io.RawIOBase):
    """Reads a socket, and counts bytes and seconds since `begin`. Raises TimeoutError, and `abort` of imaplib."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = socket.SocketIO(sock, "r")
        self._left = MAX_ANSWER
        #: By the monotonic clock; None: it may take any time, as IDLE does.
        self._deadline: float | None = None
        self._seconds = 0.0

    def begin(self, seconds: float | None) -> None:
        """A command: its answers may take so many seconds, None: any time."""
        self._left = MAX_ANSWER
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: Buffer, /) -> int | None:
        patience = self._sock.gettimeout()
        # A socket that does not wait has a caller that asks again by itself.
        if self._deadline is not None and patience:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(min(left, patience))
        try:
            count = self._raw.readinto(buffer)
        finally:
            if self._deadline is not None and patience:
                self._sock.settimeout(patience)
        self._left -= count or 0
        if self._left < 0:
            raise imaplib.IMAP4.abort(f"the server answered with more than {MAX_ANSWER:,} bytes")
        return count


class Metered(imaplib.IMAP4):
    """A connection whose answers are bounded; to be mixed into a class that makes the socket."""

    #: Seconds of one read.
    patience: float = 60.0

    def meter(self) -> None:
        """Count from here on; to be called again where the socket was replaced (STARTTLS)."""
        self._meter = _Meter(self.sock)
        self._meter.begin(PATIENCE * self.patience)
        self.file: Any = io.BufferedReader(self._meter)

    def open(self, *args: Any, **kwargs: Any) -> None:
        super().open(*args, **kwargs)
        self.sock.settimeout(self.patience)
        self.meter()

    def read(self, size: int) -> bytes:
        if size > MAX_LITERAL:
            raise self.abort(f"the server announced {size} bytes where at most {MAX_LITERAL} were asked for")
        return super().read(size)

    def _command(self, name: str, *args: Any) -> bytes:
        self._meter.begin(None if name == "IDLE" else PATIENCE * self.patience)
        return super()._command(name, *args)  # type: ignore[misc,no-any-return]  # typeshed leaves it out
