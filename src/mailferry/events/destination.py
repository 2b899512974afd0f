"""Where a feed's events go, as the collector sees it. `files.HourlyFiles` and `table.EventTable` are such places.

A destination holds the feed for one run, says how far the feed got, and takes events in order. What differs from one
to the other lies behind it: the lock, the feed's own logs, the sign of life.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailferry.events.check import Lines
    from mailferry.events.journal import Journal
    from mailferry.events.progress import Progress
    from mailferry.events.stored import Found

_T = TypeVar("_T")

#: Seconds that a run waits for its turn while a back-fill works on the feed, piece by piece.
BACKFILL_TURN = 300.0


class Line(NamedTuple):
    """One event, ready to be written."""

    #: Unix seconds: the event's time.
    time: int
    key: str
    #: The record as JSON, without newline.
    data: bytes
    #: See `order.Entry`.
    state: str = ""
    #: The event was written before; this is its record as it is now.
    changed: bool = False
    #: Whether the time is the event's own.
    timed: bool = True
    #: The list record stands in for the detail.
    stands_in: bool = False


class Recovered(NamedTuple):
    """What the start of a run found of an earlier one that was cut off, or of the older script."""

    adopted: int = 0
    #: Bytes of a torn write that were cut off.
    cut: int = 0


class Committed(NamedTuple):
    """What became of the lines of a commit, where they were not simply written."""

    #: There already, and left as they were: a person has set the position back.
    repeated: int = 0
    #: Kept as text too, as the database's JSON cannot hold them digit by digit and character by character.
    as_text: int = 0


class Destination(Protocol):
    """One feed's destination during one run. All but `beat` block for as long as they like: see `in_thread`.

    Errors are Retry, for what may pass, and Stop, for what a person has to see to.
    """

    #: How far the feed got as the destination has it for certain; None before the first commit.
    committed: Progress | None
    #: Names of the files written to, in order of their first line; none of a table.
    written: list[str]
    #: Where the run says what it does.
    journal: Journal
    #: Where a person finds the position, in words.
    checkpoint: str

    def acquire(self) -> bool:
        """Become the feed's only worker; False where there is another. Before `open` and `commit`.

        While a back-fill works piece by piece, its turn to pause is waited for.
        """

    def unlock(self) -> None:
        """Let the next worker in; what else the run holds it keeps."""

    def mark(self) -> bool:
        """Show that a back-fill works on the feed, until `unmark`; False where another one does."""

    def unmark(self) -> None:
        """The back-fill is over."""

    def look(self) -> Progress | None:
        """How far the feed got (None: it has never run). Changes nothing, and needs no lock."""

    def check(self, lines: Lines) -> None:
        """Pass every line or row of its time to `lines`, in order. Needs no lock."""

    def found(self, start: int, end: int) -> Iterator[Found]:
        """The events from `start` up to `end` and an hour more at both ends, in order. Needs no lock."""

    def open(self) -> tuple[Progress | None, Recovered]:
        """Where to go on (None: this feed has never run), after repairing what a crash has left."""

    def commit(self, lines: Sequence[Line], progress: Progress, end: int) -> Committed:
        """Write and commit `lines`, whole or not at all: `progress` is how far the feed got with them.

        `end`: Unix seconds, the end of the last range that listed the lines. A feed's first commit has no lines: it
        puts on record where the feed begins. `progress.events` is lowered by those lines that were there already.
        """

    def expire(self) -> list[str]:
        """Delete what is older than `log_retention_days`; says what was deleted."""

    def close(self) -> None:
        """Compress and seal what is complete, as far as this destination does so."""

    def beat(self, status: str, error: str = "", warnings: Sequence[str] = ()) -> None:
        """Give a sign of life: at the start, every few seconds, and at the end. `status` as in `Heartbeat.write`."""

    def release(self) -> None:
        """The end of the run; nothing where the feed was never held."""


async def in_thread(function: Callable[..., _T], *arguments: object) -> _T:
    """Call what blocks. A cancellation waits for its end, so that nothing is done behind the back of what follows."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
