"""The real parts that tests run against, one module each."""

from __future__ import annotations

import os
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
    """Let those that take longest begin first: each worker gets one run of the list, and its slow ones lead it.

    They mostly wait, so that the workers beside them have the processors; at the end they would wait alone. On a busy
    machine each has ten minutes.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))
    rest = [item for item in items if not item.get_closest_marker("slow")]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ordered: list[pytest.Item] = []
    for number in range(workers):
        # As `--dist worksteal` cuts the list.
        size = (len(items) - len(ordered)) // (workers - number)
        own = slow[number::workers]
        others = max(0, size - len(own))
        ordered += own + rest[:others]
        del rest[:others]
    items[:] = ordered + rest


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
