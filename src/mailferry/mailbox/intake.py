"""From the mailbox into the ledger: find, choose, store, record. Nothing is marked here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.errors import MailferryError, Reject, Retry
from mailferry.mailbox.attachments import DiskFault, RejectedFile, choose, safe_name, store
from mailferry.mailbox.ledger import arrivals, records
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.search import Undecided, search
from mailferry.mailbox.settle import mark, moved_away
from mailferry.mailbox.source.headers import parse_headers
from mailferry.mailbox.source.message import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import File, Job
    from mailferry.mailbox.source.message import MessageRef, Passed, StoredFile

log = logs.of(__name__, logs.EMAIL)

#: Stands for the section of a message that could not be read at all.
WHOLE = ""


@dataclass(kw_only=True, slots=True)
class Taken:
    """What was taken from one message."""

    summary: Summary
    files: list[StoredFile] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)


def gather(work: Work) -> Iterator[Job]:
    """Every message found that has no job yet becomes one, oldest first; gives the jobs as they are recorded.

    A message that cannot be fetched holds back those behind it, as rows have to come in order: Retry. `Work.failures`
    counts such faults by message over all tries; after the last, when the mailbox is otherwise well, the message is
    recorded as one that failed, so that it does not hold back the others for ever.

    A message whose headers cannot be read holds back none: it may not even be wanted. At the end it is Undecided.
    """
    look = search(work)
    for head in look.wanted:
        ref = head.ref
        if work.stop.is_set():
            return
        try:
            job = _arrive(work, ref)
        except DiskFault:
            raise  # never the message's fault
        except Retry as error:
            work.failures[ref] += 1
            if work.failures[ref] <= records.MOST_RETRIES or not _well(work):
                raise
            job = _give_up(work, ref, error)
        work.failures.pop(ref, None)
        if job is not None:
            yield job
    if look.unreadable:
        first = look.unreadable[0]
        count = f" and those of {len(look.unreadable) - 1} more" if len(look.unreadable) > 1 else ""
        raise Undecided(f"the headers of {first.title}{count} cannot be read: {first.problem}")


def _arrive(work: Work, ref: MessageRef) -> Job | None:
    """One message's job: a new one, or the one it had under another UIDVALIDITY. None when it is gone."""
    header = work.mailbox.raw_header(ref)
    digest = hashlib.sha256(header).hexdigest()
    try:
        summary = work.mailbox.summary(ref)
        if summary is None or _is_known(work, summary, digest):
            return None
        return _record(work, digest, _take(work, summary))
    except Reject as error:
        return _record(work, digest, _unreadable(work, ref, header, str(error)))


def _is_known(work: Work, summary: Summary, digest: str) -> bool:
    """Whether the message had a job under another UIDVALIDITY, which then is its job again."""
    with work.single() as conn:
        known = records.find(conn, work.feed.name, summary.ref, digest, summary.received)
    if known is None:
        return False
    log.info("job %d: found again as message %s", known.id, summary.ref.uid)
    if known.marked_at is not None and known.state in (JobState.COMPLETED, JobState.FAILED):
        _mark_again(work, known)
    return True


def _mark_again(work: Work, job: Job) -> None:
    """A mailbox that was made anew has lost its marks."""
    mark(work, job)


def take(work: Work, ref: MessageRef) -> Taken | None:
    """Fetch what may be a spreadsheet into `pending`; None when the message is gone. Raises Reject, Retry."""
    summary = work.mailbox.summary(ref)
    return _take(work, summary) if summary else None


def _take(work: Work, summary: Summary) -> Taken:
    parts, passed = choose(summary, work.feed.mailbox)
    taken = Taken(summary=summary, passed=list(passed))
    # Files are named by where they come from, and two feeds on one mailbox must not get hold of each other's. Mailboxes
    # find a message by the rest.
    ref = replace(summary.ref, account=f"{work.feed.name}\0{summary.ref.account}")
    for part in parts:
        stored = store(work.mailbox, ref, part, work.folders.pending, work.feed.mailbox, work.feed.limits)
        taken.files += stored.files
        taken.passed += stored.passed
        taken.rejected += stored.rejected
    return taken


def fetch_again(work: Work, job: Job, file: File) -> StoredFile:
    """A recorded file whose copy on disk is gone. Raises Reject where the message no longer gives it, Retry."""
    try:
        taken = take(work, job.ref) or _take_moved(work, job)
    except Reject as error:
        raise Reject(f"the message cannot be read: {error}") from None
    if taken is None:
        raise Reject("neither the file nor its message is there any more; have it sent again")
    # The same message gives the same paths: what was already there is merely written once more.
    for stored in taken.files:
        if (stored.section, stored.member) == (file.section, file.member):
            return stored
    for rejected in taken.rejected:
        if (rejected.section, rejected.member) == (file.section, file.member):
            raise Reject(rejected.reason)
    raise Reject("the message no longer holds it as a spreadsheet that is wanted")


def _take_moved(work: Work, job: Job) -> Taken | None:
    with moved_away(work, job) as found:
        return take(replace(work, mailbox=found[0]), found[1]) if found else None


def _record(work: Work, digest: str, taken: Taken) -> Job:
    feed, summary = work.feed, taken.summary
    with work.transaction() as conn:
        job = records.record(
            conn, feed.name, summary, digest, target=feed.target_table, files=taken.files, passed=taken.passed
        )
        if job.state is JobState.PENDING:
            arrivals.reject(conn, job.id, taken.rejected)
    what = [f"{len(taken.files)} to load"]
    if taken.rejected:
        what.append(f"{len(taken.rejected)} rejected")
    if taken.passed:
        what.append(f"{len(taken.passed)} parts passed over")
    log.info(
        "job %d: message %s from %s, %r: %s",
        job.id,
        summary.ref.uid,
        summary.sender or "nobody",
        summary.subject,
        ", ".join(what),
    )
    for part in taken.passed:
        log.debug("job %d: part %s %r passed over: %s", job.id, part.section, part.name, part.reason)
    for file in taken.rejected:
        log.error("job %d: %s rejected: %s", job.id, file.name, file.reason)
    return job


def _unreadable(work: Work, ref: MessageRef, header: bytes, reason: str) -> Taken:
    """A message of which nothing can be taken, as a whole on record."""
    said = parse_headers(header)
    summary = Summary(
        ref=ref,
        subject=said.subject,
        sender=said.sender,
        message_id=said.message_id,
        received=work.clock(),
        size=0,
        parts=(),
    )
    name = safe_name(said.subject, "message")
    return Taken(summary=summary, rejected=[RejectedFile(section=WHOLE, name=name, member="", reason=reason)])


def _give_up(work: Work, ref: MessageRef, error: Retry) -> Job:
    header = work.mailbox.raw_header(ref)
    log.error("message %s is given up: %s", ref.uid, error)
    digest = hashlib.sha256(header).hexdigest()
    return _record(work, digest, _unreadable(work, ref, header, f"it could not be fetched: {error}"))


def _well(work: Work) -> bool:
    """Whether the mailbox works apart from that one message."""
    try:
        work.mailbox.find()
    except MailferryError:
        return False
    return True
