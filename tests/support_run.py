"""A mailbox feed with its mailbox, its database and its folders, for tests that run it in this process."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from support_database import Queried
from support_mail import HEADER, Maildir, feed_of, mail, workbook

from mailferry import database
from mailferry.mailbox import run_once
from mailferry.mailbox.pool import MailPool
from mailferry.mailbox.turns import poll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.ledger.jobs import Details
    from mailferry.mailbox.run_result import Run


class Setting(Queried):
    """A feed, its mailbox, its database and its folders."""

    def __init__(self, base: Path, settings: DatabaseSettings) -> None:
        self.base = base / "app"
        self.maildir = Maildir(base / "Maildir")
        self.settings = settings

    def feed(self, **changes: Any) -> MailboxFeed:
        return feed_of(self.base, self.maildir.root, self.settings, **changes)

    def load(self, **changes: Any) -> Run:
        return run_once.run(self.feed(**changes))

    def gather(self) -> None:
        """Only store and record what has arrived."""
        with self.mail() as mail:
            poll(mail, self.feed().name)

    @contextlib.contextmanager
    def mail(self, **changes: Any) -> Iterator[MailPool]:
        """The feed as a worker of the service has it."""
        feed = self.feed()
        with (
            database.connect(self.settings) as pool,
            MailPool({feed.name: feed}, pool, worker_id="test", stop=threading.Event(), **changes) as mail,
        ):
            yield mail

    def send(
        self, *rows: tuple[object, ...], subject: str = "Track and Trace", name: str = "data.xlsx"
    ) -> str:
        return self.maildir.deliver(mail(subject, (name, workbook(HEADER, *rows))))

    def rows(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT hawb, status, pieces FROM tracking_data ORDER BY hawb")

    def places(self) -> list[str]:
        """Files below the base, but for the lock."""
        found = (path.relative_to(self.base) for path in self.base.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.name != ".lock")


def one(run: Run) -> Details:
    (details,) = run.jobs.values()
    return details
