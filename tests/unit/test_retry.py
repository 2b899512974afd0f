"""Pauses between tries."""

from __future__ import annotations

import pytest

from mailferry import retry


def test_pauses_double_from_the_first_to_the_longest_and_never_overflow() -> None:
    assert [retry.pause(failures) for failures in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert [retry.pause(failures, first=3, longest=10) for failures in (1, 2, 3, 100_000)] == [3, 6, 10, 10]


def test_jitter_shortens_a_pause_by_at_most_its_share() -> None:
    pauses = {retry.pause(3, jitter=0.5) for _ in range(200)}
    assert len(pauses) > 100
    assert all(2 <= one <= 4 for one in pauses)


def test_without_a_failure_there_is_no_pause() -> None:
    with pytest.raises(ValueError, match="0 failures"):
        retry.pause(0)
