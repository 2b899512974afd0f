"""Rows that the latest list of their sender no longer has: marked or deleted.

`mailferry.row_scopes` records for each row which message had it last. Rows that no message of the scope has ever had, such as
those that another program writes, are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from mailferry.config.mailbox_feed import Absent
from mailferry.database import queries
from mailferry.errors import Reject
from mailferry.mailbox.target import history
from mailferry.mailbox.target.blame import blamed
from mailferry.mailbox.target.table import ABSENT, type_sql

if TYPE_CHECKING:
    from datetime import datetime

    from mailferry.database import Connection
    from mailferry.mailbox.target.origins import Origin
    from mailferry.mailbox.target.table import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Whose rows a list speaks of."""

    feed: str
    #: Address, in lower case.
    sender: str
    #: All senders of the feed write one list.
    whole_feed: bool
    #: Marked or deleted.
    what: Absent
    #: The share of the rows that may be absent; more, and the list is taken for cut off. None: any.
    most: float | None
    #: When the message was received, aware; None where the order of arrival counts.
    received: datetime | None

    @property
    def title(self) -> str:
        """For people."""
        return f"feed {self.feed}" if self.whole_feed else self.sender or "messages without a sender"


def touch(
    conn: Connection, target: Target, stage: sql.Identifier, key: sql.Identifier, scope: Scope, job_id: int
) -> None:
    """The job has these rows of the staging table; the keys that a later message had last stay that one's."""
    conn.execute(
        sql.SQL(
            "INSERT INTO mailferry.row_scopes AS r (target, key, feed, sender, job_id, seen_at, first_job_id)"
            " SELECT {title}, s.{key}::text, {feed}, {sender}, {job}, coalesce({seen}, clock_timestamp()), {job} FROM {stage} AS s"
            " ON CONFLICT (target, key) DO UPDATE SET feed = excluded.feed, sender = excluded.sender, job_id = excluded.job_id,"
            " seen_at = excluded.seen_at, first_job_id = CASE WHEN r.feed = excluded.feed AND ({whole} OR r.sender = excluded.sender)"
            " THEN r.first_job_id ELSE excluded.job_id END WHERE r.seen_at <= excluded.seen_at"
        ).format(
            title=sql.Literal(target.title),
            key=key,
            feed=sql.Literal(scope.feed),
            sender=sql.Literal(scope.sender),
            job=sql.Literal(job_id),
            seen=sql.Literal(scope.received),
            stage=stage,
            whole=sql.Literal(scope.whole_feed),
        )
    )


def settle(conn: Connection, target: Target, scope: Scope, origin: Origin, *, keep: bool) -> tuple[int, str]:
    """Mark or delete the rows of the scope that the job does not have; how many, and why none, or "".

    Called once, after all files of the job. `keep`: the rows go on record (history). Raises Reject for more than
    `scope.most` of them, and where the database refuses, as for a foreign key; Stop without the right.
    """
    if why := _incomplete(conn, scope, origin):
        return 0, f"rows that are absent from this list stay, as {why}"
    absent, before = _count(conn, target, scope, origin.job_id)
    if scope.most is not None and absent > scope.most * before:
        raise Reject(
            f"{absent} of the {before} rows that {scope.title} sent before are absent from this list, more than the"
            f" {scope.most:.0%} that are allowed (max_absent), so nothing of it is loaded. To load it all the same, and have"
            f" them {scope.what.done}: mailferry jobs retry {origin.job_id}"
        )
    if absent:
        with blamed(conn, lambda: probe(conn, target, scope.what)):
            conn.execute(_statement(target, scope, origin, keep=keep))
            if scope.what is Absent.DELETE and not keep:
                conn.execute(_forget(target, scope, origin.job_id))
    return absent, ""


def probe(conn: Connection, target: Target, what: Absent) -> None:
    """Raises psycopg.Error without the right to mark or delete. Nothing is written."""
    if what is Absent.DELETE:
        conn.execute(sql.SQL("DELETE FROM {} WHERE false").format(target.identifier))
    else:
        column = sql.Identifier(ABSENT)
        conn.execute(sql.SQL("UPDATE {0} SET {1} = {1} WHERE false").format(target.identifier, column))


def _incomplete(conn: Connection, scope: Scope, origin: Origin) -> str:
    """Why the list does not count as the whole and the latest one; "" where it does."""
    job = {"job": origin.job_id, "file": origin.file_id}
    ((others,),) = conn.execute(queries("absent")["not_whole"], job).fetchall()
    if others:
        return f"{others} files of the message were not loaded, or not with all their rows"
    own = {"feed": scope.feed, "sender": scope.sender, "whole": scope.whole_feed, "seen": scope.received}
    newer = conn.execute(queries("absent")["newer_list"], {**job, **own}).fetchone()
    return f"job {newer[0]} brought a later one" if newer else ""


def _listed(target: Target, job_id: int) -> sql.Composed:
    """Keys that the job has, as values: the same number or time may stand there as two texts."""
    key = target.column(target.key)
    assert key is not None
    return sql.SQL("SELECT key::{} FROM mailferry.row_scopes WHERE target = {} AND job_id = {}").format(
        type_sql(key.type), sql.Literal(target.title), sql.Literal(job_id)
    )


def _where(target: Target, scope: Scope, job_id: int) -> sql.Composed:
    """Rows `t` of the table that the scope's messages had, by their entries `r`, and that are not marked yet."""
    key = target.column(target.key)
    assert key is not None
    return sql.SQL(
        "r.target = {title} AND r.feed = {feed} AND ({whole} OR r.sender = {sender}) AND t.{key} = r.key::{type}"
        " AND r.first_job_id <> {job}{unmarked}"
    ).format(
        title=sql.Literal(target.title),
        feed=sql.Literal(scope.feed),
        whole=sql.Literal(scope.whole_feed),
        sender=sql.Literal(scope.sender),
        key=sql.Identifier(target.key),
        type=type_sql(key.type),
        job=sql.Literal(job_id),
        unmarked=sql.SQL(" AND t.{} IS NULL").format(sql.Identifier(ABSENT))
        if scope.what is Absent.MARK
        else sql.SQL(""),
    )


def _count(conn: Connection, target: Target, scope: Scope, job_id: int) -> tuple[int, int]:
    """Rows that are absent, and rows that the scope had before."""
    statement = sql.SQL(
        "SELECT count(DISTINCT t.{key}) FILTER (WHERE l.key IS NULL), count(DISTINCT t.{key}) FROM mailferry.row_scopes AS r"
        " CROSS JOIN {target} AS t LEFT JOIN ({listed}) AS l ON l.key = t.{key} WHERE {where}"
    ).format(
        key=sql.Identifier(target.key),
        target=target.identifier,
        listed=_listed(target, job_id),
        where=_where(target, scope, job_id),
    )
    ((absent, before),) = conn.execute(statement).fetchall()
    return absent, before


def _statement(target: Target, scope: Scope, origin: Origin, *, keep: bool) -> sql.Composed:
    where = sql.SQL("{} AND NOT EXISTS (SELECT FROM ({}) AS l WHERE l.key = t.{})").format(
        _where(target, scope, origin.job_id), _listed(target, origin.job_id), sql.Identifier(target.key)
    )
    if scope.what is Absent.DELETE:
        change = sql.SQL("DELETE FROM {} AS t USING mailferry.row_scopes AS r").format(target.identifier)
        kept = history.kept_deleted(target, origin)
    else:
        change = sql.SQL("UPDATE {} AS t SET {} = now() FROM mailferry.row_scopes AS r").format(
            target.identifier, sql.Identifier(ABSENT)
        )
        kept = history.kept(target, origin)
    return sql.SQL(
        "WITH done AS ({change} WHERE {where} RETURNING false AS fresh, t AS changed){kept} SELECT 1"
    ).format(change=change, where=where, kept=kept if keep else sql.SQL(""))


def _forget(target: Target, scope: Scope, job_id: int) -> sql.Composed:
    """Entries of rows that are gone; where history is kept, an undo may bring them back."""
    return sql.SQL(
        "DELETE FROM mailferry.row_scopes AS r WHERE r.target = {} AND r.feed = {} AND ({} OR r.sender = {}) AND r.job_id <> {}"
    ).format(
        sql.Literal(target.title),
        sql.Literal(scope.feed),
        sql.Literal(scope.whole_feed),
        sql.Literal(scope.sender),
        sql.Literal(job_id),
    )
