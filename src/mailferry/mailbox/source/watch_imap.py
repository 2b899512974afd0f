"""Watching an IMAP folder by IDLE (RFC 2177), with a probe for servers and networks that fall silent.

IMAPClient's own `idle_check` is not used: it takes a closed connection for silence and breaks on half a line
(mjs/imapclient 449, 519, 565). Here every wait has a time-out and every line is read whole.
"""

from __future__ import annotations

import contextlib
import errno
import imaplib
import os
import random
import re
import selectors
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

from mailferry.errors import Stop
from mailferry.mailbox.source.imap_connection import (
    Dropped,
    connect,
    hang_up,
    is_passing,
    mapped_errors,
    token_source,
)
from mailferry.mailbox.source.watch import State, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.imap_connection import TokenSource
    from mailferry.mailbox.source.watch import Turn

#: Seconds until a server without IDLE is asked again whether it has it now.
NO_IDLE_PAUSE = 3600.0
#: A connection whose IDLE was silent about so much news in a row is replaced.
MOST_DEAF = 3
#: Seconds of quiet that end a burst of news, and how long one may last before it is reported.
_QUIET, _LONGEST_BURST = 0.05, 1.0
#: Seconds of silence, and between two questions, and how many, until the system closes a connection (tcp(7)).
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

_COUNT = re.compile(rb"\* (\d+) (EXISTS|EXPUNGE)\b", re.IGNORECASE)
_BYE = re.compile(rb"\* BYE\b\s*(.*)", re.IGNORECASE)


class ImapWatcher(Watcher):
    """Watches over a connection of its own, the folder opened read-only."""

    def __init__(
        self,
        settings: MailboxSettings,
        on_news: Callable[[], None],
        *,
        tokens: TokenSource | None = None,
        renew: float = 25 * 60,
        probe: float = 5 * 60,
        patience: float = 15 * 60,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Seconds: `renew` the IDLE (servers may end it after 30 minutes); `probe`: see whether it kept silent.

        `patience` has to be longer than the shorter of both, as that is how often a good answer comes.
        """
        super().__init__(settings, on_news, patience=patience, clock=clock)
        if patience <= min(renew, probe):
            raise ValueError("patience must be longer than renew or probe")
        self._tokens = tokens or token_source(settings)
        self._renew, self._probe = renew, probe

    def _watch(self, turn: Turn) -> float:
        settings = self._settings
        client = connect(settings, self._tokens, lambda: _dial(settings, turn))
        try:
            with mapped_errors(settings, f"watching {settings.folder} at {settings.host}"):
                view = self._examine(client)
                if not client.has_capability("IDLE"):
                    raise _NoIdleError("the server has no IDLE")
                self._good(turn)
                self._news(turn)
                self._stay(turn, client, view)
        except _NoIdleError as error:
            self._set(turn, State.POLLING, f"{error}: new mail is found by the schedule alone")
            return NO_IDLE_PAUSE * random.uniform(0.9, 1.1)
        finally:
            hang_up(client)

    def _stay(self, turn: Turn, client: Any, view: _View) -> NoReturn:
        """IDLE and probe, in turns, until something fails."""
        deaf = 0
        probe_at = self._clock() + self._probe
        while True:
            self._idle(turn, client, view, min(self._renew, probe_at - self._clock()))
            if self._clock() < probe_at:
                continue
            before, view = view, self._examine(client)
            self._good(turn)
            missed = view.is_news_after(before)
            if before.announced:
                deaf = 0
            elif missed:
                deaf += 1
            if missed:
                self._news(turn)
            if deaf >= MOST_DEAF:
                raise Dropped(f"{self._title}: the server does not announce new messages; connecting again")
            probe_at = self._clock() + self._probe

    def _examine(self, client: Any) -> _View:
        """Open the folder again, read-only: what it holds now, even where the server has not announced it on this connection.

        Not STATUS, which RFC 3501 6.3.10 keeps for folders that are not open.
        """
        try:
            return _View.of(client.select_folder(self._settings.folder, readonly=True))
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            if is_passing(str(error)):
                raise
            raise Stop(
                f"the folder {self._settings.folder!r} at {self._settings.host} cannot be opened ({error}); "
                "is it still there, and does this account have the right to read it?"
            ) from None

    def _idle(self, turn: Turn, client: Any, view: _View, seconds: float) -> None:
        """One IDLE command, from its start to DONE. News is reported as it comes."""
        imap = client._imap  # noqa: SLF001 - IMAPClient's own idle is not fit, see above
        tag = imap._command("IDLE")  # noqa: SLF001 - as above
        news = False
        # before the server goes idle (None), it may still announce what came in the meantime (RFC 3501 7)
        while (line := imap._get_response()) is not None:  # noqa: SLF001 - as above
            if imap.tagged_commands[tag]:
                said = line.partition(b" ")[2].decode(errors="replace")
                if is_passing(said):
                    raise Dropped(f"{self._title}: the server does not go idle for now ({said[:200]})")
                raise _NoIdleError(f"the server does not go idle ({said[:200]})")
            news |= view.hears(line)
        self._good(turn)
        until = self._clock() + seconds
        while True:
            if news:
                self._news(turn)
                news = False
            left = until - self._clock()
            if left <= 0 or not _readable(client, left):
                break
            news = self._burst(client, tag, view)
        imap.send(b"DONE\r\n")
        while not imap.tagged_commands[tag]:
            news |= view.hears(imap._get_response() or b"")  # noqa: SLF001 - as above
        if imap.tagged_commands.pop(tag)[0] != "OK":
            raise Dropped(f"{self._title}: the server did not end IDLE well")
        self._good(turn)
        if news:
            self._news(turn)

    def _burst(self, client: Any, tag: bytes, view: _View) -> bool:
        """Read what has come, until it is quiet for a moment; whether it was news."""
        imap = client._imap  # noqa: SLF001 - as in _idle
        news = False
        longest = self._clock() + _LONGEST_BURST
        while True:
            news |= view.hears(imap._get_response() or b"")  # noqa: SLF001 - as in _idle
            if imap.tagged_commands[tag]:
                # servers do that when they tire of waiting; whatever came with it, the reconnection looks
                raise Dropped(f"{self._title}: the server ended IDLE by itself")
            if self._clock() >= longest or not _readable(client, _QUIET):
                return news


class _NoIdleError(Exception):
    """There is no watching this server."""


@dataclass(kw_only=True, slots=True)
class _View:
    """What is known of the folder: how it was when opened, and what the server has announced since."""

    uidvalidity: int
    #: 0 where the server does not say (it need not, RFC 3501 6.3.1).
    uidnext: int
    #: Number of messages, kept up to date.
    exists: int
    #: How many messages the server said had arrived.
    announced: int = 0

    @classmethod
    def of(cls, answer: dict[bytes, Any]) -> Self:
        """From the answer to EXAMINE."""
        uidvalidity, uidnext, exists = (
            int(answer.get(key, 0)) for key in (b"UIDVALIDITY", b"UIDNEXT", b"EXISTS")
        )
        return cls(uidvalidity=uidvalidity, uidnext=uidnext, exists=exists)

    def hears(self, line: bytes) -> bool:
        """Take in one line of the server; whether it announces new messages. Dropped when it says goodbye.

        Changed flags, messages that went and `OK Still here` are no news.
        """
        if bye := _BYE.match(line):
            raise Dropped(f"the server ended the connection ({bye[1].decode(errors='replace')[:200]})")
        if not (found := _COUNT.match(line)):
            return False
        if found[2].upper() == b"EXPUNGE":
            self.exists = max(0, self.exists - 1)
            return False
        before, self.exists = self.exists, int(found[1])
        self.announced += max(0, self.exists - before)
        return self.exists > before

    def is_news_after(self, before: Self) -> bool:
        """Whether there is more than the server has announced since `before` was opened."""
        if self.uidvalidity != before.uidvalidity or self.exists > before.exists:
            return True
        return bool(self.uidnext and before.uidnext) and self.uidnext - before.uidnext > before.announced


def _readable(client: Any, seconds: float) -> bool:
    """Wait up to so many seconds for the server; whether there is something to read, the connection's end among it.

    imaplib reads ahead, and TLS has records without content, so neither the socket nor the buffer alone shows it.
    """
    connection, file = client.socket(), client._imap.file  # noqa: SLF001 - as in _idle
    deadline = time.monotonic() + seconds
    patience, woken = connection.gettimeout(), False
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            connection.settimeout(0)
            try:
                # empty although the socket woke us: that is the end
                if file.peek(1) or woken:
                    return True
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            finally:
                connection.settimeout(patience)
            woken = bool(selector.select(max(0.0, deadline - time.monotonic())))
            if not woken:
                return False


def _dial(settings: MailboxSettings, turn: Turn) -> socket.socket:
    """A TCP connection that `turn` can cut from the first moment, with keep-alives. OSError where no address answers."""
    problem = OSError(f"{settings.host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM
    ):
        made = socket.socket(family, kind, protocol)
        try:
            _keep_alive(made)
            made.setblocking(False)
            # begun before `turn` holds it, as there is nothing to cut earlier
            begun = made.connect_ex(address)
            turn.hold(made)
            _await_connected(made, begun, settings.connect_timeout)
        except OSError as error:
            made.close()
            problem = error
        except BaseException:
            made.close()
            raise
        else:
            made.settimeout(settings.connect_timeout)
            return made
    raise problem


def _await_connected(made: socket.socket, begun: int, seconds: float) -> None:
    """Wait for a connection; `begun` is how its beginning went. OSError when it fails."""
    code = begun
    if begun in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        with selectors.DefaultSelector() as selector:
            selector.register(made, selectors.EVENT_WRITE)
            if not selector.select(seconds):
                raise TimeoutError
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _keep_alive(made: socket.socket) -> None:
    """So that a router in between keeps the silent connection in mind, and a dead one is noticed."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_TCP, option, value)
