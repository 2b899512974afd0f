"""Connections to a database that falls silent: what waits on one gets an error after a while."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from support_link import Link
from support_wait import wait_for

from mailferry.service.connections import WatchedConnections

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.database import DatabaseSettings


def where(settings: DatabaseSettings, link: Link) -> str:
    return f"host=127.0.0.1 port={link.port} dbname={settings.name} user={settings.user} sslmode=disable"


@pytest.mark.parametrize("end", [WatchedConnections.close_overdue, WatchedConnections.close_waiting])
def test_a_thread_that_waits_for_a_silent_database_gets_an_error(
    end: Callable[[WatchedConnections], int], database_settings: DatabaseSettings
) -> None:
    lines = WatchedConnections(short=0, long=0)
    with (
        Link(database_settings) as link,
        ThreadPoolExecutor(1) as threads,
        lines.blocking.connect(where(database_settings, link), autocommit=True) as conn,
    ):
        conn.execute("SELECT 1")
        assert end(lines) == 0
        link.swallow()
        asking = threads.submit(conn.execute, "SELECT 1")
        wait_for("the end of the wait", lambda: end(lines) or asking.done())
        with pytest.raises(psycopg.OperationalError):
            asking.result(timeout=60)


@pytest.mark.parametrize("end", [WatchedConnections.close_overdue, WatchedConnections.close_waiting])
def test_a_task_that_waits_for_a_silent_database_gets_an_error(
    end: Callable[[WatchedConnections], int], database_settings: DatabaseSettings
) -> None:
    lines = WatchedConnections(short=0, long=0)

    async def main(link: Link) -> None:
        conn = await lines.asynchronous.connect(where(database_settings, link), autocommit=True)
        await conn.execute("SELECT 1")
        assert end(lines) == 0
        link.swallow()
        asking = asyncio.ensure_future(conn.execute("SELECT 1"))
        await asyncio.to_thread(wait_for, "the end of the wait", lambda: end(lines) or asking.done())
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(asking, 60)
        await conn.close()

    with Link(database_settings) as link:
        asyncio.run(main(link))


def test_who_waits_no_longer_than_allowed_is_left_alone(database_settings: DatabaseSettings) -> None:
    lines = WatchedConnections(short=3600, long=3600)
    waiting = threading.Event()
    with (
        Link(database_settings) as link,
        ThreadPoolExecutor(1) as threads,
        lines.blocking.connect(where(database_settings, link), autocommit=True) as conn,
    ):
        link.swallow()

        def ask() -> object:
            waiting.set()
            return conn.execute("SELECT 1").fetchone()

        asking = threads.submit(ask)
        waiting.wait(60)
        assert lines.close_overdue() == 0
        link.mend()
        assert asking.result(timeout=60) == (1,)
