"""What loads change in rows, on record in `mailferry.row_changes`; and undoing what one job changed.

Values are kept as the text that PostgreSQL writes and reads them by, so each comes back exactly as it was. Of an updated
row only the columns that changed are kept; of one that was inserted or deleted, all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from mailferry.database import queries, translated
from mailferry.errors import Reject
from mailferry.mailbox.target.table import Target, quoted_name, type_sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailferry.database import Connection
    from mailferry.mailbox.target.origins import Origin
    from mailferry.mailbox.target.table import TargetColumn

#: Keys that a refusal names.
_SHOWN = 3
#: The latest change of each key that the job made and that is not undone: a job of several files may change a row twice.
_LAYER = (
    "WITH layer AS (SELECT DISTINCT ON (key) id, key, old, new FROM mailferry.row_changes"
    " WHERE job_id = {job} AND target = {title} AND undone_at IS NULL ORDER BY key, id DESC) "
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Undone:
    """Rows of the tables that went back."""

    #: Inserted by the job, and deleted now.
    deleted: int = 0
    #: Updated by the job, and now as before.
    put_back: int = 0
    #: Deleted by the job, and there again.
    restored: int = 0


def kept(target: Target, origin: Origin) -> sql.Composed:
    """A part of a statement, after its `done` (`fresh`, and the row `changed`), that puts each change on record."""
    names, new = _as_texts(target, sql.SQL("(d.changed)"))
    pairs = sql.SQL(", ").join(
        sql.SQL("({}, was.{column}::text, (d.changed).{column}::text)").format(
            sql.Literal(column.name), column=sql.Identifier(column.name)
        )
        for column in recorded(target)
    )
    return sql.SQL(
        ", kept AS (INSERT INTO mailferry.row_changes (job_id, file_id, target, table_oid, key_column, key, old, new)"
        " SELECT {job}, {file}, {title}, {oid}, {key_column}, (d.changed).{key}::text, c.both[1],"
        " CASE WHEN d.fresh THEN jsonb_object({names}, {new}) ELSE c.both[2] END"
        # A query sees the table as it was before the statement.
        " FROM done AS d LEFT JOIN {target} AS was ON was.{key} = (d.changed).{key}"
        " CROSS JOIN LATERAL (SELECT CASE WHEN NOT d.fresh THEN ("
        "SELECT ARRAY[jsonb_object_agg(v.name, v.old), jsonb_object_agg(v.name, v.new)]"
        " FROM (VALUES {pairs}) AS v (name, old, new) WHERE v.old IS DISTINCT FROM v.new"
        # So that it is not worked out twice.
        ") END AS both OFFSET 0) AS c)"
    ).format(
        **_common(target, origin),
        target=target.identifier,
        key=sql.Identifier(target.key),
        names=names,
        new=new,
        pairs=pairs,
    )


def kept_deleted(target: Target, origin: Origin) -> sql.Composed:
    """As `kept`, of a statement that deletes."""
    names, old = _as_texts(target, sql.SQL("(d.changed)"))
    return sql.SQL(
        ", kept AS (INSERT INTO mailferry.row_changes (job_id, file_id, target, table_oid, key_column, key, old)"
        " SELECT {job}, {file}, {title}, {oid}, {key_column}, (d.changed).{key}::text, jsonb_object({names}, {old})"
        " FROM done AS d)"
    ).format(**_common(target, origin), key=sql.Identifier(target.key), names=names, old=old)


def _as_texts(target: Target, row: sql.Composable) -> tuple[sql.Composed, sql.Composed]:
    """Two arrays: the columns' names, and their values as texts."""
    columns = recorded(target)
    names = sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(sql.Literal(one.name) for one in columns))
    values = sql.SQL("ARRAY[{}]").format(
        sql.SQL(", ").join(sql.SQL("{}.{}::text").format(row, sql.Identifier(one.name)) for one in columns)
    )
    return names, values


def _common(target: Target, origin: Origin) -> dict[str, sql.Composable]:
    return {
        "job": sql.Literal(origin.job_id),
        "file": sql.Literal(origin.file_id),
        "title": sql.Literal(target.title),
        "oid": sql.Literal(target.oid),
        "key_column": sql.Literal(target.key),
    }


def recorded(target: Target) -> list[TargetColumn]:
    """The columns that are kept; a generated one follows from the others."""
    return [column for column in target.all_columns if not column.generated]


def undo(conn: Connection, job_id: int) -> Undone:
    """Put back what the job has changed: all of it, or Reject, which says why and leaves everything as it is.

    Refused where a later job, or another program, has changed such a row since, and where a table is no longer the same.
    Undone changes stay on record as such, and count no more.
    """
    places = conn.execute(_sql("changed_tables"), {"job": job_id}).fetchall()
    done = Undone()
    try:
        with conn.transaction():
            for title, oid, key in places:
                table = _Table(conn, job_id, title, _found(conn, title, oid, key))
                done = _sum(done, table.undo())
    except psycopg.Error as error:
        raise translated(error) from error
    return done


def _found(conn: Connection, title: str, oid: int, key: str) -> Target:
    row = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        (oid,),
    ).fetchone()
    target = Target.inspect(conn, quoted_name(*row), key) if row else None
    if target is None:
        raise Reject(f"the table {title} that the job changed is not there any more")
    return target


def _sum(one: Undone, other: Undone) -> Undone:
    return Undone(
        deleted=one.deleted + other.deleted,
        put_back=one.put_back + other.put_back,
        restored=one.restored + other.restored,
    )


class _Table:
    """One table that the job changed."""

    def __init__(self, conn: Connection, job_id: int, title: str, target: Target) -> None:
        self._conn = conn
        self._target = target
        #: As on record.
        self._names = {"job": sql.Literal(job_id), "title": sql.Literal(title)}
        key = target.column(target.key)
        assert key is not None
        self._parts = {
            **self._names,
            "target": target.identifier,
            "key": sql.Identifier(target.key),
            "type": type_sql(key.type),
        }

    def undo(self) -> Undone:
        self._target.lock(self._conn)
        self._run("LOCK TABLE {target} IN SHARE ROW EXCLUSIVE MODE")
        self._refuse_later_jobs()
        columns = self._columns()
        deleted = put_back = restored = 0
        while self._left():
            self._refuse_other_changes()
            deleted += self._delete()
            put_back += self._put_back(columns)
            restored += self._restore(columns)
            self._run(
                _LAYER
                + "UPDATE mailferry.row_changes AS c SET undone_at = now() FROM layer AS l WHERE c.id = l.id"
            )
        return Undone(deleted=deleted, put_back=put_back, restored=restored)

    def _run(self, statement: str, **parts: sql.Composable) -> psycopg.Cursor[tuple[object, ...]]:
        return self._conn.execute(sql.SQL(statement).format(**self._parts, **parts))

    def _left(self) -> bool:
        left = self._run(
            "SELECT 1 FROM mailferry.row_changes WHERE job_id = {job} AND target = {title} AND undone_at IS NULL LIMIT 1"
        )
        return left.fetchone() is not None

    def _refuse_later_jobs(self) -> None:
        later = self._run(
            "SELECT l.job_id, count(DISTINCT l.key), min(l.key) FROM mailferry.row_changes AS c JOIN mailferry.row_changes AS l"
            " ON l.target = c.target AND l.key = c.key AND l.id > c.id AND l.job_id <> c.job_id AND l.undone_at IS NULL"
            " WHERE c.job_id = {job} AND c.target = {title} AND c.undone_at IS NULL GROUP BY l.job_id ORDER BY l.job_id DESC"
        ).fetchall()
        if later:
            jobs = ", ".join(f"job {job} ({count} rows, such as {key!r})" for job, count, key in later)
            raise Reject(
                f"rows of {self._target.title} were changed since by {jobs}; undo those first, the latest first"
            )

    def _columns(self) -> list[TargetColumn]:
        """Those that went on record for the job."""
        found = self._run(
            "SELECT DISTINCT jsonb_object_keys(coalesce(old, new)) FROM mailferry.row_changes"
            " WHERE job_id = {job} AND target = {title} AND undone_at IS NULL"
        )
        names = {str(name) for (name,) in found}
        columns = [column for column in recorded(self._target) if column.name in names]
        if gone := sorted(names - {column.name for column in columns}):
            raise Reject(
                f"the table {self._target.title} has no column {', '.join(gone)} any more, which the job filled"
            )
        return columns

    def _refuse_other_changes(self) -> None:
        pairs = sql.SQL(", ").join(
            sql.SQL("({}, t.{}::text)").format(sql.Literal(column.name), sql.Identifier(column.name))
            for column in recorded(self._target)
        )
        other = self._run(
            _LAYER + "SELECT l.key FROM layer AS l LEFT JOIN {target} AS t ON t.{key} = l.key::{type}"
            " WHERE CASE WHEN l.new IS NULL THEN t.{key} IS NOT NULL ELSE t.{key} IS NULL OR EXISTS ("
            "SELECT FROM (VALUES {pairs}) AS v (name, value)"
            " WHERE l.new ? v.name AND l.new ->> v.name IS DISTINCT FROM v.value) END ORDER BY l.key LIMIT {limit}",
            pairs=pairs,
            limit=sql.Literal(_SHOWN + 1),
        ).fetchall()
        if other:
            keys = ", ".join(repr(key) for (key,) in other[:_SHOWN]) + (
                ", ..." if len(other) > _SHOWN else ""
            )
            raise Reject(
                f"rows of {self._target.title} are not as the job left them, as another program has changed them since: {keys}"
            )

    def _delete(self) -> int:
        return self._expect(
            "old IS NULL",
            _LAYER
            + "DELETE FROM {target} AS t USING layer AS l WHERE t.{key} = l.key::{type} AND l.old IS NULL",
        )

    def _put_back(self, columns: Iterable[TargetColumn]) -> int:
        changes = [
            sql.SQL("{0} = CASE WHEN l.old ? {1} THEN (l.old ->> {1})::{2} ELSE t.{0} END").format(
                sql.Identifier(column.name), sql.Literal(column.name), type_sql(column.type)
            )
            for column in columns
            if column.writable and column.name != self._target.key
        ]
        if not changes:
            return 0
        return self._expect(
            "old IS NOT NULL AND new IS NOT NULL",
            _LAYER + "UPDATE {target} AS t SET {changes} FROM layer AS l"
            " WHERE t.{key} = l.key::{type} AND l.old IS NOT NULL AND l.new IS NOT NULL",
            changes=sql.SQL(", ").join(changes),
        )

    def _restore(self, columns: Iterable[TargetColumn]) -> int:
        names = [sql.Identifier(column.name) for column in columns]
        values = [
            sql.SQL("(l.old ->> {})::{}").format(sql.Literal(column.name), type_sql(column.type))
            for column in columns
        ]
        return self._expect(
            "new IS NULL",
            _LAYER
            + "INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM layer AS l WHERE l.new IS NULL",
            names=sql.SQL(", ").join(names),
            values=sql.SQL(", ").join(values),
        )

    def _expect(self, which: str, statement: str, **parts: sql.Composable) -> int:
        """Run it, and see that it went through all the rows that it is for: a trigger may leave some as they are."""
        ((wanted,),) = self._run(_LAYER + f"SELECT count(*) FROM layer WHERE {which}").fetchall()
        if not wanted:
            return 0
        done = self._run(statement, **parts).rowcount
        if done != wanted:
            raise Reject(
                f"the table {self._target.title} took back {done} of {wanted} rows; a trigger or policy of it refuses the rest"
            )
        return done


def _sql(name: str) -> bytes:
    return queries("history")[name]
