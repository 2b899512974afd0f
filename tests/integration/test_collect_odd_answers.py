"""What a provider may answer instead of what was asked for: error objects, poison, details that are not there."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, SIGN_INS, START, a_site

from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = Traits(rate=0.2, start=START, end=START + 600, detail_bytes=100)
DEEP = b"[" * 20_000 + b"]" * 20_000


@pytest.mark.parametrize("trouble", ["error_object_200", "throttled_200"])
def test_an_error_object_that_comes_with_200_is_never_written_as_the_event(
    tmp_path: Path, trouble: str
) -> None:
    troubles = Troubles(**{trouble: 0.3})
    settings = Settings(list_troubles=troubles, detail_troubles=troubles)
    with a_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}, settings) as site:
        site.configure()
        ended = site.collect()
        assert ended.status == 0
        site.assert_exactly_once(OUTGOING)
        site.assert_exactly_once(SIGN_INS)
        metrics = ended.of(OUTGOING).metrics
        assert metrics.stand_ins == 0
        assert (metrics.throttled > 0) == (trouble == "throttled_200")
        assert site.provider.stats.troubles.total() > 5


def test_a_503_that_asks_to_wait_is_waited_for_and_is_no_failed_try(tmp_path: Path) -> None:
    troubles = Troubles(maintenance_503=1)
    settings = Settings(list_troubles=troubles, max_failures_per_url=1)
    with a_site(tmp_path, {SIGN_INS: PLAIN}, settings) as site:
        site.configure(list_retries=0, split_interval=700)
        started = time.monotonic()
        assert site.collect().status == 0
        assert time.monotonic() - started >= 1
        site.assert_exactly_once(SIGN_INS)


def test_an_error_object_that_stays_leaves_the_list_record_in_its_place(tmp_path: Path) -> None:
    settings = Settings(
        detail_troubles=Troubles(error_object_200=0.2), max_failures_per_url=1000, page_cap=1000
    )
    with a_site(tmp_path, {OUTGOING: PLAIN}, settings) as site:
        site.configure(detail_retries=1)
        ended = site.collect()
        assert ended.status == 0
        records = [json.loads(line) for line in site.lines(OUTGOING)]
        truth = [json.loads(e.value) for e in site.provider.truth(OUTGOING, START, START + 600)]
        assert [record["queue_id"] for record in records] == [event["queue_id"] for event in truth]
        without = sum("logs" not in record for record in records)
        assert without == ended.of(OUTGOING).metrics.stand_ins > 0


def _with_poison(spoil: Callable[[bytes], bytes]) -> Settings:
    return Settings(rewrite=lambda path, body: spoil(body) if "starttime" in path else body)


def test_a_byte_order_mark_and_raw_control_characters_are_read(tmp_path: Path) -> None:
    def spoil(body: bytes) -> bytes:
        return b"\xef\xbb\xbf" + body.replace(b'"user":"', b'"user":"a raw\nline\x01 ')

    with a_site(tmp_path, {SIGN_INS: PLAIN}, _with_poison(spoil)) as site:
        site.configure()
        ended = site.collect()
        assert ended.status == 0
        assert ended.of(SIGN_INS).metrics.unreadable == 0
        users = [json.loads(line)["user"] for line in site.lines(SIGN_INS)]
        truth = [json.loads(e.value)["user"] for e in site.provider.truth(SIGN_INS, START, START + 600)]
        assert users == [f"a raw\nline\x01 {user}" for user in truth]
        assert site.collect().of(SIGN_INS).metrics.events == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(DEEP, DEEP.decode()), (b"nul", "nul"), (rb'"\x"', r'"\x"')],
    ids=["deep", "word", "escape"],
)
def test_a_value_that_no_parser_reads_is_kept_as_text_and_all_others_as_they_are(
    tmp_path: Path, value: bytes, text: str
) -> None:
    number = iter(range(1000))

    def spoil(body: bytes) -> bytes:
        # One record of the first answer.
        return (
            body.replace(b"{", b'{"odd":' + value + b",", 1) if len(body) > 2 and next(number) == 0 else body
        )

    with a_site(tmp_path, {SIGN_INS: PLAIN}, _with_poison(spoil)) as site:
        site.configure(look_back=0, split_interval=120)
        ended = site.collect()
        assert ended.status == 0
        assert ended.of(SIGN_INS).metrics.unreadable == 1
        records = [json.loads(line) for line in site.lines(SIGN_INS)]
        assert [record.pop("odd") for record in records if "odd" in record] == [text]
        assert records == [json.loads(e.value) for e in site.provider.truth(SIGN_INS, START, START + 600)]
        assert any("kept as its text" in line["error"] for line in site.errors(SIGN_INS))


def test_a_decimal_keeps_every_digit(tmp_path: Path) -> None:
    def spoil(body: bytes) -> bytes:
        return body.replace(b'"user":', b'"score":0.1234567890123456789,"user":')

    with a_site(tmp_path, {SIGN_INS: PLAIN}, _with_poison(spoil)) as site:
        site.configure()
        assert site.collect().status == 0
        lines = site.lines(SIGN_INS)
        assert lines
        assert all(b'"score":0.1234567890123456789,' in line for line in lines)


@pytest.mark.slow(40)
def test_one_detail_in_a_hundred_that_is_not_there_hardly_holds_up_the_rest(tmp_path: Path) -> None:
    whole = Traits(rate=2, start=START, end=START + 600, detail_bytes=100)
    some = Traits(rate=2, start=START, end=START + 600, detail_bytes=100, missing_details=0.01)
    spans = []
    for name, traits in (("whole", whole), ("some", some)):
        with a_site(tmp_path / name, {OUTGOING: traits}, Settings(latency=0.02)) as site:
            site.configure(max_parallel_details=4, detail_sleep_time=2)
            started = time.monotonic()
            ended = site.collect()
            spans.append(time.monotonic() - started)
            assert ended.status == 0
            site.assert_exactly_once(OUTGOING)
            assert (ended.of(OUTGOING).metrics.stand_ins > 5) == (traits is some)
    # Ten growing pauses of two seconds and more would take minutes.
    assert spans[1] < spans[0] + 60


@pytest.mark.parametrize("spelling", ["iso", "milliseconds", "float", "text", "second recipient"])
def test_a_time_of_whatever_shape_is_read_and_the_detail_asked_for(tmp_path: Path, spelling: str) -> None:
    def spoil(body: bytes) -> bytes:
        records = json.loads(body)
        for record in records:
            second = record["recipients"][0]["time"]
            shape = {
                "iso": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second)),
                "milliseconds": second * 1000 + 7,
                "float": second + 0.25,
                "text": str(second),
                "second recipient": None,
            }[spelling]
            record["recipients"] = [{"email": "first@example.com", "time": shape}]
            record["recipients"].append({"email": "second@example.com", "time": second})
        return json.dumps(records).encode()

    with a_site(tmp_path, {OUTGOING: PLAIN}, _with_poison(spoil)) as site:
        site.configure()
        ended = site.collect()
        assert ended.status == 0
        assert ended.of(OUTGOING).metrics.stand_ins == 0
        site.assert_exactly_once(OUTGOING)
