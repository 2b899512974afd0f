"""Messages, their parts and the files taken from them; the one interface that both kinds of mailbox have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from mailferry.errors import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mailferry.mailbox.mime.headers import Headers
    from mailferry.mailbox.mime.tree import Part
    from mailferry.mailbox.workbook.inspector import Inspector
    from mailferry.mailbox.workbook.values import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageRef:
    """Which message: what the ledger keeps, and enough to find the message again."""

    #: `user@host` of an IMAP account, or the Maildir's absolute path.
    account: str
    #: The folder as people write it (not modified UTF-7); "" for a Maildir's own.
    folder: str
    #: RFC 3501 2.3.1.1; 0 for a Maildir, whose unique names never come again.
    uidvalidity: int
    #: The IMAP UID in decimal, or the Maildir unique name (no flags).
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What decides whether a message is wanted: a few decoded headers; "" where missing."""

    ref: MessageRef
    #: As in `Summary`.
    received: datetime
    subject: str
    sender: str
    #: The addresses of the sender, without the names beside them.
    addresses: tuple[str, ...]
    #: Why the headers cannot be read; "" where they can.
    problem: str = ""

    @property
    def title(self) -> str:
        """The message as people know it: subject, sender, time."""
        when = f"{self.received.astimezone():%Y-%m-%d %H:%M}"
        return (
            f"message {self.ref.uid} {self.subject[:100]!r} from {self.sender[:100] or 'no sender'}, {when}"
        )


def unreadable(ref: MessageRef, problem: str, received: datetime | None = None) -> Head:
    """The head of a message whose headers cannot be read."""
    unknown = received or datetime.fromtimestamp(0, UTC)
    return Head(ref=ref, received=unknown, subject="", sender="", addresses=(), problem=problem)


def head_of(ref: MessageRef, headers: Headers, received: datetime) -> Head:
    """The head of a message, by its headers."""
    return Head(
        ref=ref,
        received=received,
        subject=headers.subject,
        sender=headers.sender,
        addresses=headers.addresses,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What is known of a message before any of its parts is fetched."""

    ref: MessageRef
    #: Decoded headers, control characters removed; "" where missing.
    subject: str
    sender: str
    message_id: str
    #: When the mailbox received it (INTERNALDATE, or the file's time), aware.
    received: datetime
    #: Whole size in bytes.
    size: int
    parts: tuple[Part, ...]
    #: As in `Head`.
    addresses: tuple[str, ...] = ()
    #: Why it may not change rows, by its sender; "" where it may.
    refusal: str = ""

    def __post_init__(self) -> None:
        if self.received.tzinfo is None:
            msg = "Summary.received must be aware"
            raise ValueError(msg)


class Unavailable(Retry):
    """The mailbox cannot do this for now, as it says itself or because it became unreachable: no fault of the message."""


class Unreachable(Unavailable):
    """The mailbox cannot be opened at the moment; what needs it has to wait."""


class Outcome(StrEnum):
    """What became of a message, for marking it."""

    COMPLETED = "completed"
    FAILED = "failed"


class Parts(Protocol):
    """Where the parts of messages come from."""

    #: Finds out what messages and their files are.
    inspector: Inspector

    def fetch(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        """The part's decoded content in pieces of at most 256 KiB; the whole is never in memory."""


class Mailbox(Parts, Protocol):
    """A mailbox that is open. Errors: Retry for what may pass, Stop for sign-in and missing folders.

    Nothing here marks a message but `mark`; looking and fetching leave every flag as it was.
    """

    def unmarked(self) -> Sequence[MessageRef]:
        """All messages that are not marked yet, whatever they are about, latest last."""

    def heads(self, refs: Sequence[MessageRef]) -> Iterator[Head]:
        """The heads of these messages in any order, fetched in bulk; those that are gone are left out."""

    def find(self) -> Sequence[MessageRef]:
        """Messages that match the filters and are not marked yet, oldest first."""

    def summary(self, ref: MessageRef) -> Summary | None:
        """Headers and structure of one message; None when it is gone."""

    def raw_header(self, ref: MessageRef) -> bytes:
        """The header block as it stands, for the content hash that survives a changed UIDVALIDITY."""

    def mark(self, ref: MessageRef, outcome: Outcome) -> None:
        """Mark as the configuration says: a flag, a keyword, a move, or nothing. Marking twice is harmless."""

    def close(self) -> None:
        """Sign out; never raises."""


class Verdict(StrEnum):
    """What becomes of one part of a message."""

    TAKEN = "taken"  # it lies in `pending/` and will be loaded
    IGNORED = "ignored"  # never data: the text of the message, a signature, a logo
    SKIPPED = "skipped"  # a file, but not one that is wanted, or of a kind that is not read
    REJECTED = "rejected"  # it should be a spreadsheet, and cannot be used


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOutcome:
    """What became of one part of a message, or of one file of an archive in it."""

    verdict: Verdict
    section: str
    #: Name within the archive, or "".
    member: str = ""
    #: As shown to people; of what was taken or rejected, made safe as a file name.
    name: str
    #: Why it was not taken.
    reason: str = ""
    # Of what was taken
    path: Path | None = None
    kind: Kind | None = None
    size: int = 0
    #: SHA-256 of the bytes, hex.
    sha256: str = ""
    #: The part as it came, where the file lay in it; beside `path`.
    original: Path | None = None
