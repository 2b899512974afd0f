"""Which range to ask for next, so that every event up to a moment has been listed. Pure: ranges out, answers in.

The provider has no cursor and no total. An answer that is shorter than a page is whole; a full page is only its
range's newest part. How long a page is has to be learned: the provider may return less than is configured. As pages are newest first, a full page reaches down to its oldest second: the rest of the range
is asked for up to and including that second. Where a page cannot be trusted to be in order, its range is halved.

Whether `endtime` is inclusive is not known: every range is asked so that all seconds *before* its end are listed
under both readings, and the next range begins at that end. Only of the rest of a full page the answer itself shows how it was
read: what the page has of its oldest second stands in it again, or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mailferry.events.order import newest_first

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from mailferry.events.order import Entry

#: From here on, records that all lie within one second are taken for a page, if they are so round a number.
_BURST = 100
#: No page is smaller.
_SMALLEST = 10
#: Pages of one window that may be held in memory while its oldest part is still being asked for.
HELD_PAGES = 16


class Range(NamedTuple):
    """Unix seconds, as `starttime` and `endtime` of one request."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Time in which events may exist that could not be fetched. Recorded, never skipped in silence."""

    #: "saturated": one second holds more than a page; "expired": the provider no longer has it.
    kind: str
    #: Unix seconds; `end` is the first second that is not part of the gap.
    start: int
    end: int
    #: When it was found, Unix seconds; 0: a version that did not note it.
    found_at: int = 0
    #: "open", "filled" (a later try got everything) or "acknowledged" (a person has seen it), and since when.
    state: str = "open"
    closed_at: int | None = None
    #: What the person who acknowledged it wrote.
    reason: str = ""

    @property
    def open(self) -> bool:
        """Whether a person should look at it."""
        return self.state == "open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Everything of a range, newest first as it was answered. All seconds before `range.end` are complete."""

    range: Range
    answer: Sequence[Entry]
    gaps: tuple[Gap, ...] = ()
    #: When it was asked for at the latest, Unix seconds; None: it was not.
    asked_at: int | None = None


class Pages:
    """How many records make a page full: the configured number, or fewer where an answer showed that."""

    def __init__(self, limit: int, expected: Callable[[int, int], int] = lambda _start, _end: 0) -> None:
        """`expected`: how many events of a range, Unix seconds, the provider has listed before; 0 where that is not known."""
        self._configured = self.limit = limit
        self._expected = expected
        #: Whether no answer has shown yet that `endtime` is exclusive.
        self.inclusive = True
        #: Small or odd sizes at which an answer was found to be whole: doubted again only while none was larger.
        self._whole: set[int] = set()
        #: The largest size of an answer that was not full.
        self._largest = 0

    def full(self, size: int) -> bool:
        """Whether an answer of so many records may be cut."""
        if size > self.limit:
            self.limit = self._configured  # the provider returns more again
        return size >= self.limit

    def doubtful(self, size: int, asked: Range) -> bool:
        """Whether an answer that is not full may be a page after all.

        Its size is round, or no answer was larger and one as large; or more of that time was listed before.
        """
        if not _SMALLEST <= size < self.limit:
            return False
        again = size == self._largest >= _BURST
        whole = size in self._whole and size < self._largest
        self._largest = max(self._largest, size)
        return ((again or _round(size)) and not whole) or size < self._expected(*asked)

    def learn(self, answer: Sequence[Entry], older: Sequence[Entry]) -> None:
        """Compare an answer of doubtful size with the answer to its older part alone."""
        size = len(answer)
        keys = {entry.key for entry in answer}
        # All of one second: then the older part is the same answer, and says nothing.
        unclear = size >= _BURST and len(older) == size
        if unclear or any(entry.key not in keys for entry in older):
            self.limit = size
        elif size < _BURST or not _round(size):
            self._whole.add(size)


def _round(size: int) -> bool:
    """Whether APIs have pages of this size."""
    if size < 50:
        return size in {10, 20, 25}
    return size % 50 == 0 or size & (size - 1) == 0


class _Rest(NamedTuple):
    """What a full page leaves to do."""

    range: Range
    #: What the page has of its oldest second, the last one of the range.
    known: frozenset[str]


def plan(start: int, end: int, step: int) -> Iterator[Range]:
    """Neighbouring windows of `step` seconds from `start` to `end`; they share their border second."""
    while start < end:
        yield Range(start, min(start + step, end))
        start += step


def read(window: Range, pages: Pages) -> Generator[Range | Batch, Sequence[Entry], None]:
    """Read one window, oldest batch first.

    Yields a Range to be asked for, and is sent its answer; or a Batch that is complete (what is sent back for it is ignored).
    """
    todo: list[Range | Batch | _Rest] = [window]  # the oldest lies on top
    while todo:
        asked = todo.pop()
        if isinstance(asked, Batch):
            yield asked
            continue
        if isinstance(asked, _Rest):
            asked, known = asked
            answer = yield Range(asked.start, asked.end - 1)
            if not known.issubset(entry.key for entry in answer):
                pages.inclusive = False
                answer = yield asked
        else:
            answer = yield asked
        if pages.doubtful(len(answer), asked):
            pages.learn(answer, (yield _older(asked, answer)))
        if not pages.full(len(answer)):
            yield Batch(range=asked, answer=answer)
        elif asked.end - asked.start <= 1:
            only = yield Range(asked.start, asked.start)
            yield _one_second(asked, answer, only, pages.limit)
        else:
            todo += _split(asked, answer, inclusive=pages.inclusive)


def _older(asked: Range, answer: Sequence[Entry]) -> Range:
    """The part of a range that holds what an answer may have left out; its older half where no time says more."""
    times = [entry.time for entry in answer if entry.time is not None]
    oldest = min(times, default=(asked.start + asked.end) // 2)
    return Range(asked.start, max(asked.start, min(oldest + 1, asked.end)))


def _split(asked: Range, answer: Sequence[Entry], *, inclusive: bool) -> list[Range | Batch | _Rest]:
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
    if inclusive and 1 < rest.end - rest.start <= HELD_PAGES * covered:
        return [held, _Rest(rest, frozenset(entry.key for entry in answer if entry.time == oldest))]
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
    keys = {entry.key for entry in both}
    return Batch(range=asked, answer=[*both, *(entry for entry in only if entry.key not in keys)], gaps=gaps)
