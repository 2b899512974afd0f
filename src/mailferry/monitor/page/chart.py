"""Numbers as shapes: the bars of a day, the strip of days. Values only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from mailferry.events.coverage import Coverage
    from mailferry.events.windows import Gap


class Bar(NamedTuple):
    """In the units of the drawing; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


def bars(values: Sequence[int], width: float, height: float) -> list[Bar]:
    """One bar a value, the tallest as high as the drawing; what is more than nothing can be seen."""
    if not values:
        return []
    step = width / len(values)
    most = max(values) or 1
    made = []
    for at, value in enumerate(values):
        tall = max(height * value / most, 1.5) if value else 0.0
        made.append(Bar(round(at * step, 2), round(height - tall, 2), round(step * 0.72, 2), round(tall, 2)))
    return made


def outline(values: Sequence[int], width: float, height: float) -> str:
    """The same bars as one SVG path: of many feeds, that is much shorter."""
    return "".join(
        f"M{x} {height}V{y}h{wide}V{height}" for x, y, wide, tall in bars(values, width, height) if tall
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """What is known of one day of the calendar."""

    date: str
    #: "none": before the feed began, or to come; "part": some of it was not listed yet; "whole"; "audited": and listed again;
    #: "gap": with an open gap; "missing": with events that are no longer there.
    state: str
    #: Events written; of them late; no longer there.
    held: int = 0
    late: int = 0
    missing: int = 0


def days(
    coverage: Coverage, gaps: Sequence[Gap], *, now: datetime, zone: tzinfo, count: int, audited: int | None
) -> list[Day]:
    """The last `count` days of the zone's calendar, today last. `audited`: seconds after which time counts as audited.

    Coverage merges into days by UTC after four days, and into months after two: of older time, a span counts for the day
    in which it begins, where it is longer than a day for none.
    """
    today = now.astimezone(zone).date()
    edges = [
        int(datetime.combine(today + timedelta(days=n), datetime.min.time(), zone).timestamp())
        for n in range(1 - count, 2)
    ]
    return [
        _day(coverage, gaps, start, end, int(now.timestamp()), zone, audited)
        for start, end in itertools.pairwise(edges)
    ]


def _day(
    coverage: Coverage,
    gaps: Sequence[Gap],
    start: int,
    end: int,
    now: int,
    zone: tzinfo,
    audited: int | None,
) -> Day:
    spans = coverage.within(start, end)
    date = f"{datetime.fromtimestamp(start, zone):%Y-%m-%d}"
    if not spans:
        return Day(date=date, state="none")
    begun = [span for span in spans if start <= span.start < end and span.end - span.start <= 86_400]
    held, late, missing = (sum(getattr(span, name) for span in begun) for name in ("held", "late", "missing"))
    if any(span.missing for span in spans):
        state = "missing"
    elif any(gap.open and gap.start < end and gap.end > start for gap in gaps):
        state = "gap"
    elif _holes(coverage, start, min(end, now)):
        state = "part"
    elif audited is not None and end <= now and all(span.age >= audited for span in spans):
        state = "audited"
    else:
        state = "whole"
    return Day(date=date, state=state, held=held, late=late, missing=missing)


def _holes(coverage: Coverage, start: int, end: int) -> bool:
    """Whether some of that time was never listed, but for the last minutes, which are about to be."""
    first = coverage.spans[0].start
    return any(until - since > 900 for since, until in coverage.holes(max(start, first), end))
