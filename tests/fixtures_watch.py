"""Watchers of mailboxes, what they call, and their end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support_wait import wait_for

from mailferry.mailbox.source.watch_imap import ImapWatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures_dovecot import Account

    from mailferry.mailbox.source.watch import State, Watcher

#: No wait ends by itself within a test: where one has to end, something must have interrupted it.
NEVER = {"connect_timeout": 3600, "read_timeout": 3600}


class Calls:
    """Stands for `on_news`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1

    def reach(self, count: int) -> None:
        wait_for(lambda: f"{count} calls, {self.count} came", lambda: self.count >= count)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def start(account: Account, calls: Calls) -> Iterator[Any]:
    """Starts watchers of the account; at the end all must be gone with their threads."""
    started: list[Watcher] = []

    def make(made: Watcher | None = None, /, *, tokens: Any = None, **changes: Any) -> Any:
        options = {key: changes.pop(key) for key in ("renew", "probe", "patience", "clock") if key in changes}
        made = made or ImapWatcher(account.settings(**changes), calls, tokens=tokens, **options)
        started.append(made)
        made.start()
        return made

    yield make
    for one in started:
        one.stop(timeout=30)
        gone(one)


def gone(stopped: Watcher) -> None:
    assert not [thread for thread in stopped._threads if thread.is_alive()]


def is_state(watched: Watcher, state: State) -> None:
    wait_for(lambda: f"{state}, it is {watched.health}", lambda: watched.health.state is state)
