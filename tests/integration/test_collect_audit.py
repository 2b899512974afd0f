"""A feed that looks at closed time again: what became visible late is written, once, and the cost is on record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support_events import INCOMING, OUTGOING, QUARANTINE, SIGN_INS, START, a_site
from support_table import a_table_site

from mailferry.events import checkpoint
from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from pathlib import Path

    from support_events import Site

    from mailferry.config.database import DatabaseSettings
    from mailferry.events.coverage import Coverage

HOUR = 3600
END = START + 3 * HOUR
#: A third of the events can be seen only up to half an hour after their time; no look-back of five minutes finds those.
LATE = Traits(rate=0.02, start=START, end=END, late=0.3, late_by=1800, detail_bytes=100, twins=0.1)
FEEDS = [OUTGOING, QUARANTINE, SIGN_INS]


def live(site: Site, *, until: int, every: int = 1800) -> None:
    """Runs from the site's time on, each of which must end well."""
    while site.clock.now < until:
        site.clock.now += every
        assert site.collect().status == 0


def coverage_of(site: Site, feed: Feed) -> Coverage:
    found = checkpoint.load(site.position_file(feed))
    assert found
    return found.progress.coverage


@pytest.mark.parametrize("inclusive", [True, False])
def test_what_became_visible_late_is_found_and_written_once(tmp_path: Path, inclusive: bool) -> None:
    settings = Settings(page_cap=60, endtime_inclusive=inclusive)
    with a_site(tmp_path, dict.fromkeys(FEEDS, LATE), settings, now=START) as site:
        site.configure(max_records_per_page=60, split_interval=900, audit="1h")
        live(site, until=END + 1800)
        for feed in FEEDS:
            assert site.compared(feed).lost > 0
        live(site, until=END + 4 * HOUR)
        for feed in FEEDS:
            coverage = coverage_of(site, feed)
            late = site.heartbeat(feed)["late_events"]
            assert coverage.audit_late > 0
            assert coverage.missing == 0
            site.assert_exactly_once(feed, late=late)
            assert coverage.held(START, END) == len(site.lines(feed))
        details = site.provider.stats.details
        assert max(details.values()) == 1


def test_audits_into_a_table_find_the_same(tmp_path: Path, database_settings: DatabaseSettings) -> None:
    with a_table_site(tmp_path, dict.fromkeys(FEEDS, LATE), database_settings, now=START) as site:
        site.configure(split_interval=900, audit="1h")
        live(site, until=END + 4 * HOUR)
        for feed in FEEDS:
            progress = site.progress(feed)
            assert progress["coverage"]["audit_late"] > 0
            site.assert_exactly_once(feed, late=progress["late"])
            assert sum(span[5] for span in progress["coverage"]["spans"]) == progress["events"]
        assert max(site.provider.stats.details.values()) == 1


def test_a_detail_that_was_missing_is_asked_for_again_and_completes_its_row(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    traits = Traits(rate=0.02, start=START, end=START + HOUR, detail_bytes=100)
    settings = Settings(detail_troubles=Troubles(error_500=1.0), max_failures_per_url=1)
    with a_table_site(
        tmp_path, {OUTGOING: traits}, database_settings, settings, now=START + HOUR + 60
    ) as site:
        site.configure(audit="1h", detail_retries=0)
        site.collect()
        assert len(site.progress(OUTGOING)["details_missing"]) == len(site.lines(OUTGOING)) > 0
        assert site.compared(OUTGOING, end=START + HOUR).lost > 0
        live(site, until=START + 4 * HOUR)
        assert site.progress(OUTGOING)["details_missing"] == {}
        site.assert_exactly_once(OUTGOING)
        assert max(site.provider.stats.details.values()) == 1


def test_an_audit_finds_a_page_size_that_no_one_expects(tmp_path: Path) -> None:
    # Each window fits into a page; an hour at once does not, and of a page's size nothing says that it is one.
    traits = Traits(rate=0.1, start=START, end=START + 3600, late=0.3, late_by=3000)
    caps = [1000]
    settings = Settings(page_cap=lambda _: caps[0])
    with a_site(tmp_path, {SIGN_INS: traits}, settings, now=START + 1800) as site:
        site.configure(audit="1h")
        for now in range(START + 1800, START + 3700, 900):
            site.clock.now = now
            assert site.collect().status == 0
        caps[0] = 137
        site.clock.now = START + 3 * 3600
        assert site.collect().status == 0
        found = site.compared(SIGN_INS)
        assert (found.lost, found.twice, found.foreign) == (0, 0, 0), found
        assert any("exactly 137 records" in line["error"] for line in site.errors(SIGN_INS))


def test_that_the_provider_lists_fewer_events_than_before_is_logged(tmp_path: Path) -> None:
    traits = Traits(rate=0.01, start=START, end=START + 3600)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 3700) as site:
        site.configure(audit="1h")
        assert site.collect().status == 0
        lines = site.lines(SIGN_INS)
        with a_site(tmp_path / "other", {SIGN_INS: replace(traits, rate=0)}, now=START + 3 * 3600) as emptied:
            emptied.feeds = site.feeds
            url = site.provider.list_url("authentication")
            site.config.write_text(
                site.config.read_text().replace(url, emptied.provider.list_url("authentication"))
            )
            site.clock.now = emptied.clock.now
            assert site.collect().status == 0
        assert site.lines(SIGN_INS) == lines
        assert any(f"of {len(lines)} events" in line["error"] for line in site.errors(SIGN_INS))


def test_off_means_that_nothing_is_listed_again(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: LATE}, now=START) as site:
        site.configure(audit="off")
        live(site, until=END + 4 * HOUR, every=HOUR)
        assert coverage_of(site, OUTGOING).audit_lists == 0
        assert site.compared(OUTGOING).lost > 0


def test_the_cost_of_a_quiet_feed_is_a_tenth_and_stands_on_record(tmp_path: Path) -> None:
    quiet = Traits(rate=0.001, start=START, end=START + 12 * HOUR, detail_bytes=100)
    with a_site(tmp_path, {INCOMING: quiet}, now=START) as site:
        site.configure()
        live(site, until=START + 12 * HOUR, every=900)
        coverage = coverage_of(site, INCOMING)
        lists = site.provider.stats.lists
        assert coverage.lists + coverage.audit_lists == len(lists)
        assert 0 < coverage.audit_lists <= coverage.lists / 10
        assert max(site.provider.stats.details.values()) == 1


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_files_that_were_moved_are_not_written_again_and_that_is_reported(tmp_path: Path, how: str) -> None:
    with a_site(tmp_path, {SIGN_INS: LATE}, now=START) as site:
        site.configure(split_interval=900, audit="1h")
        live(site, until=START + HOUR + 1800)
        first = site.data_files(SIGN_INS)[0]
        written = len(first.read_bytes().splitlines())
        first.unlink() if how == "deleted" else first.write_bytes(b"")
        live(site, until=END + 3 * HOUR)
        assert not first.exists() or not first.read_bytes()
        assert coverage_of(site, SIGN_INS).missing == written
        assert any("are still there" in error["error"] for error in site.errors(SIGN_INS))


def test_rows_that_someone_deleted_do_not_come_back(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    with a_table_site(tmp_path, {SIGN_INS: LATE}, database_settings, now=START) as site:
        site.configure(split_interval=900, audit="1h")
        live(site, until=START + HOUR + 1800)
        site.query("DELETE FROM mail_events WHERE time < to_timestamp(%s)", START + HOUR)
        live(site, until=END + 3 * HOUR)
        assert site.query("SELECT count(*) FROM mail_events WHERE time < to_timestamp(%s)", START + HOUR) == [
            (0,)
        ]
        spans = site.progress(SIGN_INS)["coverage"]["spans"]
        assert sum(span[7] for span in spans) > 0
