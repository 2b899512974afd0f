"""The ledger: which message, which of its files, what became of each. What people read, and what every run goes by.

A job is one message of one feed. Every function takes a connection and leaves the transaction to its caller, so that
rows and ledger are committed together. The clock is the database's, the one that all hosts share.

How a job ends: with no files at all it has completed; when all its files were rejected or have failed, it has failed;
when some did, it has completed, and the failures are counted and told in its error. A passing fault (Retry) is tried
again 1, 2 and 4 seconds later, then its files have failed. A Reject ends it at once. A Stop is nobody's fault but the
configuration's: the job goes back to pending, no attempt is counted, and the next run finds it due after a minute.

Who works on a job, and may say how it ended, is in `leases`.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from mailferry.database import queries
from mailferry.errors import Reject, Stop
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.ledger.jobs import (
    Details,
    File,
    FileState,
    Job,
    JobState,
    OutOfReach,
    Statistics,
    Tally,
)
from mailferry.mailbox.source.message import Passed
from mailferry.mailbox.workbook.values import Counts, Kind, RejectedRow
from mailferry.retry import pause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.database import Connection
    from mailferry.errors import MailferryError
    from mailferry.mailbox.ledger.jobs import Claim
    from mailferry.mailbox.source.message import MessageRef, Outcome, StoredFile, Summary
    from mailferry.mailbox.target.table import Target

#: After the first attempt.
MOST_RETRIES = 3
#: A job that met a Stop is not tried again before.
AFTER_STOP = timedelta(minutes=1)
#: Nor one that needs a mailbox that is away.
_AFTER_OUT_OF_REACH = timedelta(seconds=10)


# Recording


def find(conn: Connection, feed: str, ref: MessageRef, header_sha256: str, received: datetime) -> Job | None:
    """The job of a message that is known already.

    A server that has changed UIDVALIDITY gives every message a new UID: a job with the same header block and time of
    arrival (INTERNALDATE, which stays as it was) under another UIDVALIDITY is then this one's, and is bound to the new UID.
    """
    keys = {"feed": feed, **asdict(ref), "header_sha256": header_sha256, "received": received}
    return _one(conn, "find", keys)


def record(
    conn: Connection,
    feed: str,
    summary: Summary,
    header_sha256: str,
    *,
    target: str,
    files: Sequence[StoredFile] = (),
    passed: Sequence[Passed] = (),
) -> Job:
    """The message with its files and the parts passed over, as a pending job.

    Done again, by a second runner or after a crash, it gives the same job. `header_sha256` is the SHA-256 of the
    raw header block, hex. Raises Reject as `take_in`.
    """
    values = {
        "feed": feed,
        **asdict(summary.ref),
        "header_sha256": header_sha256,
        "message_id": _storable(summary.message_id),
        "subject": _storable(summary.subject),
        "sender": _storable(summary.sender),
        "received": summary.received,
        "target": target,
    }
    job = find(conn, feed, summary.ref, header_sha256, summary.received) or _one(conn, "insert_job", values)
    if job is None:  # another runner has recorded it this moment
        job = _changed(conn, "find", values)
    if job.state is JobState.PENDING:
        take_in(conn, job.id, files, passed)
    return job


def take_in(conn: Connection, job_id: int, files: Iterable[StoredFile], passed: Iterable[Passed]) -> None:
    """The files of a job and the parts passed over. Raises Reject where two files would stand in one place."""
    for file in files:
        names = {"name": _storable(file.name), "member": _storable(file.member), "path": str(file.path)}
        facts = {"section": file.section, "kind": str(file.kind), "size": file.size, "sha256": file.sha256}
        if not conn.execute(_sql("insert_file"), {"job_id": job_id, **names, **facts}).rowcount:
            raise one_place(file.section, file.member)
    for ordinal, part in enumerate(passed):
        texts = {"section": part.section, "name": _storable(part.name), "reason": _storable(part.reason)}
        conn.execute(_sql("insert_passed"), {"job_id": job_id, "ordinal": ordinal, **texts})


def one_place(section: str, member: str) -> Reject:
    """Two different files of a message that the ledger cannot tell apart: neither is dropped in silence."""
    where = f"part {section}" + (f", {member!r} in the archive" if member else "")
    return Reject(f"another file of the message is on record as {where}; send each in a message of its own")


# Working


def duplicate_of(
    conn: Connection, held: Claim, target: Target, *, sha256: str, content_sha256: str | None = None
) -> int | None:
    """The id of the file that makes one of the claimed job's a duplicate: same bytes or content, loaded into the same table.

    None where another file has changed the table since, as then this one is the newest word; but not when the bytes
    were loaded from a message with the same header, which has merely been moved or copied and is as old as it was.
    None, too, where rows of that file were rejected, and where the table was made anew or emptied. Call it with the
    table's lock held (`table.lock`).
    """
    hashes = {"sha256": sha256, "content_sha256": content_sha256, "header_sha256": held.job.header_sha256}
    where = {"target": target.title, "generation": target.generation}
    row = conn.execute(_sql("duplicate"), {**hashes, **where}).fetchone()
    return row[0] if row else None


def finish_file(
    conn: Connection,
    held: Claim,
    file_id: int,
    state: FileState,
    *,
    target: Target | None = None,
    counts: Counts | None = None,
    content_sha256: str | None = None,
    duplicate_of: int | None = None,
    error: str | None = None,
    rejected: Iterable[RejectedRow] = (),
) -> None:
    """What became of a file, in the transaction that holds its rows. `rejected` is stored as it comes, however many.

    Raises ClaimLost; ValueError for a file that is not pending.
    """
    counted = asdict(counts or Counts())
    counted["warnings"] = [_storable(warning) for warning in counted["warnings"]]
    values = {
        **held.fencing,
        **counted,
        "file_id": file_id,
        "state": str(state),
        "target": target.title if target else None,
        "generation": target.generation if target else None,
        "duplicate_of": duplicate_of,
        "content_sha256": content_sha256,
        "error": _storable(error) if error else None,
    }
    if not conn.execute(_sql("finish_file"), values).rowcount:
        leases.hold_to_the_end(conn, held)
        raise ValueError(f"file {file_id} of job {held.job.id} is not pending")
    rows = iter(rejected)
    first = next(rows, None)
    if first is None:
        return
    statement = 'COPY mailferry.rejected_rows (file_id, sheet, "row", "column", value, reason) FROM STDIN'
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in chain([first], rows):
            texts = [_storable(text) for text in (row.column, row.value, row.reason)]
            copy.write_row([file_id, _storable(row.sheet), row.row, *texts])


def finish_job(conn: Connection, held: Claim) -> Job:
    """The end of a job whose files are all finished. Raises ClaimLost; ValueError where a file is still pending."""
    done = _one(conn, "finish_job", held.fencing)
    if done is None:
        leases.hold_to_the_end(conn, held)
        raise ValueError(f"job {held.job.id} has files that are still pending")
    return done


def fail(conn: Connection, held: Claim, error: MailferryError) -> Job:
    """The attempt has failed as a whole: pending once more, or given up, by kind of error. Raises ClaimLost.

    A mailbox that is away (OutOfReach) is no fault of the job's: no attempt is counted.
    Files that were finished before stay as they are; those that were not are failed or rejected with the job.
    """
    leases.hold_to_the_end(conn, held)
    kind = "stop" if isinstance(error, Stop) else "reject" if isinstance(error, Reject) else "retry"
    attempt = held.job.attempts
    values: dict[str, Any] = {"id": held.job.id, "error_kind": kind, "error": _storable(str(error))}
    if kind == "stop":
        return _changed(conn, "again_later", {**values, "attempts": attempt - 1, "delay": AFTER_STOP})
    if isinstance(error, OutOfReach):
        return _changed(
            conn, "again_later", {**values, "attempts": attempt - 1, "delay": _AFTER_OUT_OF_REACH}
        )
    if kind == "retry" and attempt <= MOST_RETRIES:
        return _changed(conn, "again_later", {**values, "attempts": attempt, "delay": retry_delay(attempt)})
    state = FileState.REJECTED if kind == "reject" else FileState.FAILED
    conn.execute(_sql("give_up_files"), {**values, "state": str(state)})
    return _changed(conn, "give_up", values)


def retry_delay(attempt: int) -> timedelta:
    """How long after attempt n (from 1) the next one comes: 1, 2, 4 seconds."""
    return timedelta(seconds=pause(attempt))


def moved(conn: Connection, file_id: int, path: str) -> None:
    """The file has gone to another folder, after the commit."""
    conn.execute("UPDATE mailferry.files SET path = %s WHERE id = %s", (path, file_id))


def marked(conn: Connection, job: Job, outcome: Outcome) -> None:
    """The message is marked in the mailbox; told of the end that `job` shows, and of no later one."""
    conn.execute(_sql("mark"), {"id": job.id, "finished_at": job.finished_at, "marked_as": str(outcome)})


def unmarked(conn: Connection, feed: str, ago: timedelta = timedelta(0)) -> list[Job]:
    """Jobs that ended so long ago, but whose message is not marked yet: a crash came in between."""
    return _many(conn, "unmarked", {"feed": feed, "ago": ago})


# People


def cancel(conn: Connection, job_id: int) -> Job:
    """Not to be done. One in progress is cancelled too, and its transaction ended. Raises Reject; Retry when that fails."""
    leases.end_work(conn, job_id)
    job = _one(conn, "cancel", {"id": job_id})
    if job is None:
        raise _cannot(conn, job_id, "cancelled", "pending or in progress")
    return job


def retry(conn: Connection, job_id: int) -> Job:
    """To be done again, at once and with all its attempts: the files that were not loaded, or not all of whose rows.

    Their rows replace those of the same keys, whatever was loaded since. Raises Reject.
    """
    job = _one(conn, "retry", {"id": job_id})
    if job is None:
        raise _cannot(
            conn,
            job_id,
            "retried",
            "failed, cancelled or waiting, or has files or rows that were not loaded; one in progress can be cancelled"
            " first",
        )
    conn.execute(_sql("retry_files"), {"id": job_id})
    conn.execute(_sql("forget_rejected_of_job"), {"id": job_id})
    return job


def jobs(
    conn: Connection,
    *,
    feed: str | None = None,
    state: JobState | None = None,
    since: datetime | None = None,
    text: str | None = None,
    limit: int = 100,
) -> list[Job]:
    """Jobs, latest arrival first. `since`: recorded then or later. `text`: in subject, sender or Message-ID, any case."""
    filters = {
        "feed": feed and _storable(feed),
        "state": state and str(state),
        "since": since,
        "text": text and _storable(text),
    }
    return _many(conn, "jobs", {**filters, "limit": limit})


def files_of(conn: Connection, *job_ids: int) -> list[File]:
    """The files of these jobs, in their order."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return [_file(row) for row in cursor.execute(_sql("files"), {"ids": list(job_ids)})]


def show(conn: Connection, job_id: int) -> Details | None:
    """All about one job; None where there is none of that number."""
    job = _one(conn, "job", {"id": job_id})
    if job is None:
        return None
    passed = conn.execute(_sql("passed"), {"id": job_id}).fetchall()
    return Details(
        job=job,
        files=tuple(files_of(conn, job_id)),
        passed=tuple(Passed(section=section, name=name, reason=reason) for section, name, reason in passed),
    )


def rejected_rows(conn: Connection, file_id: int, limit: int = 1000) -> list[RejectedRow]:
    """The first rows of a file that were not loaded."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(_sql("rejected"), {"file_id": file_id, "limit": limit})
        return [RejectedRow(**row) for row in found]


def statistics(conn: Connection, now: datetime, feed: str | None = None) -> Statistics:
    """What was done today and this week, by `now`'s calendar; `now` is aware."""
    if now.tzinfo is None:
        raise ValueError("now must be aware")
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    # Midnight is asked for by the calendar: a day of a week may have 23 or 25 hours.
    monday = (midnight.replace(tzinfo=None) - timedelta(days=now.weekday())).replace(tzinfo=now.tzinfo)
    tallies = []
    with conn.cursor(row_factory=dict_row) as cursor:
        for since in (midnight, monday):
            row = cursor.execute(_sql("statistics"), {"since": since, "feed": feed}).fetchone()
            assert row is not None
            tallies.append(Tally(**row))
    states = conn.execute(_sql("states"), {"feed": feed}).fetchall()
    return Statistics(
        today=tallies[0], week=tallies[1], states={JobState(state): count for state, count in states}
    )


def forget(conn: Connection, feed: str, before: datetime) -> int:
    """Drop the rejected rows of the feed's files finished before then, cell values and all; how many there were.

    Jobs and files stay, a few hundred bytes a message: they are the memory that keeps a message from being loaded twice.
    """
    return conn.execute(_sql("forget_rejected"), {"feed": feed, "before": before}).rowcount


# Rows and values


def _sql(name: str) -> bytes:
    return queries("records")[name]


def _one(conn: Connection, name: str, values: dict[str, Any]) -> Job | None:
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_sql(name), values).fetchone()
    return Job.of(row) if row else None


def _many(conn: Connection, name: str, values: dict[str, Any]) -> list[Job]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return [Job.of(row) for row in cursor.execute(_sql(name), values)]


def _changed(conn: Connection, name: str, values: dict[str, Any]) -> Job:
    job = _one(conn, name, values)
    assert job is not None
    return job


def _file(row: dict[str, Any]) -> File:
    counts = Counts(**{key: row.pop(key) for key in Counts.__dataclass_fields__})
    return File(**{**row, "state": FileState(row["state"]), "kind": Kind(row["kind"])}, counts=counts)


def _cannot(conn: Connection, job_id: int, done: str, when: str) -> Reject:
    job = _one(conn, "job", {"id": job_id})
    if job is None:
        return Reject(f"There is no job {job_id}.")
    return Reject(f"Job {job_id} is {job.state.replace('_', ' ')}; a job can be {done} while it is {when}.")


def _storable(text: str) -> str:
    """What PostgreSQL takes as text: no NUL, and nothing that UTF-8 cannot say."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
