"""Identity and order of events."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mailferry.events import order
from mailferry.events.order import Seen

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
records = st.fixed_dictionaries({"user": st.sampled_from("ab"), "time": st.integers(0, 3)})


def keys(answer: list[Any], *, keyed: bool = False) -> list[str]:
    return [entry.key for entry in order.entries(answer, keyed=keyed)]


@given(st.lists(records, max_size=12))
def test_equal_records_of_one_answer_are_as_many_events_and_the_same_ones_in_the_next(
    answer: list[Any],
) -> None:
    assert len(set(keys(answer))) == len(answer)
    assert set(keys(answer)) == set(keys(answer[::-1]))


@given(st.lists(records, max_size=12), st.integers(0, 12))
def test_a_part_of_an_answer_has_no_key_that_the_whole_has_not(answer: list[Any], cut: int) -> None:
    assert set(keys(answer[:cut])) <= set(keys(answer))


def test_the_order_of_keys_in_a_record_does_not_matter() -> None:
    assert keys([{"a": 1, "b": 2}]) == keys([{"b": 2, "a": 1}])


def test_mail_is_told_apart_by_queue_id_and_time() -> None:
    first = {"queue_id": "A1", "recipients": [{"time": 100, "status": "deferred"}]}
    changed = {"queue_id": "A1", "recipients": [{"time": 100, "status": "sent"}]}
    later = {"queue_id": "A1", "recipients": [{"time": 160, "status": "sent"}]}
    assert keys([first], keyed=True) == keys([changed], keyed=True)
    assert len(set(keys([first, changed, later], keyed=True))) == 2


@given(st.lists(json_values, max_size=8))
def test_anything_that_json_can_say_has_a_key(answer: list[Any]) -> None:
    assert len(keys(answer, keyed=True)) == len(answer)


@given(st.lists(st.none() | st.integers(10, 20), max_size=20))
def test_events_leave_in_strict_time_order_and_those_without_time_beside_their_neighbour(
    times: list[int | None],
) -> None:
    answer = [{"id": number, "time": time} for number, time in enumerate(times)]
    placed = order.oldest_first(order.entries(answer, keyed=False), 10)
    assert [event.time for event in placed] == sorted(event.time for event in placed)
    assert len(placed) == len(times)


def test_within_a_second_the_oldest_leaves_first() -> None:
    answer = [{"id": "new", "time": 5}, {"id": "old", "time": 5}]
    assert [event.record["id"] for event in order.oldest_first(order.entries(answer, keyed=False), 0)] == [
        "old",
        "new",
    ]


def test_what_was_seen_is_forgotten_by_the_range_that_listed_it() -> None:
    seen = Seen()
    seen.add("a", 100)
    seen.add("b", 200)
    seen.add("b", 150)
    seen.forget_before(200)
    assert list(seen) == ["b"]


def test_a_queue_id_that_is_no_text_has_a_key_too() -> None:
    assert (
        len(set(keys([{"queue_id": "\ud800bad", "time": 1}, {"queue_id": "bad", "time": 1}], keyed=True)))
        == 2
    )
