"""Rows of the ledger as values, and texts as PostgreSQL takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from mailferry.database import queries
from mailferry.mailbox.ledger.jobs import File, FileState, Job
from mailferry.mailbox.workbook.values import Counts, Kind, RejectedRow

if TYPE_CHECKING:
    from mailferry.database import Connection


def one(conn: Connection, statement: bytes, values: dict[str, Any]) -> Job | None:
    """The job that a statement returns."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(statement, values).fetchone()
    return Job.of(row) if row else None


def many(conn: Connection, statement: bytes, values: dict[str, Any]) -> list[Job]:
    """The jobs that a statement returns."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return [Job.of(row) for row in cursor.execute(statement, values)]


def job_of(conn: Connection, job_id: int) -> Job | None:
    """The job of that number."""
    return one(conn, queries("records")["job"], {"id": job_id})


def files_of(conn: Connection, *job_ids: int) -> list[File]:
    """The files of these jobs, in their order."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return [_file(row) for row in cursor.execute(queries("records")["files"], {"ids": list(job_ids)})]


def rejected_rows(conn: Connection, file_id: int, limit: int = 1000) -> list[RejectedRow]:
    """The first rows of a file that were not loaded."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(queries("records")["rejected"], {"file_id": file_id, "limit": limit})
        return [RejectedRow(**row) for row in found]


def _file(row: dict[str, Any]) -> File:
    counts = Counts(**{key: row.pop(key) for key in Counts.__dataclass_fields__})
    return File(**{**row, "state": FileState(row["state"]), "kind": Kind(row["kind"])}, counts=counts)


def storable(text: str) -> str:
    """What PostgreSQL takes as text: no NUL, and nothing that UTF-8 cannot say."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
