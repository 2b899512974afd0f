"""One job, start to end: each of its files in one transaction with its ledger row.

Whoever holds a claim calls `process`, or `attempt` where settling may have to wait.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from mailferry import logs
from mailferry.errors import MailferryError, Reject, Retry, Stop
from mailferry.mailbox.context import kept
from mailferry.mailbox.intake import WHOLE, fetch_again, take
from mailferry.mailbox.ledger import arrivals, leases, records
from mailferry.mailbox.ledger.jobs import ClaimLost, FileState, JobState
from mailferry.mailbox.settle import settle
from mailferry.mailbox.target import table, upsert
from mailferry.mailbox.target.table import PROCESSED, SOURCE, Target
from mailferry.mailbox.workbook.contract import RowContract, clean_name
from mailferry.mailbox.workbook.values import Counts
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.database import Connection
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import Claim, File, Job
    from mailferry.mailbox.target.upsert import Loaded
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import RejectedRow

log = logs.of(__name__, logs.FILES)
table_log = log.about(logs.FILES, logs.DATABASE)


class Interrupted(KeyboardInterrupt):
    """The process is asked to end and has no time left; raised by a signal's handler, wherever the work stands."""


def process(work: Work, held: Claim) -> Job:
    """Do a claimed job, and settle it where it has ended; the job as it is afterwards.

    What fails, foreseen or not, is on record before this returns or raises. Raises Stop where a person has to act; Retry
    where not even the ledger, or after the end the mailbox, can be reached: the job is then taken up by the next run.
    """
    with logs.bound(feed=held.job.feed, job=held.job.id):
        job = attempt(work, held)
        if job is None:
            return as_it_is(work, held.job)
        if job.ended:
            settle(work, job)
        return job


def attempt(work: Work, held: Claim) -> Job | None:
    """Do a claimed job but for settling it; the job as it is afterwards, or None where the claim was lost.

    Raises as `process`, of whose errors those after the end cannot come.
    """
    try:
        with _contained(held), kept(work, held):
            return _do_all(work, held)
    except ClaimLost as error:
        log.warning("job %d: %s", held.job.id, error)
        return None
    except Stop as error:
        _record_failure(work, held, error)
        raise
    except MailferryError as error:
        return _record_failure(work, held, error)
    except KeyboardInterrupt:
        # Nobody's fault: no attempt is counted, and the next run takes it up at once.
        with contextlib.suppress(MailferryError):
            _record_failure(work, held, Stop("ended by a signal; the next run goes on with it"))
        raise


def _do_all(work: Work, held: Claim) -> Job:
    job = held.job
    if job.attempts > records.MOST_RETRIES + 1:
        raise Retry(f"given up: work on it was cut off {job.attempts - 1} times, each time without a word")
    log.info("job %d: attempt %d, %r", job.id, job.attempts, job.subject)
    done = None
    pending = [file for file in _files(work, held) if file.state is FileState.PENDING]
    for file in pending:
        done = _do(work, held, file, last=file is pending[-1])
    if done is None:
        with work.transaction() as conn:
            leases.hold(conn, held)
            done = records.finish_job(conn, held)
    log.info("job %d: %s", done.id, done.state)
    return done


def _files(work: Work, held: Claim) -> list[File]:
    """The job's files; a message that could not be read when it arrived, and is tried again, gets its files now."""
    with work.single() as conn:
        files = records.files_of(conn, held.job.id)
    if not any(file.state is FileState.PENDING and file.section == WHOLE for file in files):
        return files
    try:
        taken = take(work, held.job.ref)
    except Reject:
        return files  # and it is told once more why
    if taken is None:
        return files
    with work.transaction() as conn:
        leases.hold(conn, held)
        arrivals.replace_whole(conn, held.job.id, taken.files, taken.passed, taken.rejected)
        return records.files_of(conn, held.job.id)


def _record_failure(work: Work, held: Claim, error: MailferryError) -> Job | None:
    """The job as it is afterwards; None where the claim was lost."""
    try:
        with work.transaction() as conn:
            job = records.fail(conn, held, error)
    except ClaimLost as lost:
        log.warning("job %d: %s (%s)", held.job.id, lost, error)
        return None
    said = f"again at {job.next_attempt_at:%H:%M:%S}" if job.state is JobState.PENDING else str(job.state)
    log.error("job %d: %s (%s)", job.id, error, said)
    return job


def as_it_is(work: Work, job: Job) -> Job:
    """The job as the ledger has it now."""
    with work.transaction() as conn:
        details = records.show(conn, job.id)
    return details.job if details else job


@contextlib.contextmanager
def _contained(held: Claim) -> Iterator[None]:
    """Make what nobody foresaw an error of this job, so that a defect that it brings out does not hold up those behind it.

    Retry where the machine may be to blame, else Reject.
    """
    try:
        yield
    except MailferryError:
        raise
    except Exception as error:
        log.exception("job %d: unexpected %s", held.job.id, type(error).__name__)
        what = mask(f"{type(error).__name__}: {error}")[:500]
        if isinstance(error, OSError | MemoryError):
            raise Retry(f"the system: {what}") from error
        raise Reject(
            f"an error in mailferry itself, {what}; its log has the details. Please report it;"
            f" once it is corrected: mailferry jobs retry {held.job.id}"
        ) from error


# One file


def _do(work: Work, held: Claim, file: File, *, last: bool) -> Job | None:
    """Load one file, or record why not: rows and ledger in one transaction. The end of the job goes with its `last` file.

    A Reject is the file's own and ends here; Retry and Stop are the job's.
    """
    try:
        with _contained(held):
            file = _on_disk(work, held, file)
            with work.transaction() as conn:
                leases.hold(conn, held)
                _load(work, conn, held, file)
                return records.finish_job(conn, held) if last else None
    except Reject as error:
        log.error("job %d: %s rejected: %s", held.job.id, file.name, error)  # noqa: TRY400 - its text says all
        with work.transaction() as conn:
            leases.hold(conn, held)
            records.finish_file(conn, held, file.id, FileState.REJECTED, error=str(error))
            return records.finish_job(conn, held) if last else None


def _on_disk(work: Work, held: Claim, file: File) -> File:
    """The file with a path that exists on this host; fetched again where it has gone."""
    if file.path and Path(file.path).is_file():
        return file
    stored = fetch_again(work, held.job, file)
    with work.transaction() as conn:
        leases.hold(conn, held)
        arrivals.refetched(conn, file.id, stored)
    log.info("job %d: %s fetched again", held.job.id, file.name)
    return replace(file, path=str(stored.path), kind=stored.kind, size=stored.size, sha256=stored.sha256)


def _load(work: Work, conn: Connection, held: Claim, file: File) -> None:
    feed = work.feed
    table.lock(conn, feed.target_table)
    target = Target.inspect(conn, feed.target_table, feed.unique_key)
    if target and (same := records.duplicate_of(conn, held, target, sha256=file.sha256)):
        _duplicate(conn, held, file, target, same, file.content_sha256)
        return
    with work.reader.open(Path(file.path), file.kind, _contract(work, target)) as sheet:
        _load_sheet(work, conn, held, file, target, sheet)


def _contract(work: Work, target: Target | None) -> RowContract:
    feed = work.feed
    return RowContract(
        key=target.key if target else feed.unique_key,
        columns=target.columns if target else (),
        sheet=feed.sheet,
        unknown_columns=feed.unknown_columns,
        reserved=(SOURCE, PROCESSED),
        key_width=feed.key_width,
    )


def _load_sheet(
    work: Work, conn: Connection, held: Claim, file: File, target: Target | None, sheet: Sheet
) -> None:
    same, fault = None, ""
    # What is not to be loaded leaves nothing: neither rows, nor a table or columns made for them.
    with contextlib.suppress(psycopg.Rollback), conn.transaction():
        fitted = _fitted(work, conn, target, sheet)
        loaded = upsert.load(
            conn,
            fitted,
            [column.name for column in sheet.columns],
            sheet.chunks,
            file.name,
            temp_schema=work.feed.database.temp_schema,
        )
        content = sheet.report.content_hash
        counts = _counts(sheet, loaded)
        rejected = list(_server_rejects(sheet, loaded))
        fault = _too_many_rejects(work.feed.max_rejected, counts, chain(sheet.rejects(), rejected))
        same = records.duplicate_of(conn, held, fitted, sha256=file.sha256, content_sha256=content)
        if fault or same:
            raise psycopg.Rollback
    if same:
        _duplicate(conn, held, file, fitted, same, content)
        return
    if fault:
        counts = Counts(read=counts.read, rejected=counts.rejected, warnings=counts.warnings)
    records.finish_file(
        conn,
        held,
        file.id,
        FileState.REJECTED if fault else FileState.LOADED,
        target=None if fault else fitted,
        counts=counts,
        content_sha256=content,
        error=fault or None,
        rejected=chain(sheet.rejects(), rejected),
    )
    _tell(held, file, counts, fault, fitted)


def _fitted(work: Work, conn: Connection, target: Target | None, sheet: Sheet) -> Target:
    """The table with all columns that the sheet fills."""
    feed = work.feed
    if target is None:
        made = table.create(conn, feed.target_table, clean_name(feed.unique_key), sheet.new)
        table_log.info("table %s made, with %d columns", made.title, len(made.all_columns))
        return made
    if sheet.new:
        names = ", ".join(column.name for column in sheet.new)
        table_log.info("table %s: columns added: %s", target.title, names)
        return target.add_columns(conn, sheet.new)
    return target


def _counts(sheet: Sheet, loaded: Loaded) -> Counts:
    report, counts = sheet.report, loaded.counts
    warnings = list(report.warnings)
    if report.rejects_unwritten:
        warnings.append(f"{report.rejects_unwritten} more rejected rows are counted, but not written down")
    if counts.superseded:
        warnings.append(f"{counts.superseded} rows were replaced by later rows of the same key")
    return replace(
        counts, read=report.read, rejected=report.rejected + len(loaded.rejected), warnings=warnings
    )


def _server_rejects(sheet: Sheet, loaded: Loaded) -> Iterator[RejectedRow]:
    """Rows that the server refused, by their places in the file."""
    for row in loaded.rejected:
        name, number = sheet.place(row.row)
        yield replace(row, sheet=name, row=number)


def _too_many_rejects(most: float, counts: Counts, rejected: Iterator[RejectedRow]) -> str:
    """Why the file fails as a whole; "" when it does not."""
    if counts.rejected <= most * counts.read:
        return ""
    first = next(rejected, None)
    example = f"; the first: row {first.row}, column {first.column}: {first.reason}" if first else ""
    return (
        f"{counts.rejected} of {counts.read} rows were rejected, more than the {most:.0%} that are allowed"
        f"{example}"
    )


def _duplicate(
    conn: Connection, held: Claim, file: File, target: Target, same: int, content: str | None
) -> None:
    records.finish_file(
        conn, held, file.id, FileState.DUPLICATE, target=target, duplicate_of=same, content_sha256=content
    )
    log.info("job %d: %s is a duplicate of file %d, not loaded", held.job.id, file.name, same)


def _tell(held: Claim, file: File, counts: Counts, fault: str, target: Target) -> None:
    if fault:
        log.error("job %d: %s rejected: %s", held.job.id, file.name, fault)
        return
    table_log.info(
        "job %d: %s loaded into %s: %d rows read, %d inserted, %d updated, %d unchanged, %d rejected",
        held.job.id,
        file.name,
        target.title,
        counts.read,
        counts.inserted,
        counts.updated,
        counts.unchanged,
        counts.rejected,
    )
    for warning in counts.warnings:
        log.warning("job %d: %s: %s", held.job.id, file.name, warning)
