"""Several processes at one ledger, killed and frozen in the middle of a load: each row once, in order of arrival."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sys
import threading
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from support_fork import KILLED, Forked
from support_load import Site
from support_mail import feed_of
from support_wait import wait_for

from mailferry import database
from mailferry.errors import Retry
from mailferry.mailbox.cleanup import tidy
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.pool import MailPool
from mailferry.mailbox.turns import StepResult, load_next, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed

_STANDING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND starts_with(query, 'CREATE UNLOGGED TABLE')
"""


@pytest.fixture
def site(tmp_path: Path, database_settings: DatabaseSettings) -> Site:
    return Site(tmp_path, database_settings)


@contextlib.contextmanager
def at_work(site: Site, base: Path | None = None) -> Iterator[MailPool]:
    feed = feed_of(base or site.base, site.maildir.root, site.settings, history=True)
    with (
        database.connect(site.settings) as pool,
        MailPool({"test": feed}, pool, worker_id="poll", stop=threading.Event()) as mail,
    ):
        yield mail


def gather(site: Site) -> None:
    with at_work(site) as mail:
        poll(mail, "test")


def tidy_up(site: Site, base: Path | None = None) -> None:
    """As an hour later."""
    with at_work(site, base) as mail, mail.acquire("test") as work:
        for path in work.folders.pending.iterdir():
            os.utime(path, (0, 0))
        tidy(work)


def work(name: str, feed: MailboxFeed, lease: float) -> None:
    """Take turns at all tables until every job has ended."""
    stop = threading.Event()
    with (
        database.connect(feed.database) as pool,
        MailPool(
            {feed.name: feed}, pool, worker_id=name, stop=stop, lease=dt.timedelta(seconds=lease)
        ) as mail,
    ):
        waiting = True
        while waiting:
            try:
                waiting = take_turns(mail, pool, feed.name)
            except Retry as error:
                print(error, file=sys.stderr)
            stop.wait(0.02)


def take_turns(mail: MailPool, pool: database.Pool, feed: str) -> bool:
    """Whether there is anything left to do."""
    with database.transaction(pool) as conn:
        due = leases.due(conn, [feed])
        left = "SELECT FROM mailferry.jobs WHERE state IN ('pending', 'in_progress') LIMIT 1"
        waiting = conn.execute(left).fetchone() is not None
    for target, wait in due:
        while wait <= 0 and load_next(mail, target, [feed]).result is StepResult.WORKED:
            pass
    return waiting


@contextlib.contextmanager
def workers(site: Site, *names: str, lease: float = 30, base: Path | None = None) -> Iterator[list[Forked]]:
    """Worker processes; what they say goes to files in the site's folder."""
    settings = site.settings.model_copy(update={"pool_max": 6})
    feed = feed_of(base or site.base, site.maildir.root, settings, history=True)
    with contextlib.ExitStack() as stack:
        started = []
        for name in names:
            log = site.folder / f"{name}.log"
            process = Forked(work, name, feed, lease, log=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield started


def finish(site: Site, *processes: Forked) -> None:
    for process in processes:
        assert process.wait() == 0, [path.read_text() for path in site.folder.glob("*.log")]


@contextlib.contextmanager
def held_up(site: Site) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Loads stand still before their first row is copied; returns what waits for another one there, and what lets them go."""
    with psycopg.connect(**database.parameters(site.settings)) as conn:
        conn.execute("LOCK TABLE tracking_data IN ACCESS EXCLUSIVE MODE")
        seen: set[int] = set()

        def wait() -> None:
            seen.update(
                wait_for("another load that stands", lambda: {pid for (pid,) in site.query(_STANDING)} - seen)
            )

        yield wait, conn.rollback


def test_two_processes_empty_one_table_in_the_order_of_arrival(site: Site) -> None:
    for _ in range(4):
        site.send_all_kinds()
    gather(site)
    with workers(site, "one", "two") as both:
        finish(site, *both)
    site.assert_exactly_once()
    ends = site.query("SELECT id FROM mailferry.jobs ORDER BY finished_at")
    assert ends == sorted(ends)
    assert site.query("SELECT max(attempts) FROM mailferry.jobs") == [(1,)]


def test_workers_of_two_hosts_empty_one_table_and_leave_each_other_their_files(site: Site) -> None:
    other = site.folder / "other"
    for _ in range(3):
        site.send_all_kinds()
    gather(site)
    with workers(site, "here") as here, workers(site, "there", base=other) as there:
        finish(site, *here, *there)
    tidy_up(site)
    tidy_up(site, other)
    site.assert_exactly_once(site.base, other)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_the_job_of_a_worker_that_is_no_more_heard_of_is_done_by_another(site: Site, how: str) -> None:
    site.send(large=2000)
    site.send()
    gather(site)
    with held_up(site) as (wait, let_go), workers(site, "one", lease=1) as (one,):
        wait()
        if how == "killed":
            one.kill()
            assert one.wait() == KILLED
        else:
            psutil.Process(one.pid).suspend()
        with workers(site, "two") as (two,):
            wait()
            assert site.query("SELECT runner, attempts FROM mailferry.jobs WHERE id = 1") == [("two", 2)]
            if how == "frozen":
                # It comes back while the other is at its work, and must not take part in it.
                psutil.Process(one.pid).resume()
                until_said(site, "one", "taken over by another worker")
            let_go()
            finish(site, two, *([one] if how == "frozen" else []))
    tidy_up(site)
    site.assert_exactly_once()


def until_said(site: Site, name: str, text: str) -> None:
    log = site.folder / f"{name}.log"
    wait_for(lambda: f"{text!r} in {log.read_text()}", lambda: text in log.read_text())
