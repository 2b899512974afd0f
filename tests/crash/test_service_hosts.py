"""Three hosts, one of which fails: the others take up its work within a minute, each event and each row once."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from support_database import query
from support_events import INCOMING
from support_fleet import a_fleet
from support_service import Table, events, feed_row, head, hosts, mailbox, restart, toml
from support_wait import wait_for

from mailferry import database
from mailferry.testing.population import Population, Traits
from mailferry.testing.provider import Settings, serve
from mailferry.testing.verify import compare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings


@pytest.mark.slow(90)
def test_what_a_host_was_at_is_done_by_another_within_a_minute(
    tmp_path: Path, new_database: Callable[..., DatabaseSettings], account: Account, server_folder: Path
) -> None:
    """Killed, left in silence, frozen and cut off, two at a time: the time-outs are what takes long."""
    with a_fleet(tmp_path, new_database(template=False), account, server_folder) as fleet:
        fleet.begin()
        _, b, c = fleet.hosts

        fault = fleet.now()
        b.kill()
        c.link.swallow()
        fleet.wait_taken_over(fault, without="bc")
        c.link.mend()
        b.start()

        fault = fleet.now()
        b.signal(signal.SIGSTOP)
        c.link.cut()
        fleet.wait_taken_over(fault, without="bc")
        c.link.mend()
        # Long enough that all its jobs have been reclaimed.
        time.sleep(max(0.0, 45 - (fleet.now() - fault).total_seconds()))
        b.signal(signal.SIGCONT)

        fault = fleet.now()
        restart(server_folder)
        fleet.wait_taken_over(fault, without="")
        fleet.end()
        fleet.assert_exactly_once()


@pytest.mark.slow(60)
def test_a_host_that_wakes_up_late_fails_at_its_commit(
    tmp_path: Path, new_database: Callable[..., DatabaseSettings], account: Account
) -> None:
    """Frozen in the middle of a load and of a run; both have been done by another when it goes on."""
    settings = new_database(template=False)
    table = Table(settings, "alpha")
    start = int(time.time()) - 60
    traits = Traits(rate=4, start=start, end=start + 60, detail_bytes=100)
    with (
        serve(Population({INCOMING: traits}), Settings(latency=0.2)) as provider,
        hosts(tmp_path, settings, "a", "b") as (frozen, other),
    ):
        for host in (frozen, other):
            url = provider.list_url("mail")
            tables = head(host, settings) | events("in", INCOMING, url, start_time=start, destination="table")
            tables |= mailbox("alpha", account, target_table="alpha", subject_filter=table.subject)
            host.config.write_text(toml(tables))
            host.config.chmod(0o600)
        # So that the load is under way, however fast it is.
        with psycopg.connect(**database.parameters(settings)) as held:
            held.execute("LOCK TABLE alpha IN EXCLUSIVE MODE")
            account.deliver(table.message())
            frozen.start(ready=False)
            blocked = "SELECT 1 FROM pg_locks WHERE relation = 'alpha'::regclass AND NOT granted"
            wait_for(frozen.log, lambda: query(settings, blocked))
            wait_for(
                frozen.log, lambda: feed_row(settings, "in").get("position") is None and begun(settings, "in")
            )
            frozen.signal(signal.SIGSTOP)
        assert query(settings, "SELECT state FROM mailferry.jobs") == [("in_progress",)]
        other.start()
        wait_for(other.log, table.done)
        wait_for(other.log, lambda: (feed_row(settings, "in").get("position") or 0) >= start + 60)
        frozen.signal(signal.SIGCONT)
        wait_for(
            lambda: f"its failure: {frozen.log()}",
            lambda: "taken over" in frozen.log(),
        )
        assert query(settings, "SELECT runner LIKE 'b:%', state FROM mailferry.jobs") == [(True, "completed")]
        # It is of use again.
        other.kill()
        account.deliver(table.message())
        wait_for(frozen.log, table.done)
        assert frozen.end() == 0
        lines = query(settings, "SELECT coalesce(raw, record::text) FROM mail_events ORDER BY number")
        found = compare(provider.truth(INCOMING, start, start + 60), [line.encode() for (line,) in lines])
        assert found.clean(), found
    table.assert_exactly_once()


@pytest.mark.slow(30)
def test_a_feed_that_takes_its_worker_along_each_time_is_given_up_until_it_is_due(
    tmp_path: Path, new_database: Callable[..., DatabaseSettings]
) -> None:
    """The end of each worker is reported to the database at once here, not after the half minute that it waits for a sign."""
    settings = new_database(template=False)
    start = int(time.time()) - 60
    deadly, good = Traits(rate=4, start=start), Traits(rate=1, start=start)
    with (
        serve(Population({INCOMING: deadly}), Settings(latency=30)) as hanging,
        serve(Population({INCOMING: good})) as provider,
        hosts(tmp_path, settings, "a", "b") as (dying, other),
    ):
        # Each bound to its host, which would else have to come across it by chance.
        options = {"start_time": start, "destination": "table"}
        bad = events("bad", INCOMING, hanging.list_url("mail"), schedule="1h", host="a", **options)
        fine = events("fine", INCOMING, provider.list_url("mail"), host="b", **options)
        for host, tables in ((dying, bad), (other, fine)):
            host.config.write_text(toml(head(host, settings) | tables))
            host.config.chmod(0o600)
        other.start()
        for number in range(1, 5):
            dying.start(ready=False)
            wait_for(
                lambda: f"run {number}: {feed_row(settings, 'bad')}\n{dying.log()}",  # noqa: B023 - called before the next
                lambda: feed_row(settings, "bad").get("run") == number,  # noqa: B023 - called before the next
            )
            dying.kill()
            query(
                settings,
                "UPDATE mailferry.procrastinate_workers SET last_heartbeat = now() - interval '1 minute' WHERE id IN"
                " (SELECT worker_id FROM mailferry.procrastinate_jobs WHERE status = 'doing' AND args ->> 'feed' = 'bad')",
            )
            wait_for(
                lambda: f"{number} reclaimed: {feed_row(settings, 'bad')}\n{other.log()}",  # noqa: B023 - called before the next
                lambda: feed_row(settings, "bad").get("cut_off") == number,  # noqa: B023 - called before the next
            )
        row = feed_row(settings, "bad")
        assert row["status"] == "cut off"
        assert row["error"].startswith(
            "given up until it is due again: 4 runs in a row ended together with their worker"
        )
        begun = feed_row(settings, "fine")["run"]
        dying.start()
        wait_for("others' runs", lambda: feed_row(settings, "fine")["run"] > begun + 5)
        assert feed_row(settings, "bad")["run"] == 4
        query(settings, "UPDATE mailferry.feeds SET next_run_at = now() WHERE name = 'bad'")
        wait_for("its regular run", lambda: feed_row(settings, "bad")["run"] == 5)
        assert other.end() == 0


def begun(settings: DatabaseSettings, name: str) -> bool:
    """Whether a run is on that writes into the table."""
    row = feed_row(settings, name)
    return bool(row.get("started_at") and not row["ended_at"]) and bool(
        query(settings, "SELECT 1 FROM mailferry.event_progress WHERE feed = %s", name)
    )
