"""The real parts that tests run against, one module each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.mailbox.source.imap import ImapMailbox
    from mailferry.mailbox.source.maildir import MaildirMailbox

# A busy machine is no failure: what is tested here is never how long it takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["fixtures_postgres", "fixtures_dovecot", "fixtures_logs", "fixtures_watch"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those that take longest begin first, longest of all first, spread over the workers by their seconds.

    They mostly wait, so that the workers beside them have the processors; at the end they would wait alone. On a busy
    machine each has ten minutes.
    """
    workers = [_Worker() for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))]
    rest = [item for item in items if not item.get_closest_marker("slow")]
    for item in sorted(
        (item for item in items if item.get_closest_marker("slow")), key=_seconds, reverse=True
    ):
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))
        least = min(workers, key=lambda worker: worker.seconds)
        least.items.append(item)
        least.seconds += _seconds(item)
    ordered: list[pytest.Item] = []
    for number, worker in enumerate(workers):
        # As `--dist worksteal` cuts the list: one run of it for each worker.
        size = (len(items) - len(ordered)) // (len(workers) - number)
        others = max(0, size - len(worker.items))
        ordered += worker.items + rest[:others]
        del rest[:others]
    items[:] = ordered + rest


@dataclass
class _Worker:
    """The slow tests that one worker begins with, and how long they take."""

    items: list[pytest.Item] = field(default_factory=list)
    seconds: float = 0


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("slow")
    return float(marker.args[0]) if marker else 0.0


@pytest.fixture(scope="module")
def closed_mailboxes() -> Iterator[None]:
    """Close what the tests of a module open: each mailbox that parses has a reading child, and a thread that watches it."""
    from mailferry.mailbox.source.imap import ImapMailbox
    from mailferry.mailbox.source.maildir import MaildirMailbox

    opened: list[ImapMailbox | MaildirMailbox] = []

    def remembering(kind: type[ImapMailbox | MaildirMailbox]) -> Callable[..., None]:
        begin: Callable[..., None] = kind.__init__

        def remember(self: ImapMailbox | MaildirMailbox, *args: object, **kwargs: object) -> None:
            begin(self, *args, **kwargs)
            opened.append(self)

        return remember

    with pytest.MonkeyPatch.context() as patch:
        for kind in (ImapMailbox, MaildirMailbox):
            patch.setattr(kind, "__init__", remembering(kind))
        yield
    for mailbox in opened:
        mailbox.close()
