"""What a step of a mailbox feed works with. It belongs to one thread; `pool` opens and closes its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry import database

if TYPE_CHECKING:
    import datetime as dt
    import threading
    from collections import Counter
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection, Pool
    from mailferry.mailbox.folders import Folders
    from mailferry.mailbox.source.imap_connection import TokenSource
    from mailferry.mailbox.source.message import Mailbox, MessageRef
    from mailferry.mailbox.workbook.contract import RowContract
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A feed and its open parts."""

    feed: MailboxFeed
    pool: Pool
    mailbox: Mailbox
    #: Opens a spreadsheet, as `Reader.open`.
    read: Callable[[Path, Kind, RowContract], AbstractContextManager[Sheet]]
    folders: Folders
    clock: Callable[[], dt.datetime]
    #: Set when the work is to end after its current step.
    stop: threading.Event
    #: Signs in where the mailbox wants OAuth2.
    tokens: TokenSource | None
    #: How often each message could not be fetched, see `gather`; kept between two looks into the mailbox.
    failures: Counter[MessageRef]

    def transaction(self) -> AbstractContextManager[Connection]:
        """One transaction; errors come out as Retry, Reject or Stop."""
        return database.transaction(self.pool)
