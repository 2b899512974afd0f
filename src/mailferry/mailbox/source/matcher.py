"""Which messages a feed wants: headers in, verdict and reason out. Nothing else decides it.

The text of both filters is compared in any case, the four Turkish i as one letter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mailferry.mailbox.mime.headers import contains, fold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.message import Head

#: Raised when the same headers may get another verdict, so that earlier ones are forgotten.
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What became of the messages that were looked at; those that are gone are in none of these."""

    #: Oldest first.
    wanted: tuple[Head, ...]
    #: Not wanted.
    strangers: tuple[Head, ...]
    #: Their headers could not be read, so nothing is decided.
    unreadable: tuple[Head, ...]


class Addressed(Protocol):
    """What the filters look at."""

    @property
    def subject(self) -> str: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Matcher:
    """The filters of one feed; "" matches everything."""

    #: Text that the subject contains.
    subject: str
    #: An address (`ops@example.com`), a part of one (`ops@`, `@example.com`), a domain (`example.com`, and those below
    #: it), or a word that the address contains. Names beside addresses are what their sender likes.
    sender: str
    #: Tried for raw 8-bit headers; it does not decide here, but is part of what was decided.
    charset: str = ""

    @classmethod
    def of(cls, settings: MailboxSettings) -> Matcher:
        """The filters of a mailbox's settings."""
        return cls(subject=settings.subject_filter, sender=settings.sender_filter, charset=settings.charset)

    def mismatch(self, message: Addressed) -> str:
        """Why a message is not wanted; "" when it is."""
        if not contains(message.subject, self.subject):
            return f"the subject does not contain {self.subject!r}"
        wanted = fold(self.sender)
        # all of them: a second address is as easily added as a name
        if wanted and not (
            message.addresses and all(_is_from(fold(one), wanted) for one in message.addresses)
        ):
            return f"the sender's address does not match {self.sender!r}"
        return ""

    def sort(self, heads: Iterable[Head]) -> Look:
        """A verdict on each of them."""
        wanted: list[Head] = []
        strangers: list[Head] = []
        unreadable: list[Head] = []
        for head in heads:
            (unreadable if head.problem else strangers if self.mismatch(head) else wanted).append(head)
        wanted.sort(key=lambda head: (head.received, _order(head.ref.uid)))
        return Look(wanted=tuple(wanted), strangers=tuple(strangers), unreadable=tuple(unreadable))

    @property
    def fingerprint(self) -> str:
        """Changes whenever a verdict may change."""
        parts = (str(_VERSION), self.subject, self.sender, self.charset)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _order(uid: str) -> tuple[int, str]:
    """UIDs by number, unique names by letter."""
    return (int(uid), "") if uid.isdecimal() and len(uid) < 20 else (0, uid)


def _is_from(address: str, wanted: str) -> bool:
    user, at, domain = wanted.rpartition("@")
    local, _, host = address.rpartition("@")
    if at:
        return user in ("", local) and domain in ("", host)
    if "." in wanted:
        return wanted in (host, local) or host.endswith(f".{wanted}")
    return wanted in address
