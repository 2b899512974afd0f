"""Nothing lost, nothing twice, in order: real sockets, every way in which the provider answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support_events import ALL_FEEDS, INCOMING, KEY, OUTGOING, QUARANTINE, SIGN_INS, START, a_site

from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import SLOW, RetryAfter, Throttling, Trouble, Troubles

if TYPE_CHECKING:
    from pathlib import Path

    from support_events import Site

BOTH_READINGS = pytest.mark.parametrize("inclusive", [True, False], ids=["inclusive", "exclusive"])

#: Every odd kind of record that the API may hold.
ODD = Traits(
    rate=0.25,
    start=START,
    end=START + 600,
    not_objects=0.04,
    no_time=0.04,
    no_queue_id=0.04,
    own_time=0.06,
    repeats=0.1,
    twins=0.1,
    big_integers=0.1,
    hostile_text=0.1,
    missing_details=0.04,
    detail_bytes=300,
)
PLAIN = Traits(rate=0.2, start=START, end=START + 600, detail_bytes=300)


def assert_each_detail_was_fetched_once(site: Site) -> None:
    assert site.provider.stats.details
    assert max(site.provider.stats.details.values()) == 1


@BOTH_READINGS
def test_every_category_and_type_with_odd_records_and_small_pages(tmp_path: Path, inclusive: bool) -> None:
    settings = Settings(page_cap=12, endtime_inclusive=inclusive)
    with a_site(tmp_path, dict.fromkeys(ALL_FEEDS, ODD), settings) as site:
        site.configure(max_records_per_page=12, detail_retries=1)
        ended = site.collect()
        assert ended.status == 0
        for feed in ALL_FEEDS:
            site.assert_exactly_once(feed)
        assert_each_detail_was_fetched_once(site)
        metrics = ended.of(SIGN_INS).metrics
        assert metrics.not_objects > 0
        assert metrics.without_time > 0
        before = [site.lines(feed) for feed in ALL_FEEDS]
        again = site.collect()
        assert [site.lines(feed) for feed in ALL_FEEDS] == before
        assert sum(result.metrics.events for result in again.results.values()) == 0


@BOTH_READINGS
def test_many_events_in_one_second_and_on_window_edges(tmp_path: Path, inclusive: bool) -> None:
    # Two neighbouring seconds that are over a page together, neither by itself; and the edges of all windows.
    bursts = {START + 300: 9, START + 301: 9, START + 600: 8, START + 599: 5, START + 899: 9, START: 6}
    traits = Traits(rate=0.02, start=START, end=START + 1200, bursts=bursts, detail_bytes=100, twins=0.4)
    settings = Settings(page_cap=10, endtime_inclusive=inclusive)
    with a_site(tmp_path, {OUTGOING: traits, SIGN_INS: traits}, settings) as site:
        site.configure(max_records_per_page=10, split_interval=100)
        ended = site.collect()
        assert ended.status == 0, ended
        assert ended.of(OUTGOING).metrics.gaps == 0
        site.assert_exactly_once(OUTGOING)
        site.assert_exactly_once(SIGN_INS)
        assert_each_detail_was_fetched_once(site)


@BOTH_READINGS
def test_events_that_become_visible_late_over_several_runs(tmp_path: Path, inclusive: bool) -> None:
    end = START + 2400
    traits = Traits(
        rate=0.1, start=START, end=end, late=0.3, late_by=300, repeats=0.1, twins=0.1, detail_bytes=100
    )
    feeds = {OUTGOING: traits, QUARANTINE: traits, SIGN_INS: traits}
    settings = Settings(page_cap=15, endtime_inclusive=inclusive)
    with a_site(tmp_path, feeds, settings) as site:
        site.configure(max_records_per_page=15)
        late = dict.fromkeys(feeds, 0)
        for now in [*range(START + 200, end, 170), end + 90, end + 400]:
            site.clock.now = now
            ended = site.collect()
            assert ended.status == 0, ended
            for feed in feeds:
                late[feed] += ended.of(feed).metrics.late
        for feed in feeds:
            assert late[feed] > 0
            site.assert_exactly_once(feed, late=late[feed])
            assert site.heartbeat(feed)["late_events"] == late[feed]
        assert_each_detail_was_fetched_once(site)


LIST_TROUBLES = [
    Trouble.ERROR_500,
    Trouble.BAD_GATEWAY,
    Trouble.UNAVAILABLE_503,
    Trouble.RESET_BEFORE,
    Trouble.RESET_MIDWAY,
    Trouble.CUT_JSON,
    Trouble.HTML_200,
    Trouble.EMPTY_200,
    Trouble.ERROR_OBJECT_200,
]


@BOTH_READINGS
def test_every_trouble_of_lists_and_details_at_once(tmp_path: Path, inclusive: bool) -> None:
    settings = Settings(
        page_cap=12,
        endtime_inclusive=inclusive,
        list_troubles=Troubles.spread(0.5, details=False),
        detail_troubles=Troubles.spread(0.5, details=True),
    )
    with a_site(tmp_path, {OUTGOING: ODD, QUARANTINE: ODD, SIGN_INS: ODD}, settings) as site:
        site.configure(max_records_per_page=12, detail_retries=3, list_retries=3)
        ended = site.collect()
        assert ended.status == 0, ended
        for feed in (OUTGOING, QUARANTINE, SIGN_INS):
            site.assert_exactly_once(feed)
        assert set(site.provider.stats.troubles) == set(Trouble) - SLOW
        logged = " ".join(line["error"] for line in site.errors(OUTGOING))
        for words in (
            "status 500",
            "status 502",
            "status 503",
            "cut off",
            "no JSON",
            "empty",
            "another mail",
        ):
            assert words in logged
        assert ended.of(OUTGOING).metrics.failed > 0


@pytest.mark.parametrize("trouble", LIST_TROUBLES)
def test_one_trouble_of_the_first_list_is_overcome(tmp_path: Path, trouble: Trouble) -> None:
    certain = Troubles(**{trouble.value: 1.0})
    settings = Settings(list_troubles=certain, detail_troubles=certain, max_failures_per_url=1)
    traits = Traits(rate=0.05, start=START, end=START + 200, detail_bytes=100)
    with a_site(tmp_path, {OUTGOING: traits}, settings) as site:
        site.configure(list_retries=1, detail_retries=1)
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)
        assert site.provider.stats.troubles[trouble] > 1


@pytest.mark.parametrize("trouble", LIST_TROUBLES)
def test_a_list_that_never_comes_fails_the_run_and_the_next_one_loses_nothing(
    tmp_path: Path, trouble: Trouble
) -> None:
    # Twice: the HTTP client itself repeats a request that was reset, once.
    settings = Settings(list_troubles=Troubles(**{trouble.value: 1.0}), max_failures_per_url=2)
    with a_site(tmp_path, {SIGN_INS: PLAIN}, settings) as site:
        site.configure(list_retries=0)
        statuses = [site.collect().status]
        while statuses[-1] and len(statuses) < 30:
            statuses.append(site.collect().status)
        assert statuses[0] in {1, 3}
        assert statuses[-1] == 0
        site.assert_exactly_once(SIGN_INS)


def test_requests_that_are_never_answered_time_out_and_are_repeated(tmp_path: Path) -> None:
    settings = Settings(list_troubles=Troubles(hang=0.5), detail_troubles=Troubles(hang=0.1))
    with a_site(tmp_path, {OUTGOING: PLAIN}, settings) as site:
        site.configure(list_timeout=1, detail_timeout=1, max_parallel_details=16)
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)
        assert site.provider.stats.troubles[Trouble.HANG] > 3
        assert any("no answer in time" in line["error"] for line in site.errors(OUTGOING))


@pytest.mark.parametrize("retry_after", list(RetryAfter))
def test_throttling_pauses_and_loses_nothing(tmp_path: Path, retry_after: RetryAfter) -> None:
    throttling = Throttling(max_per_second=90, pause=0.1, retry_after=retry_after)
    with a_site(tmp_path, {OUTGOING: PLAIN, INCOMING: PLAIN}, Settings(throttling=throttling)) as site:
        # 429 never counts as a try: with none to spare, all comes in the end.
        pauses = {"list_sleep_time": 0.001, "detail_sleep_time": 0.001}
        site.configure(list_retries=0, detail_retries=0, max_parallel_details=4, **pauses)
        ended = site.collect()
        assert ended.status == 0, ended
        site.assert_exactly_once(OUTGOING)
        site.assert_exactly_once(INCOMING)
        assert site.provider.stats.throttled > 0
        throttled = sum(ended.of(feed).metrics.throttled for feed in (OUTGOING, INCOMING))
        assert throttled == site.provider.stats.throttled
        assert any(line["error"].startswith("429") for line in site.errors(OUTGOING) + site.errors(INCOMING))


def test_the_list_record_stands_in_for_a_detail_that_never_comes_and_the_error_log_says_so(
    tmp_path: Path,
) -> None:
    traits = Traits(rate=0.1, start=START, end=START + 600, missing_details=0.5, detail_bytes=100)
    with a_site(tmp_path, {OUTGOING: traits}) as site:
        site.configure(detail_retries=1)
        ended = site.collect()
        assert ended.status == 0
        site.assert_exactly_once(OUTGOING)
        missing = ended.of(OUTGOING).metrics.stand_ins
        assert missing > 5
        stand_ins = [line for line in site.errors(OUTGOING) if "stands in" in line["error"]]
        assert len(stand_ins) == missing
        without = [json.loads(line) for line in site.lines(OUTGOING) if b'"logs"' not in line]
        assert len(without) == missing
        for record in without:
            assert any(record["queue_id"] in line["error"] for line in stand_ins)


def test_every_field_digit_and_character_is_kept(tmp_path: Path) -> None:
    traits = Traits(rate=0.1, start=START, end=START + 600, big_integers=1, hostile_text=1, detail_bytes=500)
    with a_site(tmp_path, {OUTGOING: traits, SIGN_INS: traits}) as site:
        site.configure()
        assert site.collect().status == 0
        for feed in (OUTGOING, SIGN_INS):
            events = list(site.provider.truth(feed, START, START + 600))
            records = [json.loads(line) for line in site.lines(feed)]
            assert records == [json.loads(event.value) for event in events]
            assert all(record["trace_id"] > 2**64 for record in records)
            assert all(record["note"].startswith("cut \0 short") for record in records)
    # What is no half of a pair stands in the file as it is, not as an escape.
    with a_site(tmp_path / "plain", {OUTGOING: PLAIN}) as site:
        site.configure()
        assert site.collect().status == 0
        text = b"\n".join(site.lines(OUTGOING)).decode()
        assert "İstanbul" in text
        assert "\\u0130" not in text


def test_records_that_say_nothing_are_kept_and_crash_nothing(tmp_path: Path) -> None:
    traits = Traits(rate=0.3, start=START, end=START + 300, nulls=0.2, not_objects=0.4, no_time=0.4)
    with a_site(tmp_path, {QUARANTINE: traits, OUTGOING: traits}) as site:
        site.configure()
        ended = site.collect()
        assert ended.status == 0
        for feed in (QUARANTINE, OUTGOING):
            # Nulls cannot be distinguished, but in one window each has its line.
            site.assert_exactly_once(feed)
            metrics = ended.of(feed).metrics
            assert metrics.not_objects + metrics.without_time == metrics.events


def test_a_section_without_domain_collects_all_domains_of_the_key_into_the_global_folder(
    tmp_path: Path,
) -> None:
    others = {
        Feed(api_key=KEY, domain=f"{name}.example.com", category="mail", type="incominglog") for name in "ab"
    }
    everything = Feed(api_key=KEY, domain="", category="mail", type="incominglog")
    with a_site(tmp_path, dict.fromkeys(sorted(others, key=lambda feed: feed.domain), PLAIN)) as site:
        site.feeds = [everything]
        site.configure()
        assert site.collect().status == 0
        site.assert_exactly_once(everything)
        names = [path.name for path in site.data_files(everything)]
        assert names == ["global_incominglog_2025-06-15_15.log"]
        assert not [call for call in site.provider.stats.lists if call.question.feed.domain]


def test_a_second_run_asks_only_for_what_may_have_changed(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN}, now=START + 630) as site:
        site.configure()
        site.collect()
        # 600 s in ranges of 300.
        assert len(site.provider.stats.lists) == 2
        site.clock.now = START + 640
        again = site.collect()
        # The look-back and ten new seconds: 310 s in ranges of 300.
        assert len(site.provider.stats.lists) == 4
        assert again.of(OUTGOING).metrics.details == 0
        assert_each_detail_was_fetched_once(site)
        starts = [
            (call.question.starttime - START, call.question.endtime - START)
            for call in site.provider.stats.lists
        ]
        assert starts == [(0, 300), (300, 600), (300, 600), (600, 610)]


def test_start_time_left_out_begins_now(tmp_path: Path) -> None:
    traits = Traits(rate=0.2, start=START, end=START + 2000)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 500) as site:
        site.configure(start_time="")
        assert site.collect().status == 0
        assert site.lines(SIGN_INS) == []
        site.clock.now = START + 1000
        assert site.collect().status == 0
        written = [json.loads(line) for line in site.lines(SIGN_INS)]
        assert written == [
            json.loads(event.value) for event in site.provider.truth(SIGN_INS, START + 500, START + 970)
        ]
