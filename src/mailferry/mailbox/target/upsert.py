"""Loading rows into a target table by its unique key.

Rows arrive as CSV that is handed to COPY unread. They are staged in a table of `DB_TEMP_SCHEMA` that lives and dies
in the load's own transaction, so that a crash leaves nothing behind; older rows of a key are dropped there; and what
is new or different goes on into the target. Rows that are as they were are not touched, not even locked.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from mailferry.config.mailbox_feed import Absent
from mailferry.database import translated
from mailferry.errors import Reject, Retry
from mailferry.mailbox.target import absent, history, origins
from mailferry.mailbox.target.blame import Cell, blamed, columns_of, misfits
from mailferry.mailbox.target.table import ABSENT, RECEIVED, type_sql
from mailferry.mailbox.workbook.values import Counts, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mailferry.database import Connection
    from mailferry.mailbox.target.absent import Scope
    from mailferry.mailbox.target.origins import Origin
    from mailferry.mailbox.target.table import Target, TargetColumn

    _Expression = Callable[[int, TargetColumn], sql.Composable]

#: Rows that one file's load may lose to the server's refusals before the file as a whole is given up.
MOST_PINNED = 100
#: SQLSTATE classes that speak of a row: data exception, integrity, check option, a trigger's RAISE, a key too long
#: for its index. Of any other, the same statement on no row says whether it does: a trigger may raise what it likes.
_OF_A_ROW = ("22", "23", "44", "P0", "54")
#: program_limit_exceeded
_TOO_BIG = "54000"
#: Characters of a refused value that are kept.
_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a file is loaded."""

    temp_schema: str = "temp_processing"
    #: Rows of the table that say a later time of receipt stay as they are, and count as superseded.
    keep_newer: bool = False
    #: Columns in which an empty cell leaves the value that the table has.
    keep_blanks: frozenset[str] = frozenset()
    #: What changes is put on record in `mailferry.row_changes`.
    history: bool = False
    #: Whose rows the file lists, where those that are absent are marked or deleted.
    scope: Scope | None = None

    @property
    def marking(self) -> bool:
        """Rows that are there again lose their mark."""
        return self.scope is not None and self.scope.what is Absent.MARK


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A load's outcome; committed only when the caller commits."""

    counts: Counts
    #: Rows that the server refused. `sheet` is empty and `row` is the `_row` of the CSV: only the reader knows more.
    rejected: tuple[RejectedRow, ...]
    #: Of those superseded, the rows that a later message has written.
    older: int = 0


def load(
    conn: Connection,
    target: Target,
    columns: Sequence[str],
    chunks: Iterable[bytes],
    origin: Origin,
    rules: Rules | None = None,
) -> Loaded:
    """Upsert CSV rows into the target; the caller commits, together with the ledger.

    `chunks` is CSV without a header, in pieces of any size: `_row` (bigint, rising), then `columns` in their order,
    the key among them. Empty and unquoted is NULL. Of equal keys the greatest `_row` counts, the others are
    `superseded`. `read` counts what came through `chunks`, and is the sum of all other counts.

    A row that a constraint, a trigger or a type refuses is rejected by itself, up to MOST_PINNED. Raises Reject
    when that does not help, Stop where no file can be loaded, and whatever `chunks` raises; the load is then undone,
    and the transaction goes on.
    """
    unknown = [name for name in columns if (c := target.column(name)) is None or not c.writable]
    assert not unknown, unknown
    assert target.key in columns
    target.lock(conn)
    rules = rules or Rules()
    stage = _Stage(conn, target, columns, origin, rules)

    def load_nothing() -> None:
        _Stage(conn, target, [target.key], origin, rules).load(())
        target.probe(conn)

    with blamed(conn, load_nothing, stage.note):
        return stage.load(chunks)


class _Stage:
    """One load, in the words of SQL: columns are called c0, c1 ... in the staging table, whatever they are in the target."""

    def __init__(
        self,
        conn: Connection,
        target: Target,
        columns: Sequence[str],
        origin: Origin,
        rules: Rules,
    ) -> None:
        self._conn = conn
        self._target = target
        self._columns = [column for name in columns if (column := target.column(name)) is not None]
        self._origin = origin
        self._rules = rules
        #: Rows of the target that were received after this stay.
        self._newer = origin.received if rules.keep_newer and target.has_received else None
        self._name = f"load_{uuid.uuid4().hex}"
        self._table = sql.Identifier(rules.temp_schema, self._name)
        self._key = sql.Identifier(f"c{[c.name for c in self._columns].index(target.key)}")
        self._counts = Counts()
        self._rejected: list[RejectedRow] = []
        self._older = 0
        self._copying = False

    def load(self, chunks: Iterable[bytes]) -> Loaded:
        self._create()
        self._copy(chunks)
        if self._rules.history or self._rules.keep_blanks:
            # What stands there before must still stand there when it is replaced, whatever other programs write.
            self._conn.execute(
                sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self._target.identifier)
            )
        self._reject_missing()
        self._drop_superseded()
        if scope := self._rules.scope:
            # Those that stay as a later message has them, too, are in the list.
            absent.touch(self._conn, self._target, self._table, self._key, scope, self._origin.job_id)
        self._drop_older()
        self._upsert_all()
        self._drop()
        counts = self._counts
        counts.rejected = len(self._rejected)
        counts.unchanged = (
            counts.read - counts.rejected - counts.superseded - counts.inserted - counts.updated
        )
        return Loaded(
            counts=counts, rejected=tuple(sorted(self._rejected, key=lambda row: row.row)), older=self._older
        )

    def _drop(self) -> None:
        # Within a block: at a plain DROP psycopg forgets every statement that it has prepared on the connection, in case
        # one speaks of what is dropped; none does, and the server would have to plan all of the next job's again.
        block = sql.SQL("BEGIN DROP TABLE {}; END").format(self._table).as_string(self._conn)
        self._conn.execute(sql.SQL("DO {}").format(sql.Literal(block)))

    def note(self, error: psycopg.Error) -> str:
        """Where in the CSV a COPY failed, from its context `COPY name, line 5, column c3: ...` in any language; what to do."""
        if self._copying and error.sqlstate == _TOO_BIG:
            return (
                f". A row of {len(self._columns)} columns is larger than a page of the database; load fewer, above all of text:"
                " make the table with the columns that are needed, and set unknown_columns (DB_UNKNOWN_COLUMNS) = ignore"
            )
        found = re.search(rf"{self._name}\D+(\d+)(?:\D+ c(\d+)\b)?", error.diag.context or "")
        if not found:
            return ""
        column = f", column {self._columns[int(found[2])].name}" if found[2] else ""
        return f" (row {found[1]} as copied{column})"

    def _create(self) -> None:
        # From a SELECT, so that types keep their modifiers and collations.
        columns = [
            sql.SQL("{} AS {}").format(
                sql.Identifier(column.name) if self._is_plain(column) else sql.SQL("NULL::text"),
                sql.Identifier(f"c{n}"),
            )
            for n, column in enumerate(self._columns)
        ]
        # Deferred constraints would fail at the commit, when no single row can be named any more.
        self._conn.execute(
            sql.SQL(
                "CREATE UNLOGGED TABLE {} AS SELECT NULL::bigint AS _row, {} FROM {} WITH NO DATA;"
                " SET CONSTRAINTS ALL IMMEDIATE"
            ).format(self._table, sql.SQL(", ").join(columns), self._target.identifier)
        )

    def _copy(self, chunks: Iterable[bytes]) -> None:
        self._copying = True
        with self._conn.cursor() as cursor:
            with cursor.copy(
                sql.SQL("COPY {} FROM STDIN (FORMAT csv, ENCODING 'UTF8')").format(self._table)
            ) as copy:
                for chunk in chunks:
                    copy.write(chunk)
            self._counts.read = cursor.rowcount
        self._copying = False

    def _reject_missing(self) -> None:
        for n, column in enumerate(self._columns):
            if column.nullable:
                continue
            gone = self._conn.execute(
                sql.SQL("DELETE FROM {} AS s WHERE {} IS NULL RETURNING _row").format(
                    self._table, self._joined(n, column)
                )
            )
            self._rejected += [_rejected(row, column.name, "", "must not be empty") for (row,) in gone]

    def _joined(self, n: int, column: TargetColumn) -> sql.Composable:
        """The value that a row is to have, for a query that does not join the target."""
        if column.name not in self._rules.keep_blanks:
            return sql.Identifier(f"c{n}")
        return sql.SQL("coalesce({}, (SELECT t.{}::text FROM {} AS t WHERE t.{} = s.{}))").format(
            sql.SQL("s.{}::text").format(sql.Identifier(f"c{n}")),
            sql.Identifier(column.name),
            self._target.identifier,
            sql.Identifier(self._target.key),
            self._key,
        )

    def _drop_superseded(self) -> None:
        done = self._conn.execute(
            sql.SQL(
                "DELETE FROM {table} AS old USING (SELECT {key} AS key, max(_row) AS last FROM {table}"
                " GROUP BY {key} HAVING count(*) > 1) AS new WHERE old.{key} = new.key AND old._row < new.last"
            ).format(table=self._table, key=self._key)
        )
        self._counts.superseded = done.rowcount

    def _drop_older(self) -> None:
        """Rows whose key the target has from a later message."""
        if self._newer is None:
            return
        done = self._conn.execute(
            sql.SQL(
                "DELETE FROM {stage} AS s USING {target} AS t WHERE t.{key} = s.{stage_key} AND t.{received} > {newer}"
            ).format(
                stage=self._table,
                target=self._target.identifier,
                key=sql.Identifier(self._target.key),
                stage_key=self._key,
                received=sql.Identifier(RECEIVED),
                newer=sql.Literal(self._newer),
            )
        )
        self._counts.superseded += done.rowcount
        self._older = done.rowcount

    def _upsert_all(self) -> None:
        """Whole first; where the server refuses, by halves until the rows it refuses stand alone."""
        ranges = self._conn.execute(
            sql.SQL("SELECT min(_row), max(_row) FROM {}").format(self._table)
        ).fetchall()
        while ranges:
            low, high = ranges.pop()
            if low is None:
                continue
            try:
                with self._conn.transaction():
                    row = self._conn.execute(self._statement(low, high)).fetchone()
            except psycopg.Error as error:
                if not self._is_of_a_row(error):
                    raise
                if low == high:
                    self._pin(low, error)
                else:
                    middle = (low + high) // 2
                    # The lower half is on top: rows are applied in their order.
                    ranges += [(middle + 1, high), (low, middle)]
                continue
            assert row is not None
            self._counts.inserted += row[0]
            self._counts.updated += row[1]

    def _is_of_a_row(self, error: psycopg.Error) -> bool:
        if (error.sqlstate or "").startswith(_OF_A_ROW):
            return True
        if isinstance(translated(error), Retry):
            return False
        try:
            with self._conn.transaction():
                self._conn.execute(self._statement(1, 0))
        except psycopg.Error:
            return False
        return True

    def _pin(self, row: int, error: psycopg.Error) -> None:
        reason = error.diag.message_primary or str(error)
        if error.diag.message_detail and error.sqlstate in {"23503", "23505"}:
            reason += f" ({error.diag.message_detail})"
        if len(self._rejected) >= MOST_PINNED:
            raise Reject(
                f"The table {self._target.title} refuses more than {MOST_PINNED} rows, the last: {reason[:300]}"
            )
        names = columns_of(self._conn, error) or misfits(self._conn, self._cells_of(row), error)
        numbers = {column.name: n for n, column in enumerate(self._columns)}
        values = [(name, self._staged(numbers[name], row)) for name in names if name in numbers]
        shown = ", ".join(f"{name} = {value}" for name, value in values)
        value = values[0][1] if len(names) == len(values) == 1 else shown
        self._rejected.append(_rejected(row, ", ".join(names), value[:_SHOWN], reason[:300]))

    def _cells_of(self, row: int) -> list[Cell]:
        """Those that are staged as text, and cast or assigned with the upsert."""
        return [
            Cell(
                column=column.name,
                type=column.type,
                textual=column.textual,
                rows=sql.SQL("{} WHERE _row = {}").format(self._table, sql.Literal(row)),
                name=sql.Identifier(f"c{n}"),
            )
            for n, column in enumerate(self._columns)
            if not self._is_plain(column)
        ]

    def _staged(self, n: int, row: int) -> str:
        statement = sql.SQL("SELECT left({}::text, {}) FROM {} WHERE _row = {}").format(
            sql.Identifier(f"c{n}"), sql.Literal(_SHOWN), self._table, sql.Literal(row)
        )
        ((value,),) = self._conn.execute(statement).fetchall()
        return value or ""

    def _statement(self, low: int, high: int) -> sql.Composed:
        """Upsert the rows from `low` to `high`, and say how many were inserted and how many updated.

        Values stand in it as literals: with parameters, a `%` in a column's name would be taken for one.
        """
        others = [(n, c) for n, c in enumerate(self._columns) if c.name != self._target.key]
        names = [sql.Identifier(column.name) for column in self._columns]
        values = [self._value(n, column) for n, column in enumerate(self._columns)]
        changes = [
            name for name, column in zip(names, self._columns, strict=True) if column.name != self._target.key
        ]
        own = {column.name for column in self._columns}
        for name, value in origins.values(self._conn, self._target, self._origin):
            if name not in own:
                names.append(sql.Identifier(name))
                values.append(value)
        if self._rules.marking:
            names.append(sql.Identifier(ABSENT))
            values.append(sql.SQL("NULL::timestamptz"))
        extra = names[len(self._columns) :]
        action: sql.Composable = sql.SQL("DO NOTHING")
        if changes or self._rules.marking:
            action = sql.SQL("DO UPDATE SET {} WHERE {}").format(
                sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in changes + extra),
                self._differs(
                    others, lambda _, column: sql.SQL("excluded.{}").format(sql.Identifier(column.name))
                ),
            )
        differs = self._differs(others, self._value)
        kept = history.kept(self._target, self._origin) if self._rules.history else sql.SQL("")
        return sql.SQL(
            "WITH done AS ("
            "INSERT INTO {target} AS t ({names}) SELECT {values} FROM {stage} AS s LEFT JOIN {target} AS t"
            " ON t.{key} = s.{stage_key} WHERE s._row BETWEEN {low} AND {high} AND (t.{key} IS NULL OR {differs})"
            " ON CONFLICT ({key}) {action} RETURNING {fresh} AS fresh, {row} AS changed"
            "){kept} SELECT count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE NOT fresh) FROM done"
        ).format(
            target=self._target.identifier,
            names=sql.SQL(", ").join(names),
            values=sql.SQL(", ").join(values),
            stage=self._table,
            key=sql.Identifier(self._target.key),
            stage_key=self._key,
            differs=differs,
            action=action,
            fresh=self._fresh(),
            row=sql.SQL("t" if self._rules.history else "NULL"),
            kept=kept,
            low=sql.Literal(low),
            high=sql.Literal(high),
        )

    def _fresh(self) -> sql.Composable:
        """Whether a row that was written is new."""
        if not self._target.partitioned:
            # 0 on a row that is new; on one that was there it holds our lock.
            return sql.SQL("t.xmax = 0")
        # A partitioned table returns no system columns. A query sees the table as it was before the statement.
        return sql.SQL("NOT EXISTS (SELECT FROM {} AS was WHERE was.{key} = t.{key})").format(
            self._target.identifier, key=sql.Identifier(self._target.key)
        )

    def _differs(self, columns: list[tuple[int, TargetColumn]], new: _Expression) -> sql.Composable:
        """Whether any column of the target's row `t` is different from the new one."""
        old = [
            self._comparable(column, sql.SQL("t.{}").format(sql.Identifier(column.name)))
            for _, column in columns
        ]
        fresh = [self._comparable(column, new(n, column)) for n, column in columns]
        differs = (
            sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(
                sql.SQL(", ").join(old), sql.SQL(", ").join(fresh)
            )
            if columns
            else sql.SQL("false")
        )
        if not self._rules.marking:
            return differs
        return sql.SQL("({} OR t.{} IS NOT NULL)").format(differs, sql.Identifier(ABSENT))

    def _value(self, n: int, column: TargetColumn) -> sql.Composable:
        staged: sql.Composable = sql.SQL("s.{}").format(sql.Identifier(f"c{n}"))
        if not (self._is_plain(column) or column.textual):
            staged = sql.SQL("{}::{}").format(staged, type_sql(column.type))
        if column.name in self._rules.keep_blanks:
            return sql.SQL("coalesce({}, t.{})").format(staged, sql.Identifier(column.name))
        return staged

    def _is_plain(self, column: TargetColumn) -> bool:
        # The key is compared within the file, for which it needs its own type.
        return column.plain or column.name == self._target.key

    @staticmethod
    def _comparable(column: TargetColumn, value: sql.Composable) -> sql.Composable:
        """Letter by letter for all text, and for types whose `=` is missing or lax (json, citext, box ...)."""
        if column.textual or not column.plain:
            return sql.SQL('({}::text COLLATE "C")').format(value)
        return value


def _rejected(row: int, column: str, value: str, reason: str) -> RejectedRow:
    return RejectedRow(sheet="", row=row, column=column, value=value, reason=reason)
