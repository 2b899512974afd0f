"""Provider JSON and lines of files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.events import record as records

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.booleans())
def test_a_record_comes_out_of_its_line_as_it_went_in(value: object, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass" if not ascii_only else "strict"
    )
    line = records.encode(records.decode(body))
    assert b"\n" not in line
    if b"\\ud" in body.lower() or ascii_only:
        assert json.loads(line) == value


def test_text_is_written_as_utf_8_and_not_escaped() -> None:
    assert records.encode(records.decode(b'{"s":"\\u015fi\\u015fe"}')) == '{"s":"şişe"}'.encode()


def test_integers_of_any_length_keep_every_digit() -> None:
    body = b'{"id": 123456789012345678901234567890, "list":[-98765432109876543210]}'
    assert (
        records.encode(records.decode(body))
        == b'{"id":123456789012345678901234567890,"list":[-98765432109876543210]}'
    )


def test_bytes_that_are_no_utf_8_survive_as_escapes() -> None:
    assert json.loads(records.encode(records.decode(b'{"s":"\xff"}')))["s"] == "\udcff"


@pytest.mark.parametrize("body", [b"", b"  ", b"[{", b'[{"a":1}', b"<html>", b"[" * 100_000])
def test_what_is_no_whole_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        records.decode(body)


@pytest.mark.parametrize(
    ("record", "time"),
    [
        ({"recipients": [{"time": 7}], "time": 9}, 7),
        ({"recipients": [], "time": 9}, 9),
        ({"recipients": [{"email": "a@example.com"}], "timestamp": "9"}, 9),
        ({"starttime": 5.9}, 5),
        ({"time": None, "timestamp": 4}, 4),
        ({"recipients": [{"email": "a@example.com"}, {"time": 8}], "time": 9}, 8),
        ({"recipients": ["text", {"time": 8}]}, 8),
        ({"time": 1_750_000_000_123}, 1_750_000_000),
        ({"time": "1750000000123456"}, 1_750_000_000),
        ({"time": 1_750_000_000_123_456_789}, 1_750_000_000),
        ({"time": "2025-06-15T15:06:40Z"}, 1_750_000_000),
        ({"time": "2025-06-15 18:06:40.5+03:00"}, 1_750_000_000),
        ({"time": "2025-06-15T15:06:40"}, 1_750_000_000),
        ({"time": True}, None),
        ({"time": "soon"}, None),
        ({"time": -1}, None),
        ({"time": 1e30}, None),
        ({"time": "nan"}, None),
        ({}, None),
        ("text", None),
        (None, None),
    ],
)
def test_the_time_is_the_first_recipients_or_the_records_own(record: object, time: int | None) -> None:
    assert records.event_time(record) == time


@pytest.mark.parametrize(
    ("record", "spellings"),
    [
        ({"time": 1_750_000_000}, ["1750000000"]),
        ({"time": "1750000000"}, ["1750000000"]),
        ({"time": 1_750_000_000_123}, ["1750000000", "1750000000123"]),
        ({"time": "2025-06-15T15:06:40Z"}, ["1750000000", "2025-06-15T15:06:40Z"]),
        ({"time": "soon"}, []),
    ],
)
def test_a_detail_is_asked_for_by_seconds_and_by_the_time_as_it_was_written(
    record: object, spellings: list[str]
) -> None:
    assert records.time_spellings(record) == spellings


MAIL = {"queue_id": "A1", "recipients": [{"time": 7}], "size": 3}


@pytest.mark.parametrize(
    ("answer", "listed", "good"),
    [
        ({**MAIL, "logs": []}, MAIL, True),
        ({"recipients": [], "logs": []}, MAIL, True),
        ({**MAIL, "queue_id": "B2"}, MAIL, False),
        ({"status": 429, "code": "E429", "message": "Too Many Requests"}, MAIL, False),
        ({"status": 404, "message": "no such mail", "queue_id": "A1"}, MAIL, False),
        (
            {"status": 500, "message": "broken", "queue_id": "A1"},
            {"queue_id": "A1", "time": 7, "size": 3},
            False,
        ),
        (
            {"queue_id": "A1", "time": 7, "size": 3, "logs": []},
            {"queue_id": "A1", "time": 7, "size": 3},
            True,
        ),
        ([], MAIL, False),
        ({}, MAIL, False),
    ],
)
def test_an_answer_is_the_detail_only_if_it_is_that_record(
    answer: object, listed: object, good: bool
) -> None:
    assert records.is_detail(answer, listed) is good


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": 429}, 429),
        ({"status": "error", "code": "E503"}, 503),
        ({"status": "429"}, 429),
        ({"status": "sent", "code": 250}, None),
        ({"message": "hello"}, None),
        ([429], None),
    ],
)
def test_an_error_object_says_which_status_is_meant(answer: object, status: int | None) -> None:
    assert records.error_status(answer) == status


@pytest.mark.parametrize(
    "number",
    [
        "0.1234567890123456789",
        "-0.10000000000000001",
        "8.0000000000000011",
        "9007199254740993.5",
        "1.2345678901234567891e5",
        "18446744073709551616",
        "-9223372036854775809",
        "-1.2999999999999998",
    ],
)
def test_a_number_keeps_every_digit_wherever_it_stands(number: str) -> None:
    for body in (
        f"[{number}]",
        f'{{"a":{number},"b":[1,{number}]}}',
        f'{{"a": [ {number}\n], "b": "\\ud800"}}',
    ):
        line = records.encode(records.decode(body.encode()))
        digits = json.loads(line, parse_float=str, parse_int=str)
        assert digits == json.loads(body, parse_float=str, parse_int=str) or "e" in number
        if "e" in number:
            assert "123456.78901234567891" in line.decode().replace(
                "1.2345678901234567891E+5", "123456.78901234567891"
            )


@given(values)
def test_an_answer_without_poison_is_read_the_same_leniently(value: object) -> None:
    body = json.dumps([value]).encode()
    assert records.decode_leniently(body) == records.Decoded(records.decode(body))


@given(st.lists(st.dictionaries(st.text(max_size=3), values, max_size=3), max_size=5), st.data())
def test_a_record_that_cannot_be_read_spoils_no_other(
    some: list[dict[str, object]], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(some)))
    texts = [json.dumps(one) for one in some]
    texts.insert(at, '{"good": 1, "bad": nul, "list": [{"x": tru}, 2]}')
    found = records.decode_leniently(f"[{','.join(texts)}]".encode())
    odd = {"good": 1, "bad": "nul", "list": [{"x": "tru"}, 2]}
    assert found.unreadable == 2
    assert found.value == [*some[:at], odd, *some[at:]]


@pytest.mark.parametrize(
    "body", [b'[{"a":nul}', b'[{"a":nul},', b'[{"a":"nul]', b"[nul}", b"[nul] x", b"", b"nul"]
)
def test_an_answer_that_was_cut_is_refused_leniently_too(body: bytes) -> None:
    with pytest.raises(ValueError):
        records.decode_leniently(body)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"[1e999]", b'["1e999"]'),
        (b"[NaN,-Infinity]", b'["NaN","-Infinity"]'),
        (b"[" + b"7" * 5000 + b"]", b'["' + b"7" * 5000 + b'"]'),
        (b"[" * 900 + b"]" * 900, b"[" * 900 + b"]" * 900),
        (
            b"[" * 900 + b"12345678901234567890" + b"]" * 900,
            b"[" * 900 + b"12345678901234567890" + b"]" * 900,
        ),
    ],
)
def test_what_no_number_can_hold_is_kept_as_text_and_deep_values_as_they_are(
    body: bytes, line: bytes
) -> None:
    assert records.encode(records.decode(body)) == line
    assert records.canonical(records.decode(body))
