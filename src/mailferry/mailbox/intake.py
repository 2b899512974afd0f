"""From the mailbox into the ledger: find, choose, store, record. Nothing is marked here."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.disk import require_room
from mailferry.errors import MailferryError, Reject, Retry
from mailferry.mailbox.attachments import WHOLE, accounted, choose, safe_name
from mailferry.mailbox.ledger import records
from mailferry.mailbox.mime.headers import parse_headers
from mailferry.mailbox.quota import Quota
from mailferry.mailbox.search import LeftOpen, search
from mailferry.mailbox.settle import moved_message, settle
from mailferry.mailbox.source.message import PartOutcome, Summary, Unavailable, Verdict
from mailferry.mailbox.storing import Budget, DiskFault, OneFile, original_name, part_named, store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import File, Job
    from mailferry.mailbox.source.matcher import Look
    from mailferry.mailbox.source.message import Head, Mailbox, MessageRef

log = logs.of(__name__, logs.EMAIL)


def gather(work: Work) -> Iterator[Job]:
    """Every message found that has no job yet becomes one, oldest first; yields the jobs as they are recorded.

    A message that cannot be fetched holds back those behind it, as rows have to come in order: Retry. `Work.failures`
    counts such faults by message over all tries; after the last, when the mailbox is otherwise well, the message is
    recorded: as one that failed, so that it does not hold back the rest for ever; or, where the fault says of itself that
    it passes (Unavailable), as a job that is tried again until it does, or a person cancels it.

    While the disk is nearly full, none is fetched: Retry.

    A message whose headers cannot be read holds back none: it may not even be wanted. Nor does one whose sender has used
    up the day. At the end they are LeftOpen, as are all once the day's bytes are used up.
    """
    room = functools.partial(require_room, work.folders.pending, work.feed.min_free)
    room()
    quota = Quota(work)
    look = search(work)
    for head in look.wanted:
        ref = head.ref
        if work.stop.is_set():
            return
        room()
        if quota.is_used_up():
            break
        if quota.leaves(head.sender):
            continue
        try:
            job = _arrive(work, head)
        except DiskFault:
            raise  # never the message's fault
        except Retry as error:
            work.failures[ref] += 1
            if work.failures[ref] <= records.MOST_RETRIES or not _is_well(work.mailbox):
                raise
            job = _give_up(work, head, error)
        work.failures.pop(ref, None)
        if job is not None:
            quota.count(head.sender)
            yield job
    reasons = [_unreadable(look)] if look.unreadable else []
    if reasons := [*reasons, *quota.reasons]:
        raise LeftOpen("; ".join(reasons))


def _unreadable(look: Look) -> str:
    first = look.unreadable[0]
    count = f" and those of {len(look.unreadable) - 1} more" if len(look.unreadable) > 1 else ""
    return f"the headers of {first.title}{count} cannot be read: {first.problem}"


def _arrive(work: Work, head: Head) -> Job | None:
    """One message's job: a new one, or the one it had under another UIDVALIDITY. None when it is gone."""
    feed, ref = work.feed, head.ref
    header = work.mailbox.raw_header(ref)
    digest = hashlib.sha256(header).hexdigest()
    try:
        summary = work.mailbox.summary(ref)
        if summary is None or _is_known(work, summary, digest):
            return None
        parts = take(work.mailbox, summary, feed, work.folders.pending)
        with work.transaction() as conn:
            return _record(conn, feed, summary, digest, parts)
    except Reject as error:
        summary = _outline(head, header)
        with work.transaction() as conn:
            return _record(conn, feed, summary, digest, [_whole(summary, str(error))])


def _is_known(work: Work, summary: Summary, digest: str) -> bool:
    """Whether the message had a job under another UIDVALIDITY, which then is its job again."""
    with work.transaction() as conn:
        known = records.find(conn, work.feed.name, summary.ref, digest, summary.received)
    if known is None:
        return False
    log.info("job %d: found again as message %s", known.id, summary.ref.uid)
    if known.marked_at is not None and known.ended:
        settle(work, known)  # a mailbox that was made again has lost its marks
    return True


def take(mailbox: Mailbox, summary: Summary, feed: MailboxFeed, pending: Path) -> list[PartOutcome]:
    """What becomes of each part; what may be a spreadsheet is fetched into `pending`. Raises Reject, Retry."""
    parts, outcomes = choose(summary, feed.mailbox)
    ref = _named_by(feed, summary.ref)
    budget = Budget(feed.limits.message)
    taken = [store(mailbox, ref, part, pending, feed.mailbox, feed.limits, budget) for part in parts]
    found = [*outcomes, *(outcome for some in taken for outcome in some)]
    return accounted(found, summary, feed.mailbox)


def _named_by(feed: MailboxFeed, ref: MessageRef) -> MessageRef:
    """Files are named by where they come from, and two feeds on one mailbox must not get hold of each other's.

    Mailboxes find a message by the rest.
    """
    return replace(ref, account=f"{feed.name}\0{ref.account}")


def take_again(work: Work, job: Job) -> list[PartOutcome] | None:
    """As `take`, for a message that is on record, wherever it was moved; None when it is gone."""
    if summary := work.mailbox.summary(job.ref):
        return take(work.mailbox, summary, work.feed, work.folders.pending)
    with moved_message(work, job) as found:
        if found and (summary := found[0].summary(found[1])):
            return take(found[0], summary, work.feed, work.folders.pending)
    return None


def fetch_again(work: Work, job: Job, file: File) -> PartOutcome:
    """A recorded file that is not on disk: out of what it lay in, else of the message. Raises Reject where neither has it, Retry."""
    if kept := _from_original(work, job, file):
        return kept
    try:
        parts = take_again(work, job)
    except Reject as error:
        raise Reject(f"the message cannot be read: {error}") from None
    if parts is None:
        raise Reject("neither the file nor its message is there any more; have it sent again")
    # The same message leads to the same paths: what was already there is merely written again.
    for part in parts:
        if (part.section, part.member) == (file.section, file.member):
            if part.verdict is Verdict.TAKEN:
                return part
            raise Reject(part.reason)
    raise Reject("the message no longer holds it as a spreadsheet that is wanted")


def _from_original(work: Work, job: Job, file: File) -> PartOutcome | None:
    original = Path(file.original)
    if not (file.original and work.folders.holds(original)):
        return None
    feed = work.feed
    found = store(
        OneFile(path=original, inspector=work.mailbox.inspector),
        _named_by(feed, job.ref),
        part_named(original_name(original), file.section),
        work.folders.pending,
        feed.mailbox,
        feed.limits,
    )
    same = (one for one in found if (one.member, one.sha256) == (file.member, file.sha256))
    return next(same, None)


def _record(
    conn: Connection, feed: MailboxFeed, summary: Summary, digest: str, parts: Sequence[PartOutcome]
) -> Job:
    job = records.record(conn, feed.name, summary, digest, target=feed.target_table, parts=parts)
    counts = {verdict: sum(part.verdict is verdict for part in parts) for verdict in Verdict}
    log.info(
        "job %d: message %s from %s, %r: %s",
        job.id,
        summary.ref.uid,
        summary.sender or "an unnamed sender",
        summary.subject,
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no parts",
    )
    for part in parts:
        if part.verdict is Verdict.REJECTED:
            log.error("job %d: %s rejected: %s", job.id, part.name, part.reason)
        elif part.reason:
            log.debug(
                "job %d: part %s %r %s: %s",
                job.id,
                part.section,
                part.name,
                part.verdict,
                part.reason,
            )
    return job


def _outline(head: Head, header: bytes) -> Summary:
    """The summary of a message whose parts cannot be read."""
    message_id = parse_headers(header).message_id
    return Summary(
        ref=head.ref,
        subject=head.subject,
        sender=head.sender,
        message_id=message_id,
        received=head.received,
        size=0,
        parts=(),
        addresses=head.addresses,
    )


def _whole(summary: Summary, reason: str, verdict: Verdict = Verdict.REJECTED) -> PartOutcome:
    """A message as a whole, in place of its parts."""
    name = safe_name(summary.subject, "message")
    return PartOutcome(verdict=verdict, section=WHOLE, name=name, reason=reason)


def _give_up(work: Work, head: Head, error: Retry) -> Job:
    passing = isinstance(error, Unavailable)
    then = "its job is tried again" if passing else "it is given up"
    log.error("%s: %s; %s", head.title, error, then)
    header = work.mailbox.raw_header(head.ref)
    summary = _outline(head, header)
    whole = _whole(
        summary, f"it could not be fetched: {error}", Verdict.TAKEN if passing else Verdict.REJECTED
    )
    with work.transaction() as conn:
        return _record(conn, work.feed, summary, hashlib.sha256(header).hexdigest(), [whole])


def _is_well(mailbox: Mailbox) -> bool:
    """Whether the mailbox works apart from that one message."""
    try:
        mailbox.find()
    except MailferryError:
        return False
    return True
