"""What fails around a run of a mailbox feed: reading child, database, mailbox, disk. Nothing is lost, nothing comes twice."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from fixtures_dovecot import PASSWORD, without_starttls
from fixtures_postgres import FAST, open_to_all
from support_link import Link
from support_load import Site, ended
from support_mail import feed_of
from support_wait import wait_for

from mailferry import database, private_postgres
from mailferry.config.database import DatabaseSettings
from mailferry.config.spreadsheet import Limits
from mailferry.mailbox import run_once
from mailferry.mailbox.ledger import admin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fixtures_dovecot import Account
    from support_fork import Forked

    from mailferry.mailbox.run_result import Run

#: Rows whose CSV is more than a pipe holds, so that the reading child waits in the middle of them.
LARGE = 3000
_WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND starts_with(query, 'CREATE UNLOGGED TABLE')
"""


@pytest.fixture
def site(tmp_path: Path, database_settings: DatabaseSettings) -> Site:
    return Site(tmp_path, database_settings)


@contextlib.contextmanager
def held_up(site: Site) -> Iterator[Callable[[], int]]:
    """Loads stand still before their first row is copied. Returns what waits for one to be there: its backend's id."""
    with psycopg.connect(**database.parameters(site.settings)) as conn:
        conn.execute("LOCK TABLE tracking_data IN ACCESS EXCLUSIVE MODE")

        def wait() -> int:
            # By connections of their own: a transaction sees activity as it was when it first looked.
            return int(wait_for("a load that stands", lambda: site.query(_WAITING))[0][0])

        yield wait


def reading_child(parent: int) -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process(parent).children()
        if "mailferry.mailbox.workbook.child" in child.cmdline()
    )
    return found


def assert_done(site: Site, process: Forked, attempts: int) -> None:
    status, error = ended(process)
    assert status == 0, error
    site.assert_exactly_once()
    assert site.query("SELECT attempts FROM mailferry.jobs WHERE id = 1") == [(attempts,)]


def test_a_reading_child_killed_in_the_middle_of_a_file_is_replaced(site: Site) -> None:
    site.send(large=LARGE)
    site.send()
    with held_up(site) as wait:
        process = site.start()
        wait()
        reading_child(process.pid).kill()
    assert_done(site, process, attempts=2)


def test_a_reading_child_that_stands_still_is_ended_and_its_file_is_rejected(site: Site) -> None:
    site.send(large=LARGE, files=1)
    feed = feed_of(site.base, site.maildir.root, site.settings, limits=Limits(wall_seconds=6), history=True)
    runs: list[Run] = []
    with held_up(site) as wait:
        thread = threading.Thread(target=lambda: runs.append(run_once.run(feed)))
        thread.start()
        wait()
        child = reading_child(psutil.Process().pid)
        child.suspend()
    thread.join()
    assert not child.is_running()
    (run,) = runs
    assert run.exit_status == 1
    ((state, error),) = site.query("SELECT state, error FROM mailferry.files")
    assert (state, "longer than the limit of 6 seconds" in error) == ("rejected", True)
    assert site.maildir.flags() == {"1.test.host": ""}
    with psycopg.connect(**database.parameters(site.settings)) as conn:
        admin.retry(conn, 1)
    status, error = site.load()
    assert status == 0, error
    site.assert_exactly_once()


@pytest.mark.parametrize("whose", ["the load's", "all"])
def test_backends_terminated_in_the_middle_of_a_load_cost_nothing(site: Site, whose: str) -> None:
    site.send(large=LARGE)
    site.send()
    with held_up(site) as wait:
        process = site.start()
        backend = wait()
        site.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'mailferry' AND (pid = %s OR %s) AND pid <> pg_backend_pid()"
            " AND NOT pid = ANY (SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
            "                    AND relation = 'tracking_data'::regclass)",
            backend,
            whose == "all",
        )
    assert_done(site, process, attempts=2)


def test_postgresql_that_dies_and_comes_back_in_the_middle_of_a_load(
    tmp_path: Path, server_folder: Path
) -> None:
    folder = server_folder / "dies"
    with contextlib.ExitStack() as stack:
        where = open_to_all(folder, stack.enter_context(private_postgres.running(folder, settings=FAST)))
        settings = DatabaseSettings(
            host=where["host"], port=int(where["port"]), user=where["user"], name=where["dbname"]
        )
        database.prepare(where, "temp_processing")
        site = Site(tmp_path, settings)
        site.send(large=LARGE)
        site.send()
        server = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
        with contextlib.suppress(psycopg.OperationalError), held_up(site) as wait:
            process = site.start()
            wait()
            server.send_signal(signal.SIGQUIT)  # an immediate shutdown
        server.wait()
        stack.enter_context(private_postgres.running(folder, settings=FAST))
        assert_done(site, process, attempts=2)


def over_imap(site: Site, account: Account, port: int) -> None:
    site.configure(
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=port,
        EMAIL_USE_SSL="false",
        EMAIL_USERNAME=account.user,
        EMAIL_PASSWORD=PASSWORD,
    )


def test_a_mailbox_that_drops_in_the_middle_of_a_fetch(site: Site, account: Account) -> None:
    account.deliver(site.compose(large=LARGE), site.compose())
    cuts = [200_000, 900_000]
    passed = 0

    def answer(piece: bytes) -> bytes | None:
        nonlocal passed
        passed += len(piece)
        if cuts and passed > cuts[0]:
            del cuts[0]
            passed = 0
            return None
        return without_starttls(piece)

    with Link(account.dovecot.imap, answer) as proxy:
        over_imap(site, account, proxy.port)
        status, error = site.load()
    assert (status, cuts) == (0, []), error
    site.assert_exactly_once(maildir=False)
    assert account.flags() == {1: {"\\Seen"}, 2: {"\\Seen"}}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("fsync", "ENOSPC:when=1+"),  # storing
        ("fsync", "EIO:when=2+"),  # the name in `pending`
        ("rename", "ENOSPC:when=1+"),
        ("fsync", "EIO:when=3+"),  # putting away
        ("rename", "EACCES:when=3+"),  # `processed` is not ours; one message has two files
        ("mkdir", "EACCES:when=7+"),
    ],
)
def test_a_disk_that_refuses_fails_the_run_and_the_next_one_repairs(
    site: Site, call: str, fault: str
) -> None:
    site.send()
    site.send()
    status, error = site.under_strace(call, f"error={fault}")
    assert status == 1, error
    assert "failed" not in {state for (state,) in site.query("SELECT state FROM mailferry.jobs")}, error
    status, error = site.load()
    assert status == 0, error
    site.assert_exactly_once()


@pytest.mark.slow(15)
def test_processes_at_once_load_each_message_once(site: Site) -> None:
    other = site.folder / "other"
    for _ in range(6):
        site.send()
        site.send_duplicate()
        processes = [site.start(APP_BASE_DIR=base) for base in (site.base, site.base, other, other)]
        for status, error in map(ended, processes):
            assert status == 0, error
    assert site.load()[0] == 0
    assert site.load(APP_BASE_DIR=other)[0] == 0
    site.assert_exactly_once(site.base, other)
