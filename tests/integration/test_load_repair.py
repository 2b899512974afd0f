"""Runs that are killed, cut off, held up or asked to stop, and what the next one makes of it."""

from __future__ import annotations

import datetime as dt
import os
import pkgutil
import signal
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from support_fork import KILLED, Forked
from support_mail import HEADER, mail, workbook
from support_run import Setting, one

from mailferry import database
from mailferry.errors import Reject, Retry
from mailferry.mailbox import run_once
from mailferry.mailbox.folders import Folders
from mailferry.mailbox.ledger import admin, leases, records
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.source.maildir import MaildirMailbox
from mailferry.mailbox.target import upsert
from mailferry.mailbox.turns import load_next

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def load_and_die(feed: MailboxFeed, step: str) -> None:
    owner, _, name = step.rpartition(".")
    setattr(pkgutil.resolve_name(owner), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    run_once.run(feed)


def die(here: Setting, step: str) -> None:
    """Load in another process, which is killed the moment it comes to `step`, a function's full name."""
    done = Forked(load_and_die, here.feed(), step).finished()
    assert done.returncode == KILLED, done.stderr


@pytest.mark.parametrize(
    "step",
    [
        "mailferry.mailbox.ledger.records.record",
        "mailferry.mailbox.ledger.leases.claim",
        "mailferry.mailbox.ledger.records.finish_file",
        "mailferry.mailbox.ledger.records.finish_job",
        "mailferry.mailbox.folders.sync_folder",
        "mailferry.mailbox.source.maildir.MaildirMailbox.mark",
        "mailferry.mailbox.ledger.records.marked",
    ],
)
def test_after_a_kill_at_any_step_the_next_run_makes_all_right(here: Setting, step: str) -> None:
    here.send(("1", "a", 1), ("2", "b", 2), (None, "c", 3))
    here.maildir.deliver(mail("Track and Trace", ("cut.xlsx", workbook(HEADER)[:700])))
    here.send(("2", "later", 2))
    die(here, step)
    assert here.load().status == "done"
    assert here.rows() == [("1", "a", 1), ("2", "later", 2)]
    assert here.query("SELECT state FROM mailferry.jobs ORDER BY received") == [
        ("completed",),
        ("failed",),
        ("completed",),
    ]
    assert here.query("SELECT inserted, updated FROM mailferry.files WHERE state = 'loaded' ORDER BY id") == [
        (2, 0),
        (0, 1),
    ]
    assert here.query("SELECT count(*) FROM mailferry.rejected_rows") == [(1,)]
    assert here.maildir.flags() == {"1.test.host": "S", "2.test.host": "", "3.test.host": "S"}
    places = here.places()
    assert [place.split("/")[0] for place in places] == ["processed"] * 3
    assert sum(place.endswith(".rejects.csv") for place in places) == 1
    recorded = {path for (path,) in here.query("SELECT path FROM mailferry.files WHERE path <> ''")}
    assert recorded == {str(here.base / place) for place in places if not place.endswith(".csv")}
    assert here.load().jobs == {}


def test_after_a_crash_between_commit_and_marking_the_message_is_only_marked(here: Setting) -> None:
    here.send(("1", "a", 1))
    die(here, "mailferry.mailbox.source.maildir.MaildirMailbox.mark")
    assert here.rows() == [("1", "a", 1)]
    assert here.maildir.flags() == {"1.test.host": ""}
    before = here.query("SELECT xmin::text FROM tracking_data")
    run = here.load()
    assert (run.exit_status, run.arrived, run.jobs) == (0, 0, {})
    assert here.maildir.flags() == {"1.test.host": "S"}
    assert here.query("SELECT xmin::text FROM tracking_data") == before
    assert here.query("SELECT attempts FROM mailferry.jobs") == [(1,)]


def test_a_file_lost_from_pending_is_fetched_again(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.gather()
    (place,) = here.places()
    (here.base / place).unlink()
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1)]


def test_leftovers_that_no_job_knows_are_deleted(here: Setting) -> None:
    (here.base / "pending").mkdir(parents=True)
    (here.base / "pending" / "0123-4567-old.xlsx").write_bytes(b"x")
    (here.base / "pending" / ".incoming-abc").write_bytes(b"x")
    here.send(("1", "a", 1))
    here.load()
    assert [place.split("/")[0] for place in here.places()] == ["processed"]


def test_a_job_and_its_message_that_are_both_gone_fail_with_that_reason(here: Setting) -> None:
    name = here.send(("1", "a", 1))
    here.gather()
    (here.base / here.places()[0]).unlink()
    (here.maildir.root / "new" / name).unlink()
    run = here.load()
    assert one(run).job.state is JobState.FAILED
    assert "neither the file nor its message" in (one(run).job.error or "")


def test_of_two_runs_at_once_one_works_and_the_other_passes_by(here: Setting) -> None:
    here.send(("1", "a", 1))
    feed = here.feed()
    folders = Folders(base=feed.base_dir)
    folders.prepare()
    with folders.alone() as alone:
        assert alone
        assert here.load().status == "skipped"
    other = feed.model_copy(update={"base_dir": here.base.parent / "other"})
    with database.connect(feed.database) as pool, leases.only_run(pool, feed.name) as alone:
        assert alone
        run = run_once.run(other)
    assert (run.status, run.exit_status, run.jobs) == ("skipped", 0, {})
    assert run_once.run(other).status == "done"
    assert here.rows() == [("1", "a", 1)]


def test_a_passing_fault_of_a_job_is_tried_again(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    here.send(("1", "a", 1))
    monkeypatch.setattr(records, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))
    faults = iter([Retry("away"), Retry("away")])
    real = records.finish_file

    def finish_file(*args: Any, **kwargs: Any) -> None:
        for fault in faults:
            raise fault
        real(*args, **kwargs)

    monkeypatch.setattr(records, "finish_file", finish_file)
    run = here.load()
    assert (one(run).job.state, one(run).job.attempts) == (JobState.COMPLETED, 3)
    assert here.rows() == [("1", "a", 1)]


def test_a_fault_that_does_not_pass_fails_the_job_after_three_retries_and_a_person_can_retry_it(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    here.send(("2", "b", 2))
    monkeypatch.setattr(records, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))

    def finish_file(conn: Any, held: Any, *args: Any, **kwargs: Any) -> None:
        if held.job.id == 1:
            raise Retry("still away")
        real(conn, held, *args, **kwargs)

    real = records.finish_file
    with monkeypatch.context() as patch:
        patch.setattr(records, "finish_file", finish_file)
        run = here.load()
    assert run.exit_status == 1
    assert [(d.job.state, d.job.attempts) for _, d in sorted(run.jobs.items())] == [
        ("failed", 4),
        ("completed", 1),
    ]
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, 1)
    assert here.load().exit_status == 0
    assert [row[0] for row in here.rows()] == ["1", "2"]
    assert here.maildir.flags() == {"1.test.host": "S", "2.test.host": "S"}
    assert {place.split("/")[0] for place in here.places()} == {"processed"}


def test_a_cancelled_job_is_not_loaded_and_can_be_wanted_after_all(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.gather()
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.cancel(conn, 1)
    assert here.load().jobs == {}
    assert here.places() == []
    assert here.maildir.flags() == {"1.test.host": ""}
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, 1)
    here.load()
    assert here.rows() == [("1", "a", 1)]


def test_a_table_without_a_unique_index_stops_the_run_until_a_person_acts(here: Setting) -> None:
    here.send(("1", "a", 1))
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("CREATE TABLE tracking_data (hawb text, status text, pieces int)")
    run = here.load()
    assert (run.status, run.exit_status) == ("blocked", 1)
    assert "CREATE UNIQUE INDEX" in run.error
    assert here.query("SELECT state, attempts FROM mailferry.jobs") == [("pending", 0)]
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("CREATE UNIQUE INDEX ON tracking_data (hawb)")
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1)]


def test_a_database_that_is_unreachable_is_tried_again_and_then_reported(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    waits: list[int] = []

    def delay(attempt: int) -> dt.timedelta:
        waits.append(attempt)
        return dt.timedelta(milliseconds=1)

    monkeypatch.setattr(records, "retry_delay", delay)
    away = here.settings.model_copy(update={"host": "127.0.0.1", "port": 1})
    run = run_once.run(here.feed().model_copy(update={"database": away}))
    assert (run.status, run.exit_status, waits) == ("failed", 3, [1, 2, 3])
    assert "reached" in run.error
    assert here.maildir.flags() == {"1.test.host": ""}
    assert here.load().exit_status == 0


def test_connections_cut_in_the_middle_of_a_load_cost_nothing(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    monkeypatch.setattr(records, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))
    real = records.finish_file
    cuts = iter([True])

    def finish_file(*args: Any, **kwargs: Any) -> None:
        for _ in cuts:
            here.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        real(*args, **kwargs)

    monkeypatch.setattr(records, "finish_file", finish_file)
    run = here.load()
    assert run.exit_status == 0, run
    assert here.rows() == [("1", "a", 1)]
    assert here.query("SELECT state, attempts FROM mailferry.jobs") == [("completed", 2)]


def test_a_message_that_cannot_be_fetched_is_given_up_when_all_else_works(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    here.send(("2", "b", 2))
    monkeypatch.setattr(records, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=1))
    real = MaildirMailbox.summary

    def summary(self: MaildirMailbox, ref: Any) -> Any:
        if ref.uid.startswith("1."):
            raise Retry("the server refused")
        return real(self, ref)

    monkeypatch.setattr(MaildirMailbox, "summary", summary)
    run = here.load()
    assert run.exit_status == 1
    assert here.rows() == [("2", "b", 2)]
    (error,) = here.query("SELECT error FROM mailferry.jobs WHERE state = 'failed'")
    assert "the server refused" in error[0]
    monkeypatch.setattr(MaildirMailbox, "summary", real)
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, here.query("SELECT id FROM mailferry.jobs WHERE state = 'failed'")[0][0])
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1), ("2", "b", 2)]


def test_a_message_beyond_reading_is_rejected_as_a_whole(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))

    def summary(*_: object) -> None:
        raise Reject("beyond reading")

    monkeypatch.setattr(MaildirMailbox, "summary", summary)
    details = one(here.load())
    assert (details.job.state, details.job.subject) == (JobState.FAILED, "Track and Trace")
    assert "beyond reading" in (details.files[0].error or "")


def test_a_claim_is_renewed_as_long_as_the_work_goes_on(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    here.gather()
    real = upsert.load

    def load(*args: Any, **kwargs: Any) -> Any:
        first = here.query("SELECT lease_until FROM mailferry.jobs")
        while here.query("SELECT lease_until FROM mailferry.jobs") == first:
            pass  # without a renewal the test's time-out ends this
        return real(*args, **kwargs)

    monkeypatch.setattr(upsert, "load", load)
    with here.mail(lease=dt.timedelta(milliseconds=300)) as mail:
        step = load_next(mail, "tracking_data", list(mail.feeds))
    assert step.job
    assert step.job.state is JobState.COMPLETED
    assert here.rows() == [("1", "a", 1)]


def test_asked_to_stop_a_run_ends_after_the_step_it_is_at(here: Setting) -> None:
    here.send(("1", "a", 1))
    stop = threading.Event()
    stop.set()
    run = run_once.run(here.feed(), stop=stop)
    assert (run.status, run.exit_status, run.arrived) == ("stopped", 0, 0)
    assert here.load().exit_status == 0
