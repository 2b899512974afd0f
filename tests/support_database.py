"""To ask a test's database from outside."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo

from mailferry import database

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailferry.config.database import DatabaseSettings

    _Key = tuple[int, str]

#: Connections between two statements, by process and place. To open one costs more than most statements do.
_KEPT: dict[_Key, database.Connection] = {}
#: That of the administrator, and that of the test's database.
_MOST = 2
_keeping = threading.Lock()


def query(settings: DatabaseSettings, text: str, *values: object) -> list[tuple[Any, ...]]:
    """One statement and its commit, past all links. Without values a `%` is itself. It must leave the session as it is."""
    return ask(database.parameters(settings), text, *values)


def ask(where: Mapping[str, Any], text: str, *values: object) -> list[tuple[Any, ...]]:
    """The same for libpq's parameters."""
    key = (os.getpid(), make_conninfo(**where))
    conn = _KEPT.pop(key, None)
    if conn:
        try:
            return _asked(conn, text, values)
        except psycopg.OperationalError:
            # Ended since by a test, with the server or alone; what it had begun is rolled back.
            if not conn.closed:
                raise
        finally:
            _keep(key, conn)
    conn = psycopg.connect(make_conninfo(**where), autocommit=True, prepare_threshold=None)
    try:
        return _asked(conn, text, values)
    finally:
        _keep(key, conn)


def _asked(conn: database.Connection, text: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    cursor = conn.execute(text.encode(), values or None)
    return cursor.fetchall() if cursor.description else []


def _keep(key: _Key, conn: database.Connection) -> None:
    """Have it for the next statement, unless it has ended or another thread was first; of others only the latest stay."""
    with _keeping:
        spare = [conn]
        if not conn.closed and key not in _KEPT:
            _KEPT[key] = spare.pop()
            spare += [_KEPT.pop(old) for old in list(_KEPT)[:-_MOST]]
    for one in spare:
        one.close()


@atexit.register
def forget(where: str = "") -> None:
    """Close what is kept for places with this in them."""
    with _keeping:
        ended = [_KEPT.pop(key) for key in list(_KEPT) if where in key[1]]
    for one in ended:
        one.close()


class Queried:
    """Whatever has a database."""

    settings: DatabaseSettings

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        return query(self.settings, text, *values)
