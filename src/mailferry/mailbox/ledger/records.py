"""What a run writes about messages and their files, and asks: which message, which of its files, what became of each.

A job is one message of one feed. Every function takes a connection and leaves the transaction to its caller, so that
rows and ledger are committed together. The clock is the database's, the one that all hosts share.

How a job ends: with no files at all it has completed; when all its files were rejected or have failed, it has failed;
when some did, it has completed, and the failures stand in its error. Where any did, it is `refused`: shown until a person
retries, cancels or acknowledges it. A passing fault (Retry) is tried again 1, 2 and 4
seconds later, then its files have failed. A Reject ends it at once. A Stop is the configuration's fault: the job is
pending again, no attempt is counted, and it is due after a minute.

Who works on a job, and may say how it ended, is in `leases`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mailferry.database import queries, storable
from mailferry.errors import Reject, Stop
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.ledger.jobs import FileState, JobState
from mailferry.mailbox.ledger.rows import many, one, path_of, path_texts
from mailferry.mailbox.source.message import Unavailable, Verdict
from mailferry.mailbox.workbook.values import Kind
from mailferry.retry import pause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from mailferry.database import Connection
    from mailferry.errors import MailferryError
    from mailferry.mailbox.ledger.jobs import Claim, File, FileOutcome, Job
    from mailferry.mailbox.source.message import MessageRef, Outcome, PartOutcome, Summary
    from mailferry.mailbox.target.table import Target

#: After the first attempt.
MOST_RETRIES = 3
#: A job that met a Stop is not tried again before.
AFTER_STOP = timedelta(minutes=1)
#: Nor one that needs a mailbox that is unavailable.
_AFTER_UNAVAILABLE = timedelta(seconds=10)
#: The kind that a name claims, for files that cannot be read as any.
_CLAIMED = {".xls": Kind.XLS, ".xlt": Kind.XLS, ".xlsb": Kind.XLSB, ".ods": Kind.ODS}


# Recording


def unknown(conn: Connection, feed: str, refs: Sequence[MessageRef]) -> list[MessageRef]:
    """Those of the messages that have no job under exactly this number; their order is kept."""
    known: set[tuple[str, str, int, str]] = set()
    for account, folder, uidvalidity in {(ref.account, ref.folder, ref.uidvalidity) for ref in refs}:
        where = {"feed": feed, "account": account, "folder": folder, "uidvalidity": uidvalidity}
        uids = [ref.uid for ref in refs]
        rows = conn.execute(_sql("known"), {**where, "uids": uids})
        known |= {(account, folder, uidvalidity, uid) for (uid,) in rows}
    return [ref for ref in refs if (ref.account, ref.folder, ref.uidvalidity, ref.uid) not in known]


def taken_in(conn: Connection, feed: str, since: datetime) -> int:
    """Bytes of the files of messages that were recorded since then."""
    row = conn.execute(_sql("taken_in"), {"feed": feed, "since": since}).fetchone()
    return int(row[0]) if row else 0


def senders(conn: Connection, feed: str, since: datetime) -> dict[str, int]:
    """How many messages were recorded since then, by their senders as the headers have them."""
    return dict(conn.execute(_sql("senders"), {"feed": feed, "since": since}).fetchall())


def find(conn: Connection, feed: str, ref: MessageRef, header_sha256: str, received: datetime) -> Job | None:
    """The job of a message that is known already.

    After a change of UIDVALIDITY every message has a new UID: a job with the same header block and time of
    arrival (INTERNALDATE, which stays as it was) under another UIDVALIDITY is then this one's, and is bound to the new UID.
    """
    keys = {"feed": feed, **asdict(ref), "header_sha256": header_sha256, "received": received}
    return one(conn, _sql("find"), keys)


def record(
    conn: Connection,
    feed: str,
    summary: Summary,
    header_sha256: str,
    *,
    target: str,
    parts: Sequence[PartOutcome] = (),
) -> Job:
    """The message, and what became of each of its parts, as a pending job.

    Done again, by a second worker or after a crash, it returns the same job. `header_sha256` is the SHA-256 of the
    raw header block, hex. Raises Reject as `take_in`.
    """
    values = {
        "feed": feed,
        **asdict(summary.ref),
        "header_sha256": header_sha256,
        "message_id": storable(conn, summary.message_id),
        "subject": storable(conn, summary.subject),
        "sender": storable(conn, summary.sender),
        "received": summary.received,
        "target": target,
    }
    job = find(conn, feed, summary.ref, header_sha256, summary.received)
    job = job or one(conn, _sql("insert_job"), values)
    if job is None:  # another worker has recorded it this moment
        job = _changed(conn, "find", values)
    if job.state is JobState.PENDING:
        take_in(conn, job.id, parts)
    return job


def take_in(conn: Connection, job_id: int, parts: Iterable[PartOutcome]) -> None:
    """What became of each part of a job's message. Raises Reject where two files would stand in one place."""
    skipped = 0
    for part in parts:
        texts = {
            "section": part.section,
            "name": storable(conn, part.name),
            "reason": storable(conn, part.reason),
        }
        if part.verdict in (Verdict.TAKEN, Verdict.REJECTED):
            statement = "insert_file" if part.verdict is Verdict.TAKEN else "reject_file"
            kind = part.kind or _CLAIMED.get(PurePath(part.name).suffix.lower(), Kind.XLSX)
            facts = {
                **_places(conn, part),
                "kind": str(kind),
                "size": part.size,
                "sha256": part.sha256,
            }
            values = {"job_id": job_id, "member": storable(conn, part.member), **texts, **facts}
            if not conn.execute(_sql(statement), values).rowcount:
                raise _one_place(part)
        else:
            conn.execute(_sql("insert_passed"), {"job_id": job_id, "ordinal": skipped, **texts})
            skipped += 1


def replace_whole(conn: Connection, job_id: int, parts: Iterable[PartOutcome]) -> None:
    """A message that stood on record as a whole, as it could not be read, by now can: its files take that place.

    Raises Reject where two of them would stand in one place.
    """
    conn.execute(_sql("drop_whole"), {"job_id": job_id})
    take_in(conn, job_id, parts)


def set_routes(conn: Connection, file: File, routes: Sequence[int]) -> None:
    """A pending file is done by these routes besides its first: a row of the ledger for each, and none for any other."""
    if file.route == 0:
        for number in routes:
            conn.execute(_sql("add_route"), {"id": file.id, "route": number})
    elif file.route not in routes:
        conn.execute(_sql("drop_route"), {"id": file.id})


def refetched(conn: Connection, file_id: int, part: PartOutcome) -> None:
    """A pending file was fetched again."""
    assert part.path is not None
    values = {"kind": str(part.kind), "size": part.size, "sha256": part.sha256, **_places(conn, part)}
    conn.execute(_sql("refetched"), {"id": file_id, **values})


def _places(conn: Connection, part: PartOutcome) -> dict[str, str]:
    places = {"path": part.path, "original": part.original}
    return {name: path_texts(conn, [path])[0] if path else "" for name, path in places.items()}


def _one_place(part: PartOutcome) -> Reject:
    """Two different files of a message that the ledger cannot distinguish: neither is dropped in silence."""
    where = f"part {part.section}" + (f", {part.member!r} in the archive" if part.member else "")
    return Reject(f"another file of the message is on record as {where}; send each in a message of its own")


# Working


def copy_of(
    conn: Connection, held: Claim, target: Target, sha256: str, file_id: int | None = None
) -> int | None:
    """The id of a loaded file of the same bytes from a message with the same header, which was merely moved or copied.

    It is as old as it was, and brings nothing. None where the table was made again or emptied since, and for a job that
    a person has asked for again.
    """
    values = {
        "id": held.job.id,
        "sha256": sha256,
        "header_sha256": held.job.header_sha256,
        "file_id": file_id,
    }
    return _id(conn, "copy", {**values, "target": target.title, "generation": target.generation})


def duplicate_of(
    conn: Connection,
    target: Target,
    *,
    sha256: str,
    content_sha256: str | None = None,
    file_id: int | None = None,
) -> int | None:
    """The id of a file of the same bytes or content that was loaded into the same table.

    None where another file has changed the table since, as then this one is the newest word, and where the table was
    made again or emptied. That the table still holds its rows only their load can show. Call it with the table's lock
    held (`table.lock`).
    """
    values = {"sha256": sha256, "content_sha256": content_sha256, "file_id": file_id}
    return _id(conn, "duplicate", {**values, "target": target.title, "generation": target.generation})


@dataclass(frozen=True, kw_only=True, slots=True)
class Newer:
    """A message that was received after another one, and is loaded already."""

    job_id: int
    received: datetime
    #: Some of such messages found rows as they were, so that the table does not say that they had them.
    confirmed_rows: bool


def newer(conn: Connection, held: Claim, target: Target, *, arrival: bool = False) -> Newer | None:
    """The latest of the messages loaded into the table that were received after the claimed job's; None without one.

    None, too, for a job that a person has asked for again by itself, and where the order of `arrival` counts, unless the
    job was asked for again together with other jobs.
    """
    job = {"id": held.job.id, "received": held.job.received, "arrival": arrival}
    values = {**job, "target": target.title, "generation": target.generation}
    row = conn.execute(_sql("newer"), values).fetchone()
    return Newer(job_id=row[0], received=row[1], confirmed_rows=row[2]) if row else None


def _id(conn: Connection, name: str, values: dict[str, Any]) -> int | None:
    row = conn.execute(_sql(name), values).fetchone()
    return row[0] if row else None


def finish_file(conn: Connection, held: Claim, file_id: int, outcome: FileOutcome) -> None:
    """What became of a file, in the transaction that holds its rows. Raises ClaimLost; ValueError unless it is pending."""
    counted = asdict(outcome.counts)
    counted["warnings"] = [storable(conn, warning) for warning in counted["warnings"]]
    target = outcome.target
    values = {
        **held.fencing,
        **counted,
        "file_id": file_id,
        "state": str(outcome.state),
        "target": target.title if target else None,
        "generation": target.generation if target else None,
        "duplicate_of": outcome.duplicate_of,
        "content_sha256": outcome.content_sha256,
        "history": outcome.history,
        "error": storable(conn, outcome.error) if outcome.error else None,
    }
    if not conn.execute(_sql("finish_file"), values).rowcount:
        leases.hold_to_the_end(conn, held)
        raise ValueError(f"file {file_id} of job {held.job.id} is not pending")
    rows = iter(outcome.rejected)
    first = next(rows, None)
    if first is None:
        return
    statement = 'COPY mailferry.rejected_rows (file_id, sheet, "row", "column", value, reason) FROM STDIN'
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in chain([first], rows):
            texts = [storable(conn, text) for text in (row.column, row.value, row.reason)]
            copy.write_row([file_id, storable(conn, row.sheet), row.row, *texts])


def finish_job(conn: Connection, held: Claim) -> Job:
    """The end of a job whose files are all finished. Raises ClaimLost; ValueError where a file is still pending."""
    done = one(conn, _sql("finish_job"), held.fencing)
    if done is None:
        leases.hold_to_the_end(conn, held)
        raise ValueError(f"job {held.job.id} has files that are still pending")
    conn.execute(_sql("count_job"), {"id": done.id})
    return done


def fail(conn: Connection, held: Claim, error: MailferryError) -> Job:
    """The attempt has failed as a whole: pending again, or given up, by kind of error. Raises ClaimLost.

    A mailbox that is unavailable is no fault of the job's: no attempt is counted.
    Files that were finished before stay as they are; those that were not are failed or rejected with the job.
    """
    leases.hold_to_the_end(conn, held)
    kind = "stop" if isinstance(error, Stop) else "reject" if isinstance(error, Reject) else "retry"
    attempts = held.job.attempts
    values: dict[str, Any] = {"id": held.job.id, "error_kind": kind, "error": storable(conn, str(error))}
    uncounted = AFTER_STOP if kind == "stop" else _AFTER_UNAVAILABLE
    if kind == "stop" or isinstance(error, Unavailable):
        return _changed(conn, "again_later", {**values, "attempts": attempts - 1, "delay": uncounted})
    if kind == "retry" and attempts <= MOST_RETRIES:
        return _changed(conn, "again_later", {**values, "attempts": attempts, "delay": retry_delay(attempts)})
    state = FileState.REJECTED if kind == "reject" else FileState.FAILED
    conn.execute(_sql("give_up_files"), {**values, "state": str(state)})
    job = _changed(conn, "give_up", values)
    conn.execute(_sql("count_job"), {"id": job.id})
    return job


def retry_delay(attempt: int) -> timedelta:
    """How long after attempt n (from 1) the next one comes: 1, 2, 4 seconds."""
    return timedelta(seconds=pause(attempt))


def moved(conn: Connection, places: Mapping[int, Path], originals: Mapping[int, Path]) -> None:
    """Files, and what they lay in, both by the files' ids, have gone to another folder after the commit."""
    for file_id, path in zip(places, path_texts(conn, places.values()), strict=True):
        conn.execute("UPDATE mailferry.files SET path = %s WHERE id = %s", (path, file_id))
    for file_id, path in zip(originals, path_texts(conn, originals.values()), strict=True):
        conn.execute("UPDATE mailferry.files SET original = %s WHERE id = %s", (path, file_id))


def marked(conn: Connection, job: Job, outcome: Outcome) -> None:
    """The message is marked in the mailbox, for the end that `job` shows and for no later one."""
    conn.execute(_sql("mark"), {"id": job.id, "finished_at": job.finished_at, "marked_as": str(outcome)})


def unmarked(conn: Connection, feed: str, ago: timedelta = timedelta(0)) -> list[Job]:
    """Jobs that ended so long ago, but whose message is not marked yet: a crash came in between."""
    return many(conn, _sql("unmarked"), {"feed": feed, "ago": ago})


def left_behind(conn: Connection, paths: Iterable[Path]) -> list[int]:
    """Jobs that are settled, but for files of these paths: another host did that, and could not move them here."""
    rows = conn.execute(_sql("left_behind"), {"paths": path_texts(conn, paths)})
    return [job_id for (job_id,) in rows]


def recorded(conn: Connection, paths: Iterable[Path]) -> set[str]:
    """Those of the paths that the ledger knows."""
    rows = conn.execute(_sql("recorded_paths"), {"paths": path_texts(conn, paths)})
    return {path_of(path) for (path,) in rows}


def forget(conn: Connection, feed: str, before: datetime) -> int:
    """Drop the rejected rows of the feed's files finished before then, cell values and all; how many there were.

    Jobs and files stay, a few hundred bytes a message: they are the memory that keeps a message from being loaded twice.
    """
    return conn.execute(_sql("forget_rejected"), {"feed": feed, "before": before}).rowcount


def _sql(name: str) -> bytes:
    return queries("records")[name]


def _changed(conn: Connection, name: str, values: dict[str, Any]) -> Job:
    job = one(conn, _sql(name), values)
    assert job is not None
    return job
