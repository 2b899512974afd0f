"""What people change between two runs: a checkpoint set back, another look-back, a position that is no time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support_events import START, a_site

from mailferry.errors import Retry
from mailferry.events import writer
from mailferry.events.files import HourlyFiles
from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.events.destination import Committed

SIGN_INS = Feed(api_key="key-of-the-sign-ins", domain="example.com", category="authentication", type="")
MAIL = Feed(api_key="key-of-the-mail-feed", domain="example.org", category="mail", type="outgoinglog")
TRAITS = Traits(rate=0.1, start=START, end=START + 3000, detail_bytes=300, twins=0.1)


@pytest.mark.parametrize("feed", [SIGN_INS, MAIL])
@pytest.mark.parametrize("step", [60, 300])
def test_a_position_set_back_by_hand_writes_nothing_twice(tmp_path: Path, feed: Feed, step: int) -> None:
    with a_site(tmp_path, {feed: TRAITS}) as site:
        site.configure(split_interval=step)
        assert site.collect().status == 0
        for position in (START + 1500, START + 2990):
            site.position_file(feed).write_text(str(position))
            assert site.collect().status == 0
        site.assert_exactly_once(feed)


@pytest.mark.parametrize("feed", [MAIL, SIGN_INS])
def test_a_run_that_ends_within_a_wide_window_leaves_no_time_without_audits(
    tmp_path: Path, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    traits = Traits(rate=0.05, start=START, end=START + 7200, late=0.2, late_by=3000, detail_bytes=50)
    with a_site(tmp_path, {feed: traits}, now=START + 3000) as site:
        site.configure(audit="1h", split_interval=3600, max_time_gap=3600)
        monkeypatch.setattr(writer, "COMMIT_EVENTS", 20)
        commits = 0

        def fails(self: HourlyFiles, *given: Any) -> Committed:
            nonlocal commits
            commits += 1
            if commits == 5:
                raise Retry("the disk failed")
            return commit(self, *given)

        commit = HourlyFiles.commit
        monkeypatch.setattr(HourlyFiles, "commit", fails)
        assert site.collect().status == 1
        assert site.lines(feed)
        for now in (3000, 7200, 5 * 3600):
            site.clock.now = START + now
            assert site.collect().status == 0
        found = site.compared(feed)
        assert (found.lost, found.twice, found.foreign) == (0, 0, 0), found


def test_a_look_back_that_is_raised_writes_nothing_twice(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}, now=START + 1800) as site:
        for look_back in (60, 300, 1500, 3000):
            site.configure(look_back=look_back)
            assert site.collect().status == 0
            site.clock.now += 600
        site.assert_exactly_once(SIGN_INS, end=int(site.clock.now) - 600 - 30)


def test_a_position_in_milliseconds_stops_its_section_alone(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS, MAIL: TRAITS}) as site:
        site.configure()
        site.position_file(SIGN_INS).parent.mkdir()
        site.position_file(SIGN_INS).write_text("1795229014000")
        ended = site.collect()
        assert ended.status == 1
        assert "damaged" in ended.of(SIGN_INS).error
        assert site.position_file(SIGN_INS).read_text() == "1795229014000"
        site.assert_exactly_once(MAIL)


def test_details_that_are_not_answered_wait_for_the_next_run(tmp_path: Path) -> None:
    away = Settings(detail_troubles=Troubles(reset_before=1.0), max_failures_per_url=1000)
    with a_site(tmp_path, {MAIL: TRAITS}, away) as site:
        site.configure(detail_retries=2)
        ended = site.collect()
        assert ended.status == 1
        assert not site.lines(MAIL)
        assert ended.of(MAIL).metrics.stand_ins == 0


def test_what_came_before_the_provider_was_gone_is_no_unreachable_provider(tmp_path: Path) -> None:
    away = Settings(detail_troubles=Troubles(reset_before=1.0), max_failures_per_url=1000)
    with a_site(tmp_path, {MAIL: TRAITS}, away) as site:
        site.configure(detail_retries=1)
        assert not site.collect().of(MAIL).unreachable
