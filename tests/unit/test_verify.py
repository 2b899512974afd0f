"""Comparing lines with the truth: each way to be wrong is seen, and counted as what it is."""

# ruff: noqa: RUF001 - Turkish text is what is wanted here

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.testing.population import Feed, Population, Traits
from mailferry.testing.verify import Comparison, Truth, compare, read_lines, read_truth

if TYPE_CHECKING:
    from pathlib import Path

START = 1_700_000_000
FEED = Feed(api_key="key", domain="example.com", category="mail", type="incominglog")
TRAITS = Traits(
    rate=1, not_objects=0.05, no_time=0.05, repeats=0.05, big_integers=0.1, hostile_text=0.1, detail_bytes=100
)
EVENTS = list(Population({FEED: TRAITS}).events(FEED, START, START + 60))
LINES = [event.value for event in EVENTS]
PLACED = [place for place, event in enumerate(EVENTS) if event.time is not None]


def counts(result: Comparison) -> tuple[int, int, int, int]:
    return (result.lost, result.twice, result.foreign, result.out_of_order)


def test_the_truth_itself_is_clean() -> None:
    result = compare(EVENTS, LINES)
    assert counts(result) == (0, 0, 0, 0)
    assert result.total == len(EVENTS)
    assert result.clean()


@given(st.integers(0, len(LINES) - 1))
def test_a_lost_line_is_counted(place: int) -> None:
    result = compare(EVENTS, LINES[:place] + LINES[place + 1 :])
    assert counts(result) == (1, 0, 0, 0)
    assert not result.clean()


@given(st.integers(0, len(LINES) - 1))
def test_a_doubled_line_is_counted(place: int) -> None:
    result = compare(EVENTS, [*LINES[:place], LINES[place], *LINES[place:]])
    assert counts(result) == (0, 1, 0, 0)
    assert not result.clean()


@given(st.sampled_from(PLACED), st.sampled_from(PLACED))
def test_a_line_behind_younger_ones_is_out_of_order_unless_it_is_known_to_be_late(
    one: int, other: int
) -> None:
    first, last = sorted((one, other))
    moved = [*LINES[:first], *LINES[first + 1 : last + 1], LINES[first], *LINES[last + 1 :]]
    between = [EVENTS[place].second for place in PLACED if first < place <= last]
    misplaced = any(second > EVENTS[first].second for second in between)
    result = compare(EVENTS, moved)
    assert counts(result) == (0, 0, 0, int(misplaced))
    assert result.clean() is not misplaced
    assert result.clean(late=1)


def test_equal_events_need_as_many_equal_lines() -> None:
    truth = [Truth(START, b'{"a":1}')] * 3
    assert counts(compare(truth, [b'{"a":1}'] * 2)) == (1, 0, 0, 0)
    assert counts(compare(truth, [b'{ "a": 1 }'] * 3)) == (0, 0, 0, 0)
    assert counts(compare(truth, [b'{"a":1}'] * 4)) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("written", "same"),
    [
        (b'{"b": "\\u0131", "a": 20000000000000000001}', True),
        ('{"a":20000000000000000001,"b":"ı"}'.encode(), True),
        (b'{"a":2e19,"b":"\\u0131"}', False),
        (b'{"a":20000000000000000000,"b":"\\u0131"}', False),
        (b'{"a":20000000000000000001,"b":"i"}', False),
        (b'{"a":20000000000000000001,"b":"\\u01', False),
        (b"", False),
        (b"\xff\xfe\x00", False),
    ],
)
def test_json_is_compared_by_value_to_the_last_digit(written: bytes, same: bool) -> None:
    truth = [Truth(START, '{"a":20000000000000000001,"b":"ı"}'.encode())]
    assert counts(compare(truth, [written])) == ((0, 0, 0, 0) if same else (1, 0, 1, 0))


def test_the_first_of_what_is_wrong_is_shown() -> None:
    result = compare(EVENTS, [*LINES[1:], LINES[-1], b'{"torn'])
    assert counts(result) == (1, 1, 1, 0)
    kinds = {example.split(":")[0] for example in result.examples}
    assert kinds == {"lost", "twice", "foreign"}


def test_files_are_read_one_after_the_other_and_a_torn_last_line_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "1.log").write_bytes(b"a\nb\n")
    (tmp_path / "2.log").write_bytes(b"c\n{to")
    assert list(read_lines(sorted(tmp_path.iterdir()))) == [b"a", b"b", b"c", b"{to"]


def test_truth_written_as_json_lines_is_the_same_truth() -> None:
    saved = [json.dumps({"time": e.time, "value": json.loads(e.value)}).encode() for e in EVENTS]
    assert compare(read_truth(saved), LINES).clean()
