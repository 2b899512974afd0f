"""Which sections run: so many at once, and those whose hosts do not answer do not count.

A section whose requests get no answer releases its place until one comes; sections of the same host that have not begun
wait for that. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from mailferry.events.throttle import Slots

#: A section releases its place after so many seconds without an answer.
QUIET = 10.0
#: Sections that may have released theirs at once: each of them may hold a connection of the database.
AT_MOST = 20
#: A host that did not answer for so many seconds is given up: its other sections are left to the next run.
LONG = 60.0


class Silent(Exception):  # noqa: N818 - says why a section is not run
    """The host did not answer another section."""


class _Host:
    """One address of the provider."""

    def __init__(self) -> None:
        self.silent_since: float | None = None
        #: Why it was given up.
        self.error = ""
        self.changed = asyncio.Event()

    def answers(self) -> None:
        if self.silent_since is not None:
            self.silent_since = None
            self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Places:
    """The places of one run of many sections."""

    def __init__(self, limit: int) -> None:
        self.slots = Slots(limit)
        self.given_back = 0
        self.stopping = False
        self._hosts: dict[str, _Host] = {}

    def place(self, url: str) -> Place:
        """A section's place; `url` is its list."""
        return Place(self, self._hosts.setdefault(urlsplit(url).netloc, _Host()))

    def stop(self) -> None:
        """Let no section wait for a host any more."""
        self.stopping = True
        for host in self._hosts.values():
            host.wake()


class Place:
    """One section's place. Without a run of many sections (`Place()`) it has one for good."""

    def __init__(self, places: Places | None = None, host: _Host | None = None) -> None:
        self._places = places
        self._host = host or _Host()
        self._held = False
        self._lock = asyncio.Lock()
        #: Requests under way, those of them that are on the wire, and when the last answer came.
        self._open = self._on_the_wire = 0
        self._heard = 0.0
        self._unreached = False
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        """Wait for a place, and for the host if it does not answer others. Raises Silent."""
        assert self._places
        while True:
            await self._places.slots.enter()
            self._held = True
            if self._host.silent_since is None or self._places.stopping:
                return
            self._leave()
            if self._host.error:
                raise Silent(self._host.error)
            await self._host.changed.wait()
            if self._host.error:
                raise Silent(self._host.error)

    def end(self, unreachable: str) -> None:
        """The section's run is over; `unreachable` says why where the host gave no answer at all."""
        if self._timer:
            self._timer.cancel()
        if self._held:
            self._leave()
        elif self._places:
            self._places.given_back -= 1
        since = self._host.silent_since
        if since is None:
            return
        if unreachable and _now() - since >= LONG:
            self._host.error = unreachable
        else:
            self._host.silent_since = None  # the next section tries
        self._host.wake()

    # --- requests

    def asks(self) -> None:
        """A request begins, with all its tries."""
        if self._places and not self._open:
            self._heard = _now()
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(QUIET, self._look)
        self._open += 1

    def asked(self) -> None:
        """It is over."""
        self._open -= 1

    def sent(self) -> None:
        """One try is on the wire."""
        self._on_the_wire += 1

    def received(self, *, answer: bool) -> None:
        """It is over, with an answer or without."""
        self._on_the_wire -= 1
        self._unreached = not answer
        if answer:
            self._heard = _now()
            self._host.answers()

    async def back(self) -> None:
        """An answer came: wait for a place, where it was given back."""
        if self._places is None or self._held:
            return
        async with self._lock:
            if not self._held:
                await self._places.slots.enter(first=True)
                self._held = True
                self._places.given_back -= 1
                self._arm(QUIET)

    def _arm(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        assert self._places
        left = self._heard + QUIET - _now()
        if not self._open or not self._held:
            return
        if left > 0:
            self._arm(left)
            return
        if (self._on_the_wire or self._unreached) and self._host.silent_since is None:
            self._host.silent_since = self._heard
        if self._places.given_back < AT_MOST:
            self._places.given_back += 1
            self._leave()

    def _leave(self) -> None:
        assert self._places
        self._held = False
        self._places.slots.leave()


def _now() -> float:
    return asyncio.get_running_loop().time()
