"""What an error of the database is about: some columns of a row, the file, or the table, which takes no file at all."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from mailferry.database import translated
from mailferry.errors import Reject, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailferry.database import Connection

#: string_data_right_truncation
_TOO_LONG = "22001"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A text that is staged for a column of another type."""

    column: str
    #: As `format_type()` writes it, and whether it is one of text.
    type: str
    textual: bool
    #: Where it stands: a table with a condition that leaves one row of it, and its name there.
    rows: sql.Composable
    name: sql.Identifier


@contextlib.contextmanager
def blamed(
    conn: Connection,
    attempt: Callable[[], object],
    note: Callable[[psycopg.Error], str] = lambda _error: "",
) -> Iterator[None]:
    """What the database says about one file refuses that file: Reject, so that the mails behind it are loaded.

    Stop only where `attempt`, the same work with nothing of the file in it, fails as well: then no file can be loaded
    before a person has acted. Faults that pass are a Retry. `note` is added to the message. What was done within is
    undone, and the transaction goes on.
    """
    try:
        with conn.transaction():
            yield
    except psycopg.Error as error:
        known = translated(error)
        kind = type(known)
        if isinstance(known, Stop):
            kind = _without_the_file(conn, attempt)
        raise kind(f"{known}{note(error)}") from error


def _without_the_file(conn: Connection, attempt: Callable[[], object]) -> type[Reject | Stop]:
    try:
        with conn.transaction(force_rollback=True):
            attempt()
    except psycopg.Error as error:
        again = translated(error)
        if not isinstance(again, Reject | Stop):
            raise again from error
        return Stop
    return Reject


def columns_of(conn: Connection, error: psycopg.Error) -> list[str]:
    """The columns that the error names, itself or by a constraint or a unique index; [] where it names none."""
    if error.diag.column_name:
        return [error.diag.column_name]
    where = {
        "schema": error.diag.schema_name,
        "table": error.diag.table_name,
        "name": error.diag.constraint_name,
    }
    if not all(where.values()):
        return []
    rows = conn.execute(
        """
        SELECT a.attname FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum IN (
            SELECT unnest(k.conkey) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = %(name)s
            UNION ALL
            SELECT unnest(i.indkey::int2[]) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND x.relname = %(name)s
        )
        ORDER BY a.attnum
        """,
        where,
    )
    return [name for (name,) in rows]


def misfits(conn: Connection, cells: Sequence[Cell], error: psycopg.Error) -> list[str]:
    """The column whose type refuses its text, which the server does not say; [] where it is none of these."""
    for cell in cells:
        fitted = sql.SQL("SELECT {0}::{1}::text <> {0} FROM {2}").format(
            cell.name, sql.SQL(cell.type), cell.rows
        )
        try:
            with conn.transaction():
                ((cut,),) = conn.execute(fitted).fetchall()
        except psycopg.Error as again:
            if again.sqlstate == error.sqlstate:
                return [cell.column]
        else:
            # A cast cuts what an assignment refuses.
            if cut and cell.textual and error.sqlstate == _TOO_LONG:
                return [cell.column]
    return []
