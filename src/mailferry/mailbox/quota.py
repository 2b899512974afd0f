"""What a feed takes in between two midnights of this machine: bytes in all, and messages of each sender. More waits in the mailbox."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mailferry.mailbox.file_contract import About
from mailferry.mailbox.ledger import records
from mailferry.mailbox.workbook.values import MIB

if TYPE_CHECKING:
    from datetime import datetime

    from mailferry.mailbox.context import Work


class Quota:
    """What one look into a mailbox may yet take in. Both limits are off by default."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._since: datetime | None = None
        self._senders: Counter[str] = Counter()
        #: Messages that were left in the mailbox, by sender.
        self._left: Counter[str] = Counter()
        self._used_up = ""

    def is_used_up(self) -> bool:
        """Whether every message waits, as the feed has taken in as many bytes as it may until midnight."""
        feed = self._work.feed
        if not feed.max_day_bytes:
            return False
        with self._work.transaction() as conn:
            taken = records.taken_in(conn, feed.name, self._midnight())
        if taken < feed.max_day_bytes:
            return False
        self._used_up = (
            f"{taken / MIB:,.1f} MB of attachments arrived since midnight, and {feed.spelled('max_day_bytes')} allows "
            f"{feed.max_day_bytes / MIB:,.1f} MB: what else arrived waits in the mailbox until tomorrow, or until that is raised"
        )
        return True

    def leaves(self, sender: str) -> bool:
        """Whether a message waits, as its sender (the header's text) has used up the day."""
        most = self._work.feed.max_sender_messages
        if not most:
            return False
        self._count_today()
        full = [one for one in _addresses(sender) if self._senders[one] >= most]
        self._left.update(full[:1])
        return bool(full)

    def count(self, sender: str) -> None:
        """A message of this sender was recorded."""
        self._senders.update(_addresses(sender))

    @property
    def reasons(self) -> list[str]:
        """Which messages wait, why, and until when; none where none does."""
        return [one for one in (self._of_senders(), self._used_up) if one]

    def _of_senders(self) -> str:
        if not self._left:
            return ""
        (first, count), others = self._left.most_common(1)[0], len(self._left) - 1
        more = f", and {self._left.total() - count} of {others} other senders" if others else ""
        return (
            f"{count} messages of {first}{more} wait in the mailbox until tomorrow: {self._work.feed.spelled('max_sender_messages')}"
            f" allows {self._work.feed.max_sender_messages} of one sender a day"
        )

    def _count_today(self) -> None:
        """What is on record since midnight; read again when a new day begins."""
        midnight = self._midnight()
        if midnight == self._since:
            return
        self._since = midnight
        self._senders.clear()
        with self._work.transaction() as conn:
            found = records.senders(conn, self._work.feed.name, midnight)
        for sender, count in found.items():
            self._senders.update(dict.fromkeys(_addresses(sender), count))

    def _midnight(self) -> datetime:
        return self._work.clock().replace(hour=0, minute=0, second=0, microsecond=0)


def _addresses(sender: str) -> list[str]:
    """All that the header has, each counted; those without any count as one sender."""
    return list(dict.fromkeys(one.casefold() for one in About(file="", sender=sender).addresses)) or [
        "a sender without an address"
    ]
