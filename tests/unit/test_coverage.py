"""The record of what was listed when: it never says more than happened, counts every event once, and stays small."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.events.coverage import HOUR, Coverage, level

DAY = 86_400
START = 1_749_996_000
DELAYS = (HOUR, DAY)
#: The model looks at every so many seconds; all ends are multiples of it.
STEP = 120

#: Listings within some hours: (start, length, seconds from the end to the listing, event times from the start).
LISTINGS = st.lists(
    st.tuples(
        st.integers(0, 6 * HOUR // STEP).map(lambda n: n * STEP),
        st.integers(1, 3 * HOUR // STEP).map(lambda n: n * STEP),
        st.integers(0, 2 * DAY),
        st.lists(st.integers(0, 3 * HOUR // STEP).map(lambda n: n * STEP), max_size=8),
    ),
    max_size=8,
)


def built(listings: list[tuple[int, int, int, list[int]]]) -> tuple[Coverage, dict[int, int], Counter[int]]:
    """The coverage; by a brute-force model, when each second was listed; and the events that count."""
    coverage = Coverage()
    listed: dict[int, int] = {}
    events: Counter[int] = Counter()
    for offset, length, wait, after in listings:
        start = START + offset
        end = start + length
        times = [start + one for one in after]
        events.update(time for time in times if start <= time < end and time not in listed)
        coverage = coverage.listed(start, end, end + wait, times, DELAYS)
        for second in range(start, end, STEP):
            listed.setdefault(second, end + wait)
    return coverage, listed, events


@given(LISTINGS)
def test_exactly_the_seconds_that_were_listed_are_covered_in_order_and_without_overlap(
    listings: list[tuple[int, int, int, list[int]]],
) -> None:
    coverage, listed, _ = built(listings)
    covered = [second for span in coverage.spans for second in range(span.start, span.end, STEP)]
    assert covered == sorted(listed)
    end = START + 9 * HOUR
    holes = {second for a, b in coverage.holes(START, end) for second in range(a, b, STEP)}
    assert holes == set(range(START, end, STEP)) - listed.keys()


@given(LISTINGS)
def test_each_event_of_covered_time_counts_once(listings: list[tuple[int, int, int, list[int]]]) -> None:
    coverage, _, events = built(listings)
    for span in coverage.spans:
        count = sum(n for time, n in events.items() if span.start <= time < span.end)
        assert span.events == span.held == count
    assert coverage.held(START, START + 9 * HOUR) == events.total()


@given(LISTINGS)
def test_a_span_never_says_that_time_was_listed_later_than_it_was(
    listings: list[tuple[int, int, int, list[int]]],
) -> None:
    coverage, listed, _ = built(listings)
    for span in coverage.spans:
        for second in range(span.start, span.end, STEP):
            assert listed[second] - second > span.age
            assert listed[second] >= span.listed_at


@given(LISTINGS, st.integers(0, 8), st.integers(1, 8))
def test_an_audit_of_whole_spans_makes_them_audited_and_leaves_the_others_alone(
    listings: list[tuple[int, int, int, list[int]]], first: int, count: int
) -> None:
    coverage, _, _ = built(listings)
    chosen = coverage.spans[first : first + count]
    if not chosen:
        return
    start, end = chosen[0].start, chosen[-1].end
    audited = coverage.audited(start, end, end + DAY, Counter({start: 3}), DELAYS)
    for span in audited.spans:
        inside = start <= span.start and span.end <= end
        assert inside or level(span.age, DELAYS) == max(
            level(one.age, DELAYS) for one in coverage.within(span.start, span.end)
        )
        assert not inside or span.age >= DAY
    assert audited.spans[0].start == coverage.spans[0].start
    assert sum(s.held for s in audited.spans) == sum(s.held for s in coverage.spans)


@given(LISTINGS)
def test_it_survives_being_written_and_read(listings: list[tuple[int, int, int, list[int]]]) -> None:
    coverage, _, _ = built(listings)
    assert Coverage.from_json(coverage.to_json()) == coverage


def test_half_a_year_is_some_hundred_spans() -> None:
    coverage = Coverage()
    for at in range(START, START + 180 * DAY, 4 * HOUR):
        end = at + 4 * HOUR
        coverage = coverage.listed(at, end, end + 30, range(at, end, HOUR), DELAYS)
        audited = at - 2 * DAY
        coverage = coverage.audited(audited, audited + 4 * HOUR, at, Counter({audited: 1}), DELAYS)
    assert len(coverage.spans) < 200
    assert sum(span.held for span in coverage.spans) == 180 * 24
    assert coverage.audited_to(DAY) == START + 178 * DAY


def test_late_events_count_in_the_span_of_their_time_and_nowhere_else() -> None:
    coverage = Coverage().listed(START, START + HOUR, START + 2 * HOUR, [START], DELAYS)
    assert coverage.wrote(START + 5).spans[0].held == 2
    assert coverage.wrote(START + HOUR) == coverage
    assert coverage.wrote(START - 1) == coverage


def test_what_was_moved_away_is_on_record_as_missing_until_an_audit_finds_it() -> None:
    coverage = Coverage().listed(START, START + HOUR, START + HOUR, [START, START + 1], DELAYS)
    gone = coverage.taken(START, START + HOUR, START + DAY, Counter({START: 1}), DELAYS)
    assert gone.missing == 1
    assert gone.audited(START, START + HOUR, START + DAY, Counter({START: 2}), DELAYS).missing == 0


@pytest.mark.parametrize("state", [{}, {"spans": [[1, 2]]}, {"spans": [[0, 9, *[0] * 6], [5, 6, *[0] * 6]]}])
def test_a_damaged_record_is_refused(state: dict[str, object]) -> None:
    state = {"lists": 0, "audit_lists": 0, "audit_late": 0, **state}
    with pytest.raises((KeyError, TypeError, ValueError)):
        Coverage.from_json(state)
