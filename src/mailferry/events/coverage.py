"""Which time has been listed when, and what came of it: the record that an audit and `verify` use. Values only.

Every second from the start of a feed lies in one span, or in none: then it was never listed. Spans that say the same
merge, by the hour for the last days, then by the day, then by the month, so the record of years stays small. All
times are Unix seconds.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HOUR = 3600
_DAY = 86_400
#: Spans merge by the hour while they are younger than this, then by the day, then by the month (seconds).
_BY_HOUR = 4 * _DAY
_BY_DAY = 60 * _DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Time that was listed as a whole, from `start` up to but not including `end`."""

    start: int
    end: int
    #: Each of its seconds was listed again, or for the first time, so many seconds after it was over, or later.
    age: int
    #: No part of it was listed last before this.
    listed_at: int
    #: Events that the last listing held, each once.
    events: int
    #: Events written of this time.
    held: int
    #: Of them written when the time had been covered already: they may stand behind younger ones.
    late: int = 0
    #: Of what was written, so many were found to be no longer there.
    missing: int = 0
    #: Lines beyond those of `held`, of events that were written again as they had changed.
    again: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """The spans of a feed, in order and without overlap, and what the listings cost."""

    spans: tuple[Span, ...] = ()
    #: List requests since the feed began, those of audits apart.
    lists: int = 0
    audit_lists: int = 0
    #: Events that only an audit found.
    audit_late: int = 0

    def listed(
        self,
        start: int,
        end: int,
        at: int,
        times: Iterable[int],
        delays: Sequence[int] = (),
        *,
        behind: bool = False,
    ) -> Coverage:
        """Add what [start, end) has that was not covered yet, as listed at `at`; `times` are those of all its events.

        `behind`: they may have been written behind younger ones.
        """
        counts = Counter(times)
        fresh = []
        for hole_start, hole_end in self.holes(start, end):
            edges = [hole_start, *range(hole_start // HOUR * HOUR + HOUR, hole_end, HOUR), hole_end]
            for a, b in itertools.pairwise(edges):
                count = sum(n for time, n in counts.items() if a <= time < b)
                span = Span(start=a, end=b, age=max(0, at - b), listed_at=at, events=count, held=count)
                fresh.append(replace(span, late=count) if behind else span)
        if not fresh:
            return self
        if len(fresh) == 1 and self.spans and fresh[0].start % HOUR:
            last, new = self.spans[-1], fresh[0]
            # The common case: the current hour goes on.
            if _alike(last, new, new.end, delays):
                return replace(self, spans=(*self.spans[:-1], _merged(last, new)))
        return self._with((*self.spans, *fresh), delays)

    def wrote(self, time: int, count: int = 1) -> Coverage:
        """Count events that were written into time that was covered already; no change elsewhere."""
        at = self._at(time)
        if at is None:
            return self
        span = self.spans[at]
        late = max(0, span.late + count)
        span = replace(span, events=span.events + count, held=span.held + count, late=late)
        return replace(self, spans=(*self.spans[:at], span, *self.spans[at + 1 :]))

    def wrote_again(self, time: int) -> Coverage:
        """Count one more line of an event that was written before; no change in time that is not covered."""
        at = self._at(time)
        if at is None:
            return self
        span = replace(self.spans[at], again=self.spans[at].again + 1)
        return replace(self, spans=(*self.spans[:at], span, *self.spans[at + 1 :]))

    def audited(
        self, start: int, end: int, at: int, times: Mapping[int, int], delays: Sequence[int] = ()
    ) -> Coverage:
        """The spans within [start, end) were listed again at `at`, with so many events of each time; nothing is missing."""
        return self._again(
            start,
            end,
            at,
            delays,
            lambda span: replace(
                span, events=sum(n for time, n in times.items() if span.start <= time < span.end), missing=0
            ),
        )

    def taken(
        self, start: int, end: int, at: int, there: Mapping[int, int], delays: Sequence[int] = ()
    ) -> Coverage:
        """Of what was written in [start, end), only the events of `there` (by time) are still found: someone moved it.

        The time counts as looked at, and is not complete.
        """

        def less(span: Span) -> Span:
            found = sum(n for time, n in there.items() if span.start <= time < span.end)
            return replace(span, missing=max(0, span.held + span.again - found))

        return self._again(start, end, at, delays, less)

    def recounted(self, start: int, end: int, there: Mapping[int, int]) -> Coverage:
        """Of the spans within [start, end) no more events are held than those of `there`, by time: all of them were read."""

        def fewer(span: Span) -> Span:
            found = sum(n for time, n in there.items() if span.start <= time < span.end)
            return replace(span, held=min(span.held, max(0, found - span.again)), missing=0)

        inside = (start <= span.start and span.end <= end for span in self.spans)
        return replace(
            self,
            spans=tuple(
                fewer(span) if within else span for span, within in zip(self.spans, inside, strict=True)
            ),
        )

    def _again(self, start: int, end: int, at: int, delays: Sequence[int], change: Any) -> Coverage:
        spans = [
            replace(change(span), age=max(span.age, at - span.end), listed_at=max(span.listed_at, at))
            if start <= span.start and span.end <= end
            else span
            for span in self.spans
        ]
        return self._with(spans, delays)

    def holes(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What of [start, end) was never listed."""
        for span in self.within(start, end):
            if start < span.start:
                yield start, span.start
            start = max(start, span.end)
        if start < end:
            yield start, end

    def within(self, start: int, end: int) -> Sequence[Span]:
        """The spans that have a second of [start, end)."""
        first = max(0, bisect_right(self.spans, start, key=_start) - 1)
        return [span for span in self.spans[first:] if span.end > start and span.start < end]

    def held(self, start: int, end: int) -> int:
        """Lines written of the spans that lie within [start, end)."""
        return sum(s.held + s.again for s in self.within(start, end) if start <= s.start and s.end <= end)

    def expected(self, start: int, end: int) -> int:
        """How many events the provider has listed of the spans that lie within [start, end); no fewer are to be listed again."""
        return sum(s.events for s in self.within(start, end) if start <= s.start and s.end <= end)

    def not_after(self, now: int) -> Coverage:
        """Without listings of the future, of a clock that ran ahead: they were made now at the latest, and are no audits."""
        if all(span.listed_at <= now for span in self.spans):
            return self
        spans = (
            span if span.listed_at <= now else replace(span, age=0, listed_at=now) for span in self.spans
        )
        return replace(self, spans=tuple(spans))

    def covers(self, time: int) -> bool:
        """Whether this second was listed."""
        return self._at(time) is not None

    def audited_to(self, delay: int) -> int | None:
        """The end of the time, counted from the first span on, that was listed `delay` seconds after it, or later."""
        reached = None
        for span in self.spans:
            if span.age < delay:
                break
            reached = span.end
        return reached

    @property
    def missing(self) -> int:
        """Events that were written and are no longer there."""
        return sum(span.missing for span in self.spans)

    def _at(self, time: int) -> int | None:
        at = bisect_right(self.spans, time, key=_start) - 1
        return at if at >= 0 and time < self.spans[at].end else None

    def _with(self, spans: Iterable[Span], delays: Sequence[int]) -> Coverage:
        ordered = sorted(spans, key=_start)
        newest = ordered[-1].end if ordered else 0
        merged: list[Span] = []
        for span in ordered:
            if merged and _alike(merged[-1], span, newest, delays):
                merged[-1] = _merged(merged[-1], span)
            else:
                merged.append(span)
        return replace(self, spans=tuple(merged))

    def to_json(self) -> dict[str, Any]:
        """As the checkpoint and the database hold it; a span is a list of numbers in the order of its fields."""
        plain = asdict(self)
        return {**plain, "spans": [list(span.values()) for span in plain["spans"]]}

    @classmethod
    def from_json(cls, state: dict[str, Any] | None) -> Coverage:
        """The reverse of `to_json`; None is a feed of a version that kept no coverage.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` returned.
        """
        if state is None:
            return cls()
        names = list(Span.__dataclass_fields__)
        # An older version kept fewer numbers of a span.
        spans = [Span(**dict(zip(names, map(int, values), strict=False))) for values in state["spans"]]
        if any(a.end > b.start for a, b in itertools.pairwise(spans)):
            raise ValueError("spans")
        counts = {name: int(state[name]) for name in ("lists", "audit_lists", "audit_late")}
        return cls(spans=tuple(spans), **counts)


def level(age: int, delays: Sequence[int]) -> int:
    """How many of the audits that come so many seconds after the time, `delays`, its last listing counts for."""
    return sum(age >= delay for delay in delays)


def _start(span: Span) -> int:
    return span.start


def _alike(a: Span, b: Span, newest: int, delays: Sequence[int]) -> bool:
    """Whether one span may stand for both without saying less than they do."""
    return (
        a.end == b.start
        and level(a.age, delays) == level(b.age, delays)
        and bool(a.missing) == bool(b.missing)
        and _bucket(a.start, newest) == _bucket(b.start, newest)
    )


def _bucket(time: int, newest: int) -> tuple[str, int]:
    if time >= newest - _BY_HOUR:
        return "hour", time // HOUR
    if time >= newest - _BY_DAY:
        return "day", time // _DAY
    date = datetime.fromtimestamp(time, UTC)
    return "month", date.year * 12 + date.month


def _merged(a: Span, b: Span) -> Span:
    return Span(
        start=a.start,
        end=b.end,
        age=min(a.age, b.age),
        listed_at=min(a.listed_at, b.listed_at),
        events=a.events + b.events,
        held=a.held + b.held,
        late=a.late + b.late,
        missing=a.missing + b.missing,
        again=a.again + b.again,
    )
