"""When a feed has gone silent, by its schedule; and which disks are looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from mailferry.config import service
from mailferry.config.schedule import Schedule
from mailferry.monitor.facts import FeedStatus
from mailferry.monitor.status import _silent, look_without

if TYPE_CHECKING:
    from pathlib import Path

#: A Monday.
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def silent(schedule: str, good: datetime | None, *, now: datetime = NOW, **known: Any) -> bool:
    feed = FeedStatus(name="outgoing", kind="events", schedule=schedule, last_good=good, **known)
    return _silent(feed, Schedule.parse(schedule), now)


@pytest.mark.parametrize(
    ("schedule", "ago", "gone"),
    [
        ("5m", timedelta(minutes=60), False),
        ("5m", timedelta(minutes=71), True),
        ("1d", timedelta(hours=25), False),
        ("1d", timedelta(hours=49, minutes=1), True),
        # Working days at eight: Friday's run is the last one on Monday before nine.
        ("0 8 * * 1-5", timedelta(days=3, hours=3), False),
        ("0 8 * * 1-5", timedelta(days=5), True),
    ],
)
def test_a_feed_of_the_service_is_silent_when_two_of_its_times_and_an_hour_are_past(
    schedule: str, ago: timedelta, *, gone: bool
) -> None:
    assert silent(schedule, NOW - ago, next_run=NOW) is gone


def test_a_feed_that_cron_runs_is_silent_after_a_day_whatever_its_schedule_here() -> None:
    assert not silent("5m", NOW - timedelta(hours=25))
    assert silent("5m", NOW - timedelta(hours=25, seconds=1))


def test_what_never_succeeded_or_cannot_be_known_is_not_silent() -> None:
    assert not silent("5m", None, next_run=NOW)
    assert not silent("5m", NOW - timedelta(days=9), next_run=NOW, state="unknown")


def test_the_change_to_summer_time_is_no_silence() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    before, after = datetime(2026, 3, 28, 8, 30, tzinfo=berlin), datetime(2026, 3, 29, 8, 59, tzinfo=berlin)
    assert not silent("0 8 * * *", before, now=after, next_run=after)


def test_each_disk_is_looked_at_once_and_what_is_not_there_yet_is_left_out(tmp_path: Path) -> None:
    config = tmp_path / "uzmanposta.ini"
    config.write_text(
        "".join(f"[MailLogger:{n}]\napi_key = 9f8e7d6c5b4a{n}\ndomain = {n}.example.com\n" for n in range(3))
    )
    config.chmod(0o600)
    (disk,) = look_without(service.read([config], {}), NOW).disks
    assert disk.total >= disk.free > 0
