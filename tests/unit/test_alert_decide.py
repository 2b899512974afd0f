"""Word is given once for each change, whatever comes and goes, is not delivered, or is killed in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.monitor.alerts.decide import QUIET, Announced, Memory, Message, decide, remember
from mailferry.monitor.facts import Need

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = QUIET + timedelta(seconds=1)


def need(key: str, kind: str = "failing", *, local: bool = False, feed: str = "") -> Need:
    return Need(key=key, kind=kind, subject=f"about {key}", reason="r", advice="a", local=local, feed=feed)


def keys(message: Message) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.key for one in message.new],
        [one.key for one in message.still],
        [one.key for one in message.over],
    )


class Channel:
    """A channel over time, as a process drives it."""

    def __init__(self, repeat_after: timedelta | None = DAY) -> None:
        self.memory = Memory()
        self.repeat_after = repeat_after
        self.now = NOON
        self.delivered: list[Message] = []

    def turn(self, *there: str, taken: bool = True, remembered: bool = True) -> Message:
        self.now += LATER
        needs = [need(key) for key in there]
        message = decide(needs, self.memory, self.now, repeat_after=self.repeat_after)
        if message and taken:
            self.delivered.append(message)
            if remembered:
                self.memory = remember(self.memory, message, self.now)
        return message


def test_a_need_is_announced_once_and_its_end_once() -> None:
    channel = Channel()
    said = [keys(channel.turn(*there)) for there in (["a"], ["a"], ["a", "b"], ["b"], [], [])]
    assert said == [
        (["a"], [], []),
        ([], [], []),
        (["b"], [], []),
        ([], [], ["a"]),
        ([], [], ["b"]),
        ([], [], []),
    ]


def test_what_is_still_there_is_said_again_after_the_time_and_not_before() -> None:
    channel = Channel(repeat_after=timedelta(hours=2))
    channel.turn("a")
    channel.now += timedelta(hours=2) - 2 * LATER
    assert not channel.turn("a")
    assert keys(channel.turn("a")) == ([], ["a"], [])
    assert not channel.turn("a")
    never = Channel(repeat_after=None)
    never.turn("a")
    never.now += 400 * DAY
    assert not never.turn("a")


def test_a_thousand_at_once_are_one_message_and_those_that_follow_at_once_wait_for_the_next() -> None:
    channel = Channel()
    message = channel.turn(*(f"feed:{n}:run" for n in range(1000)))
    assert len(message.new) == 1000
    after = [need(f"late:{n}") for n in range(1000)] + list(message.new)
    assert not decide(after, channel.memory, channel.now + timedelta(seconds=20), repeat_after=DAY)
    assert len(decide(after, channel.memory, channel.now + QUIET, repeat_after=DAY).new) == 1000


def test_a_clock_that_was_set_back_does_not_keep_word_back() -> None:
    memory = Memory(sent_at=NOON + 30 * DAY)
    assert decide([need("a")], memory, NOON, repeat_after=DAY)


def test_a_need_that_becomes_another_kind_is_news() -> None:
    memory = remember(Memory(), Message(new=(need("feed:a:run", "failing"),)), NOON)
    message = decide([need("feed:a:run", "blocked")], memory, NOON + LATER, repeat_after=DAY)
    assert keys(message) == (["feed:a:run"], [], [])
    assert not decide(
        [need("feed:a:run", "blocked")],
        remember(memory, message, NOON + LATER),
        NOON + 2 * LATER,
        repeat_after=DAY,
    )


def test_only_who_can_see_a_need_says_that_it_is_over() -> None:
    first = Message(new=(need("disk:a", local=True), need("gap:b")), host="h1")
    memory = remember(Memory(), first, NOON)
    assert (memory.announced["disk:a"].host, memory.announced["gap:b"].host) == ("h1", "")

    def judged(host: str) -> Message:
        def sees(one: Announced) -> bool:
            return one.host in ("", host)

        return decide([], memory, NOON + LATER, repeat_after=DAY, judged=sees)

    assert keys(judged("h2"))[2] == ["gap:b"]
    assert keys(judged("h1"))[2] == ["disk:a", "gap:b"]


_KEYS = st.frozensets(st.sampled_from("abcde"))
#: Needs at a turn, whether the channel takes the message, and whether that is remembered.
_TURNS = st.lists(st.tuples(_KEYS, st.booleans(), st.booleans()), max_size=30)


@given(_TURNS)
def test_each_need_is_said_once_until_it_is_gone_and_its_end_once_whatever_is_not_taken(
    turns: list[tuple[frozenset[str], bool, bool]],
) -> None:
    channel = Channel(repeat_after=None)
    known: frozenset[str] = frozenset()
    for there, taken, _ in turns:
        message = channel.turn(*sorted(there), taken=taken)
        new, still, over = map(frozenset, keys(message))
        # All that is due, and nothing else.
        assert (new, still, over) == (there - known, frozenset(), known - there)
        if taken:
            known = there
    # Once all is taken, there is nothing more to say.
    last = sorted(turns[-1][0]) if turns else []
    channel.turn(*last)
    assert not channel.turn(*last)


@given(_TURNS)
def test_a_kill_between_sending_and_remembering_repeats_and_loses_nothing(
    turns: list[tuple[frozenset[str], bool, bool]],
) -> None:
    channel = Channel(repeat_after=None)
    forgotten = 0
    for there, taken, remembered in turns:
        before = channel.memory
        message = channel.turn(*sorted(there), taken=taken, remembered=remembered)
        if message and taken and not remembered:
            forgotten += 1
            assert channel.memory == before
    heard: dict[str, int] = {}
    for message in channel.delivered:
        for one in message.new:
            heard[one.key] = heard.get(one.key, 0) + 1
    last = turns[-1][0] if turns else frozenset()
    channel.turn(*sorted(last))
    assert set(channel.memory.announced) == set(last)
    # More often than it came there was word of it only where word was forgotten.
    came = dict.fromkeys("abcde", 0)
    previous: frozenset[str] = frozenset()
    for there, _, _ in turns:
        for key in there - previous:
            came[key] += 1
        previous = there
    assert all(count <= came[key] + forgotten for key, count in heard.items())


@given(_TURNS)
def test_the_memory_is_read_back_as_it_was(turns: list[tuple[frozenset[str], bool, bool]]) -> None:
    channel = Channel()
    for there, taken, _ in turns:
        channel.turn(*sorted(there), taken=taken)
    assert Memory.from_json(channel.memory.to_json()) == channel.memory


def test_a_memory_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Memory.from_json({"sent_at": "2026-03-04T12:00:00", "announced": {}})
