"""When the service runs its feeds: on time, not in heaps, again after a fault; and at once when a mailbox calls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support_database import query
from support_events import HOLD, INCOMING, OUTGOING
from support_link import Link
from support_service import Table, events, feed_row, head, hosts, mailbox, toml
from support_wait import wait_for

from mailferry import database
from mailferry.testing.population import Population, Traits
from mailferry.testing.provider import Settings, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings

START = int(time.time()) - 60


@pytest.fixture
def settings(new_database: Callable[..., DatabaseSettings]) -> DatabaseSettings:
    return new_database(template=False)


def runs(settings: DatabaseSettings, name: str) -> int:
    return int(feed_row(settings, name).get("run") or 0)


@pytest.mark.slow(15)
def test_a_failing_feed_is_tried_three_times_more_and_holds_up_no_other(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    with (
        serve(Population({OUTGOING: Traits(rate=1, start=START)})) as provider,
        Link(1) as nowhere,
        hosts(tmp_path, settings, "a") as (host,),
    ):
        nowhere.cut()
        url = provider.list_url("mail")
        tables = head(host, settings, max_concurrent_feeds=1)
        tables |= events(
            "failing",
            INCOMING,
            f"http://127.0.0.1:{nowhere.port}/api/v2/logs/mail",
            schedule="1h",
            start_time=START,
            list_retries=0,
            destination="table",
        )
        tables |= events("good", OUTGOING, url, start_time=START, destination="table")
        host.config.write_text(toml(tables))
        host.config.chmod(0o600)
        # Before it starts, so that no run goes by unseen.
        database.prepare(database.parameters(settings), "temp_processing")
        # Each begins so many seconds after the end of the one before.
        query(
            settings,
            "CREATE TABLE public.pauses AS SELECT run, now() - now() AS pause FROM mailferry.feeds LIMIT 0;"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
            " INSERT INTO public.pauses VALUES (new.run, new.started_at - old.ended_at); RETURN NULL; END';"
            "CREATE TRIGGER note AFTER UPDATE OF run ON mailferry.feeds FOR EACH ROW"
            " WHEN (new.name = 'failing' AND new.run > 1) EXECUTE FUNCTION note()",
        )
        host.start()
        wait_for("four runs", lambda: feed_row(settings, "failing").get("failures") == 4)
        good = runs(settings, "good")
        wait_for("more good runs", lambda: runs(settings, "good") > good + 5)
        row = feed_row(settings, "failing")
        assert (row["run"], row["status"]) == (4, "failed")
        assert query(
            settings,
            "SELECT next_run_at > now() + interval '10 seconds' FROM mailferry.feeds WHERE name = 'failing'",
        ) == [(True,)]
        pauses = query(settings, "SELECT run, extract(epoch FROM pause)::float8 FROM pauses ORDER BY run")
        assert all(pause >= 2 ** (run - 2) for run, pause in pauses)
        assert {run for run, _ in pauses} == {2, 3, 4}
        assert host.end() == 0


@pytest.mark.slow(20)
def test_missed_times_are_made_up_once_and_long_runs_do_not_pile_up(
    tmp_path: Path, settings: DatabaseSettings
) -> None:
    traits = Traits(rate=0.5, start=START)
    with (
        serve(Population({HOLD: traits}), Settings(latency=2)) as slow,
        serve(Population({OUTGOING: traits})) as provider,
        hosts(tmp_path, settings, "a") as (host,),
    ):
        tables = head(host, settings)
        tables |= events("daily", OUTGOING, provider.list_url("mail"), destination="table", schedule="1d")
        tables |= events("slow", HOLD, slow.list_url("quarantine"), start_time=START, destination="table")
        host.config.write_text(toml(tables))
        host.config.chmod(0o600)
        host.start()
        wait_for("its first run", lambda: feed_row(settings, "daily").get("status") == "completed")
        assert host.end() == 0
        query(
            settings,
            "UPDATE mailferry.feeds SET next_run_at = now() - interval '10 days' WHERE name = 'daily'",
        )
        host.start()
        wait_for("what was missed", lambda: runs(settings, "daily") == 2)
        begun = runs(settings, "slow")
        most = 0
        while runs(settings, "slow") < begun + 3:
            [(count,)] = query(
                settings, "SELECT count(*) FROM mailferry.procrastinate_jobs WHERE args ->> 'feed' = 'slow'"
            )
            most = max(most, count)
        assert most <= 2
        assert runs(settings, "daily") == 2
        assert query(settings, "SELECT next_run_at > now() FROM mailferry.feeds WHERE name = 'daily'") == [
            (True,)
        ]
        assert host.end() == 0


@pytest.mark.slow(20)
def test_a_mail_is_loaded_when_it_comes_and_without_a_watcher_by_the_schedule_and_folders_are_kept_in_order(
    tmp_path: Path, settings: DatabaseSettings, account: Account
) -> None:
    table = Table(settings, "alpha")
    with hosts(tmp_path, settings, "a") as (host,):
        tables = head(host, settings)
        tables |= mailbox("alpha", account, target_table="alpha", subject_filter=table.subject, schedule="1h")
        host.config.write_text(toml(tables))
        host.config.chmod(0o600)
        old = host.folder / "data" / "mailbox" / "alpha" / "processed" / "2020-01-01" / "old.xlsx"
        old.parent.mkdir(parents=True)
        old.touch()
        host.start()
        wait_for("retention", lambda: not old.exists())
        wait_for("the watcher", lambda: feed_row(settings, "alpha").get("watch_state") == "watching")
        account.deliver(table.message())
        wait_for(host.log, table.done)
        # Another worker has the watch, and does not do it.
        query(
            settings,
            "UPDATE mailferry.feeds SET watcher = gen_random_uuid(), watch_until = now() + interval '1 hour'",
        )
        wait_for("its end", lambda: "no longer watched here" in host.log())
        before = runs(settings, "alpha")
        account.deliver(table.message())
        query(settings, "UPDATE mailferry.feeds SET next_run_at = now() + interval '1 second'")
        wait_for(host.log, table.done)
        assert runs(settings, "alpha") == before + 1
        assert host.end() == 0
    table.assert_exactly_once()


@pytest.mark.slow(45)
def test_a_mailbox_is_watched_by_another_when_its_watcher_is_gone(
    tmp_path: Path, settings: DatabaseSettings, account: Account
) -> None:
    table = Table(settings, "alpha")
    with hosts(tmp_path, settings, "a", "b") as machines:
        for host in machines:
            tables = head(host, settings)
            tables |= mailbox(
                "alpha", account, target_table="alpha", subject_filter=table.subject, schedule="1h"
            )
            host.config.write_text(toml(tables))
            host.config.chmod(0o600)
        gone, other = machines
        gone.start()
        wait_for("the watcher", lambda: feed_row(settings, "alpha").get("watch_state") == "watching")
        watcher = feed_row(settings, "alpha")["watcher"]
        other.start()
        gone.kill()
        wait_for("another one", lambda: feed_row(settings, "alpha")["watcher"] != watcher)
        account.deliver(table.message())
        wait_for(other.log, table.done)
        assert other.end() == 0
    table.assert_exactly_once()
