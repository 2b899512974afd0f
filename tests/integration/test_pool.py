"""The pool of connections: what is lent works, and costs the server nothing beside what is asked of it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from support_mail import Maildir, feed_of, mail, workbook
from support_wait import wait_for

from mailferry import database
from mailferry.config.database import DatabaseSettings
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.pool import MailPool
from mailferry.mailbox.turns import poll

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mailferry.database import Connection


def backend(pool: database.Pool) -> int:
    with database.single(pool) as conn:
        return conn.info.backend_pid


def test_a_connection_that_the_server_has_ended_while_it_was_idle_is_not_acquired(
    database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    settings = database_settings.model_copy(update={"pool_min": 1, "pool_max": 1})
    with database.connect(settings) as pool:
        ended = backend(pool)
        assert backend(pool) == ended
        watcher = connect()
        watcher.autocommit = True
        watcher.execute("SELECT pg_terminate_backend(%s)", (ended,))
        left = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        wait_for("its end", lambda: watcher.execute(left, (ended,)).fetchone() is None)
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


def test_the_smallest_pool_that_can_be_set_lets_a_run_renew_its_claim_while_it_loads(
    tmp_path: Path, database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    (smallest,) = (
        limit.ge for limit in DatabaseSettings.model_fields["pool_max"].metadata if hasattr(limit, "ge")
    )
    maildir = Maildir(tmp_path / "mail")
    maildir.deliver(mail("Track and Trace", ("a.xlsx", workbook(("HAWB",), ("1",)))))
    settings = database_settings.model_copy(update={"pool_max": smallest})
    feed = feed_of(tmp_path / "app", maildir.root, settings)
    watcher = connect()
    watcher.autocommit = True
    with (
        database.connect(settings) as pool,
        MailPool(
            {feed.name: feed},
            pool,
            worker_id="test",
            stop=threading.Event(),
            lease=timedelta(seconds=1),
        ) as mail_pool,
        leases.only_run(pool, feed.name),
    ):
        assert poll(mail_pool, feed.name).arrived == 1
        held = mail_pool.claim(feed.target_table, [feed.name])
        assert held is not None
        with mail_pool.working(held), database.transaction(pool) as conn:
            leases.hold(conn, held)
            renewed = "SELECT 1 FROM mailferry.jobs WHERE lease_until > started_at + interval '1.1 s'"
            wait_for("the renewed claim", lambda: watcher.execute(renewed).fetchone())
