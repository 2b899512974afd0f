"""Events into a table under kill -9 and cut connections, at each statement and at random: nothing lost, nothing twice, in order."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, SIGN_INS, START
from support_fork import KILLED
from support_link import Step, Wire
from support_table import a_table_site
from support_wait import wait_for

from mailferry.events import writer
from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from support_fork import Forked
    from support_table import TableSite

    from mailferry.config.database import DatabaseSettings

TRAITS = Traits(
    rate=0.15,
    start=START,
    end=START + 1800,
    bursts={START + 900: 8, START + 600: 8},
    repeats=0.1,
    twins=0.2,
    no_time=0.02,
    no_queue_id=0.02,
    hostile_text=0.1,
    detail_bytes=300,
)
#: In the order of a run: its start, the table, a partition, the first commit with events and the others.
STEPS = [
    Step(statement="pg_try_advisory_lock"),
    Step(statement='CREATE TABLE "mail_events"'),
    Step(statement='CREATE TABLE "mail_events"', commit=True),
    Step(statement='CREATE INDEX "mail_events_time"'),
    Step(statement='CREATE VIEW "mail_events_flat"'),
    Step(statement="INSERT INTO mailferry.event_progress"),
    Step(statement="INSERT INTO mailferry.event_progress", commit=True, after=True),
    Step(statement="WITH held AS"),
    Step(statement="WITH held AS", commit=True, after=True),
    Step(statement="ATTACH PARTITION"),
    Step(statement="ATTACH PARTITION", commit=True),
    Step(statement="ATTACH PARTITION", commit=True, after=True),
    Step(statement='COPY "public"'),
    Step(statement='COPY "public"', commit=True),
    Step(statement='COPY "public"', commit=True, after=True),
    Step(statement='COPY "public"', after=True),
]


def beginning(site: TableSite) -> None:
    """What is there is the beginning of the truth, each row once, and the progress says how many."""
    lines = len(site.lines(OUTGOING))
    progress = site.query("SELECT events, last_number FROM mailferry.event_progress WHERE feed ~ 'outgoing'")
    assert progress in ([], [(lines, lines)])


def test_kill_at_each_statement_and_the_next_run_goes_on(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    with (
        a_table_site(tmp_path, {OUTGOING: TRAITS}, database_settings) as site,
        Wire(database_settings) as wire,
    ):
        site.wire = wire.port
        site.configure(max_parallel_details=8)
        for step in STEPS:
            ended = site.forked(commit_events=15, take_over=True, before=wire.kills(step)).finished()
            assert ended.returncode == KILLED, (str(step), ended.stderr)
            beginning(site)
        wire.at(None)
        assert site.collect(take_over=True).status == 0
        site.assert_exactly_once(OUTGOING)


@pytest.mark.slow(20)
def test_a_connection_that_is_cut_at_each_statement_fails_the_run_and_the_next_one_goes_on(
    tmp_path: Path, database_settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "COMMIT_EVENTS", 15)
    with (
        a_table_site(tmp_path, {OUTGOING: TRAITS}, database_settings) as site,
        Wire(database_settings) as wire,
    ):
        site.wire = wire.port
        site.configure(max_parallel_details=8)
        # By turns: the network is cut, or the server ends all sessions, as when it is restarted.
        for number, step in enumerate(STEPS):
            wire.at(step, (lambda: end_sessions(site)) if number % 2 else bool)
            ended = site.collect(take_over=True)
            assert wire.step is None, str(step)
            assert ended.status == 1, str(step)
            assert "database" in ended.of(OUTGOING).error
            beginning(site)
        assert site.collect(take_over=True).status == 0
        site.assert_exactly_once(OUTGOING)


def end_sessions(site: TableSite) -> None:
    site.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'mailferry'"
    )


def test_kill_at_random_moments(tmp_path: Path, database_settings: DatabaseSettings) -> None:
    draw = random.Random(5)
    feeds = {OUTGOING: TRAITS, SIGN_INS: TRAITS}
    kills = 0
    with a_table_site(tmp_path, feeds, database_settings, Settings(page_cap=20, latency=0.002)) as site:
        site.configure(max_records_per_page=20, max_parallel_details=8)

        def answered() -> int:
            return sum(dict(site.provider.stats.requests).values())

        def come(process: Forked, moment: int) -> bool:
            return process.poll() is not None or answered() >= moment

        while kills < 12:
            moment = answered() + draw.randrange(1, 150)
            with site.forked(commit_events=15, take_over=True) as process:
                wait_for("its moment", partial(come, process, moment), every=0.001)
                process.kill()
                killed = process.wait() == KILLED
            if not killed:  # it was through before its moment came
                for feed in feeds:
                    site.assert_exactly_once(feed)
                site.start_again()
                continue
            kills += 1
        # Without taking over: the server has noticed by itself, or soon does, that the client is gone.
        wait_for(
            "the end of the dead run's sessions",
            lambda: all(result.status == "completed" for result in site.collect().results.values()),
        )
        for feed in feeds:
            site.assert_exactly_once(feed)
