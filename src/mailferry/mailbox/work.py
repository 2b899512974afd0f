"""What one run of a mailbox feed has open: database, mailbox, reading child, folders."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry import database
from mailferry.config.mailbox import MailboxKind
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox import ledger
from mailferry.mailbox.jobs import ClaimLost
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection, Pool
    from mailferry.mailbox.folders import Folders
    from mailferry.mailbox.jobs import Claim
    from mailferry.mailbox.model import Mailbox
    from mailferry.mailbox.spreadsheet import Reader

log = logging.getLogger("mailferry.mailbox")
#: Seconds between two renewals of a claim; its lease is three of them.
RENEWAL = ledger.LEASE.total_seconds() / 3


def local_now() -> dt.datetime:
    """The machine's clock in its own time zone, aware."""
    return dt.datetime.now().astimezone()


@dataclass(kw_only=True)
class Work:
    """The open parts; they belong to one thread."""

    feed: MailboxFeed
    pool: Pool
    mailbox: Mailbox
    reader: Reader
    folders: Folders
    clock: Callable[[], dt.datetime] = local_now
    #: Set by whoever wants the run to end after the step it is at.
    stop: threading.Event = field(default_factory=threading.Event)
    #: Who we are, for the ledger.
    runner: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        """One transaction; errors come out as Retry, Reject or Stop."""
        return database.transaction(self.pool)


@contextlib.contextmanager
def opened(
    feed: MailboxFeed,
    folders: Folders,
    *,
    clock: Callable[[], dt.datetime] = local_now,
    stop: threading.Event | None = None,
) -> Iterator[Work]:
    """Open all parts; the reading child starts with the first file. Raises Retry or Stop for what cannot be opened."""
    from mailferry.mailbox.folders import READING
    from mailferry.mailbox.spreadsheet import Reader

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(database.connect(feed.database))
        mailbox = open_mailbox(feed.mailbox)
        stack.callback(mailbox.close)
        reader = stack.enter_context(Reader(feed.limits, folders.pending, READING))
        yield Work(
            feed=feed,
            pool=pool,
            mailbox=mailbox,
            reader=reader,
            folders=folders,
            clock=clock,
            stop=stop or threading.Event(),
        )


def open_mailbox(settings: MailboxSettings, *, look_only: bool = False) -> Mailbox:
    """The mailbox, signed in. `look_only`: nothing in it can be changed. Raises Retry or Stop."""
    if settings.kind is MailboxKind.MAILDIR:
        from mailferry.mailbox.maildir import MaildirMailbox

        return MaildirMailbox(settings, look_only=look_only)
    from mailferry.mailbox.imap import ImapMailbox

    return ImapMailbox(settings, look_only=look_only)


@contextlib.contextmanager
def only_runner(work: Work) -> Iterator[bool]:
    """`ledger.only_runner`, its errors translated; a lock that got lost with its connection is no error."""
    import psycopg

    with contextlib.ExitStack() as stack:
        try:
            alone = stack.enter_context(ledger.only_runner(work.pool, work.feed.name))
        except psycopg.Error as error:
            raise database.translated(error) from error
        try:
            yield alone
        finally:
            with contextlib.suppress(psycopg.Error):
                stack.close()


@contextlib.contextmanager
def kept(work: Work, held: Claim) -> Iterator[None]:
    """Renew the claim, from a thread of its own, as long as the work on it goes on."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL):
            try:
                with work.transaction() as conn:
                    ledger.renew(conn, held)
            except ClaimLost:
                return  # whoever works on it finds out at its commit
            except Retry as error:
                say(logging.DEBUG, "job %s: the claim could not be renewed: %s", held.job.id, error)
            except MailferryError as error:
                say(logging.WARNING, "job %s: the claim cannot be renewed: %s", held.job.id, error)
                return

    thread = threading.Thread(target=renew, name=f"renew-{held.job.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def say(level: int, text: str, *values: object) -> None:
    """One line in the log, without secrets and control characters, whoever listens."""
    if log.isEnabledFor(level):
        log.log(level, "%s", mask(text % values))
