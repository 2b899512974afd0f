"""The feeds' table, as workers of several hosts see it."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from psycopg_pool import AsyncConnectionPool

from mailferry import database
from mailferry.config.schedule import Schedule
from mailferry.service.plan import Entry
from mailferry.service.store import Store

if TYPE_CHECKING:
    from mailferry.config.database import DatabaseSettings


@pytest.mark.parametrize(
    ("alone", "stays_with"),
    # No other host can have its files where the database is this machine's own.
    [(False, "one"), (True, "")],
)
def test_a_feed_with_files_stays_on_its_host_and_a_machine_alone_may_be_renamed(
    database_settings: DatabaseSettings, alone: bool, stays_with: str
) -> None:
    entry = Entry(name="out", kind="events", host="", bound=True, schedule=Schedule.parse("5m"))

    async def started_as(host: str, *, alone: bool) -> dict[str, str]:
        where = database.parameters(database_settings)
        async with AsyncConnectionPool(kwargs=where, min_size=1, open=False) as pool:
            return await Store(pool, uuid.uuid4(), host).register([entry], alone=alone)

    assert asyncio.run(started_as("one", alone=False)) == {"out": "one"}
    assert asyncio.run(started_as("two", alone=alone)) == {"out": stays_with}


def test_a_run_planned_by_a_clock_that_was_ahead_comes_when_it_is_due_after_a_start(
    database_settings: DatabaseSettings,
) -> None:
    entry = Entry(name="out", kind="events", host="", bound=False, schedule=Schedule.parse("5m"))

    async def seconds_to_wait() -> float | None:
        where = database.parameters(database_settings)
        async with AsyncConnectionPool(kwargs=where, min_size=1, open=False) as pool:
            store = Store(pool, uuid.uuid4(), "one")
            await store.register([entry])
            async with store.transaction() as conn:
                await conn.execute("UPDATE mailferry.feeds SET next_run_at = now() + interval '1 year'")
            await store.register([entry])
            return await store.next_due(["out"])

    seconds = asyncio.run(seconds_to_wait())
    assert seconds is not None
    assert seconds <= 330
