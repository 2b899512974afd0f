"""The lines or rows of a feed, checked: each by itself, counted against the coverage, compared with the provider.

Nothing here asks the provider or changes anything.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import orjson

from mailferry.events import order, stored
from mailferry.events import record as records
from mailferry.events.held import differing
from mailferry.events.hours import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from mailferry.events.coverage import Coverage, Span
    from mailferry.events.hours import Hour, Hours
    from mailferry.events.order import Placed
    from mailferry.events.stored import Found

#: A detail may show a time so many seconds off that of its list record; it is in its right file all the same.
BLUR = 300


class Lines:
    """Checks lines one after the other, each with what is known by itself."""

    def __init__(self, hours: Hours, coverage: Coverage, *, alone: bool = True) -> None:
        """`alone`: the provider is not asked, so that what is there twice has to be found here."""
        self._alone = alone
        self._hours = hours
        self.start, self.end = hours.start, hours.end
        self._spans: Sequence[Span] = coverage.within(hours.start, hours.end)
        self._starts = [span.start for span in self._spans]
        #: By span: lines, lines behind a younger one, lines that are there twice.
        self._counts = [0] * len(self._spans)
        self._behind = [0] * len(self._spans)
        self._doubles = [0] * len(self._spans)
        self._newest = -1
        #: The time of the line before, of whatever file; and lines without a time that come before any with one.
        self._last: int | None = None
        self._leading = 0

    def file(self, path: Path, belongs: Callable[[int], bool], *, keyed: bool) -> None:
        """Check one file; the next one is that of a later hour.

        `belongs` says whether an event of a time is in its place here; `keyed` that no two events have equal lines.
        """
        hours = self._hours
        start, end = hours.start, hours.end
        hour: Hour | None = None
        hour_start = hour_end = span_start = span_end = at = -1
        newest, last = self._newest, self._last
        in_place = True
        once = keyed and self._alone
        digests = array("q")
        number = 0
        load, timed = orjson.loads, records.event_time
        for line in stored.open_lines(path):
            number += 1
            try:
                record = load(line)
            except orjson.JSONDecodeError:
                record = _decoded(line)
            time = timed(record)
            if time is None:
                if last is None and record is not _TORN:
                    self._leading += 1
                    continue
                time = start if last is None else last
            elif last is None:
                self._count_leading(time)
            last = time
            if not start <= time < end:
                continue
            if not hour_start <= time < hour_end:
                hour = hours.of(time)
                hour_start = time // HOUR * HOUR
                hour_end = hour_start + HOUR
                in_place = belongs(hour_start) and belongs(hour_end - 1)
            assert hour
            hour.held += 1
            if record is _TORN or line[-1:] != b"\n":
                hour.note("torn", _example(path, number, line))
            if not span_start <= time < span_end:
                at, span_start, span_end = self._span(time)
            if at >= 0:
                self._counts[at] += 1
            if once:
                digests.append(hash(line))
            if not in_place and not any(belongs(time + blur) for blur in (0, -BLUR, BLUR)):
                hour.note("out_of_order", f"{_example(path, number, line)} belongs into another file")
            elif time >= newest:
                newest = time
            elif self._late(at):
                hour.note("out_of_order", _example(path, number, line))
        self._newest, self._last = newest, last
        self._twice(path, digests)

    def _count_leading(self, time: int) -> None:
        """Lines before the first one with a time are filed with that one."""
        if self._leading and (hour := self._hours.of(time)):
            hour.held += self._leading
            if (at := self._span(time)[0]) >= 0:
                self._counts[at] += self._leading
        self._leading = 0

    def row(self, time: int, example: str) -> None:
        """Check one row of a table, in the order of arrival."""
        hour = self._hours.of(time)
        if hour is None:
            return
        hour.held += 1
        at = self._span(time)[0]
        if at >= 0:
            self._counts[at] += 1
        if time >= self._newest:
            self._newest = time
        elif self._late(at):
            hour.note("out_of_order", example)

    def count(self) -> None:
        """Compare the number of lines of each span with how many were written; for when the provider is not asked."""
        for span, found, twice in zip(self._spans, self._counts, self._doubles, strict=True):
            hour = self._hours.of(span.start)
            if hour is None or span.end > self._hours.end:
                continue
            written = span.held + span.again
            left = found - twice - written
            if left:
                fault = "missing" if left < 0 else "unexpected"
                setattr(hour, fault, getattr(hour, fault) + abs(left))
                hour.examples.append(f"{fault}: {written:,} were written, {found - twice:,} are there")

    def _span(self, time: int) -> tuple[int, int, int]:
        """The place of the span that covers a moment, its start and its end; -1 where none does."""
        at = bisect_right(self._starts, time) - 1
        if at >= 0 and time < self._spans[at].end:
            return at, self._spans[at].start, self._spans[at].end
        return -1, time, time + 1

    def _late(self, at: int) -> bool:
        """Whether a line behind a younger one is one more than were written late."""
        if at < 0 or self._behind[at] >= self._spans[at].late + self._spans[at].again:
            return True
        self._behind[at] += 1
        return False

    def _twice(self, path: Path, digests: array[int]) -> None:
        """Find equal lines by their hashes, then by the lines themselves."""
        ordered = sorted(digests)
        equal = {a for a, b in itertools.pairwise(ordered) if a == b}
        if not equal:
            return
        seen: set[bytes] = set()
        for number, line in enumerate(stored.open_lines(path), 1):
            if hash(line) in equal:
                time = records.event_time(_decoded(line))
                if line in seen and time is not None and (hour := self._hours.of(time)):
                    hour.note("twice", _example(path, number, line))
                    if (at := self._span(time)[0]) >= 0:
                        self._doubles[at] += 1
                seen.add(line)


def compare(
    hours: Hours,
    start: int,
    end: int,
    listed: Iterable[Placed],
    found: Iterable[Found],
    *,
    ignored: Collection[str] = (),
    appended: bool = False,
) -> int:
    """Compare what the provider listed with what is there, for the time from `start` up to `end`; counts what is missing.

    `listed` and `found` reach over both ends by `BLUR` or more, as an event may be filed under another second. `ignored`:
    fields that say nothing about an event; `appended`: one that changes has a line for each of its states.
    """
    for asked in hours:
        if start < asked.start + HOUR and asked.start < end:
            asked.listed = asked.listed or 0
    left = {event.key: event for event in listed}
    for event in left.values():
        if start <= event.time < end and (hour := hours.of(event.time)):
            hour.listed = (hour.listed or 0) + 1
    known = set(left)
    groups = {order.group(event) for event in left.values()} - {""}
    contents: set[int] = set()
    #: Events whose line says something else, by their group: a later line may say the same.
    other: dict[str, tuple[Placed, list[str], Any]] = {}
    for one in found:
        content = hash(records.canonical(one.record))
        key = next((key for key in (one.key, *stored.other_keys(one.record)) if key in left), None)
        if key is not None:
            event = left.pop(key)
            if names := differing(event.record, one.record, ignored):
                other[order.group(event) or event.key] = event, names, one.record
        elif appended and one.group in groups and content not in contents:
            if one.group in other and not differing(other[one.group][0].record, one.record, ignored):
                del other[one.group]
        elif one.time is not None and start <= one.time < end and (hour := hours.of(one.time)):
            twice = content in contents or one.key in known
            hour.note("twice" if twice else "unexpected", _shown(one.record))
        contents.add(content)
    for event, names, record in other.values():
        if start <= event.time < end and (hour := hours.of(event.time)):
            hour.note("differing", f"{_shown(record)}: {', '.join(names)}")
    missing = 0
    for event in left.values():
        if start <= event.time < end and (hour := hours.of(event.time)):
            hour.note("missing", _shown(event.record))
            missing += 1
    return missing


def _shown(record: Any) -> str:
    return records.encode(record)[:120].decode("utf-8", "replace")


_TORN = object()


def _decoded(line: bytes) -> Any:
    try:
        return records.decode(line)
    except ValueError:
        return _TORN


def _example(path: Path, number: int, line: bytes) -> str:
    return f"{path.name}, line {number}: {line[:120].decode('utf-8', 'replace').rstrip()}"
