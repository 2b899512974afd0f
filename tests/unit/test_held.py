"""Which fields of a list record the held record, that may say more, does not have with this value."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mailferry.events import order
from mailferry.events.held import Held, differing
from mailferry.events.stored import Found

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text(max_size=3), VALUES, min_size=1, max_size=5)


@given(RECORDS, st.dictionaries(st.text(min_size=4, max_size=5), VALUES, max_size=3))
def test_a_record_that_says_more_differs_in_nothing(listed: dict[str, Any], more: dict[str, Any]) -> None:
    assert differing(listed, {**listed, **more}) == []


@given(RECORDS, st.data())
def test_a_field_with_another_value_is_named_and_no_other(
    listed: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(listed)))
    held = copy.deepcopy(listed)
    held[name] = {"no": ["such", "value"]}
    assert differing(listed, held) == ([] if listed[name] == {} else [name])
    assert differing(listed, held, {name}) == []
    del held[name]
    assert differing(listed, held) == [name]


def test_what_is_nested_may_say_more_too_but_not_less() -> None:
    listed = {"to": [{"email": "a@example.com", "status": "sent"}], "size": 3, "part": {}}
    more = {
        "to": [{"email": "a@example.com", "status": "sent", "ip": "::1"}, {}],
        "size": 3,
        "part": {"a": 1},
    }
    assert differing(listed, more) == []
    assert differing(more, listed) == ["to", "part"]
    assert differing(listed, {**more, "to": [{"email": "a@example.com", "status": "queued"}]}) == ["to"]
    assert differing([1], {"a": 1}) == ["the whole record"]
    assert differing({"a": Decimal("1.50")}, {"a": 1.5}) == []


def test_a_record_nested_as_deep_as_may_be_is_compared() -> None:
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    assert differing({"a": deep}, {"a": deep}) == []
    assert differing({"a": deep}, {"a": [deep]}) == ["a"]


def test_events_with_the_same_queue_id_and_time_are_held_in_whatever_order() -> None:
    one, two = ({"queue_id": "Q", "time": 5, "to": name} for name in "ab")
    found = [
        Found(entry.time, timed=True, key=entry.key, record=entry.record, group=order.group(entry))
        for entry in order.entries([one, two])
    ]
    held = Held(found)
    assert len(held.keys) == 2
    for answer in ([one, two], [two, one]):
        for event in order.oldest_first(order.entries(answer), 0):
            assert held.differing(event, event.record) == []
    (changed,) = order.oldest_first(order.entries([{**one, "to": "c"}]), 0)
    assert held.differing(changed, changed.record) == ["to"]
