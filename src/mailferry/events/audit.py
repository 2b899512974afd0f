"""What of the time that is closed has to be listed again, and when. Values only; the collector does it.

Time is due for an audit when it is over for so long as `audit` says and was not listed since. As spans of coverage are
whole hours, that is an hour at a time; of long delays six hours at a time, as sparse hours then share one request. All
times are Unix seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry.events.windows import Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.events.coverage import Coverage, Span

#: Seconds of one run that its audits may begin in; what is left is for the next run.
LONGEST = 60.0
#: Time that is due waits for more of it, up to so many seconds, but for no longer than it had to wait to be due.
GATHERED = 6 * 3600
#: Pages that one audited range may have, by the events that it had: a run that is stopped does it again.
PAGES = 20
_WIDEST = 14 * 86_400
#: Days that time may be audited after it is over; the provider may keep more or less.
REACH = 14


def due(coverage: Coverage, delays: Sequence[int], now: int, *, since: int, page_limit: int) -> Range | None:
    """The oldest range of covered time that is due for an audit, or None. What is older than `since` never is."""
    spans = coverage.within(since, now)
    for delay in sorted(delays, reverse=True):
        some = [
            span for span in spans if span.start >= since and span.age < delay and span.end + delay <= now
        ]
        if some and some[0].start + delay + min(delay, GATHERED) <= now:
            return _one(some, page_limit)
    return None


def _one(spans: Sequence[Span], page_limit: int) -> Range:
    """As many of the first spans as are neighbours and together no more than one audit may ask for."""
    start, end = spans[0].start, spans[0].end
    events = spans[0].events
    for span in spans[1:]:
        events += span.events
        if span.start != end or events > PAGES * page_limit or span.end - start > _WIDEST:
            break
        end = span.end
    return Range(start, end)
