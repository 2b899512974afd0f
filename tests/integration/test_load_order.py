"""Which message has the last word on a row, and files that are sent again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psycopg
import pytest
from support_mail import HEADER, mail, workbook
from support_run import Setting, one

from mailferry import database
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.ledger.jobs import FileState, JobState

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings

#: As a table of the user's own, which has no column for the time of receipt.
_OWN = "CREATE TABLE tracking_data (hawb text PRIMARY KEY, status text, pieces integer)"


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def _send(here: Setting, received: int, *rows: tuple[object, ...]) -> None:
    """A message that the mailbox received so many seconds after a certain time."""
    path = here.maildir.root / "new" / here.send(*rows)
    os.utime(path, (1_700_000_000 + received, 1_700_000_000 + received))


def test_an_older_message_that_comes_later_leaves_the_rows_of_newer_ones(here: Setting) -> None:
    _send(here, 100, ("1", "newer", 1), ("2", "newer", 1))
    assert here.load().exit_status == 0
    _send(here, 50, ("2", "older", 1), ("3", "older", 1))
    run = here.load()
    assert run.exit_status == 0
    assert here.rows() == [("1", "newer", 1), ("2", "newer", 1), ("3", "older", 1)]
    (file,) = one(run).files
    assert (file.counts.inserted, file.counts.updated, file.counts.superseded) == (1, 0, 1)
    assert "1 rows are older than those of the table" in file.counts.warnings[0]
    _send(here, 70, ("3", "between", 1), ("1", "between", 1))
    here.load()
    assert here.rows() == [("1", "newer", 1), ("2", "newer", 1), ("3", "between", 1)]


def test_a_row_that_a_newer_message_found_as_it_was_is_not_put_back(here: Setting) -> None:
    _send(here, 10, ("1", "same", 1))
    here.load()
    _send(here, 100, ("1", "same", 1), ("2", "new", 1))
    here.load()
    _send(here, 50, ("1", "between", 1))
    run = here.load()
    assert run.exit_status == 1
    assert "it is older than job 2" in (one(run).files[0].error or "")
    assert here.rows() == [("1", "same", 1), ("2", "new", 1)]


def test_without_the_column_an_older_message_that_would_change_rows_is_refused(here: Setting) -> None:
    here.load()
    here.query(_OWN)
    _send(here, 100, ("1", "newer", 1))
    here.load()
    _send(here, 50, ("1", "older", 1), ("2", "older", 1))
    run = here.load()
    (file,) = one(run).files
    assert (run.exit_status, file.state) == (1, FileState.REJECTED)
    assert "mailferry jobs retry 2" in (file.error or "")
    assert here.rows() == [("1", "newer", 1)]
    _send(here, 60, ("3", "older", 1))
    assert one(here.load()).files[0].state is FileState.LOADED
    assert here.rows() == [("1", "newer", 1), ("3", "older", 1)]


@pytest.mark.parametrize("order", ["received", "arrival"])
def test_jobs_done_again_together_come_oldest_first_and_leave_newer_rows(here: Setting, order: str) -> None:
    here.load()
    here.query(
        "CREATE TABLE tracking_data (hawb text PRIMARY KEY, status varchar(3), mail_received_at timestamptz)"
    )
    _send(here, 10, ("1", "first one", 1), ("2", "second", 1))
    _send(here, 20, ("2", "third one", 1), ("3", "ok", 1))
    _send(here, 30, ("1", "new", 1))
    here.load(order=order, max_rejected=0.4)
    assert here.query("SELECT hawb, status FROM tracking_data ORDER BY 1") == [("1", "new")]
    here.query("ALTER TABLE tracking_data ALTER status TYPE text")
    for path in here.base.rglob("*.xlsx"):
        path.unlink()  # as retention does
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        assert [job.id for job in admin.replayable(conn, state="rejected")] == [1, 2]
        received = admin.replayable(conn)[1].received
        assert [job.id for job in admin.replayable(conn, state="failed", since=received)] == [2]
        assert admin.replayable(conn, feed="other") == []
        assert [job.id for job in admin.replay(conn, admin.replayable(conn))] == [1, 2]
    assert here.load(order=order).exit_status == 0
    rows = here.query("SELECT hawb, status FROM tracking_data ORDER BY 1")
    assert rows == [("1", "new"), ("2", "third one"), ("3", "ok")]


def test_by_order_of_arrival_the_message_that_is_loaded_last_wins(here: Setting) -> None:
    _send(here, 100, ("1", "newer", 1))
    here.load(order="arrival")
    _send(here, 50, ("1", "older", 1))
    assert here.load(order="arrival").exit_status == 0
    assert here.rows() == [("1", "older", 1)]


def test_rows_that_were_deleted_come_back_when_the_same_file_is_sent_again(here: Setting) -> None:
    rows = (("1", "out", 1), ("2", "out", 2))
    _send(here, 10, *rows)
    here.load()
    _send(here, 20, *rows)
    assert one(here.load()).files[0].state is FileState.DUPLICATE
    here.query("DELETE FROM tracking_data WHERE hawb = '1'")
    _send(here, 30, *rows)
    (file,) = one(here.load()).files
    assert (file.state, file.counts.inserted, file.counts.unchanged) == (FileState.LOADED, 1, 1)
    assert "1 were deleted or changed since; they are back" in file.counts.warnings[0]
    assert here.rows() == [("1", "out", 1), ("2", "out", 2)]


@pytest.mark.parametrize("message_ids", ["12", "11"], ids=["sent again", "a copy of the message"])
def test_a_duplicate_whose_rows_are_gone_is_loaded_by_a_retry(here: Setting, message_ids: str) -> None:
    book = workbook(HEADER, ("1", "out", 1), ("2", "out", 2))
    for message_id in message_ids:
        here.maildir.deliver(
            mail("Track and Trace", ("a.xlsx", book), message_id=f"<{message_id}@example.com>")
        )
    here.load()
    assert _duplicates(here) == [2]
    _retry(here, 2)
    here.load()
    assert _duplicates(here) == [2]
    here.query("DELETE FROM tracking_data WHERE hawb = '1'")
    _retry(here, 2)
    (file,) = one(here.load()).files
    assert (file.state, file.counts.inserted) == (FileState.LOADED, 1)
    assert here.rows() == [("1", "out", 1), ("2", "out", 2)]


def _retry(here: Setting, job: int) -> None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        assert admin.retry(conn, job).state is JobState.PENDING


def _duplicates(here: Setting) -> list[int]:
    return [job for (job,) in here.query("SELECT job_id FROM mailferry.files WHERE state = 'duplicate'")]
