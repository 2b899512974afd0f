"""Why each message and part of a mailbox is taken or skipped; nothing is changed by asking."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.config.mailbox import MarkBy
from mailferry.errors import MailferryError, Reject
from mailferry.mailbox.attachments import accounted, choose
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.source.message import PartOutcome, Verdict
from mailferry.mailbox.source.open import open_mailbox
from mailferry.mailbox.storing import Budget, store
from mailferry.mailbox.workbook.inspector import Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.source.message import Mailbox, MessageRef, Summary


#: What each is called in the output.
_VERDICTS = {
    Verdict.TAKEN: "taken",
    Verdict.IGNORED: "skipped",
    Verdict.SKIPPED: "skipped",
    Verdict.REJECTED: "rejected",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartVerdict:
    """What would become of one part, or one file of an archive."""

    section: str
    name: str
    #: "taken", "skipped" or "rejected".
    verdict: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageVerdict:
    """What would become of one message."""

    uid: str
    received: datetime | None
    sender: str
    subject: str
    #: "taken" or "skipped".
    verdict: str
    reason: str
    parts: tuple[PartVerdict, ...] = ()


def explain(feed: MailboxFeed, *, limit: int) -> Iterator[MessageVerdict]:
    """The newest messages, latest first. Attachments are fetched, so that what is said is what a run would do.

    The ledger is not asked: what it knows already is in `jobs list`. Raises Retry or Stop for the mailbox.
    """
    open_ones = open_mailbox(feed.mailbox, look_only=True)
    try:
        waiting = set(open_ones.unmarked())
    finally:
        open_ones.close()
    mailbox = open_mailbox(
        feed.mailbox.model_copy(update={"mark": MarkBy.LEAVE}),
        look_only=True,
        inspector=Inspector(feed.limits),
    )
    try:
        refs = mailbox.unmarked()
        for ref in list(reversed(refs))[:limit]:
            yield _message(feed, mailbox, ref, is_marked=ref not in waiting)
    finally:
        mailbox.close()


def _message(feed: MailboxFeed, mailbox: Mailbox, ref: MessageRef, *, is_marked: bool) -> MessageVerdict:
    try:
        summary = mailbox.summary(ref)
    except Reject as error:
        return _verdict(ref, f"it cannot be read: {error}")
    if summary is None:
        return _verdict(ref, "it is gone")
    try:
        parts, others = choose(summary, feed.mailbox)
    except Reject as error:
        return _verdict(ref, f"refused: {error}", summary)
    found = list(others)
    if not is_marked:
        budget = Budget(feed.limits.message)
        with tempfile.TemporaryDirectory(prefix="mailferry-") as folder:
            for part in parts:
                try:
                    found += store(mailbox, ref, part, Path(folder), feed.mailbox, feed.limits, budget)
                except MailferryError as error:
                    found.append(
                        PartOutcome(
                            verdict=Verdict.REJECTED, section=part.section, name=part.name, reason=str(error)
                        )
                    )
        if not Matcher.of(feed.mailbox).mismatch(summary):
            found = accounted(found, summary, feed.mailbox)
    reason = ""
    if is_marked:
        reason = f"it is marked already (read, or as {feed.mailbox.spelled('mark')} says)"
    elif not parts:
        reason = others[0].reason if len({one.reason for one in others}) == 1 else "no part of it is wanted"
    return _verdict(ref, reason, summary, found)


def _part(outcome: PartOutcome) -> PartVerdict:
    taken = outcome.verdict is Verdict.TAKEN
    return PartVerdict(
        section=outcome.section,
        name=outcome.name,
        verdict=_VERDICTS[outcome.verdict],
        reason=f"a spreadsheet ({outcome.kind})" if taken else outcome.reason,
    )


def _verdict(
    ref: MessageRef, reason: str, summary: Summary | None = None, parts: Sequence[PartOutcome] = ()
) -> MessageVerdict:
    return MessageVerdict(
        uid=ref.uid,
        received=summary.received if summary else None,
        sender=summary.sender if summary else "",
        subject=summary.subject if summary else "",
        verdict="skipped" if reason else "taken",
        reason=reason,
        parts=tuple(map(_part, parts)),
    )
