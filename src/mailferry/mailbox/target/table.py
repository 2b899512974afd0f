"""The target table: what it looks like, and making it. Rows are loaded by `staging.load`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from mailferry.database import SCHEMA, Relation, advisory_key
from mailferry.errors import Reject, Stop
from mailferry.mailbox.target.blame import blamed
from mailferry.mailbox.workbook.header import clean_name
from mailferry.mailbox.workbook.values import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from mailferry.database import Connection


#: Columns that we fill ourselves where the table has them.
SOURCE, PROCESSED = "file_source", "processed_at"
#: When the mailbox received the message that a row is from: an older message leaves such a row as it is.
RECEIVED = "mail_received_at"
OURS = (SOURCE, PROCESSED, RECEIVED)
#: Filled where the table has them: the job, the sheet, the row in it from 1 on, and when the message was received, of the
#: file that last changed a row. A sheet's header of such a name has to be spelled so: `Job` is another column.
JOB, SHEET, ROW, RECEIVED_AT = "_job", "_sheet", "_row", "_received"
#: Since when a row is absent from its sender's list, where a feed marks such rows.
ABSENT = "absent_since"
ORIGINS = (JOB, SHEET, ROW, RECEIVED_AT)
#: What every table has already, https://www.postgresql.org/docs/current/ddl-system-columns.html
SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
#: Types whose values the reader has checked, and for which `=` means the same value: staged as they are.
#: Anything else (domains, enums, inet, json, arrays ...) is staged as text, so that a bad value can be reported with its row.
_PLAIN = frozenset(
    {"int2", "int4", "int8", "numeric", "float4", "float8", "bool", "date", "time", "timetz"}
    | {"timestamp", "timestamptz", "text", "varchar", "bpchar", "uuid"}
)
#: What a table of our own may be made of.
_INFERRED = re.compile(
    r"(smallint|integer|bigint|numeric(\(\d+,\d+\))?|real|double precision|boolean|date|interval|uuid|text"
    r"|time(stamp)?( with(out)? time zone)?|character varying\(\d+\))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetColumn(Column):
    """A column, with what is needed to stage and compare it."""

    #: Whether it is staged in its own type, see `_PLAIN`.
    plain: bool = True
    #: Whether its (base) type is one of text, which is assigned rather than cast: a cast would cut what is too long.
    textual: bool = False
    #: Whether a value may be given: neither generated nor an identity column GENERATED ALWAYS.
    writable: bool = True
    #: Computed from the other columns.
    generated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Target(Relation):
    """A table that can be upserted into."""

    key: str
    #: All columns of the table.
    all_columns: tuple[TargetColumn, ...]
    #: Changes when the table is dropped, made again or emptied by TRUNCATE: what was loaded before is then no duplicate.
    generation: str
    oid: int
    partitioned: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that a sheet can fill, for the row contract; without what only the table needs to know of them."""
        return tuple(
            Column(name=one.name, type=one.type, nullable=one.nullable, has_default=one.has_default)
            for one in self.all_columns
            if one.writable and one.name not in self.filled
        )

    @property
    def filled(self) -> tuple[str, ...]:
        """The columns that no sheet can fill: we do, or the database itself (generated, identity GENERATED ALWAYS)."""
        own = (one.name for one in self.all_columns if one.name in ORIGINS or not one.writable)
        return (*OURS, *(name for name in own if name not in OURS))

    def column(self, name: str) -> TargetColumn | None:
        return next((column for column in self.all_columns if column.name == name), None)

    @property
    def has_received(self) -> bool:
        """Whether each row says when its message was received."""
        column = self.column(RECEIVED)
        return column is not None and column.writable and column.type.startswith("timestamp")

    @classmethod
    def inspect(cls, conn: Connection, name: str, key: str) -> Target | None:
        """The table `name` as it is now; None where there is none.

        `name` is `table` (found by the search path) or `schema.table`; parts with dots or quotes are written in
        double quotes. Spelled as given, else in lower case; `key` at last by its clean name, where only one column
        has that. Raises Stop for a name or a thing that is no table,
        for a missing key column, and for a missing unique index on it, with the SQL that makes one.
        """
        found = _find(conn, name)
        if found is None:
            return None
        oid, schema, table, kind, generation = found
        title = f"{schema}.{table}"
        if kind not in "rp":
            raise Stop(f"{title} is not a table; the target has to be one.")
        columns, unique = _columns(conn, oid)
        names = [column.name for column in columns]
        if key not in names and key.lower() in names:
            key = key.lower()
        if key not in names:
            # A table that we made has the key by its clean name.
            same = [name for name in names if clean_name(name) == clean_name(key)]
            key = same[0] if len(same) == 1 else key
        if key not in names:
            raise Stop(
                f"Table {title} has no column {key}, the unique key. Its columns are: {', '.join(names)}."
            )
        target = cls(
            schema=schema,
            name=table,
            key=key,
            all_columns=columns,
            generation=generation,
            oid=oid,
            partitioned=kind == "p",
        )
        if key not in {column.name for column in columns if column.writable}:
            raise Stop(
                f"The unique key {key} of {title} is filled by the database itself (a generated or identity column), so no"
                " row of a file can be found by it. Choose another column as the unique key."
            )
        if key not in unique:
            index = sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(target.identifier, sql.Identifier(key))
            raise Stop(
                f"Table {title} has no unique index on {key} alone that always holds (not partial, not deferrable), "
                f"and rows cannot be distinguished without. Run: {index.as_string(conn)};"
            )
        return target

    def lock(self, conn: Connection) -> None:
        """As `lock`."""
        _lock(conn, self.schema, self.name)

    def refuse_without_mark(self, conn: Connection) -> None:
        """Raises Stop for a table whose rows cannot be marked as absent."""
        column = self.column(ABSENT)
        if column is None or not column.writable or not column.type.startswith("timestamp"):
            statement = sql.SQL("ALTER TABLE {} ADD COLUMN {} timestamptz").format(
                self.identifier, sql.Identifier(ABSENT)
            )
            raise Stop(
                f"Table {self.title} has no column {ABSENT} of type timestamptz, which absent = mark needs."
                f" Run: {statement.as_string(conn)};"
            )

    def probe(self, conn: Connection) -> None:
        """Raises psycopg.Error where the table takes no row at all, for want of a right. Nothing is written."""
        # Privileges are checked before a row is looked for.
        name, key = self.identifier, sql.Identifier(self.key)
        conn.execute(sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM {0} WHERE false").format(name, key))
        conn.execute(sql.SQL("UPDATE {0} SET {1} = {1} WHERE false").format(name, key))

    def add_columns(self, conn: Connection, columns: Sequence[Column]) -> Target:
        """The table with these columns as well; those that it has meanwhile are left alone.

        Raises Reject where the table cannot have them, or the database user may not add them: other files have no
        need of them.
        """
        _refuse_system_names(columns)
        for column in columns:
            statement = sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                self.identifier, sql.Identifier(column.name), _type(column)
            )
            with blamed(conn, lambda: None, _or_run(conn, statement)):
                conn.execute(statement)
        again = type(self).inspect(conn, quoted_name(self.schema, self.name), self.key)
        assert again is not None
        return again


def lock(conn: Connection, name: str) -> None:
    """Until the transaction ends, no other job makes, changes or loads this table.

    `name` as configured or resolved: `t`, `public.t` and `T` (where only `t` exists) are the same table. A
    transaction that loads several tables must lock them in the order of their names.
    """
    found = _find(conn, name)
    _lock(conn, *(found[1:3] if found else _place(conn, name)))


def _lock(conn: Connection, schema: str, table: str) -> None:
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_key("table", schema, table),))


def create(
    conn: Connection, name: str, key: str, columns: Sequence[Column], *, marking: bool = False
) -> Target:
    """Make the table as `definition` has it.

    One that exists by now is returned as it is. Raises Stop where none can be made, as without the right, Reject for a
    sheet whose columns no table can have.
    """
    lock(conn, name)
    there = Target.inspect(conn, name, key)
    if there is not None:
        return there
    schema, table = _place(conn, name)
    statement = definition(conn, name, key, columns, marking=marking)
    plain = sql.SQL("CREATE TABLE {} ({} text)").format(sql.Identifier(schema, table), sql.Identifier(key))
    with blamed(conn, lambda: conn.execute(plain), _or_run(conn, statement)):
        conn.execute(statement)
    made = Target.inspect(conn, quoted_name(schema, table), key)
    assert made is not None
    return made


def definition(
    conn: Connection, name: str, key: str, columns: Sequence[Column], *, marking: bool = False
) -> sql.Composed:
    """The statement that makes a table: the columns, a primary key on `key`, and those of `OURS`; `marking`: `absent_since` too.

    Raises Stop where there is no schema for it, Reject for a sheet whose columns no table can have.
    """
    schema, table = _place(conn, name)
    ours = (*OURS, ABSENT) if marking else OURS
    own = [column for column in columns if column.name not in ours]
    if key not in {column.name for column in own}:
        raise Reject(f"No column {key}, the unique key; columns found: {', '.join(c.name for c in own)}.")
    _refuse_system_names(own)
    definitions = [sql.SQL("{} {}").format(sql.Identifier(column.name), _type(column)) for column in own]
    definitions.append(sql.SQL("PRIMARY KEY ({})").format(sql.Identifier(key)))
    definitions.append(sql.SQL("{} text").format(sql.Identifier(SOURCE)))
    definitions.append(sql.SQL("{} timestamptz NOT NULL DEFAULT now()").format(sql.Identifier(PROCESSED)))
    definitions += [
        sql.SQL("{} timestamptz").format(sql.Identifier(name))
        for name in (RECEIVED, *([ABSENT] if marking else []))
    ]
    body = sql.SQL(", ").join(definitions)
    return sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(schema, table), body)


def _find(conn: Connection, name: str) -> tuple[int, str, str, str, str] | None:
    """Oid, schema, name, kind and generation of the relation that a configured name means."""
    parts = _parts(name)
    spelled = {"schema": parts[0] if len(parts) > 1 else None, "table": parts[-1]}
    lower = {f"lower_{key}": part and part.lower() for key, part in spelled.items()}
    row = conn.execute(
        """
        SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text,
               c.oid::text || ':' || coalesce(pg_relation_filenode(c.oid), 0)::text
        FROM (
            VALUES (1, %(schema)s::name, %(table)s::name), (2, %(lower_schema)s::name, %(lower_table)s::name)
        ) AS spelled (turn, schema, name)
        JOIN pg_class c ON c.relname = spelled.name
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = spelled.schema
           OR spelled.schema IS NULL AND n.nspname = ANY(current_schemas(false)) AND n.nspname <> %(ours)s
        ORDER BY spelled.turn, array_position(current_schemas(false), n.nspname) LIMIT 1
        """,
        # A role called like our schema has it on its search path, as "$user"; no user's table belongs there.
        {**spelled, **lower, "ours": SCHEMA},
    ).fetchone()
    return row and (row[0], row[1], row[2], row[3], row[4])


def _place(conn: Connection, name: str) -> tuple[str, str]:
    """Schema and name of a table that is still to be made."""
    parts = _parts(name)
    if len(parts) > 1:
        return parts[0], parts[1]
    row = conn.execute("SELECT (array_remove(current_schemas(false), %s))[1]", (SCHEMA,)).fetchone()
    if row is None or row[0] is None:
        raise Stop(
            f"No schema of the search path exists, so table {name} can be neither found nor made. Write schema.table."
        )
    return row[0], parts[0]


def _parts(name: str) -> list[str]:
    found = re.fullmatch(r'(?:("(?:[^"]|"")+"|[^".]+)\.)?("(?:[^"]|"")+"|[^".]+)', name)
    parts = (
        [part[1:-1].replace('""', '"') if part[0] == '"' else part for part in found.groups() if part]
        if found
        else []
    )
    if not parts or "\0" in name or any(len(part.encode()) > 63 for part in parts):
        raise Stop(
            f"{name!r} is not the name of a table. It is table or schema.table, each part at most 63 bytes."
        )
    return parts


def quoted_name(*parts: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _columns(conn: Connection, oid: int) -> tuple[tuple[TargetColumn, ...], set[str]]:
    """The columns, and the names of those on which a unique index stands alone that always holds."""
    rows = conn.execute(
        """
        WITH RECURSIVE base AS (
            SELECT a.attnum, a.atttypid AS type FROM pg_attribute a WHERE a.attrelid = %(oid)s AND a.attnum > 0
            UNION ALL
            SELECT b.attnum, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
        )
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull OR own.typnotnull,
               a.atthasdef OR a.attidentity <> '', own.typname, b.typcategory::text,
               a.attgenerated = '' AND a.attidentity <> 'a', a.attgenerated <> '',
               EXISTS (
                   SELECT FROM pg_index i
                   WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum AND i.indnkeyatts = 1 AND i.indisunique
                     AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
               )
        FROM pg_attribute a
        JOIN pg_type own ON own.oid = a.atttypid
        JOIN base ON base.attnum = a.attnum
        JOIN pg_type b ON b.oid = base.type AND b.typtype <> 'd'
        WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
        """,
        {"oid": oid},
    ).fetchall()
    columns = tuple(
        TargetColumn(
            name=name,
            type=type_,
            nullable=not not_null,
            has_default=has_default,
            plain=type_name in _PLAIN,
            textual=category == "S",
            writable=writable,
            generated=generated,
        )
        for name, type_, not_null, has_default, type_name, category, writable, generated, _ in rows
    )
    return columns, {row[0] for row in rows if row[-1]}


def type_sql(type_: str) -> sql.SQL:
    """A type as format_type() wrote it: the server has quoted what needs it."""
    return sql.SQL(type_)


def _type(column: Column) -> sql.SQL:
    assert _INFERRED.fullmatch(column.type), column.type
    return type_sql(column.type)


def _refuse_system_names(columns: Sequence[Column]) -> None:
    if taken := [column.name for column in columns if column.name in SYSTEM]:
        raise Reject(
            f"a column is named {', '.join(taken)}: PostgreSQL has a column of that name in every table, so none can be made."
            " Have it renamed in the sheet; a table that is there already is loaded without it by unknown_columns"
            " (DB_UNKNOWN_COLUMNS) = ignore"
        )


def _or_run(conn: Connection, statement: sql.Composed) -> Callable[[psycopg.Error], str]:
    """Where the right is missing, what a user who has it has to run."""
    remedy = statement.as_string(conn)
    return lambda error: f" Or let the owner run: {remedy};" if error.sqlstate == "42501" else ""
