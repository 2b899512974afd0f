"""What is due to be listed again: all that is closed, once a delay, in few requests, and nothing too early."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.config.event_feed import delays_of
from mailferry.events import audit
from mailferry.events.coverage import HOUR, Coverage

if TYPE_CHECKING:
    from mailferry.events.windows import Range

DAY = 86_400
START = 1_749_996_000
DELAYS = (HOUR, DAY)


def lived(
    hours: int, *, per_hour: int = 0, delays: tuple[int, ...] = DELAYS
) -> tuple[Coverage, list[tuple[int, Range]]]:
    """A feed that is collected every hour for so long: its coverage, and when which audits were made."""
    coverage = Coverage()
    audits: list[tuple[int, Range]] = []
    for now in range(START + HOUR, START + (hours + 1) * HOUR, HOUR):
        coverage = coverage.listed(now - HOUR, now, now + 30, [now - HOUR] * per_hour, delays)
        while due := audit.due(coverage, delays, now + 30, since=now - 14 * DAY, page_limit=1000):
            again = Counter(dict.fromkeys(range(due.start, due.end, HOUR), per_hour))
            coverage = coverage.audited(*due, now + 30, again, delays)
            audits.append((now + 30, due))
    return coverage, audits


def test_every_hour_is_listed_again_after_each_delay_and_not_before() -> None:
    coverage, audits = lived(72)
    now = START + 72 * HOUR
    for hour in range(START, now - 31 * HOUR, HOUR):
        ages = [at - (hour + HOUR) for at, due in audits if due.start <= hour < due.end]
        assert len(ages) == 2
        assert HOUR <= ages[0] <= 2 * HOUR
        assert DAY <= ages[1] <= DAY + audit.GATHERED + HOUR
    assert coverage.audited_to(HOUR) == now - HOUR
    assert coverage.audited_to(DAY) is not None


def test_a_quiet_day_costs_at_most_a_tenth_of_the_requests_of_its_first_reading() -> None:
    _, audits = lived(24 * 8)
    last_day = [due for at, due in audits if at > START + 24 * 7 * HOUR]
    # A run every five minutes asks for the look-back and for what is new.
    assert len(last_day) <= 288 * 2 / 10


def test_a_dense_range_has_no_more_pages_than_a_run_may_have_to_do_again() -> None:
    _, audits = lived(72, per_hour=5000)
    assert max(due.end - due.start for _, due in audits) == audit.PAGES // 5 * HOUR


@given(st.integers(0, 40 * HOUR), st.sets(st.integers(60, 2 * DAY), max_size=3))
def test_what_is_due_is_covered_closed_and_not_audited_yet(later: int, some: set[int]) -> None:
    delays = tuple(sorted(some))
    coverage = Coverage().listed(START, START + 3 * HOUR, START + 3 * HOUR + 30, (), delays)
    coverage = coverage.listed(START + 4 * HOUR, START + 6 * HOUR, START + 6 * HOUR + 30, (), delays)
    now = START + 6 * HOUR + 30 + later
    rounds = 0
    while due := audit.due(coverage, delays, now, since=START, page_limit=1000):
        rounds += 1
        assert not list(coverage.holes(*due))
        assert all(due.start <= s.start and s.end <= due.end for s in coverage.within(*due))
        assert any(now - due.end >= delay > span.age for delay in delays for span in coverage.within(*due))
        coverage = coverage.audited(*due, now, Counter(), delays)
        assert rounds < 20


def test_what_was_read_long_after_its_time_needs_no_audit() -> None:
    coverage = Coverage().listed(START, START + HOUR, START + 3 * DAY, (), DELAYS)
    assert audit.due(coverage, DELAYS, START + 4 * DAY, since=START, page_limit=1000) is None


def test_what_the_provider_no_longer_has_is_not_asked_for() -> None:
    coverage = Coverage().listed(START, START + HOUR, START + HOUR, (), DELAYS)
    assert audit.due(coverage, DELAYS, START + 30 * DAY, since=START + DAY, page_limit=1000) is None


def test_no_delays_no_audits() -> None:
    assert lived(48, delays=())[1] == []


@pytest.mark.parametrize(
    ("text", "delays"), [("off", ()), ("1h, 24h", (HOUR, DAY)), ("1d,90m", (5400, DAY)), ("300", (300,))]
)
def test_delays_as_people_write_them(text: str, delays: tuple[int, ...]) -> None:
    assert delays_of(text) == delays


@pytest.mark.parametrize("text", ["", "1h,", "never", "5s", "15d", "*/5 * * * *", "1h;2h"])
def test_other_delays_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write off, or durations"):
        delays_of(text)
