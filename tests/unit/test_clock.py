"""The time zone that cron expressions are read in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mailferry.clock import local_zone


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("Europe/Berlin", [1, 2]),
        (":Europe/Berlin", [1, 2]),
        ("/usr/share/zoneinfo/Europe/Berlin", [1, 2]),
        (":/usr/share/zoneinfo/Europe/Berlin", [1, 2]),
        # As the C library has it: UTC.
        ("", [0, 0]),
    ],
)
def test_a_zone_goes_to_summer_time_and_back_however_tz_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, hours: list[int]
) -> None:
    monkeypatch.setenv("TZ", name)
    zone = local_zone()
    offsets = [datetime(2026, month, 1, tzinfo=UTC).astimezone(zone).utcoffset() for month in (1, 7)]
    assert [offset.total_seconds() / 3600 for offset in offsets if offset is not None] == hours
