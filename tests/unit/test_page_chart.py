"""Shapes of numbers: bars stay in their drawing, and the strip of days says of each day what is known."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from mailferry.events.coverage import Coverage, Span
from mailferry.events.windows import Gap
from mailferry.monitor.page import chart

DAY = 86_400
TODAY = 20_000 * DAY
NOW = datetime.fromtimestamp(TODAY + DAY // 2, UTC)
AUDITED = DAY


@given(st.lists(st.integers(0, 10**12), max_size=40))
def test_bars_stay_in_their_drawing_and_what_is_more_than_nothing_is_seen(values: list[int]) -> None:
    made = chart.bars(values, 120, 27)
    assert len(made) == len(values)
    for bar, value in zip(made, values, strict=True):
        assert 0 <= bar.x <= bar.x + bar.width <= 120.01
        assert 0 <= bar.y <= bar.y + bar.height <= 27.01
        assert (bar.height > 0) == (value > 0)
    assert chart.outline(values, 120, 27).count("M") == sum(value > 0 for value in values)


def span(start: int, end: int, age: int = AUDITED, **more: int) -> Span:
    return Span(start=start, end=end, age=age, listed_at=end + age, events=5, held=5, **more)


def strip(*spans: Span, gaps: tuple[Gap, ...] = (), zone: str = "UTC") -> list[tuple[str, str]]:
    found = chart.days(Coverage(spans=spans), gaps, now=NOW, zone=ZoneInfo(zone), count=5, audited=AUDITED)
    return [(day.date[-2:], day.state) for day in found]


def test_each_day_says_what_is_known_of_it() -> None:
    spans = (
        span(TODAY - 3 * DAY, TODAY - 2 * DAY),
        span(TODAY - 2 * DAY, TODAY - DAY - 7200, age=60),
        span(TODAY - DAY, TODAY, missing=2),
        span(TODAY, TODAY + DAY // 2, age=0),
    )
    assert [state for _, state in strip(*spans)] == ["none", "audited", "part", "missing", "whole"]
    gap = Gap(kind="expired", start=TODAY - 3 * DAY + 5, end=TODAY - 3 * DAY + 6)
    assert strip(*spans, gaps=(gap,))[1][1] == "gap"
    closed = Gap(kind="expired", start=gap.start, end=gap.end, state="acknowledged")
    assert strip(*spans, gaps=(closed,))[1][1] == "audited"


def test_days_are_those_of_the_readers_calendar() -> None:
    dates = [date for date, _ in strip(span(TODAY - DAY, TODAY), zone="Pacific/Auckland")]
    local = NOW.astimezone(ZoneInfo("Pacific/Auckland"))
    assert dates[-1] == f"{local:%d}"
    assert len(set(dates)) == 5


def test_a_month_that_was_merged_is_no_days_volume() -> None:
    (*_, before, _today) = chart.days(
        Coverage(spans=(span(TODAY - 40 * DAY, TODAY),)), (), now=NOW, zone=UTC, count=5, audited=AUDITED
    )
    assert (before.state, before.held) == ("audited", 0)


def test_a_feed_without_a_past_has_no_days() -> None:
    assert {state for _, state in strip()} == {"none"}
