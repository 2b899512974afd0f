"""The one way to wait for what another thread or process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_Found = TypeVar("_Found")

#: Seconds after which what has not come is taken to never come; no figure that anything is measured by.
PATIENCE = 90.0


def wait_for(
    what: str | Callable[[], str],
    found: Callable[[], _Found | Literal[False] | None],
    *,
    patience: float = PATIENCE,
    every: float = 0.05,
) -> _Found:
    """The first true value of `found`, or a failure that says what was waited for.

    Looks often at first, then every `every` seconds, and after a long wait twice a second: a look may cost a connection.
    """
    begun = time.monotonic()
    pause = 0.001
    while not (value := found()):
        waited = time.monotonic() - begun
        if waited > patience:
            pytest.fail(f"not in {patience:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause)
        pause = min(2 * pause, max(every, min(waited / 20, 0.5)))
    return value
