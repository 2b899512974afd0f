"""The real parts that tests run against, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings

if TYPE_CHECKING:
    import pytest

# A busy machine is no failure: what is tested here is never how long it takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["fixtures_postgres", "fixtures_dovecot", "fixtures_logs", "fixtures_watch"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread those that take longest, which have a time-out of their own, so that no worker is left with all of them."""
    long = [item for item in items if item.get_closest_marker("timeout")]
    rest = [item for item in items if item not in long]
    between = len(rest) // len(long) + 1 if long else 0
    for number, item in enumerate(long):
        rest.insert(number * (between + 1), item)
    items[:] = rest
