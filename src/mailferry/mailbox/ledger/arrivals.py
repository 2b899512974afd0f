"""The ledger as the loader sees it: what has arrived, what was refused at the door, what is due.

As in `records`, every function takes a connection and leaves the transaction to its caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from mailferry.database import queries
from mailferry.mailbox.ledger import records
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from mailferry.database import Connection
    from mailferry.mailbox.attachments import RejectedFile
    from mailferry.mailbox.source.message import MessageRef, Passed, StoredFile


@dataclass(frozen=True, kw_only=True, slots=True)
class First:
    """The first in order of a table's jobs that are not done."""

    job_id: int
    feed: str
    #: In progress; else it is pending.
    running: bool
    #: Seconds until its next attempt is due, or until its lease runs out; 0 or less: now.
    wait: float


#: What a name claims, for files that are none of it.
_CLAIMED = {".xls": Kind.XLS, ".xlt": Kind.XLS, ".xlsb": Kind.XLSB, ".ods": Kind.ODS}


def unknown(conn: Connection, feed: str, refs: Sequence[MessageRef]) -> list[MessageRef]:
    """Those of the messages that have no job under exactly this number; their order is kept."""
    known: set[tuple[str, str, int, str]] = set()
    for account, folder, uidvalidity in {(ref.account, ref.folder, ref.uidvalidity) for ref in refs}:
        where = {"feed": feed, "account": account, "folder": folder, "uidvalidity": uidvalidity}
        uids = [ref.uid for ref in refs]
        rows = conn.execute(_sql("known"), {**where, "uids": uids})
        known |= {(account, folder, uidvalidity, uid) for (uid,) in rows}
    return [ref for ref in refs if (ref.account, ref.folder, ref.uidvalidity, ref.uid) not in known]


def reject(conn: Connection, job_id: int, files: Iterable[RejectedFile]) -> None:
    """Put files of a job on record that were not even stored. Their kind is the one that the name claims.

    Raises Reject where a file that was stored stands in the same place.
    """
    for file in files:
        values = {
            "job_id": job_id,
            "section": file.section,
            "member": _storable(file.member),
            "name": _storable(file.name),
            "kind": str(_CLAIMED.get(PurePath(file.name).suffix.lower(), Kind.XLSX)),
            "error": _storable(file.reason),
        }
        if not conn.execute(_sql("reject_file"), values).rowcount:
            raise records.one_place(file.section, file.member)


def replace_whole(
    conn: Connection,
    job_id: int,
    files: Iterable[StoredFile],
    passed: Iterable[Passed],
    rejected: Iterable[RejectedFile],
) -> None:
    """A message that stood on record as a whole, as it could not be read, by now can: its files take that place.

    Raises Reject where two of them would stand in one place.
    """
    conn.execute(_sql("drop_whole"), {"job_id": job_id})
    records.take_in(conn, job_id, files, passed)
    reject(conn, job_id, rejected)


def refetched(conn: Connection, file_id: int, stored: StoredFile) -> None:
    """A pending file was fetched once more."""
    values = {
        "path": str(stored.path),
        "kind": str(stored.kind),
        "size": stored.size,
        "sha256": stored.sha256,
    }
    conn.execute(_sql("refetched"), {"id": file_id, **values})


def resume(conn: Connection, feed: str) -> None:
    """A new run begins: what waited for somebody to act is tried at once."""
    conn.execute(_sql("resume"), {"feed": feed})


def first_due(conn: Connection, feed: str) -> float | None:
    """Seconds until the feed's first pending job is due, 0 or less when it is; None without one."""
    row = conn.execute(_sql("first_due"), {"feed": feed}).fetchone()
    return row[0] if row else None


def due(conn: Connection, feeds: Collection[str]) -> list[tuple[str, float]]:
    """Tables whose first job is one of these feeds' and can be claimed, with the seconds until then, 0 or less for now.

    A job that somebody works on is not told of until its lease has run out. Cheap, whatever the ledger holds.
    """
    return [(target, wait) for target, wait in conn.execute(_sql("due"), {"feeds": list(feeds)})]


def first_of(conn: Connection, target: str) -> First | None:
    """The job of a table that comes next, or is being done; None where there is none."""
    row = conn.execute(_sql("first_of"), {"target": target}).fetchone()
    return First(job_id=row[0], feed=row[1], running=row[2], wait=row[3]) if row else None


def held_back(conn: Connection, feed: str) -> list[str]:
    """What keeps the feed's pending jobs waiting though only another feed's run can end it, with what to do."""
    return [
        f"job {job_id} of feed {other!r} came earlier for {target} and is not done, so {waiting} of this feed's jobs"
        f" wait for it: run feed {other!r}, or give that job up by `mailferry jobs cancel {job_id}`"
        for job_id, other, target, waiting in conn.execute(_sql("held_back"), {"feed": feed})
    ]


def left_behind(conn: Connection, paths: Iterable[Path]) -> list[int]:
    """Jobs that are settled, but for files of these paths: another host did that, and could not move them here."""
    rows = conn.execute(_sql("left_behind"), {"paths": [str(path) for path in paths]})
    return [job_id for (job_id,) in rows]


def recorded(conn: Connection, paths: Iterable[Path]) -> set[str]:
    """Those of the paths that the ledger knows."""
    rows = conn.execute(_sql("recorded_paths"), {"paths": [str(path) for path in paths]})
    return {path for (path,) in rows}


def _sql(name: str) -> bytes:
    return queries("arrivals")[name]


def _storable(text: str) -> str:
    """What PostgreSQL takes as text: no NUL, and nothing that UTF-8 cannot say."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
