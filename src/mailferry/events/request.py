"""One request to the provider: what it needs, what became of its tries, and how one try may end badly. Values only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiohttp
    from yarl import URL

    from mailferry.events.throttle import Ahead, Slots


class Again(Exception):  # noqa: N818 - control flow between a try and its loop
    """This try failed; the next may not."""

    def __init__(self, reason: str, *, reached: bool = True, overload: bool = False) -> None:
        super().__init__(reason)
        self.reached = reached
        self.overload = overload


class NotThere(Again):
    """The provider does not have this detail (yet)."""


class Wait(Exception):  # noqa: N818 - as above
    """The provider asks to wait so many seconds: does not count as a try."""

    def __init__(self, reason: str, pause: float, status: int) -> None:
        super().__init__(reason)
        self.pause = pause
        self.status = status


class Request(NamedTuple):
    """What one kind of request needs."""

    kind: str
    #: Ways to ask, each tried when the one before is not there.
    ways: Sequence[URL]
    timeout: aiohttp.ClientTimeout
    retries: int
    pause: float
    #: Seconds that all tries may take.
    patience: float
    slots: Slots
    #: The way into a slot.
    turn: Slots | Ahead


class Tries:
    """What became of one request so far."""

    def __init__(self, answered: int) -> None:
        self.begun = time.monotonic()
        self.count = 0
        #: Of them, those that found nothing there.
        self.not_there = 0
        #: Seconds that they took, with the pauses between them.
        self.spent = 0.0
        #: Details that the provider had answered when this try began, and the one before.
        self._marks = (answered, answered)

    def begin(self, answered: int) -> None:
        self._marks = (self._marks[1], answered)

    def alone(self, answered: int) -> bool:
        """Whether no other detail was answered since the try before the last: then it is not this one's fault."""
        return answered == self._marks[0]
