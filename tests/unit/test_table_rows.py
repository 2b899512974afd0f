"""Events as rows: what jsonb is given, and the bytes of COPY."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mailferry.events.destination import Line
from mailferry.events.partitions import Partition, homeless, month
from mailferry.events.record import encode
from mailferry.events.rows import copied, rows, storable

#: Every character; halves of surrogate pairs, NUL and what makes up an escape more often than others.
TEXT = st.text(st.characters() | st.sampled_from("\0\ud83d\ude00\udfff\\u0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
REFUSED = re.compile("[\0\ud800-\udfff]")


def fitted(value: Any) -> Any:
    """The value with U+FFFD for what jsonb refuses."""
    if isinstance(value, dict):
        return {fitted(key): fitted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [fitted(one) for one in value]
    return REFUSED.sub("\ufffd", value) if isinstance(value, str) else value


@given(VALUES)
def test_jsonb_is_given_a_replacement_for_nul_and_half_a_pair_and_all_else_as_it_is(value: object) -> None:
    data = encode(value)
    exact = json.loads(data)
    assert json.loads(storable(data)) == fitted(exact)
    assert (storable(data) is data) == (json.dumps(exact) == json.dumps(fitted(exact)))


@given(st.lists(st.tuples(st.integers(0, 253_402_000_000), VALUES), max_size=20), st.integers(0, 10))
def test_rows_are_numbered_on_and_keep_the_exact_json_where_it_was_changed(
    events: list[tuple[int, object]], last: int
) -> None:
    lines = [Line(time, f"{number:016}", encode(value)) for number, (time, value) in enumerate(events)]
    made = rows(lines, last)
    assert [row.number for row in made] == list(range(last + 1, last + 1 + len(lines)))
    assert [(row.raw or row.record) for row in made] == [line.data for line in lines]
    whole = b"".join(copied("feed", made))
    assert whole.startswith(b"PGCOPY\n\xff\r\n\0")
    assert whole.endswith(b"\xff\xff")


def test_a_month_ends_where_the_next_begins_even_at_the_end_of_the_calendar() -> None:
    assert month(1_767_225_599) == ("2025-12-01 00:00:00+00", "2026-01-01 00:00:00+00")
    assert month(1_767_225_600) == ("2026-01-01 00:00:00+00", "2026-02-01 00:00:00+00")
    assert month(253_402_300_800 - 2 * 86_400 - 1)[1] == "10000-01-01 00:00:00+00"
    assert month(0)[0] == "1970-01-01 00:00:00+00"


def test_a_moment_is_homeless_where_no_partition_is_for_it() -> None:
    def partition(start: float, end: float) -> Partition:
        return Partition(schema="public", name="p", start=start, end=end)

    known = [partition(float("-inf"), 5), partition(10, 20), partition(20, 30)]
    assert homeless([4, 5, 9, 10, 19, 20, 29, 30], known) == [5, 9, 30]
    assert homeless([1, 2], []) == [1, 2]
    assert homeless([1], [partition(float("-inf"), float("inf")), partition(10, 20)]) == []
