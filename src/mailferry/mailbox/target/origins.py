"""Where rows are from: the columns that say so, filled where the table has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from mailferry.database import storable
from mailferry.mailbox.target.table import JOB, PROCESSED, RECEIVED, RECEIVED_AT, ROW, SHEET, SOURCE, type_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from mailferry.database import Connection
    from mailferry.mailbox.target.table import Target, TargetColumn

_NUMBERS = ("smallint", "integer", "bigint", "numeric")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where rows are from."""

    #: The file's name.
    file: str
    #: In the ledger.
    job_id: int = 0
    file_id: int = 0
    #: When the message was received, aware.
    received: datetime | None = None
    #: The sheets' names in order, each with what was added to its rows' numbers to get `_row`; called after the last chunk.
    sheets: Callable[[], Sequence[tuple[str, int]]] = tuple


def values(conn: Connection, target: Target, origin: Origin) -> Iterator[tuple[str, sql.Composable]]:
    """Those of the columns that the table has in a type that holds them, with their values for a row `s` of the stage."""
    sheets = [(storable(conn, name), offset) for name, offset in origin.sheets()]
    for name, column in ((name, target.column(name)) for name in (SOURCE, PROCESSED, RECEIVED, *_MORE)):
        if (
            column is not None
            and column.writable
            and (value := _value(column, origin, sheets, conn)) is not None
        ):
            # A cast to varchar(n) cuts to n: the names of files and sheets are for people.
            yield name, sql.SQL("({})::{}").format(value, type_sql(column.type))


_MORE = (JOB, SHEET, ROW, RECEIVED_AT)


def _value(
    column: TargetColumn, origin: Origin, sheets: Sequence[tuple[str, int]], conn: Connection
) -> sql.Composable | None:
    """None for a column that cannot hold it."""
    is_time = column.type.startswith(("timestamp", "date"))
    is_number = column.textual or column.type.startswith(_NUMBERS)
    found: dict[str, tuple[bool, sql.Composable]] = {
        SOURCE: (column.textual, sql.Literal(storable(conn, origin.file))),
        PROCESSED: (is_time, sql.SQL("now()")),
        RECEIVED: (column.type.startswith("timestamp"), sql.Literal(origin.received)),
        RECEIVED_AT: (is_time, sql.Literal(origin.received)),
        JOB: (is_number, sql.Literal(origin.job_id)),
        SHEET: (column.textual, _by_sheet(sheets, [name for name, _ in sheets], sql.SQL("NULL"))),
        ROW: (
            is_number,
            sql.SQL("s._row - {}").format(_by_sheet(sheets, [at for _, at in sheets], sql.SQL("0"))),
        ),
    }
    fits, value = found[column.name]
    if column.name in {RECEIVED, RECEIVED_AT} and origin.received is None:
        return None
    return value if fits else None


def _by_sheet(
    sheets: Sequence[tuple[str, int]], values: Sequence[object], default: sql.Composable
) -> sql.Composable:
    """The value of the sheet that a row of the stage is from."""
    cases = [
        sql.SQL("WHEN s._row > {} THEN {}").format(sql.Literal(offset), sql.Literal(value))
        for (_, offset), value in reversed(list(zip(sheets, values, strict=True)))
    ]
    if not cases:
        return default
    return sql.SQL("CASE {} END").format(sql.SQL(" ").join(cases))
