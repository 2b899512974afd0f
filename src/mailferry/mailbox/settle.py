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

from mailferry import database, logs
from mailferry.config.mailbox import MarkBy
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.folders import REJECTS, write_rejects
from mailferry.mailbox.ledger import records
from mailferry.mailbox.ledger.jobs import FileState, JobState
from mailferry.mailbox.ledger.rows import files_of, rejected_rows
from mailferry.mailbox.source.message import Outcome
from mailferry.mailbox.source.open import open_mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailferry.database import Pool
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.folders import Folders
    from mailferry.mailbox.ledger.jobs import File, Job
    from mailferry.mailbox.source.message import Mailbox, MessageRef

log = logs.of(__name__, logs.EMAIL, logs.FILES)

#: The CSV holds no more rows than this; the table has them all.
_MOST_REJECTS = 100_000


def settle(work: Work, job: Job) -> None:
    """Put away the files of a job that has ended, and mark its message. Raises Retry; the next run does the rest."""
    places = _put_away_all(work.pool, work.folders, job.id, work.clock())
    try:
        _mark(work, job)
    except Retry:
        if not _is_gone(work.mailbox, job.ref):
            raise
    with work.transaction() as conn:
        records.moved(conn, *places)
        records.marked(conn, job, _outcome(job))


def settle_rest(work: Work, ago: dt.timedelta = dt.timedelta(0)) -> list[str]:
    """Settle what a crash, or a mailbox that was unreachable, has left; returns what still cannot be done.

    Only jobs that ended so long `ago`: a live worker may still settle recent ones.
    """
    with work.transaction() as conn:
        jobs = records.unmarked(conn, work.feed.name, ago)
    troubles = []
    for job in jobs:
        try:
            settle(work, job)
        except Retry as error:
            troubles.append(f"job {job.id}: {error}")
            log.warning("job %d: not settled yet: %s", job.id, error)
    return troubles


def _mark(work: Work, job: Job) -> None:
    outcome = _outcome(job)
    work.mailbox.mark(job.ref, outcome)
    if outcome is Outcome.COMPLETED:
        with moved_message(work, job) as found:
            if found:
                found[0].mark(found[1], outcome)
    log.info("job %d: message %s marked as %s", job.id, job.ref.uid, outcome.value)


def _is_gone(mailbox: Mailbox, ref: MessageRef) -> bool:
    """Whether there is nothing to mark: a mailbox made again gave the message another number, if it still has it.

    One that was not marked yet has been found by its new number before it comes to this.
    """
    try:
        return mailbox.summary(ref) is None
    except MailferryError:
        return False


def _outcome(job: Job) -> Outcome:
    return Outcome.COMPLETED if job.state is JobState.COMPLETED else Outcome.FAILED


@contextlib.contextmanager
def moved_message(work: Work, job: Job) -> Iterator[tuple[Mailbox, MessageRef] | None]:
    """The folder for failed messages, open, and what the message is called there, where marking has moved it to.

    None when it was not moved, or is not there any more. A copy on an IMAP server has a new UID: it is found by its header.
    """
    settings = work.feed.mailbox
    if settings.mark is not MarkBy.MOVE or job.marked_as != Outcome.FAILED:
        yield None
        return
    mailbox = open_mailbox(
        settings.model_copy(update={"folder": settings.marks[1]}),
        tokens=work.tokens,
        inspector=work.mailbox.inspector,
    )
    try:
        # The latest are last, and were moved last.
        refs = reversed(mailbox.find())
        found = (r for r in refs if hashlib.sha256(mailbox.raw_header(r)).hexdigest() == job.header_sha256)
        ref = next(found, None)
        yield (mailbox, ref) if ref else None
    finally:
        mailbox.close()


def put_away_left_behind(pool: Pool, folders: Folders, job_id: int, now: dt.datetime) -> None:
    """Put away the files of a job that was settled on another host, as far as they are on this one. Raises Retry."""
    places = _put_away_all(pool, folders, job_id, now)
    with database.transaction(pool) as conn:
        records.moved(conn, *places)


def _put_away_all(
    pool: Pool, folders: Folders, job_id: int, now: dt.datetime
) -> tuple[dict[int, Path], dict[int, Path]]:
    """Where the files of a job are now, and what they lay in, by file; what is not on this host is left out."""
    with database.single(pool) as conn:
        files = files_of(conn, job_id)
    originals: dict[int, Path] = {}
    # By name, as a file that was unpacked again may have another place on record than those beside it.
    for of_original in _together(files, lambda file: Path(file.original).name):
        if place := _put_away_original(folders, of_original, now):
            originals |= dict.fromkeys((file.id for file in of_original), place)
    places: dict[int, Path] = {}
    # Several routes may have loaded one file.
    for of_path in _together(files, lambda file: file.path):
        if original := originals.get(of_path[0].id):
            _drop_unpacked(pool, folders, of_path, original)
        elif place := _put_away(pool, folders, of_path, now):
            places |= dict.fromkeys((file.id for file in of_path), place)
    return places, originals


def _together(files: Sequence[File], place: Callable[[File], str]) -> list[list[File]]:
    """The files of each place, those without any left out."""
    found: dict[str, list[File]] = {}
    for file in files:
        found.setdefault(place(file), []).append(file)
    found.pop("", None)
    return list(found.values())


def _is_good(file: File) -> bool:
    return file.state in (FileState.LOADED, FileState.DUPLICATE, FileState.UNDONE)


def _put_away_original(folders: Folders, files: list[File], now: dt.datetime) -> Path | None:
    """Where an attachment is now that files lay in; None where it is not on this host."""
    good, day = all(map(_is_good, files)), _day(files, now)
    known = sorted({Path(file.original) for file in files}, key=lambda path: path.parent != folders.pending)
    found = (folders.put_away(path, good=good, day=day) for path in known)
    place = next(filter(None, found), None)
    if place:
        log.info("%s: moved to %s", place.name, place.parent)
        for before in {*known, folders.failed / place.name} - {place}:
            folders.drop(before)
    return place


def _drop_unpacked(pool: Pool, folders: Folders, files: list[File], original: Path) -> None:
    """A file need not be kept where what it lay in is."""
    path = Path(files[0].path)
    folders.drop(path)
    folders.drop(folders.failed / (path.name + REJECTS))
    _list_rejects(pool, files, original.with_name(path.name))


def _put_away(pool: Pool, folders: Folders, files: list[File], now: dt.datetime) -> Path | None:
    """Where a file is now, one or, by several routes, more of the ledger's; None where it is not on this host."""
    file = files[0]
    place = folders.put_away(Path(file.path), good=all(map(_is_good, files)), day=_day(files, now))
    if place is None:
        return None
    log.info("%s: moved to %s", file.name, place.parent)
    _list_rejects(pool, files, place)
    return place


def _day(files: Sequence[File], now: dt.datetime) -> dt.date:
    """The day on which the first of them was done, in the time zone of `now`."""
    return (files[0].finished_at or now).astimezone(now.tzinfo).date()


def _list_rejects(pool: Pool, files: list[File], place: Path) -> None:
    """Write the rejected rows of a file beside it, where there are any."""
    if any(one.counts.rejected for one in files):
        with database.transaction(pool) as conn:
            rows = [row for one in files for row in rejected_rows(conn, one.id, _MOST_REJECTS)]
        where = write_rejects(place, rows)
        log.info("%s: rejected rows are listed in %s", files[0].name, where)
    else:
        # A list of an attempt before this one is true no more.
        place.with_name(place.name + REJECTS).unlink(missing_ok=True)
