"""After the commit: files to where they belong, rejected rows beside them, the message marked.

All of it can be done twice, so a crash in between is repaired by doing it again: a job that has ended counts as
settled only once its message is marked.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.config.mailbox import MarkBy
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.context import open_mailbox
from mailferry.mailbox.folders import REJECTS, write_rejects
from mailferry.mailbox.ledger import records
from mailferry.mailbox.ledger.jobs import FileState, JobState
from mailferry.mailbox.source.message import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mailferry.database import Connection
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import File, Job
    from mailferry.mailbox.source.message import Mailbox, MessageRef

log = logs.of(__name__, logs.EMAIL, logs.FILES)

#: The CSV holds no more rows than this; the table has them all.
_MOST_REJECTS = 100_000


def settle(work: Work, job: Job) -> None:
    """Put away the files of a job that has ended, and mark its message. Raises Retry; the next run does the rest."""
    mark(work, job, _put_away_all(work, job))


def settle_rest(work: Work, ago: dt.timedelta = dt.timedelta(0)) -> list[str]:
    """Settle what a crash, or a mailbox that was away, has left; gives what still cannot be done.

    Only jobs that ended so long `ago`: of younger ones a living runner may be about to do it.
    """
    with work.transaction() as conn:
        jobs = records.unmarked(conn, work.feed.name, ago)
    troubles = []
    for job in jobs:
        try:
            moved = _put_away_all(work, job)
            try:
                mark(work, job, moved)
            except Retry:
                if not _is_gone(work, job):
                    raise
                _note(work, job, moved)
        except Retry as error:
            troubles.append(f"job {job.id}: {error}")
            log.warning("job %d: not settled yet: %s", job.id, error)
    return troubles


def _is_gone(work: Work, job: Job) -> bool:
    """Whether there is nothing to mark: a mailbox made anew gave the message another number, if it still has it.

    One that was not marked yet has been found by its new number before it comes to this.
    """
    try:
        return work.mailbox.summary(job.ref) is None
    except MailferryError:
        return False


def mark(work: Work, job: Job, moved: Mapping[int, Path] | None = None) -> None:
    """Mark the message, and say so in the ledger, together with where files have moved to. Raises Retry."""
    outcome = _outcome(job)
    work.mailbox.mark(job.ref, outcome)
    if outcome is Outcome.COMPLETED:
        with moved_away(work, job) as found:
            if found:
                found[0].mark(found[1], outcome)
    _note(work, job, moved or {})
    log.info("job %d: message %s marked as %s", job.id, job.ref.uid, outcome.value)


def _outcome(job: Job) -> Outcome:
    return Outcome.COMPLETED if job.state is JobState.COMPLETED else Outcome.FAILED


@contextlib.contextmanager
def moved_away(work: Work, job: Job) -> Iterator[tuple[Mailbox, MessageRef] | None]:
    """The folder for failed messages, open, and what the message is called there, where marking has moved it to.

    None when it was not moved, or is not there any more. A copy on an IMAP server has a new UID: its header tells.
    """
    settings = work.feed.mailbox
    if settings.mark is not MarkBy.MOVE or job.marked_as != Outcome.FAILED:
        yield None
        return
    mailbox = open_mailbox(settings.model_copy(update={"folder": settings.marks[1]}), tokens=work.tokens)
    try:
        # The latest are last, and were moved last.
        refs = reversed(mailbox.find())
        found = (r for r in refs if hashlib.sha256(mailbox.raw_header(r)).hexdigest() == job.header_sha256)
        ref = next(found, None)
        yield (mailbox, ref) if ref else None
    finally:
        mailbox.close()


def put_away_left_behind(work: Work, job_id: int) -> None:
    """Put away the files of a job that was settled on another host, as far as they are on this one. Raises Retry."""
    with work.transaction() as conn:
        details = records.show(conn, job_id)
    if details:
        moved = _put_away_all(work, details.job)
        with work.transaction() as conn:
            _note_moved(conn, moved)


def _note(work: Work, job: Job, moved: Mapping[int, Path]) -> None:
    with work.transaction() as conn:
        _note_moved(conn, moved)
        records.marked(conn, job, _outcome(job))


def _note_moved(conn: Connection, moved: Mapping[int, Path]) -> None:
    for file_id, path in moved.items():
        records.moved(conn, file_id, str(path))


def _put_away_all(work: Work, job: Job) -> dict[int, Path]:
    """Where the files of a job are now; those that are not on this host are left out."""
    with work.single() as conn:
        files = records.files_of(conn, job.id)
    return {file.id: now_at for file in files if file.path and (now_at := _put_away(work, file))}


def _put_away(work: Work, file: File) -> Path | None:
    """Where the file is now; None where it is not on this host."""
    good = file.state in (FileState.LOADED, FileState.DUPLICATE)
    now = work.clock()
    now_at = work.folders.put_away(
        Path(file.path), good=good, day=(file.finished_at or now).astimezone(now.tzinfo).date()
    )
    if now_at is None:
        return None
    log.info("%s: moved to %s", file.name, now_at.parent)
    if file.counts.rejected:
        with work.transaction() as conn:
            rows = records.rejected_rows(conn, file.id, _MOST_REJECTS)
        where = write_rejects(now_at, rows)
        log.info("%s: rejected rows are listed in %s", file.name, where)
    else:
        # A list of an attempt before this one is true no more.
        now_at.with_name(now_at.name + REJECTS).unlink(missing_ok=True)
    return now_at
