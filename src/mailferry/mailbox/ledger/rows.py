"""Rows of the ledger as values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from mailferry.database import queries, server_codec
from mailferry.mailbox.ledger.jobs import File, FileState, Job
from mailferry.mailbox.workbook.values import Counts, Kind, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mailferry.database import Connection

#: A control character, which no name of a file has: what follows, up to the semicolon, is the number of a character.
_ESCAPE = "\x1a"


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
    row |= {name: path_of(row[name]) for name in ("path", "original")}
    return File(**{**row, "state": FileState(row["state"]), "kind": Kind(row["kind"])}, counts=counts)


def path_texts(conn: Connection, paths: Iterable[Path]) -> list[str]:
    """Paths as the ledger keeps them: unlike other texts they come back as they were, in a database of any encoding."""
    codec = server_codec(conn)
    return [_escaped(str(path), codec) for path in paths]


def path_of(text: str) -> str:
    """A path that `path_texts` wrote."""
    return re.sub(f"{_ESCAPE}([0-9a-f]+);", lambda found: chr(int(found[1], 16)), text)


def _escaped(text: str, codec: str) -> str:
    try:
        text.encode(codec)
    except UnicodeEncodeError as error:
        hard = "".join(f"{_ESCAPE}{ord(letter):x};" for letter in text[error.start : error.end])
        return text[: error.start] + hard + _escaped(text[error.end :], codec)
    return text
