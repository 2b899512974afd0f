"""Time that the provider no longer has, pages smaller than configured, and clocks and checkpoints that people correct."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, QUARANTINE, SIGN_INS, START, a_site

from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support_events import Site

DAY = 86_400


# --- pages


@pytest.mark.parametrize("inclusive", [True, False], ids=["inclusive", "exclusive"])
@pytest.mark.parametrize(
    "cap", [50, lambda number: 50 if number < 4 else 20], ids=["smaller", "smaller still in mid-run"]
)
def test_a_page_smaller_than_configured_loses_nothing_and_is_logged(
    tmp_path: Path, cap: int | Callable[[int], int], inclusive: bool
) -> None:
    traits = Traits(rate=1.2, start=START, end=START + 900)
    settings = Settings(page_cap=cap, endtime_inclusive=inclusive)
    with a_site(tmp_path, {SIGN_INS: traits}, settings) as site:
        site.configure()
        ended = site.collect()
        assert ended.status == 0
        site.assert_exactly_once(SIGN_INS)
        learned = [line["error"] for line in site.errors(SIGN_INS) if "more behind it" in line["error"]]
        assert "exactly 50 records" in learned[0]
        assert len(learned) == (1 if cap == 50 else 2)


# --- what is no longer kept


@pytest.mark.parametrize("step", [1200, 43_200])
def test_time_that_the_provider_has_deleted_is_one_gap_up_to_the_first_event_it_still_has(
    tmp_path: Path, step: int
) -> None:
    now = START + 20 * DAY
    traits = Traits(rate=0.0002, start=START, end=now)
    with a_site(tmp_path, {SIGN_INS: traits}, Settings(keeps_days=15), now=now) as site:
        site.configure(split_interval=step, max_time_gap=DAY)
        ended = site.collect()
        assert ended.status == 4
        assert ended.of(SIGN_INS).gap_count == 1
        kept = [json.loads(e.value) for e in site.provider.truth(SIGN_INS, now - 15 * DAY, now - 30)]
        assert [json.loads(line) for line in site.lines(SIGN_INS)] == kept
        (gap,) = site.heartbeat(SIGN_INS)["last_gaps"]
        assert (gap["kind"], gap["start"]) == ("expired", "2025-06-15T15:00:00+00:00")
        # It ends with the first event that is still there, less than a day after those 15.
        assert "2025-06-20T15:00:00+00:00" <= gap["end"] <= "2025-06-21T15:00:00+00:00"
        assert site.collect().status == 0


def test_a_provider_that_keeps_events_longer_than_it_says_has_no_gap(tmp_path: Path) -> None:
    now = START + 20 * DAY
    traits = Traits(rate=0.001, start=START - 2 * DAY, end=now)
    with a_site(tmp_path, {SIGN_INS: traits}, now=now) as site:
        site.configure(split_interval=43_200, max_time_gap=DAY, start_time=START)
        site.start = START
        assert site.collect().status == 0
        site.assert_exactly_once(SIGN_INS)


def test_keeps_days_0_asks_for_all_time_and_reports_nothing(tmp_path: Path) -> None:
    now = START + 20 * DAY
    traits = Traits(rate=0.0002, start=START, end=now)
    with a_site(tmp_path, {SIGN_INS: traits}, Settings(keeps_days=15), now=now) as site:
        site.configure(split_interval=43_200, max_time_gap=DAY, keeps_days=0)
        assert site.collect().status == 0
        assert site.heartbeat(SIGN_INS)["gaps"] == 0


@pytest.mark.parametrize("keeps_days", [0, 15])
def test_a_provider_that_keeps_less_than_it_says_leaves_a_gap_where_known_events_are_gone(
    tmp_path: Path, keeps_days: int
) -> None:
    now = START + 9 * DAY
    traits = Traits(rate=0.002, start=START, end=now)
    with a_site(tmp_path, {SIGN_INS: traits}, Settings(keeps_days=4), now=START + 2 * DAY) as site:
        site.configure(split_interval=43_200, max_time_gap=DAY, keeps_days=keeps_days, audit="off")
        assert site.collect().status == 0
        written = len(site.lines(SIGN_INS))
        site.clock.now = now
        assert site.collect().status == 4
        (gap,) = site.heartbeat(SIGN_INS)["last_gaps"]
        assert (gap["kind"], gap["start"]) == ("expired", "2025-06-17T14:59:30+00:00")
        kept = [json.loads(e.value) for e in site.provider.truth(SIGN_INS, now - 4 * DAY, now - 30)]
        assert [json.loads(line) for line in site.lines(SIGN_INS)[written:]] == kept
        site.clock.now = now + 600
        assert site.collect().status == 0


@pytest.mark.parametrize("ahead", [-3, 40])
def test_quarantine_of_the_seventh_day_is_collected_whatever_the_providers_clock_says(
    tmp_path: Path, ahead: int
) -> None:
    now = START + 8 * DAY
    traits = Traits(rate=0.002, start=START, end=now)
    with a_site(tmp_path, {QUARANTINE: traits}, now=now) as site:
        site.configure(split_interval=43_200, max_time_gap=DAY)
        # Its clock: what it refuses begins a little later, or earlier, than ours says.
        site.provider._clock = lambda: now + ahead
        ended = site.collect()
        assert ended.status == 4
        (gap,) = site.heartbeat(QUARANTINE)["last_gaps"]
        first = START + DAY + (max(0, ahead) and 60)
        written = [json.loads(line) for line in site.lines(QUARANTINE)]
        kept = [json.loads(e.value) for e in site.provider.truth(QUARANTINE, START + DAY, now - 30)]
        assert written == kept[-len(written) :]
        lost = [event for event in kept if event not in written]
        assert all((event.get("time") or event["starttime"]) < first + 60 for event in lost)
        assert gap["start"] == "2025-06-15T15:00:00+00:00"
        assert gap["end"] >= "2025-06-16T15:00:00+00:00"


def test_half_of_what_the_provider_keeps_is_a_warning(tmp_path: Path) -> None:
    traits = Traits(rate=0.01, start=START, end=START + 600)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 630) as site:
        site.configure()
        assert site.collect().status == 0
        assert site.heartbeat(SIGN_INS)["warning"] is None
        # The provider is down; the position stays.
        site.configure(list_retries=0)
        site.config.write_text(site.config.read_text().replace(site.provider.url, "http://127.0.0.1:9"))
        for days, warned in ((7, False), (8, True)):
            site.clock.now = START + days * DAY
            site.collect()
            assert (site.heartbeat(SIGN_INS)["warning"] is not None) == warned
        assert "keeps events for 15 days only" in site.heartbeat(SIGN_INS)["warning"]
        assert any("keeps events for 15 days only" in line["error"] for line in site.errors(SIGN_INS))


# --- clocks and checkpoints


def _follow_the_advice(site: Site, error: str, position: int) -> None:
    """Do what the message asks for, to the letter."""
    (path,) = re.findall(r"or the first line of (\S+\.pos)", error)
    assert path == str(site.position_file(SIGN_INS))
    lines = site.position_file(SIGN_INS).read_text().split("\n")
    site.position_file(SIGN_INS).write_text("\n".join([str(position), *lines[1:]]))


def test_what_the_message_advises_after_a_clock_ran_ahead_loses_nothing(tmp_path: Path) -> None:
    traits = Traits(rate=0.02, start=START, end=START + 4 * DAY)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 1000) as site:
        site.configure(split_interval=1200)
        assert site.collect().status == 0
        # Our clock runs two days ahead; the provider's is right, and lists what there is so far.
        site.provider._clock = lambda: START + 1000.0
        site.clock.now = START + 2 * DAY
        assert site.collect().status == 0
        site.clock.now = START + 1500
        site.provider._clock = site.clock
        ended = site.collect()
        assert ended.status == 1
        _follow_the_advice(site, ended.of(SIGN_INS).error, START + 900)
        for now in (START + 1500, START + 5000, START + DAY, START + 2 * DAY + 1000):
            site.clock.now = now
            assert site.collect().status == 0
            site.assert_exactly_once(SIGN_INS)


def test_what_a_clock_that_ran_ahead_listed_counts_as_no_audit(tmp_path: Path) -> None:
    traits = Traits(rate=0.02, start=START, end=START + DAY, late=0.3, late_by=3000)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 7200) as site:
        site.configure(audit="1h", split_interval=1200)
        # Our clock alone is two days ahead: all that it lists is older than an hour, to all appearances.
        site.provider._clock = lambda: START + 7200.0
        site.clock.now = START + 2 * DAY
        assert site.collect().status == 0
        site.clock.now = START + 7200
        _follow_the_advice(site, site.collect().of(SIGN_INS).error, START + 7100)
        site.provider._clock = site.clock
        for hours in (2, 4, 8, 24, 27):
            site.clock.now = START + hours * 3600
            assert site.collect().status == 0
        found = site.compared(SIGN_INS, end=START + DAY)
        assert (found.lost, found.twice, found.foreign) == (0, 0, 0), found


def test_a_checkpoint_that_was_deleted_while_the_files_stand_doubles_nothing(tmp_path: Path) -> None:
    traits = Traits(rate=0.1, start=START, end=START + 9000, detail_bytes=50)
    with a_site(tmp_path, {OUTGOING: traits, SIGN_INS: traits}, now=START + 5000) as site:
        site.configure()
        assert site.collect().status == 0
        for feed in (OUTGOING, SIGN_INS):
            site.position_file(feed).unlink()
        site.clock.now = START + 9000
        assert site.collect().status == 0
        for feed in (OUTGOING, SIGN_INS):
            site.assert_exactly_once(feed)
        said = [path.read_text() for path in site.data_folder(SIGN_INS).glob("messages_*")]
        assert "going on where they end" in "".join(said)


def test_a_damaged_checkpoint_that_was_moved_away_as_advised_doubles_nothing(tmp_path: Path) -> None:
    traits = Traits(rate=0.1, start=START, end=START + 9000)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 5000) as site:
        site.configure()
        assert site.collect().status == 0
        path = site.position_file(SIGN_INS)
        path.write_text("garbage")
        site.clock.now = START + 9000
        assert "move it away to go on where the data files end" in site.collect().of(SIGN_INS).error
        path.rename(tmp_path / "aside")
        assert site.collect().status == 0
        site.assert_exactly_once(SIGN_INS)


@pytest.mark.parametrize("zone", ["Europe/Berlin", ""], ids=["named", "the machine's"])
def test_the_two_hours_of_one_name_when_clocks_are_set_back_are_two_files(
    tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    second = 1_761_440_400  # 2025-10-26 01:00 UTC: 3 o'clock becomes 2
    traits = Traits(rate=0.01, start=second - 7200, end=second + 7200)
    try:
        with a_site(tmp_path, {SIGN_INS: traits}) as site:
            site.configure(timezone=zone)
            assert site.collect().status == 0
            site.assert_exactly_once(SIGN_INS)
            assert [
                path.name.removeprefix("example.com_auth_2025-10-26_") for path in site.data_files(SIGN_INS)
            ] == [
                "01.log",
                "02.log",
                "02_+0100.log",
                "03.log",
            ]
            again = site.data_files(SIGN_INS)[2].read_bytes().splitlines()
            times = [json.loads(line).get("time") or json.loads(line)["timestamp"] for line in again]
            assert second <= min(times) <= max(times) < second + 3600
            # Retention knows them, too.
            site.clock.now = time.time() + 10 * DAY
            site.configure(
                timezone=zone, log_retention_days=1, keeps_days=0, split_interval=DAY, max_time_gap=DAY
            )
            site.collect()
            assert site.data_files(SIGN_INS) == []
    finally:
        monkeypatch.undo()
        time.tzset()
