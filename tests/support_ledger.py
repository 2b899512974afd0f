"""Messages, files and claims for tests of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailferry.mailbox.ledger import leases, records
from mailferry.mailbox.ledger.jobs import Claim, FileOutcome, FileState, Job
from mailferry.mailbox.ledger.rows import files_of
from mailferry.mailbox.source.message import MessageRef, PartOutcome, Summary, Verdict
from mailferry.mailbox.workbook.values import Counts, Kind

if TYPE_CHECKING:
    from mailferry.database import Connection
    from mailferry.mailbox.target.table import Target


NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def summary(uid: str = "1", *, uidvalidity: int = 7, minutes: Any = 0, subject: str = "Track") -> Summary:
    ref = MessageRef(account="u@example.com", folder="INBOX", uidvalidity=uidvalidity, uid=uid)
    return Summary(
        ref=ref,
        subject=subject,
        sender="a@example.com",
        message_id=f"<{uid}@example.com>",
        received=NOON + timedelta(minutes=minutes),
        size=1,
        parts=(),
    )


def stored(name: str = "a.xlsx", *, section: str = "2", sha256: str = "aa") -> PartOutcome:
    return PartOutcome(
        verdict=Verdict.TAKEN,
        path=Path("/pending") / name,
        name=name,
        section=section,
        member="",
        kind=Kind.XLSX,
        size=9,
        sha256=sha256,
    )


def record(
    conn: Connection,
    uid: str = "1",
    *,
    files: Any = None,
    feed: str = "f",
    target: str = "t",
    minutes: Any = None,
    **more: Any,
) -> Job:
    message = summary(uid, minutes=int(uid) if minutes is None else minutes, **more)
    parts = files or [stored()]
    return records.record(conn, feed, message, f"header {uid}", target=target, parts=parts)


def claim(conn: Connection, **more: Any) -> Claim:
    got = leases.claim(conn, worker_id="host:1", **more)
    assert got is not None
    return got


def file_ids(conn: Connection, job_id: int) -> list[int]:
    return [file.id for file in files_of(conn, job_id)]


def make_due(conn: Connection, job_id: int) -> None:
    conn.execute("UPDATE mailferry.jobs SET next_attempt_at = now() WHERE id = %s", (job_id,))


def load_as(
    conn: Connection,
    target: Target,
    uid: str,
    sha256: str,
    content: str,
    *,
    changed: Any = 1,
    rejected: int = 0,
    header: str = "",
) -> bool:
    """A file of these hashes arrives: whether it was a duplicate, else it is loaded."""
    message = summary(uid, minutes=int(uid))
    files = [stored(sha256=sha256)]
    job = records.record(conn, "f", message, header or f"header {uid}", target="t", parts=files)
    return do(conn, target, job, content, changed=changed, rejected=rejected)


def do(
    conn: Connection, target: Target, job: Job, content: str, *, changed: int = 1, rejected: int = 0
) -> bool:
    """Work on a job of one file, as `process` does: whether it was a duplicate."""
    held = claim(conn, job_id=job.id)
    (file,) = files_of(conn, job.id)
    sha256 = file.sha256
    found = records.copy_of(conn, held, target, sha256)
    found = found or records.duplicate_of(conn, target, sha256=sha256, content_sha256=content)
    state = FileState.LOADED if found is None else FileState.DUPLICATE
    counts = Counts(read=1, inserted=changed, rejected=rejected) if found is None else Counts()
    outcome = FileOutcome(
        state=state, target=target, counts=counts, content_sha256=content, duplicate_of=found
    )
    records.finish_file(conn, held, file_ids(conn, job.id)[0], outcome)
    records.finish_job(conn, held)
    return found is not None
