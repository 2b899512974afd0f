"""Pauses and the number of requests in flight."""

from __future__ import annotations

import asyncio

import pytest

from mailferry.events.throttle import AdaptiveSlots, Ahead, Slots, Throttle, retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, 100.0) == seconds


def test_without_retry_after_the_pause_doubles_until_an_answer_comes() -> None:
    now = 0.0
    throttle = Throttle(clock=lambda: now)
    pauses = []
    for _ in range(7):
        pauses.append(throttle.refused(None, 2))
        now += 100
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    throttle.answered()
    assert throttle.refused(None, 2) == 2


def test_a_retry_after_that_is_not_enough_is_not_believed_again() -> None:
    now = 0.0
    throttle = Throttle(clock=lambda: now)
    pauses = []
    for _ in range(5):
        pauses.append(throttle.refused(0.0, 2))
        now += 100
    assert pauses == [0, 2, 4, 8, 16]


def test_refusals_of_one_burst_count_once() -> None:
    throttle = Throttle(clock=lambda: 0.0)
    assert [throttle.refused(None, 2) for _ in range(8)] == [2] * 8


def test_a_request_that_others_depend_on_is_let_in_next() -> None:
    async def play() -> list[str]:
        slots = Slots(1)
        entered: list[str] = []

        async def enter(name: str, way: Slots | Ahead) -> None:
            async with way:
                entered.append(name)

        async with slots:
            waiting = asyncio.create_task(enter("detail", slots))
            await asyncio.sleep(0)
            ahead = asyncio.create_task(enter("list", Ahead(slots)))
            await asyncio.sleep(0)
            assert not entered
        await asyncio.gather(waiting, ahead)
        return entered

    assert asyncio.run(play()) == ["list", "detail"]


def rounds(slots: AdaptiveSlots, takes: int, requests: int) -> int:
    """Play a provider that takes so many at once; returns how many requests it refused."""
    refused = 0
    done = 0
    while done < requests:
        together = slots.limit
        done += together
        for number in range(together):
            if number < takes:
                slots.went_well()
            else:
                refused += 1
                slots.refused()
    return refused


def test_auto_reaches_what_the_provider_takes() -> None:
    slots = AdaptiveSlots()
    assert rounds(slots, takes=1000, requests=2000) == 0
    assert slots.limit == AdaptiveSlots.MOST


def test_auto_settles_below_a_limit_and_hardly_ever_tries_it_again() -> None:
    slots = AdaptiveSlots()
    assert rounds(slots, takes=8, requests=10_000) <= 100
    assert slots.limit <= 9


def test_auto_recovers_from_time_outs_without_remembering_a_limit() -> None:
    slots = AdaptiveSlots()
    for _ in range(20):
        slots.overloaded()
    assert slots.limit == AdaptiveSlots.LEAST
    rounds(slots, takes=1000, requests=2000)
    assert slots.limit == AdaptiveSlots.MOST


def test_slots_admit_in_order_and_survive_a_waiter_that_is_cancelled() -> None:
    async def play() -> list[int]:
        slots = Slots(1)
        entered: list[int] = []

        async def enter(number: int) -> None:
            async with slots:
                entered.append(number)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(enter(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert slots.in_flight == 0
        return entered

    assert asyncio.run(play()) == [0, 1, 3, 4]


def test_a_refusal_after_an_answer_of_the_same_burst_has_a_pause_too() -> None:
    throttle = Throttle(lambda: 100.0)
    throttle.refused(None, 2)
    throttle.answered()
    assert throttle.refused(None, 2) == 2
