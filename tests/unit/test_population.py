"""The stand-in provider's events: the same for the same seed, and as odd as they were asked to be."""

# ruff: noqa: RUF001 - Turkish text is what is wanted here

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailferry.testing.population import Event, Feed, Population, Traits

START = 1_700_000_000
MAIL = Feed(api_key="key", domain="example.com", category="mail", type="incominglog")
QUARANTINE = Feed(api_key="key", domain="example.com", category="quarantine", type="hold")
SIGN_INS = Feed(api_key="key", domain="example.com", category="authentication", type="")
EVERY_KIND = Traits(
    rate=3,
    late=0.1,
    nulls=0.02,
    not_objects=0.05,
    no_time=0.05,
    no_queue_id=0.05,
    own_time=0.1,
    repeats=0.1,
    twins=0.2,
    big_integers=0.1,
    hostile_text=0.1,
    missing_details=0.1,
)


def events(feed: Feed, traits: Traits, *, end: int = START + 1000, seed: int = 1) -> list[Event]:
    return list(Population({feed: traits}, seed=seed).events(feed, START, end))


@pytest.mark.parametrize("feed", [MAIL, QUARANTINE, SIGN_INS], ids=lambda feed: feed.category)
def test_the_same_seed_gives_the_same_events_and_another_seed_others(feed: Feed) -> None:
    once = events(feed, EVERY_KIND)
    assert once == events(feed, EVERY_KIND)
    assert [event.record for event in once] != [event.record for event in events(feed, EVERY_KIND, seed=2)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=6), st.sampled_from([0.03, 1.0, 10.0]))
def test_a_range_holds_the_same_events_however_it_is_cut(cuts: list[int], rate: float) -> None:
    traits = replace(EVERY_KIND, rate=rate)
    edges = [START, *(START + cut for cut in sorted(cuts)), START + 200]
    population = Population({MAIL: traits})
    pieces = [list(population.events(MAIL, low, high)) for low, high in itertools.pairwise(edges)]
    whole = events(MAIL, traits, end=START + 200)
    assert [event for piece in pieces for event in piece] == whole


def test_events_come_in_time_order_and_about_as_many_as_the_rate_says() -> None:
    found = events(MAIL, Traits(rate=5))
    assert [event.second for event in found] == sorted(event.second for event in found)
    assert 4500 < len(found) < 5500
    assert len(events(MAIL, Traits(rate=0.001), end=START + 10**6)) in range(850, 1150)
    assert events(MAIL, Traits(rate=0)) == []


def test_a_burst_is_exactly_as_many_events_in_that_second() -> None:
    bursts = {START + 5: 1500, START + 6: 0}
    counts = Counter(event.second for event in events(MAIL, Traits(rate=5, bursts=bursts)))
    assert (counts[START + 5], counts[START + 6]) == (1500, 0)
    assert len(events(MAIL, Traits(rate=0, bursts=bursts))) == 1500


def test_nothing_happens_outside_the_period() -> None:
    traits = Traits(rate=5, start=START + 100, end=START + 200, bursts={START: 10, START + 200: 10})
    seconds = [event.second for event in events(MAIL, traits)]
    assert min(seconds) >= START + 100
    assert max(seconds) < START + 200


def test_queue_id_and_time_are_unique_while_queue_ids_come_again_later() -> None:
    found = [event for event in events(MAIL, EVERY_KIND) if event.queue_id]
    assert len({(event.queue_id, event.time) for event in found if event.time}) == sum(
        event.time is not None for event in found
    )
    attempts: dict[str, list[Event]] = {}
    for event in found:
        attempts.setdefault(event.queue_id or "", []).append(event)
    again = [group for group in attempts.values() if len(group) > 1]
    assert len(again) > 50
    for group in again:
        subjects = {json.loads(event.record)["subject"] for event in group}
        assert len(subjects) == 1


def test_the_time_of_a_mail_is_its_first_recipients_or_else_its_own() -> None:
    kinds: Counter[object] = Counter()
    for event in events(MAIL, EVERY_KIND):
        record = json.loads(event.record)
        if not isinstance(record, dict):
            kinds[type(record)] += 1
            assert (event.time, event.queue_id, event.detail) == (None, None, None)
            continue
        recipients = record["recipients"]
        time = recipients[0].get("time") if recipients else None
        own = record.get("time", record.get("timestamp"))
        kinds["own" if time is None and own else "none" if time is None else "recipient"] += 1
        assert event.time == (own if time is None else time)
        assert event.time in {None, event.second}
        assert event.queue_id == record.get("queue_id")
        if event.time is None or event.queue_id is None:
            assert event.detail is None
    assert {"own", "none", "recipient", str, int, list, type(None)} <= kinds.keys()


def test_a_detail_is_the_list_record_and_more_and_missing_ones_leave_the_record_as_truth() -> None:
    detailed = missing = 0
    for event in events(MAIL, replace(EVERY_KIND, detail_bytes=2000)):
        if event.detail is None:
            missing += event.queue_id is not None and event.time is not None
            assert event.value == event.record
            continue
        detailed += 1
        assert event.value == event.detail
        assert 1900 < len(event.detail) - len(event.record) < 2900
        record, detail = json.loads(event.record), json.loads(event.detail)
        assert record.items() <= {key: detail[key] for key in record}.items()
        assert detail.keys() - record.keys() == {"logs", "transactions", "filters", "emails"}
    assert detailed > 1000
    assert missing > 50


def test_twins_are_equal_byte_by_byte_and_are_events_of_their_own() -> None:
    same = Counter((event.second, event.record) for event in events(SIGN_INS, Traits(rate=10, twins=0.2)))
    assert sum(count > 1 for count in same.values()) > 200
    assert max(same.values()) > 2


def test_sign_ins_and_quarantine_tell_their_time_and_have_no_detail() -> None:
    for feed, keys in ((SIGN_INS, {"time", "timestamp"}), (QUARANTINE, {"time", "starttime"})):
        seen = set()
        for event in events(feed, Traits(rate=2)):
            record = json.loads(event.record)
            (key,) = keys & record.keys()
            seen.add(key)
            assert record[key] == event.time == event.second
            assert "queue_id" not in record
            assert event.detail is None
        assert seen == keys


def test_integers_of_twenty_digits_and_text_that_strict_parsers_refuse_are_there_when_asked_for() -> None:
    plain = b"".join(event.record for event in events(MAIL, Traits(rate=2)))
    assert b"trace_id" not in plain
    odd = [
        json.loads(event.record) for event in events(MAIL, Traits(rate=2, big_integers=0.1, hostile_text=0.1))
    ]
    numbers = [record["trace_id"] for record in odd if "trace_id" in record]
    assert len(numbers) > 100
    assert all(number > 2**64 and len(str(number)) == 20 for number in numbers)
    assert any("\ud83d" in record.get("note", "") and "\0" in record["note"] for record in odd)


def test_subjects_hold_turkish_letters_emoji_quotes_and_line_ends_on_one_line_of_json() -> None:
    found = events(MAIL, Traits(rate=2))
    subjects = "".join({json.loads(event.record)["subject"] for event in found})
    assert all(part in subjects for part in ("İ", "ı", "ğ", "🎉", '"', "\\", "\n", "\u2028"))
    assert all(b"\n" not in event.value for event in found)


def test_late_events_show_within_their_delay_and_the_others_within_their_second() -> None:
    found = events(MAIL, Traits(rate=5, late=0.2, late_by=30))
    delays = [event.visible_from - event.second for event in found]
    assert min(delays) >= 0
    assert max(delays) == 30
    assert 0.15 < sum(delay >= 1 for delay in delays) / len(delays) < 0.25


def test_a_page_is_the_newest_visible_events_newest_first() -> None:
    population = Population({MAIL: Traits(rate=5, late=0.2, late_by=30)})
    now = START + 90.5
    visible = [event for event in population.events(MAIL, START, START + 200) if event.visible_from <= now]
    page = population.page([MAIL], START, START + 200, now=now, cap=100)
    assert page == visible[::-1][:100]
    assert population.page([MAIL], START, START + 200, now=now, cap=10**6) == visible[::-1]


def test_a_key_without_a_domain_asks_for_all_of_its_domains() -> None:
    other = replace(MAIL, domain="example.org")
    stranger = replace(MAIL, api_key="another", domain="example.net")
    population = Population(dict.fromkeys([MAIL, other, stranger, SIGN_INS], Traits(rate=3)))
    every = list(population.events(replace(MAIL, domain=""), START, START + 100))
    assert {event.feed for event in every} == {MAIL, other}
    assert len(every) == sum(len(list(population.events(feed, START, START + 100))) for feed in (MAIL, other))
    page = population.page(
        population.matching(replace(MAIL, domain="")), START, START + 100, now=START + 200, cap=50
    )
    assert Counter(event.second for event in page[:-1]) <= Counter(event.second for event in every)
    assert [event.second for event in page] == sorted((event.second for event in every), reverse=True)[:50]


def test_every_mail_with_a_time_is_found_by_queue_id_and_that_time_only() -> None:
    population = Population({MAIL: EVERY_KIND, replace(MAIL, type="outgoinglog"): EVERY_KIND})
    for event in population.events(MAIL, START, START + 100):
        if event.queue_id and event.time:
            assert population.find("key", event.queue_id, event.time) == event
            assert population.find("key", event.queue_id, event.time + 100) is None
            assert population.find("other", event.queue_id, event.time) is None


def test_what_cannot_be_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match="late is a share"):
        Traits(late=1.5)
    with pytest.raises(ValueError, match="sum is over 1"):
        Traits(repeats=0.6, nulls=0.6)
    with pytest.raises(ValueError, match="rate"):
        Traits(rate=-1)
    with pytest.raises(ValueError, match="late_by"):
        Traits(late_by=0)
    with pytest.raises(ValueError, match="bursts"):
        Traits(bursts={START: -1})
    with pytest.raises(ValueError, match="no feed of category 'mail' and type 'hold'"):
        Feed(api_key="key", domain="example.com", category="mail", type="hold")
    with pytest.raises(ValueError, match="needs a domain"):
        Population({replace(MAIL, domain=""): Traits()})
    with pytest.raises(KeyError):
        next(Population({MAIL: Traits()}).events(SIGN_INS, START, START + 1))
