"""What work on a mailbox feed needs open: database, mailbox, reading child, folders. Here for one run; see also `pool`."""

from __future__ import annotations

import contextlib
import contextvars
import os
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mailferry import database, logs
from mailferry.clock import local_now
from mailferry.config.mailbox import MailboxKind
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.ledger.jobs import ClaimLost

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection, Pool
    from mailferry.mailbox.folders import Folders
    from mailferry.mailbox.ledger.jobs import Claim
    from mailferry.mailbox.source.imap_connection import TokenSource
    from mailferry.mailbox.source.message import Mailbox, MessageRef
    from mailferry.mailbox.workbook.contract import RowContract
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import Kind

log = logs.of(__name__, logs.DATABASE)


class SheetReader(Protocol):
    """What reads spreadsheets: one `Reader`, or several that are lent out."""

    def open(self, path: Path, kind: Kind, contract: RowContract) -> AbstractContextManager[Sheet]:
        """As `Reader.open`."""


@dataclass(kw_only=True)
class Work:
    """The open parts; they belong to one thread."""

    feed: MailboxFeed
    pool: Pool
    mailbox: Mailbox
    reader: SheetReader
    folders: Folders
    clock: Callable[[], dt.datetime] = local_now
    #: Set by whoever wants the run to end after the step it is at.
    stop: threading.Event = field(default_factory=threading.Event)
    #: Who we are, for the ledger.
    runner: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    #: Signs in where the mailbox wants OAuth2; None: whoever opens one makes its own.
    tokens: TokenSource | None = None
    #: How long a claim holds without a renewal; it is renewed three times as often.
    lease: dt.timedelta = leases.LEASE
    #: How often each message could not be fetched, see `gather`; lives longer than this one look into the mailbox.
    failures: Counter[MessageRef] = field(default_factory=Counter)

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        """One transaction; errors come out as Retry, Reject or Stop."""
        return database.transaction(self.pool)

    def single(self) -> contextlib.AbstractContextManager[Connection]:
        """For one statement that is a transaction by itself; errors come out as Retry, Reject or Stop."""
        return database.single(self.pool)


@contextlib.contextmanager
def opened(
    feed: MailboxFeed,
    folders: Folders,
    *,
    clock: Callable[[], dt.datetime] = local_now,
    stop: threading.Event | None = None,
) -> Iterator[Work]:
    """Open all parts; the reading child starts with the first file. Raises Retry or Stop for what cannot be opened."""
    from mailferry.mailbox.folders import reading_prefix
    from mailferry.mailbox.workbook.reader import Reader

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(database.connect(feed.database))
        mailbox = open_mailbox(feed.mailbox)
        stack.callback(mailbox.close)
        reader = stack.enter_context(Reader(feed.limits, folders.pending, reading_prefix()))
        yield Work(
            feed=feed,
            pool=pool,
            mailbox=mailbox,
            reader=reader,
            folders=folders,
            clock=clock,
            stop=stop or threading.Event(),
        )


def open_mailbox(
    settings: MailboxSettings, *, tokens: TokenSource | None = None, look_only: bool = False
) -> Mailbox:
    """The mailbox, signed in, by `tokens` where it wants OAuth2 and somebody keeps them. Raises Retry or Stop.

    `look_only`: nothing in it can be changed.
    """
    if settings.kind is MailboxKind.MAILDIR:
        from mailferry.mailbox.source.maildir import MaildirMailbox

        return MaildirMailbox(settings, look_only=look_only)
    from mailferry.mailbox.source.imap import ImapMailbox

    return ImapMailbox(settings, tokens=tokens, look_only=look_only)


@contextlib.contextmanager
def only_runner(work: Work) -> Iterator[bool]:
    """`claims.only_runner`, its errors translated; a lock that got lost with its connection is no error."""
    import psycopg

    with contextlib.ExitStack() as stack:
        try:
            alone = stack.enter_context(leases.only_runner(work.pool, work.feed.name))
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
        while not done.wait(work.lease.total_seconds() / 3):
            try:
                with work.transaction() as conn:
                    leases.renew(conn, held, work.lease)
            except ClaimLost:
                return  # whoever works on it finds out at its commit
            except Retry as error:
                log.debug("job %s: the claim could not be renewed: %s", held.job.id, error)
            except MailferryError as error:
                log.warning("job %s: the claim cannot be renewed: %s", held.job.id, error)
                return

    # With the ids of this thread's lines.
    carried = contextvars.copy_context().run
    thread = threading.Thread(target=carried, args=[renew], name=f"renew-{held.job.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
