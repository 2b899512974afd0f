"""Troubles come by seed and URL, throttling by rule."""

from __future__ import annotations

from collections import Counter
from email.utils import parsedate_to_datetime

import pytest

from mailferry.testing.troubles import Fate, Gate, RetryAfter, Throttling, Trouble, Troubles

URLS = [f"/list?starttime={number}" for number in range(2000)]


def fates(
    seed: int, urls: list[str] = URLS, attempts: int = 3, **shares: float
) -> dict[str, list[Trouble | None]]:
    fate = Fate(Troubles(**shares), seed=seed, max_failures=2)
    return {url: [fate.draw(url) for _ in range(attempts)] for url in urls}


def test_what_befalls_a_url_depends_on_the_seed_and_not_on_the_order_of_requests() -> None:
    once = fates(1, error_500=0.2, hang=0.1)
    assert once == fates(1, urls=URLS[::-1], error_500=0.2, hang=0.1)
    assert once != fates(2, error_500=0.2, hang=0.1)


def test_troubles_come_about_as_often_as_asked_for() -> None:
    seen = Counter(one for attempts in fates(1, error_500=0.2, cut_json=0.1).values() for one in attempts[:1])
    assert 320 < seen[Trouble.ERROR_500] < 480
    assert 140 < seen[Trouble.CUT_JSON] < 260
    assert set(seen) == {None, Trouble.ERROR_500, Trouble.CUT_JSON}


def test_a_url_fails_no_more_often_than_allowed() -> None:
    for attempts in fates(1, attempts=5, empty_200=1.0).values():
        assert attempts == [Trouble.EMPTY_200, Trouble.EMPTY_200, None, None, None]


def test_spread_troubles_are_those_that_a_list_or_a_detail_can_have() -> None:
    lists, details = Troubles.spread(0.12, details=False), Troubles.spread(0.12, details=True)
    assert lists.not_there_yet == lists.wrong_detail == lists.hang == details.hang == 0
    assert details.not_there_yet == details.wrong_detail == pytest.approx(0.01)
    assert sum(getattr(lists, trouble) for trouble in Trouble) == pytest.approx(0.12)


def test_shares_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="sum of at most 1"):
        Troubles(error_500=0.6, hang=0.6)
    with pytest.raises(ValueError, match="shares from 0 on"):
        Troubles(error_500=-0.1)
    with pytest.raises(ValueError, match="1 or more"):
        Throttling(max_concurrent=0)


def test_more_requests_at_once_than_allowed_close_the_gate_for_all_until_the_pause_is_over() -> None:
    gate = Gate(Throttling(max_concurrent=2, pause=5))
    assert [gate.enter(10.0), gate.enter(10.0), gate.enter(10.0)] == [None, None, 5]
    gate.leave()
    assert gate.enter(14.0) == 1.0
    assert gate.enter(15.0) is None
    assert gate.highest == 2


def test_more_requests_in_a_second_than_allowed_are_refused() -> None:
    gate = Gate(Throttling(max_per_second=3, pause=0))
    entered = []
    for now in (10.0, 10.1, 10.2, 10.3, 10.9, 11.0, 11.05):
        entered.append(gate.enter(now) is None)
        if entered[-1]:
            gate.leave()
    assert entered == [True, True, True, False, False, True, False]


def test_retry_after_is_seconds_a_date_or_missing() -> None:
    now = 1_700_000_000.4
    assert Throttling().headers(1.2, now) == {"Retry-After": "2"}
    assert Throttling(retry_after=RetryAfter.MISSING).headers(1.2, now) == {}
    date = Throttling(retry_after=RetryAfter.DATE).headers(1.2, now)["Retry-After"]
    assert date.endswith(" GMT")
    assert parsedate_to_datetime(date).timestamp() == 1_700_000_002
