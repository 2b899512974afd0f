"""The pool of connections: what is lent works, and costs the server nothing beside what is asked of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mailferry import database

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection


def backend(pool: database.Pool) -> int:
    with database.single(pool) as conn:
        return conn.info.backend_pid


def test_a_connection_that_the_server_has_ended_while_nobody_used_it_is_not_lent(
    database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    settings = database_settings.model_copy(update={"pool_min": 1, "pool_max": 1})
    with database.connect(settings) as pool:
        ended = backend(pool)
        assert backend(pool) == ended
        watcher = connect()
        watcher.autocommit = True
        watcher.execute("SELECT pg_terminate_backend(%s)", (ended,))
        while watcher.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (ended,)).fetchone():
            time.sleep(0.01)
        with database.transaction(pool) as conn:
            assert conn.execute("SELECT pg_backend_pid() <> %s", (ended,)).fetchone() == (True,)


def test_a_single_statement_is_committed_by_itself_and_the_next_transaction_is_one_again(
    database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    settings = database_settings.model_copy(update={"pool_min": 1, "pool_max": 1})
    watcher = connect()
    watcher.autocommit = True
    with database.connect(settings) as pool:
        with database.single(pool) as conn:
            conn.execute("CREATE TABLE single (n int)")
            assert watcher.execute("SELECT count(*) FROM single").fetchone() == (0,)
        with database.transaction(pool) as conn:
            conn.execute("INSERT INTO single VALUES (1)")
            assert watcher.execute("SELECT count(*) FROM single").fetchone() == (0,)
        assert watcher.execute("SELECT count(*) FROM single").fetchone() == (1,)
