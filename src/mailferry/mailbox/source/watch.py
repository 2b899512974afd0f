"""Watching a mailbox: a thread that calls when something has arrived. It is a wake-up call and no more.

Nothing is marked, fetched or opened for writing here, and no promise rests on it: what a watcher misses, the scheduled
poll finds. A call too many is harmless, one too few costs until the next poll.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import random
import socket
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from mailferry import logs, retry
from mailferry.errors import MailferryError, Retry, Stop
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.mailbox import MailboxSettings

log = logs.of(__name__, logs.EMAIL)

#: Seconds, at random between the two, until a sign-in that was refused is tried again.
REFUSED_PAUSE = (300.0, 900.0)
#: A connection that held for so many seconds was a good one: the pauses begin at one second again.
STEADY = 60.0
#: Replaced threads that may hang at the same time; with time-outs on every wait there is none.
MOST_HANGING = 3


class State(StrEnum):
    STARTING = "starting"  # nothing was answered yet
    WATCHING = "watching"
    POLLING = "polling"  # the server has no IDLE, so the schedule alone looks
    UNREACHABLE = "unreachable"  # for now; tried again after growing pauses
    REFUSED = "refused"  # a person has to act; tried again now and then


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """How a watcher is. Times are aware, in UTC."""

    state: State
    #: When this state began, and when the watcher was made.
    since: datetime
    made: datetime
    #: The last answer to a command of ours (of a Maildir: the last look at it).
    last_good: datetime | None = None
    #: What went wrong, and what to do; "" while watching.
    error: str = ""
    #: Seconds without a good answer after which the watcher counts as unhealthy.
    patience: float

    def unhealthy(self, now: datetime) -> bool:
        """No good answer for longer than `patience`. Where the schedule alone looks, none is waited for."""
        silent = now - (self.last_good or self.made)
        return self.state is not State.POLLING and silent > timedelta(seconds=self.patience)


class Turn:
    """One thread's time as the one that watches. Once it is over, nothing that the thread still does counts."""

    def __init__(self) -> None:
        self.over = threading.Event()
        #: When the present connection had its first good answer, by the watcher's clock.
        self.good_from: float | None = None
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None

    def hold(self, connection: socket.socket) -> None:
        """Keep a second handle on the connection, so that `end` can cut it whatever its thread is waiting for.

        A second one, because TLS takes over the first, and a closed one's number may be another file's by then.
        Raises Retry when the turn is over.
        """
        self.release()
        with self._lock:
            if self.over.is_set():
                raise Retry("the watcher was stopped")
            self._handle = connection.dup()

    def release(self) -> None:
        """The connection is closed, or about to be."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def end(self) -> None:
        """From any thread: interrupt connecting, TLS handshake, reading and pauses."""
        self.over.set()
        with self._lock, contextlib.suppress(OSError):
            if self._handle is not None:
                self._handle.shutdown(socket.SHUT_RDWR)


class Watcher:
    """Watches one folder from a thread of its own; `open.watcher` makes the right kind.

    `on_news` is called from that thread: once when the watching begins (something may have come before), after each
    reconnection, and whenever something arrives. It must be cheap; what arrives meanwhile makes another call.
    """

    #: Seconds between two tries at most.
    longest_pause = 300.0

    def __init__(
        self,
        settings: MailboxSettings,
        on_news: Callable[[], None],
        *,
        patience: float = 15 * 60,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`patience`: seconds without any progress after which `tend` replaces the thread. `clock` returns seconds."""
        self._settings = settings
        self._on_news = on_news
        self._patience = patience
        self._clock = clock
        where = settings.path or f"{settings.username}@{settings.host}"
        self._title = f"{where}/{settings.folder}"
        self._lock = threading.Lock()
        self._turn: Turn | None = None
        self._threads: list[threading.Thread] = []
        #: Failures in a row, kept when the thread is replaced, so that this never makes the tries come faster.
        self._failures = 0
        #: When the thread last did something that ended, by `clock`; None while it pauses.
        self._busy_since: float | None = None
        now = _now()
        self._health = Health(state=State.STARTING, since=now, made=now, patience=patience)

    @property
    def health(self) -> Health:
        return self._health

    def start(self) -> None:
        """Begin to watch, in a thread; does nothing where it has begun."""
        with self._lock:
            if self._turn is None:
                self._begin()

    def stop(self, timeout: float = 2.0) -> None:
        """End at once, whatever is going on, and wait up to `timeout` seconds for the thread.

        Only looking a host name up and asking for an access token cannot be interrupted; a thread that is at one of
        them ends by itself after that, and calls no callback any more.
        """
        with self._lock:
            turn, self._turn = self._turn, None
            threads = list(self._threads)
        if turn is not None:
            turn.end()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def tend(self) -> bool:
        """Replace the thread where it died, or hung for longer than `patience`; whether that was so.

        To be called every minute or so. A thread that finds the server unreachable and tries again is not replaced.
        """
        with self._lock:
            turn, since = self._turn, self._busy_since
            if turn is None:
                return False
            hung = since is not None and self._clock() - since > self._patience
            if not hung and self._threads[-1].is_alive():
                return False
            if sum(thread.is_alive() for thread in self._threads) > MOST_HANGING:
                return False
        self._set(turn, State.UNREACHABLE, "the watcher had no answer for long and was replaced")
        with self._lock:
            if self._turn is not turn:
                return False
            turn.end()
            self._begin()
        return True

    def _begin(self) -> None:
        self._turn = turn = Turn()
        self._busy_since = self._clock()
        # With the ids of this thread's lines.
        carried = contextvars.copy_context().run
        thread = threading.Thread(
            target=carried, args=[self._run, turn], name=f"watch {self._title}", daemon=True
        )
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    # --- in the thread

    def _watch(self, turn: Turn) -> float:
        """Watch until something fails (Retry, Stop), or return the seconds after which to try again."""
        raise NotImplementedError

    def _run(self, turn: Turn) -> None:
        while not turn.over.is_set():
            turn.good_from = None
            try:
                pause = self._watch(turn)
            except Stop as error:
                self._set(turn, State.REFUSED, str(error))
                pause = random.uniform(*REFUSED_PAUSE)
            except MailferryError as error:
                self._set(turn, State.UNREACHABLE, str(error))
                pause = self._growing_pause(turn)
            except Exception as error:  # noqa: BLE001 - a watcher that dies of an unforeseen error would be deaf
                self._set(turn, State.UNREACHABLE, f"{type(error).__name__}: {error}")
                pause = self._growing_pause(turn)
            finally:
                turn.release()
            self._progress(turn, None)
            turn.over.wait(pause)
            self._progress(turn, self._clock())

    def _growing_pause(self, turn: Turn) -> float:
        """1, 2, 4 ... seconds, up to half of it left out by chance so that many do not come back at once."""
        if turn.over.is_set():
            return 0
        if turn.good_from is not None and self._clock() - turn.good_from >= STEADY:
            self._failures = 0
        self._failures += 1
        return retry.pause(self._failures, longest=self.longest_pause, jitter=0.5)

    def _good(self, turn: Turn) -> None:
        """A command was answered: all is well."""
        now = self._clock()
        if turn.good_from is None:
            turn.good_from = now
        self._progress(turn, now)
        self._set(turn, State.WATCHING)

    def _news(self, turn: Turn) -> None:
        if not turn.over.is_set():
            self._on_news()

    def _progress(self, turn: Turn, at: float | None) -> None:
        with self._lock:
            if self._turn is turn:
                self._busy_since = at

    def _set(self, turn: Turn, state: State, error: str = "") -> None:
        now = _now()
        with self._lock:
            if self._turn is not turn:
                return
            before = self._health
            self._health = replace(
                before,
                state=state,
                since=before.since if state is before.state else now,
                last_good=now if state in (State.WATCHING, State.POLLING) else before.last_good,
                error=mask(error),
            )
        if state is not before.state:
            level = logging.ERROR if state is State.REFUSED else logging.INFO
            log.log(level, "%s: %s%s", self._title, state, f": {error}" if error else "")


def _now() -> datetime:
    return datetime.now(UTC)
