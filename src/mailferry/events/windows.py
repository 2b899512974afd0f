"""Which range to ask for next, so that every event up to a moment has been listed. Pure: ranges out, answers in.

The provider has no cursor and no total. An answer that is shorter than a page is whole; a full page is only its
range's newest part. As pages are newest first, a full page reaches down to its oldest second: the rest of the range
is asked for up to and including that second. Where a page cannot be trusted to be in order, its range is halved.

Whether `endtime` is inclusive is not known: every range is asked so that all seconds *before* its end are listed
under both readings, and the next range begins at that end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mailferry.events.order import newest_first

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from mailferry.events.order import Entry

#: Pages of one window that may be held in memory while its oldest part is still being asked for.
HELD_PAGES = 16


class Range(NamedTuple):
    """Unix seconds, as `starttime` and `endtime` of one request."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Time in which events may exist that could not be had. Recorded, never passed by in silence."""

    #: "saturated": one second holds more than a page; "expired": older than the provider keeps.
    kind: str
    #: Unix seconds; `end` is the first second that is not part of the gap.
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Everything of a range, newest first as it was answered. All seconds before `range.end` are complete."""

    range: Range
    answer: Sequence[Entry]
    gaps: tuple[Gap, ...] = ()
    #: When it was asked for at the latest, Unix seconds; None: it was not.
    asked_at: int | None = None


def plan(start: int, end: int, step: int) -> Iterator[Range]:
    """Neighbouring windows of `step` seconds from `start` to `end`; they share their border second."""
    while start < end:
        yield Range(start, min(start + step, end))
        start += step


def read(window: Range, page_limit: int) -> Generator[Range | Batch, Sequence[Entry], None]:
    """Read one window, oldest batch first.

    Yields a Range to be asked for, and is sent its answer; or a Batch that is complete (what is sent back for it is ignored).
    """
    todo: list[Range | Batch] = [window]  # the oldest lies on top
    while todo:
        asked = todo.pop()
        if isinstance(asked, Batch):
            yield asked
            continue
        answer = yield asked
        if len(answer) < page_limit:
            yield Batch(range=asked, answer=answer)
        elif asked.end - asked.start <= 1:
            only = yield Range(asked.start, asked.start)
            yield _one_second(asked, answer, only, page_limit)
        else:
            todo += _split(asked, answer)


def _split(asked: Range, answer: Sequence[Entry]) -> list[Range | Batch]:
    """What a full page leaves to do, newest first."""
    start, end = asked
    oldest = answer[-1].time
    if oldest is None or oldest + 1 >= end or not newest_first(answer, start, end):
        middle = (start + end) // 2
        return [Range(middle, end), Range(start, middle)]
    # All after `oldest` is in this page; that second itself may be cut, and is asked for again.
    held = Batch(range=Range(oldest, end), answer=answer)
    rest = Range(start, oldest + 1)
    covered = end - oldest
    if rest.end - rest.start <= HELD_PAGES * covered:
        return [held, rest]
    # So dense a window would pile up in memory: take the rest in pieces of about half as many pages.
    return [held, *reversed(list(plan(*rest, max(1, covered * HELD_PAGES // 2))))]


def _one_second(asked: Range, both: Sequence[Entry], only: Sequence[Entry], page_limit: int) -> Batch:
    """The second `asked.start`, where even [start, start + 1] is a full page; `only` is the answer to [start, start].

    If `endtime` is inclusive, `only` is that second, and it is whole unless it is itself a page. If it is exclusive,
    `only` is empty and `both` is that second alone, of which more exists than a page.
    """
    inclusive = bool(only) or any(entry.time is not None and entry.time > asked.start for entry in both)
    saturated = len(only) >= page_limit or not inclusive
    gaps = (Gap(kind="saturated", start=asked.start, end=asked.end),) if saturated else ()
    return Batch(range=asked, answer=[*both, *only], gaps=gaps)
