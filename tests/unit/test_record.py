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
