"""Reading windows: whatever the provider holds and however it reads `endtime`, every event is listed, in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailferry.events import order
from mailferry.events.windows import Batch, Gap, Pages, Range, plan, read

if TYPE_CHECKING:
    from mailferry.events.order import Entry


class Listing:
    """The provider's rules in their shortest form: newest first, capped, one of two readings of `endtime`."""

    def __init__(self, times: list[int], *, cap: int, inclusive: bool, shuffled: bool = False) -> None:
        self._times = sorted(times)
        self.records: list[dict[str, Any]] = [
            {"queue_id": f"q{number}", "time": time} for number, time in enumerate(self._times)
        ]
        self.cap, self.inclusive, self.shuffled = cap, inclusive, shuffled
        self.asked: list[Range] = []

    def __call__(self, asked: Range) -> list[Entry]:
        self.asked.append(asked)
        last = asked.end if self.inclusive else asked.end - 1
        first, behind = bisect_left(self._times, asked.start), bisect_right(self._times, last)
        page = self.records[max(first, behind - self.cap) : behind][::-1]
        if self.shuffled:
            page = page[1::2] + page[::2]
        return order.entries(page)


def batches(listing: Listing, window: Range, pages: Pages | None = None) -> list[Batch]:
    reading = read(window, pages or Pages(listing.cap))
    found: list[Batch] = []
    answer: Any = None
    try:
        while True:
            step = reading.send(answer)
            if isinstance(step, Batch):
                found.append(step)
            else:
                answer = listing(step)
    except StopIteration:
        return found


def collected(
    listing: Listing, start: int, end: int, step: int, pages: Pages | None = None
) -> tuple[list[int], list[Gap]]:
    """What a collector would write of the span, and the gaps."""
    pages = pages or Pages(listing.cap)
    seen: set[str] = set()
    times: list[int] = []
    gaps: list[Gap] = []
    for window in plan(start, end, step):
        for batch in batches(listing, window, pages):
            gaps += batch.gaps
            for event in order.oldest_first(batch.answer, batch.range.start):
                if event.key not in seen:
                    seen.add(event.key)
                    times.append(event.time)
    return times, gaps


spans = st.lists(st.integers(0, 120), max_size=120)


@settings(max_examples=300)
@given(
    times=spans,
    cap=st.integers(2, 20),
    step=st.integers(1, 60),
    inclusive=st.booleans(),
    shuffled=st.booleans(),
)
def test_every_event_is_listed_once_and_in_order_or_its_second_is_a_gap(
    times: list[int], cap: int, step: int, inclusive: bool, shuffled: bool
) -> None:
    listing = Listing(times, cap=cap, inclusive=inclusive, shuffled=shuffled)
    got, gaps = collected(listing, 0, 121, step)
    full = {time for time, count in Counter(times).items() if count >= cap}
    assert {gap.start for gap in gaps} <= full
    lost = Counter(times) - Counter(got)
    assert set(lost) <= {gap.start for gap in gaps}
    assert not Counter(got) - Counter(times)
    assert got == sorted(got)


@given(times=spans, inclusive=st.booleans())
def test_a_second_fuller_than_a_page_is_a_gap_under_both_readings(times: list[int], inclusive: bool) -> None:
    listing = Listing([*times, *[60] * 9], cap=8, inclusive=inclusive)
    _, gaps = collected(listing, 0, 121, 30)
    assert Gap(kind="saturated", start=60, end=61) in gaps


def test_without_full_pages_each_window_is_asked_for_once() -> None:
    listing = Listing(list(range(0, 3000, 10)), cap=1000, inclusive=True)
    collected(listing, 0, 3000, 300)
    assert listing.asked == [Range(start, start + 300) for start in range(0, 3000, 300)]


def test_the_rest_of_a_page_is_asked_for_without_a_second_that_is_whole_already() -> None:
    """Under both readings; that `endtime` is exclusive is found out once."""
    times = [second for second in range(900) for _ in range(5)]
    for inclusive in (True, False):
        listing = Listing(times, cap=98, inclusive=inclusive)
        got, gaps = collected(listing, 0, 900, 300)
        assert (got, gaps) == (times, [])
        # A page shows 19 whole seconds and a part of the next one, which is listed again.
        fewest = 3 * 300 / 19
        assert len(listing.asked) <= fewest + 3 + (not inclusive)


def test_a_dense_window_takes_hardly_more_requests_than_it_has_pages() -> None:
    times = [second for second in range(300) for _ in range(30)]
    listing = Listing(times, cap=1000, inclusive=True)
    got, gaps = collected(listing, 0, 300, 300)
    assert len(got) == 9000
    assert not gaps
    assert len(listing.asked) <= 10


def test_a_window_of_very_many_pages_is_taken_in_pieces_oldest_first() -> None:
    times = [second for second in range(600) for _ in range(20)]
    listing = Listing(times, cap=100, inclusive=False)
    held = 0
    for batch in batches(listing, Range(0, 600)):
        held = max(held, len(batch.answer))
    got, gaps = collected(listing, 0, 600, 600)
    assert got == times
    assert not gaps
    assert held <= 100


@settings(max_examples=200)
@given(
    times=st.lists(st.integers(0, 300), max_size=400),
    cap=st.sampled_from([10, 20, 25, 50, 64, 100]),
    step=st.integers(1, 300),
    inclusive=st.booleans(),
    shuffled=st.booleans(),
)
def test_pages_that_are_smaller_than_configured_lose_nothing(
    times: list[int], cap: int, step: int, inclusive: bool, shuffled: bool
) -> None:
    # A second that fills a page by itself cannot be distinguished from one that is whole.
    times = [time for time, count in Counter(times).items() for _ in range(min(count, cap // 2))]
    listing = Listing(times, cap=cap, inclusive=inclusive, shuffled=shuffled)
    got, gaps = collected(listing, 0, 301, step, Pages(1000))
    assert got == sorted(times)
    assert not gaps


def test_a_page_that_gets_smaller_in_the_middle_of_a_run_is_noticed_and_one_that_grows_again_too() -> None:
    times = [second for second in range(3000) for _ in range(10)]
    listing = Listing(times, cap=1000, inclusive=True)
    pages = Pages(1000)
    got: list[int] = []
    for window, cap in zip(
        plan(0, 3000, 300), [1000, 500, 500, 200, 200, 200, 1000, 1000, 250, 250], strict=True
    ):
        listing.cap = cap
        some, gaps = collected(listing, *window, 300, pages)
        assert not gaps
        assert pages.limit == cap
        got += [time for time in some if time < window.end]
    assert got == times


def test_a_page_of_an_odd_size_is_noticed_when_it_comes_again() -> None:
    times = [second for second in range(3000) for _ in range(2)]
    listing = Listing(times, cap=137, inclusive=True)
    got, gaps = collected(listing, 0, 3000, 300, Pages(1000))
    # Of the first window nothing says so yet; its audit does.
    assert [time for time in got if time >= 300] == times[600:]
    assert not gaps


@given(
    times=st.lists(st.integers(0, 299), min_size=30, max_size=400),
    cap=st.integers(20, 300),
    inclusive=st.booleans(),
)
def test_an_answer_with_fewer_events_than_were_listed_before_is_read_as_a_page(
    times: list[int], cap: int, inclusive: bool
) -> None:
    times = [time for time, count in Counter(times).items() for _ in range(min(count, cap // 2))]
    listing = Listing(times, cap=cap, inclusive=inclusive)
    before = Pages(1000, lambda start, end: len(times) if (start, end) == (0, 300) else 0)
    got, gaps = collected(listing, 0, 300, 300, before)
    assert got == sorted(times)
    assert not gaps


@given(times=st.lists(st.integers(0, 300), max_size=60))
def test_answers_that_are_whole_cost_few_requests_more(times: list[int]) -> None:
    listing = Listing(times, cap=1000, inclusive=True)
    collected(listing, 0, 300, 10)
    assert len(listing.asked) <= 30 + 7


def test_one_second_that_is_exactly_a_round_page_by_itself_is_a_gap() -> None:
    listing = Listing([60] * 500, cap=200, inclusive=True)
    got, gaps = collected(listing, 0, 300, 300, Pages(1000))
    assert gaps == [Gap(kind="saturated", start=60, end=61)]
    assert len(got) == 200


@given(start=st.integers(0, 10**10), length=st.integers(0, 10**5), step=st.integers(1, 10**4))
def test_a_plan_covers_the_span_with_windows_that_share_their_border(
    start: int, length: int, step: int
) -> None:
    windows = list(plan(start, start + length, step))
    assert all(0 < window.end - window.start <= step for window in windows)
    assert [window.end for window in windows[:-1]] == [window.start for window in windows[1:]]
    if windows:
        assert (windows[0].start, windows[-1].end) == (start, start + length)
    else:
        assert length == 0
