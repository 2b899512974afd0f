"""What a provider takes: the pause that a 429 asks for, and how many requests may be in flight. One per API key."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self

from mailferry import retry

if TYPE_CHECKING:
    from collections.abc import Callable

#: The longest pause between tries, in seconds, where the provider names none.
LONGEST_PAUSE = 60.0
#: The shortest one that doubles.
SHORTEST_PAUSE = 0.05


class Throttle:
    """The pause that applies to every request of one key. Times are seconds of a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0
        self._in_a_row = 0

    def refused(self, retry_after: float | None, first_pause: float) -> float:
        """A 429 came: no request is made before its `retry_after` seconds are over, or a doubling pause. Returns the pause."""
        if self._until <= self._clock() or not self._in_a_row:
            self._in_a_row += 1  # the other refusals of one burst say the same thing
        first = max(first_pause, SHORTEST_PAUSE)
        if retry_after is None:
            pause = retry.pause(self._in_a_row, first=first, longest=LONGEST_PAUSE)
        elif self._in_a_row > 1:
            # What was asked for was not enough; `Retry-After: 0` must not become a storm.
            again = retry.pause(self._in_a_row - 1, first=first, longest=LONGEST_PAUSE)
            pause = max(retry_after, again)
        else:
            pause = retry_after
        self._until = max(self._until, self._clock() + pause)
        return pause

    def answered(self) -> None:
        """An answer other than 429 came."""
        self._in_a_row = 0

    def left(self) -> float:
        """Seconds until the pause is over."""
        return max(0.0, self._until - self._clock())

    async def ready(self) -> None:
        """Wait until the pause is over."""
        while (wait := self._until - self._clock()) > 0:  # noqa: ASYNC110 - a refusal meanwhile prolongs it
            await asyncio.sleep(wait)


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header (RFC 9110 10.2.3: seconds or a date) asks for; None where it says nothing.

    `now`: Unix seconds.
    """
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


class Slots:
    """At most `limit` requests at once, in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def enter(self, *, first: bool = False) -> None:
        """Wait for a slot; `first`: before all others that wait."""
        if self.in_flight < self.limit and (first or not self._waiting):
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the slot was handed over just before
            else:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Release a slot."""
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    def went_well(self) -> None:
        """A request was answered."""

    def refused(self) -> None:
        """A request, which has left its slot, was one too many for the provider (429)."""

    def overloaded(self) -> None:
        """A request, which has left its slot, timed out or found the provider overloaded."""


class Ahead:
    """The way into `slots` for a request that the next ones depend on: it is let in next."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    async def __aenter__(self) -> None:
        await self._slots.enter(first=True)

    async def __aexit__(self, *_: object) -> None:
        self._slots.leave()


class AdaptiveSlots(Slots):
    """Finds out how many requests the provider takes at once: `max_parallel_details = auto`.

    One more for each round that goes well; half on a refusal. What was refused is remembered as a ceiling: it is tried
    again only after many good answers, and after twice as many each time it is refused again, so that a provider with a
    fixed limit is bothered ever more seldom. A refused trial goes back to what went well before.
    """

    LEAST, MOST = 1, 32
    FIRST_PROBE, RAREST_PROBE = 500, 32_000

    def __init__(self) -> None:
        super().__init__(2)
        self._ceiling = self.MOST
        self._good = 0
        self._probe_after = self.FIRST_PROBE
        self._before = self.limit
        self._trying = False
        #: Requests still in flight that began before the last cut; whether the last one that left was one of them.
        self._older = 0
        self._echo = False

    def went_well(self) -> None:
        self._good += 1
        if self.limit < self._ceiling:
            if self._good >= self.limit:
                self._grow()
        elif self._ceiling < self.MOST and self._good >= self._probe_after:
            self._ceiling += 1
            self._trying = True
            self._grow()

    def refused(self) -> None:
        if self._cut(self.limit - 1 if self._trying else self.limit // 2):
            if self._ceiling < self.MOST:  # not the first refusal
                self._probe_after = min(self.RAREST_PROBE, self._probe_after * 2)
            self._ceiling = max(self.LEAST, min(self._ceiling, self._before - 1))

    def overloaded(self) -> None:
        self._cut(self.limit // 2)

    def _cut(self, limit: int) -> bool:
        """Only so many from now on; False where the request began before the last cut and says nothing new."""
        if self._echo:
            return False
        self._before, self.limit = self.limit, max(self.LEAST, limit)
        self._older = self.in_flight
        self._good = 0
        self._trying = False
        return True

    def leave(self) -> None:
        self._echo = self._older > 0
        self._older = max(0, self._older - 1)
        super().leave()

    def _grow(self) -> None:
        self.limit += 1
        self._good = 0
        self._admit()
