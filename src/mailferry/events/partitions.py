"""A table for events, partitioned by month: found and checked or made, given partitions as they are needed, emptied by them.

A month, not a day: years of events that are kept for ever are then some dozens of partitions, which a query without a
time can still plan and lock. The price is that retention lets go a month late at most. Months are UTC's. Partitions of another
make (by the day, a default one) are used as they are.

All functions take a connection in autocommit mode and leave no transaction open. The database's errors come out as they are.
"""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from mailferry.database import Relation, advisory_key, queries
from mailferry.errors import Stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mailferry.database import Connection

#: What the columns have to be; others may be there if they need not be given.
SHAPE = {
    "time": "timestamp with time zone",
    "feed": "text",
    "identity": "text",
    "number": "bigint",
    "record": "jsonb",
    "raw": "text",
}
#: The endings of the names of the indexes; of eight characters at most, as those of partitions.
INDEXES = {
    "by_time": "time",
    "by_number": "number",
    "by_queue_id": "queue",
    "by_sender": "sender",
    "by_recipient": "rcpt",
}
_KEY = "feed identity time"
#: Seconds that dropping a partition waits for those who read the table; all others would queue up behind it.
_PATIENCE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Table(Relation):
    """A partitioned table that events can be written into."""

    oid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition(Relation):
    """One partition: events from `start` up to but not including `end`, Unix seconds, infinite where it has no bound."""

    start: float
    end: float


def statement(name: str, **identifiers: sql.Composable) -> sql.Composed:
    """A statement of `sql/events.sql` with these names put in."""
    return sql.SQL(queries("events")[name].decode()).format(**identifiers)


def prepared(conn: Connection, name: str) -> Table:
    """The table `name`, `table` (found by the search path) or `schema.table`, in any case; made where it is missing.

    Raises Stop for one that does not fit.
    """
    parts = name.lower().split(".")
    table = _find(conn, parts)
    if table is None:
        _make(conn, parts)
        table = _find(conn, parts)
        assert table is not None
    _check(conn, table)
    return table


def partitions(conn: Connection, table: Table) -> list[Partition]:
    """All partitions of the table, the oldest first."""
    rows = conn.execute(queries("events")["partitions"], {"oid": table.oid}).fetchall()
    return [
        Partition(
            schema=schema,
            name=name,
            start=-math.inf if start is None else start,
            end=math.inf if end is None else end,
        )
        for schema, name, start, end in rows
    ]


def homeless(times: Iterable[int], known: Sequence[Partition]) -> list[int]:
    """Of some moments (Unix seconds) those that no known partition is for."""
    if any(one.start == -math.inf and one.end == math.inf for one in known):
        return []  # the default partition takes all
    starts = [one.start for one in known]
    places = ((time, bisect_right(starts, time) - 1) for time in times)
    return [time for time, at in places if at < 0 or time >= known[at].end]


def make_room(conn: Connection, table: Table, times: Iterable[int]) -> list[Partition]:
    """Make the partitions that these moments need and that are still missing; returns all there are then.

    Two hosts may need the same one at once: the second waits, and finds it made. Raises Stop where that is not possible.
    """
    with conn.transaction():
        conn.execute(
            "SELECT pg_advisory_xact_lock(%s)", (advisory_key("partitions", str(table.oid)),), prepare=False
        )
        for start, end in sorted({month(time) for time in homeless(times, partitions(conn, table))}):
            partition = sql.Identifier(table.schema, f"{table.name}_{start[:7].replace('-', '_')}")
            try:
                conn.execute(statement("create_partition", table=table.identifier, partition=partition))
                bounds = {"start": sql.Literal(start), "end": sql.Literal(end)}
                conn.execute(
                    statement("attach_partition", table=table.identifier, partition=partition, **bounds)
                )
            except (psycopg.errors.DuplicateTable, psycopg.errors.InvalidObjectDefinition) as error:
                raise Stop(
                    f"Table {table.title} has no partition for some events of {start[:7]}, and one for the whole month cannot "
                    f"be made: {error.diag.message_primary}. Make one that fits."
                ) from error
        return partitions(conn, table)


def month(time: int) -> tuple[str, str]:
    """The bounds of a moment's month, as timestamps in UTC."""
    date = datetime.fromtimestamp(time, UTC)
    following = (date.year + 1, 1) if date.month == 12 else (date.year, date.month + 1)
    first, last = (
        f"{year:04}-{number:02}-01 00:00:00+00" for year, number in ((date.year, date.month), following)
    )
    return first, last


def expire(conn: Connection, table: Table, feed: str, days: int, now: float) -> list[str]:
    """Let go of the partitions that ended `days` ago, at the Unix time `now`; says what was deleted.

    One that no other feed holds on to is dropped as a whole; of others this feed's events are deleted. A partition that
    is being read is left to a later run; one that a view reads is emptied, and stays.
    """
    expired = []
    for partition in partitions(conn, table):
        if partition.end > now - days * 86_400:
            continue
        values: dict[str, Any] = {"feed": feed, "now": int(now), "until": partition.end}
        # It is being read; or another session has dropped it meanwhile.
        with contextlib.suppress(psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable):
            what = _let_go(conn, table, partition, values)
            if what:
                expired.append(f"{what}, older than {days} days")
    return expired


def _let_go(conn: Connection, table: Table, partition: Partition, values: dict[str, Any]) -> str:
    def asked(name: str) -> bool:
        text = statement(name, partition=partition.identifier)
        return conn.execute(text, values, prepare=False).fetchone() is not None

    if not asked("concerned"):
        return ""
    if asked("holders"):
        delete = statement("delete", partition=partition.identifier)
        return f"{conn.execute(delete, values, prepare=False).rowcount} events in {partition.name}"
    with conn.transaction():
        conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{_PATIENCE}s",))
        conn.execute(statement("lock_table", table=table.identifier))
        # A feed that collects from long ago may have come back to it.
        if asked("holders"):
            return ""
        try:
            with conn.transaction():
                conn.execute(statement("drop_partition", partition=partition.identifier))
        except psycopg.errors.DependentObjectsStillExist as error:
            # Events are deleted all the same: a view does not decide how long they are kept.
            conn.execute(statement("empty_partition", partition=partition.identifier))
            views = "; ".join((error.diag.message_detail or str(error)).splitlines())
            return (
                f"all events in {partition.name} (the partition stays, empty, as {views}: "
                f"define that on {table.title}, and drop the partition)"
            )
    return f"partition {partition.name}"


def _find(conn: Connection, parts: Sequence[str]) -> Table | None:
    name = ".".join(f'"{part}"' for part in parts)
    row = conn.execute(queries("events")["find"], {"name": name}).fetchone()
    return Table(oid=row[0], schema=row[1], name=row[2]) if row else None


def _make(conn: Connection, parts: Sequence[str]) -> None:
    table = sql.Identifier(*parts)
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_key("table", *parts),))
        if _find(conn, parts):
            return  # another host was faster
        try:
            conn.execute(statement("create", table=table))
        except psycopg.errors.InvalidSchemaName as error:
            raise Stop(
                f"Cannot make the table {'.'.join(parts)}: {error.diag.message_primary}. CREATE SCHEMA, or name another."
            ) from error
        _open_up(conn, parts)
        # It takes about half the server's time for records over 2 KB, in as little space.
        if conn.execute(queries("events")["compresses"]).fetchone():
            conn.execute(statement("compress", table=table))


def _open_up(conn: Connection, parts: Sequence[str]) -> None:
    """Make the indexes of the table, which its partitions will have too, and the view with a row for each recipient."""

    def named(suffix: str) -> str:
        return f"{parts[-1]}_{suffix}"

    names = {key: sql.Identifier(named(suffix)) for key, suffix in INDEXES.items()}
    view = sql.Identifier(*parts[:-1], named("flat"))
    table = sql.Identifier(*parts)
    try:
        conn.execute(statement("indexes", table=table, **names), prepare=False)
        conn.execute(statement("view", table=table, view=view), prepare=False)
    except psycopg.errors.DuplicateTable as error:
        raise Stop(
            f"Cannot make the table {'.'.join(parts)} with its indexes and its view: {error.diag.message_primary}. "
            "Rename that, or name another table."
        ) from error


def _check(conn: Connection, table: Table) -> None:
    row = conn.execute(queries("events")["shape"], {"oid": table.oid}).fetchone()
    assert row is not None
    partitioned, columns, keys = row
    faults = []
    if table.schema.startswith("pg_temp"):
        faults.append("it is temporary, and ends with the session that wrote it")
    if partitioned != "r time":
        faults.append("it is not partitioned by range of the column time")
    for name, type_ in SHAPE.items():
        found = (columns or {}).get(name)
        if found is None:
            faults.append(f"it has no column {name} {type_}")
        elif found[0] != type_:
            faults.append(f"column {name} is {found[0]}, not {type_}")
    faults += [
        f"column {name} has to be given"
        for name, (_, needed) in (columns or {}).items()
        if needed and name not in SHAPE
    ]
    if _KEY not in keys:
        faults.append("it has no primary key (feed, time, identity)")
    if faults:
        raise Stop(
            f"Table {table.title} cannot take events: {'; '.join(faults)}. Name another, or let one be made by naming one "
            "that does not exist."
        )
