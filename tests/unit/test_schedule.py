"""Schedules: every time comes after the one before, in its slot, at a time that the key alone decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.config.schedule import Schedule

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from([UTC, BERLIN, ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-11))])
MOMENTS = st.builds(
    lambda days, zone: (datetime(2020, 1, 1, tzinfo=UTC) + days).astimezone(zone),
    st.timedeltas(timedelta(0), timedelta(days=20 * 365)),
    ZONES,
)
INTERVALS = st.integers(1, 366 * 86_400)
CRONS = st.sampled_from(
    [
        "* * * * *",
        "*/5 * * * *",
        "30 2 * * *",
        "0 */6 * * mon-fri",
        "59 23 31 12 *",
        "0 0 29 2 *",
        "15 1-4 * * 0",
    ]
)


def between(one: datetime, other: datetime) -> timedelta:
    """In real time: within one zone Python compares what the wall clocks show."""
    return other.astimezone(UTC) - one.astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("300", 300), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("1d", 86_400)),
        *((" 5 M ", 300), ("0.5m", 30), ("1", 1), ("366d", 366 * 86_400)),
    ],
)
def test_seconds_and_units_are_understood(text: str, seconds: int) -> None:
    assert Schedule.parse(text).interval == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "from 1 second to 366 days") for text in ("0", "0s", "0.5", "367d", "999999999999d")),
        *((text, "is no schedule; write") for text in ("", "-5", "5x", "1e3", "often", "@daily", "٣", "nan")),
        *((text, "instead of five") for text in ("* * * *", "0 0 0 * * *")),
        *((text, "never fires") for text in ("0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *")),
        *(
            (text, "is no cron expression")
            for text in ("60 * * * *", "* * * * funday", "*/0 * * * *", "a b c d e")
        ),
        *((text, "random field") for text in ("r * * * *", "h(1-5) 0 * * *", "0,R/5 * * * *")),
        ("1" * 1000, "1000 characters"),
    ],
)
def test_what_is_no_schedule_or_never_fires_is_refused_with_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Schedule.parse(text)


@given(INTERVALS, MOMENTS, st.text(max_size=20))
def test_of_an_interval_the_next_time_is_later_and_within_one_interval(
    seconds: int, after: datetime, key: str
) -> None:
    schedule = Schedule.parse(str(seconds))
    first = schedule.next(after, key)
    second = schedule.next(first, key)
    assert timedelta(0) < between(after, first) <= timedelta(seconds=seconds)
    assert between(first, second) == timedelta(seconds=seconds)
    assert first.tzinfo is after.tzinfo


@given(
    st.one_of(INTERVALS.map(str), CRONS),
    MOMENTS,
    st.timedeltas(timedelta(0), timedelta(days=400)),
    st.text(max_size=20),
)
def test_a_later_look_never_gives_an_earlier_time_and_nothing_lies_between(
    text: str, after: datetime, passed: timedelta, key: str
) -> None:
    schedule = Schedule.parse(text)
    moment = (after.astimezone(UTC) + passed).astimezone(after.tzinfo)
    first, later = (schedule.next(one, key).astimezone(UTC) for one in (after, moment))
    assert after.astimezone(UTC) < first <= later
    assert later > moment.astimezone(UTC)
    assert (later == first) == (moment.astimezone(UTC) < first)


@given(CRONS, MOMENTS, st.text(max_size=20))
def test_of_a_cron_expression_the_delay_is_small_and_the_same_for_every_caller(
    text: str, after: datetime, key: str
) -> None:
    schedule = Schedule.parse(text)
    due = schedule.next(after, key)
    following = schedule.next(due, key)
    whole = due.replace(second=0, microsecond=0)
    delay = (due - whole).total_seconds()
    assert 0 <= delay <= 60
    assert delay <= max(6.0, between(due, following).total_seconds() / 9)
    just_before = (due.astimezone(UTC) - timedelta(microseconds=1)).astimezone(due.tzinfo)
    assert between(schedule.next(just_before, key), due) == timedelta(0)


def test_a_thousand_feeds_of_one_interval_are_spread_evenly() -> None:
    after = datetime(2026, 11, 21, tzinfo=UTC)
    schedule = Schedule.parse("5m")
    due = [(schedule.next(after, f"feed-{number}") - after).total_seconds() for number in range(1000)]
    tenths = [sum(30 * tenth <= seconds < 30 * (tenth + 1) for seconds in due) for tenth in range(10)]
    assert min(tenths) > 60
    assert max(tenths) < 140
    assert len({round(seconds, 3) for seconds in due}) > 990


def cron_times(text: str, after: datetime, count: int) -> list[str]:
    times = []
    for _ in range(count):
        after = Schedule.parse(text).next(after, "")
        times.append(f"{after.replace(second=0, microsecond=0):%d %H:%M%z}")
    return times


def test_a_time_that_the_change_to_summer_time_leaves_out_fires_once_right_after_it() -> None:
    eve = datetime(2026, 3, 28, 12, tzinfo=BERLIN)
    assert cron_times("30 2 * * *", eve, 2) == ["29 03:00+0200", "30 02:30+0200"]


def test_an_hour_that_comes_twice_fires_once_for_a_time_of_day_and_twice_for_every_hour() -> None:
    eve = datetime(2026, 10, 24, 12, tzinfo=BERLIN)
    assert cron_times("30 2 * * *", eve, 2) == ["25 02:30+0200", "26 02:30+0100"]
    night = datetime(2026, 10, 25, 1, 45, tzinfo=BERLIN)
    assert cron_times("30 * * * *", night, 3) == ["25 02:30+0200", "25 02:30+0100", "25 03:30+0100"]


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Schedule.parse("5m").next(datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None), "x")
