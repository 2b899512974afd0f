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


def keys(answer: list[Any]) -> list[str]:
    return [entry.key for entry in order.entries(answer)]


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


def test_mail_is_distinguished_by_queue_id_and_time() -> None:
    first = {"queue_id": "A1", "recipients": [{"time": 100, "status": "deferred"}]}
    changed = {"queue_id": "A1", "recipients": [{"time": 100, "status": "sent"}]}
    later = {"queue_id": "A1", "recipients": [{"time": 160, "status": "sent"}]}
    assert keys([first]) == keys([changed])
    # Two of one answer are two events.
    assert len(set(keys([first, changed, later]))) == 3


@given(st.lists(json_values, max_size=8))
def test_anything_that_json_can_say_has_a_key(answer: list[Any]) -> None:
    assert len(keys(answer)) == len(answer)


@given(st.lists(st.none() | st.integers(10, 20), max_size=20))
def test_events_leave_in_strict_time_order_and_those_without_time_beside_their_neighbour(
    times: list[int | None],
) -> None:
    answer = [{"id": number, "time": time} for number, time in enumerate(times)]
    placed = order.oldest_first(order.entries(answer), 10)
    assert [event.time for event in placed] == sorted(event.time for event in placed)
    assert len(placed) == len(times)


def test_within_a_second_the_oldest_leaves_first() -> None:
    answer = [{"id": "new", "time": 5}, {"id": "old", "time": 5}]
    assert [event.record["id"] for event in order.oldest_first(order.entries(answer), 0)] == [
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
    assert len(set(keys([{"queue_id": "\ud800bad", "time": 1}, {"queue_id": "bad", "time": 1}]))) == 2


# --- records that change


def mail(queue_id: str, status: str, time: int = 100) -> dict[str, Any]:
    return {"queue_id": queue_id, "recipients": [{"time": time, "status": status}]}


def test_the_state_of_a_mail_follows_its_content_and_its_key_does_not() -> None:
    one, other = order.entries([mail("A", "queued")]), order.entries([mail("A", "sent")])
    assert one[0].key == other[0].key
    assert one[0].state != other[0].state
    assert order.entries([{"user": "a", "time": 1}])[0].state == ""


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), st.data())
def test_records_of_one_queue_id_and_time_keep_their_keys_in_whatever_order_and_part_they_come(
    statuses: list[str], data: st.DataObject
) -> None:
    first = order.entries([mail("A", status) for status in statuses])
    seen = Seen()
    for entry in first:
        seen.add(entry.key, 100, entry.state)
    again = data.draw(st.permutations(statuses))[: data.draw(st.integers(1, len(statuses)))]
    found = order.matched(order.entries([mail("A", status) for status in again]), seen)
    assert len({entry.key for entry in found}) == len(again)
    for entry in found:
        assert entry.key in seen
        assert not seen.changed(entry.key, entry.state)


def test_one_more_of_the_same_queue_id_and_time_is_new_and_the_known_one_keeps_its_key() -> None:
    seen = Seen()
    (known,) = order.entries([mail("A", "sent")])
    seen.add(known.key, 100, known.state)
    new, same = order.matched(order.entries([mail("A", "bounced"), mail("A", "sent")]), seen)
    assert same.key == known.key
    assert new.key not in seen


def test_a_newer_state_has_the_key_of_the_older() -> None:
    seen = Seen()
    (known,) = order.entries([mail("A", "queued")])
    seen.add(known.key, 100, known.state)
    (newer,) = order.matched(order.entries([mail("A", "sent")]), seen)
    assert newer.key == known.key
    assert seen.changed(newer.key, newer.state)
    seen.forget_before(101)
    assert not seen.states


def test_identity_names_the_fields_and_ignored_ones_do_not_count() -> None:
    by_id = order.Identity(fields=("id",))
    held, released = {"id": 7, "state": "held"}, {"id": 7, "state": "released"}
    (one,), (other,) = order.entries([held], by_id), order.entries([released], by_id)
    assert one.key == other.key
    assert one.state != other.state
    without = order.Identity(ignored=frozenset({"link"}))
    assert (
        len({entry.key for link in "ab" for entry in order.entries([{"user": "a", "link": link}], without)})
        == 1
    )
    assert order.entries([{"user": "a"}], by_id)[0].key == order.entries([{"user": "a"}])[0].key


def test_a_field_that_changes_with_every_answer_is_found() -> None:
    def answer(sign: str) -> list[order.Entry]:
        return order.entries([{"user": user, "link": f"{user}{sign}", "time": 5} for user in "abc"])

    assert order.volatile(answer("x"), answer("y")) == ["link"]
    assert order.volatile(answer("x"), answer("x")) == []
    assert order.volatile(order.entries([{"a": 1}]), order.entries([{"b": 1}])) == []


def test_a_time_that_cannot_be_is_none() -> None:
    (absurd, good) = order.entries([{"time": 4_102_444_800}, {"time": 50}], between=(0, 100))
    assert (absurd.time, good.time) == (None, 50)
