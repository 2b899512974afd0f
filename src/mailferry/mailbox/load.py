"""One job, start to end: each file is opened, staged and upserted, and its outcome recorded, in one transaction.

The caller has claimed the job (`turns`), and settles it afterwards (`settle`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from mailferry import logs, tracing
from mailferry.config.mailbox_feed import Absent, AbsentScope, Order
from mailferry.database import server_codec
from mailferry.errors import MailferryError, Reject, Retry, Stop
from mailferry.mailbox.file_contract import About, kept_blanks, refuse_without_table, row_contract
from mailferry.mailbox.ledger import leases, records
from mailferry.mailbox.ledger.jobs import ClaimLost, FileOutcome, FileState, JobState
from mailferry.mailbox.pieces import Piece, by_routes, on_disk, pending_files
from mailferry.mailbox.target import absent, table, upsert
from mailferry.mailbox.target.absent import Scope
from mailferry.mailbox.target.origins import Origin
from mailferry.mailbox.target.table import Target
from mailferry.mailbox.workbook.header import clean_name
from mailferry.mailbox.workbook.values import Counts, Kind
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import Claim, File, Job
    from mailferry.mailbox.ledger.records import Newer
    from mailferry.mailbox.target.upsert import Loaded
    from mailferry.mailbox.workbook.contract import RowContract
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import RejectedRow

    _Read = Callable[[Path, Kind, RowContract], AbstractContextManager[Sheet]]

log = logs.of(__name__, logs.FILES)
table_log = log.about(logs.FILES, logs.DATABASE)


#: Times of receipt before are none: a server without them, or nonsense.
_FIRST_YEAR = 1990


def load_job(work: Work, held: Claim) -> Job | None:
    """Do a claimed job but for settling it; the job as it is afterwards, or None where the claim was lost.

    What fails, foreseen or not, is on record before this returns or raises. Raises Stop where a person has to act,
    Retry where the ledger cannot be reached.
    """
    try:
        with _contained(held):
            return _load_all(work, held)
    except ClaimLost as error:
        log.warning("job %d: %s", held.job.id, error)
        return None
    except Stop as error:
        _record_failure(work, held, error)
        raise
    except MailferryError as error:
        return _record_failure(work, held, error)
    except KeyboardInterrupt:
        # Not the job's fault: no attempt is counted, and the next run starts it at once.
        with contextlib.suppress(MailferryError):
            _record_failure(work, held, Stop("ended by a signal; the next run goes on with it"))
        raise


def _load_all(work: Work, held: Claim) -> Job:
    job = held.job
    if job.attempts > records.MOST_RETRIES + 1:
        raise Retry(f"given up: work on it was cut off {job.attempts - 1} times, each time without a word")
    log.info("job %d: attempt %d, %r", job.id, job.attempts, job.subject)
    pending = pending_files(work, held)
    done = None
    if work.feed.routes and pending:
        done = _load_together(work, held, by_routes(work, held, pending))
    else:
        for file in pending:
            done = _load_file(work, held, file, last=file is pending[-1])
    if done is None:
        with work.transaction() as conn:
            leases.hold(conn, held)
            done = records.finish_job(conn, held)
    log.info("job %d: %s", done.id, done.state)
    return done


def _load_together(work: Work, held: Claim, pieces: Sequence[Piece]) -> Job | None:
    """Load the files of a message in one transaction, so that its tables agree at any time; a Reject is one file's own."""
    faults: dict[int, Reject] = {}
    files = {}
    for piece in pieces:
        try:
            with _contained(held):
                files[piece.file.id] = on_disk(work, held, piece.file)
        except Reject as error:
            faults[piece.file.id] = error
    outcomes = []
    with work.transaction() as conn:
        leases.hold(conn, held)
        for name in sorted({piece.feed.target_table for piece in pieces}):
            table.lock(conn, name)
        done = None
        for at, piece in enumerate(pieces, 1):
            last = at == len(pieces)
            last_of_table = all(one.feed.target_table != piece.feed.target_table for one in pieces[at:])
            try:
                if fault := faults.get(piece.file.id):
                    raise fault
                file = files[piece.file.id]
                with (
                    _part(file),
                    _contained(held),
                    conn.transaction(),
                    _loaded(conn, piece.feed, work.read, held, file, last=last_of_table) as outcome,
                ):
                    outcome.counts.warnings.extend(piece.warnings)
                    done = _record(conn, held, file, outcome, last=last)
            except Reject as error:
                outcome = FileOutcome(state=FileState.REJECTED, error=str(error))
                done = _record(conn, held, piece.file, outcome, last=last)
            outcomes.append(outcome)
    for piece, outcome in zip(pieces, outcomes, strict=True):
        _log(held, piece.file, outcome)
    return done


def _load_file(work: Work, held: Claim, file: File, *, last: bool) -> Job | None:
    """Load one file, or record why not: rows and ledger in one transaction. The end of the job goes with its `last` file.

    A Reject is the file's own and ends here; Retry and Stop are the job's.
    """
    try:
        with _part(file), _contained(held):
            file = on_disk(work, held, file)
            with work.transaction() as conn:
                leases.hold(conn, held)
                with _loaded(conn, work.feed, work.read, held, file, last=last) as outcome:
                    done = _record(conn, held, file, outcome, last=last)
    except Reject as error:
        outcome = FileOutcome(state=FileState.REJECTED, error=str(error))
        with work.transaction() as conn:
            leases.hold(conn, held)
            done = _record(conn, held, file, outcome, last=last)
    _log(held, file, outcome)
    return done


def _part(file: File) -> contextlib.AbstractContextManager[None]:
    return tracing.span("part", section=file.section, kind=str(file.kind), file=file.id)


def _record(conn: Connection, held: Claim, file: File, outcome: FileOutcome, *, last: bool) -> Job | None:
    """The one place that writes how a file, and with its last one a job, has ended."""
    records.finish_file(conn, held, file.id, outcome)
    return records.finish_job(conn, held) if last else None


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


@contextlib.contextmanager
def _contained(held: Claim) -> Iterator[None]:
    """Make an unforeseen error one of this job, so that a defect that it brings out does not hold up those behind it.

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


@contextlib.contextmanager
def _loaded(
    conn: Connection, feed: MailboxFeed, read: _Read, held: Claim, file: File, *, last: bool
) -> Iterator[FileOutcome]:
    """Upsert the file's rows; its outcome, to be recorded within, as its rejected rows are read from the open sheet."""
    table.lock(conn, feed.target_table)
    target = Target.inspect(conn, feed.target_table, feed.unique_key)
    if target is None:
        refuse_without_table(feed, str(held.job.id))
    if target and feed.absent is Absent.MARK:
        target.refuse_without_mark(conn)
    if target and (same := records.copy_of(conn, held, target, file.sha256, file.id)):
        yield _duplicate(target, same, file.content_sha256)
        return
    contract = row_contract(feed, target, file.kind, server_codec(conn), about=About.of(held.job, file.name))
    with read(Path(file.path), file.kind, contract) as sheet:
        yield upserted(conn, feed, held, file, target, sheet, last=last)


def upserted(
    conn: Connection,
    feed: MailboxFeed,
    held: Claim,
    file: File,
    target: Target | None,
    sheet: Sheet,
    *,
    last: bool,
) -> FileOutcome:
    """Upsert the rows of an open sheet, or leave nothing of them; `last` is the last file of the job for the table."""
    same, fault = None, ""
    scope = _scope(feed, held.job)
    origin = Origin(
        file=file.name,
        job_id=held.job.id,
        file_id=file.id,
        received=held.job.received,
        sheets=lambda: list(zip(sheet.sheets, sheet.report.offsets, strict=True)),
    )
    # What is not to be loaded leaves nothing: neither rows, nor a table or columns made for them.
    with contextlib.suppress(psycopg.Rollback), conn.transaction():
        fitted = _fitted(conn, feed, target, sheet)
        newer = _newer(conn, feed, held, fitted)
        loaded = upsert.load(
            conn,
            fitted,
            [column.name for column in sheet.columns],
            sheet.chunks,
            origin,
            upsert.Rules(
                temp_schema=feed.database.temp_schema,
                keep_newer=newer is not None,
                keep_blanks=kept_blanks(feed, fitted),
                history=feed.history,
                scope=scope,
            ),
        )
        content = sheet.report.content_hash
        counts = _counts(sheet, loaded)
        refused = list(_server_rejects(sheet, loaded))
        fault = _too_many_rejects(feed.max_rejected, counts, chain(sheet.rejects(), refused))
        fault = fault or _overwrites(held.job.id, newer, fitted, counts)
        same = records.duplicate_of(conn, fitted, sha256=file.sha256, content_sha256=content, file_id=file.id)
        if same and counts.inserted + counts.updated:
            counts.warnings.append(_came_back(same, counts))
            same = None
        if scope:
            # The same list again says the same of what is absent.
            same = None
            if last and not fault:
                _settle_absent(conn, fitted, scope, origin, counts, keep=feed.history)
        if fault or same:
            raise psycopg.Rollback
    if same:
        return _duplicate(fitted, same, content)
    rejected = chain(sheet.rejects(), refused)
    if fault:
        counts = Counts(read=counts.read, rejected=counts.rejected, warnings=counts.warnings)
        return FileOutcome(
            state=FileState.REJECTED, counts=counts, content_sha256=content, error=fault, rejected=rejected
        )
    return FileOutcome(
        state=FileState.LOADED,
        target=fitted,
        counts=counts,
        content_sha256=content,
        rejected=rejected,
        history=feed.history,
    )


def _newer(conn: Connection, feed: MailboxFeed, held: Claim, target: Target) -> Newer | None:
    """The message whose rows stay although this one is loaded after it."""
    # without a time of receipt (1970) nothing can be said
    if held.job.received.year < _FIRST_YEAR:
        return None
    return records.newer(conn, held, target, arrival=feed.order is Order.ARRIVAL)


def _overwrites(job_id: int, newer: Newer | None, target: Target, counts: Counts) -> str:
    """Why an older message is refused; "" where each row records its message, or no row changes."""
    if newer is None or not counts.updated or (target.has_received and not newer.confirmed_rows):
        return ""
    return (
        f"it is older than job {newer.job_id}, whose message was received {newer.received:%Y-%m-%d %H:%M %Z} and is"
        f" loaded already: {counts.updated} rows would go back to what they were before. To load it all the same:"
        f" mailferry jobs retry {job_id}; for all such messages: order = arrival"
    )


def _scope(feed: MailboxFeed, job: Job) -> Scope | None:
    """Whose rows the message lists, where those that are absent from it are not kept."""
    if feed.absent is Absent.KEEP:
        return None
    known = feed.order is Order.RECEIVED and job.received.year >= _FIRST_YEAR
    return Scope(
        feed=feed.name,
        sender=(About.of(job, "").address or job.sender).lower(),
        whole_feed=feed.absent_scope is AbsentScope.FEED,
        what=feed.absent,
        # A person who has looked at it may want it all the same.
        most=None if job.retried else feed.max_absent,
        received=job.received if known else None,
    )


def _settle_absent(
    conn: Connection, target: Target, scope: Scope, origin: Origin, counts: Counts, *, keep: bool
) -> None:
    if counts.rejected:
        why = "rows that are absent from this list stay, as rows of it were rejected"
    elif counts.left_out:
        why = "rows that are absent from this list stay, as rows of it are hidden and were left out"
    else:
        counts.absent, why = absent.settle(conn, target, scope, origin, keep=keep)
    if why:
        counts.warnings.append(why)


def _came_back(same: int, counts: Counts) -> str:
    """What is said of the same file sent again when the table no longer holds its rows."""
    count = counts.inserted + counts.updated
    return f"the same as file {same}, of whose rows {count} were deleted or changed since; they are back"


def _duplicate(target: Target, same: int, content: str | None) -> FileOutcome:
    return FileOutcome(state=FileState.DUPLICATE, target=target, duplicate_of=same, content_sha256=content)


def _fitted(conn: Connection, feed: MailboxFeed, target: Target | None, sheet: Sheet) -> Target:
    """The table with all columns that the sheet fills."""
    if target is None:
        key, marking = clean_name(feed.unique_key), feed.absent is Absent.MARK
        made = table.create(conn, feed.target_table, key, sheet.new, marking=marking)
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
    if loaded.older:
        warnings.append(
            f"{loaded.older} rows are older than those of the table, from a later message, which stay"
        )
    if later := counts.superseded - loaded.older:
        warnings.append(f"{later} rows were replaced by later rows of the same key")
    return replace(
        counts,
        read=report.read,
        rejected=report.rejected + len(loaded.rejected),
        left_out=report.left_out,
        warnings=warnings,
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


def _log(held: Claim, file: File, outcome: FileOutcome) -> None:
    if outcome.state is FileState.DUPLICATE:
        text = "job %d: %s is a duplicate of file %d, not loaded"
        log.info(text, held.job.id, file.name, outcome.duplicate_of)
    elif outcome.target is None:
        log.error("job %d: %s rejected: %s", held.job.id, file.name, outcome.error)
    else:
        counts = outcome.counts
        table_log.info(
            "job %d: %s loaded into %s: %d rows read, %d inserted, %d updated, %d unchanged, %d rejected, %d absent",
            held.job.id,
            file.name,
            outcome.target.title,
            counts.read,
            counts.inserted,
            counts.updated,
            counts.unchanged,
            counts.rejected,
            counts.absent,
        )
        for warning in counts.warnings:
            log.warning("job %d: %s: %s", held.job.id, file.name, warning)
