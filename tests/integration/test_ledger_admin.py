"""What people ask of the ledger and change in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import psycopg
import pytest
from support_ledger import claim, do, file_ids, load_as, record

from mailferry.errors import Reject
from mailferry.mailbox.ledger import admin, leases, records
from mailferry.mailbox.ledger.jobs import ClaimLost, FileOutcome, FileState, JobState
from mailferry.mailbox.ledger.rows import files_of, rejected_rows
from mailferry.mailbox.source.message import Outcome
from mailferry.mailbox.target.table import Target, create
from mailferry.mailbox.workbook.values import Column, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.database import Connection


@pytest.fixture
def target(db: Connection) -> Target:
    return create(db, "t", "k", [Column(name="k", type="text")])


def test_rows_that_were_rejected_are_loaded_by_a_retry_once_the_cause_is_gone(
    db: Connection, target: Target
) -> None:
    load_as(db, target, "1", "B", "b")
    load_as(db, target, "2", "A", "a", rejected=2)
    (job,) = admin.jobs(db, limit=1)
    records.marked(db, job, Outcome.COMPLETED)
    again = admin.retry(db, job.id)
    assert (again.state, again.marked_at) == (JobState.PENDING, None)
    assert [file.state for file in files_of(db, job.id)] == [FileState.PENDING]
    assert not do(db, target, job, "a", changed=0)
    with pytest.raises(Reject, match="is completed"):
        admin.retry(db, job.id)
    # What its first load changed has not been forgotten.
    assert not load_as(db, target, "3", "B", "b")


def test_a_cancel_ends_the_transaction_that_works_on_the_job(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    held = claim(db)
    db.commit()
    working = connect()
    leases.hold(working, held)
    records.finish_file(working, held, file_ids(working, job.id)[0], FileOutcome(state=FileState.LOADED))
    with pytest.raises(Reject, match="in progress can be cancelled first"):
        admin.retry(db, job.id)
    assert admin.cancel(db, job.id).state is JobState.CANCELLED
    with pytest.raises(psycopg.OperationalError):
        working.commit()
    db.commit()
    assert [file.state for file in files_of(db, job.id)] == [FileState.PENDING]
    assert admin.retry(db, job.id).state is JobState.PENDING


def test_people_cancel_and_retry(db: Connection) -> None:
    waiting, running = record(db, "1"), record(db, "2", target="u")
    assert admin.cancel(db, waiting.id).state is JobState.CANCELLED
    held = claim(db)
    assert held.job.id == running.id
    admin.cancel(db, running.id)
    with pytest.raises(ClaimLost):
        records.finish_file(db, held, file_ids(db, running.id)[0], FileOutcome(state=FileState.LOADED))
    with pytest.raises(Reject, match="is cancelled"):
        admin.cancel(db, waiting.id)
    with pytest.raises(Reject, match="no job"):
        admin.cancel(db, 10**6)
    assert admin.retry(db, waiting.id).state is JobState.PENDING
    rejected = claim(db)
    row = RejectedRow(sheet="s", row=1, column="c", value="v", reason="r")
    (file_id,) = file_ids(db, waiting.id)
    refused = FileOutcome(state=FileState.REJECTED, error="bad", rejected=[row])
    records.finish_file(db, rejected, file_id, refused)
    failed = records.finish_job(db, rejected)
    records.marked(db, failed, Outcome.FAILED)
    again = admin.retry(db, waiting.id)
    assert (again.state, again.attempts, again.error, again.marked_at) == (JobState.PENDING, 0, None, None)
    assert rejected_rows(db, file_id) == []
    loaded = claim(db)
    records.finish_file(db, loaded, file_id, FileOutcome(state=FileState.LOADED))
    records.finish_job(db, loaded)
    with pytest.raises(Reject, match="is completed"):
        admin.retry(db, waiting.id)


def test_jobs_are_listed_by_feed_state_time_and_text(db: Connection) -> None:
    one, two = record(db, "1"), record(db, "2", feed="g", subject="Günlük 100%")
    claim(db, feeds=["f"])
    assert [job.id for job in admin.jobs(db)] == [two.id, one.id]
    assert [job.id for job in admin.jobs(db, limit=1)] == [two.id]
    assert [job.id for job in admin.jobs(db, feed="f")] == [one.id]
    assert [job.id for job in admin.jobs(db, state=JobState.PENDING)] == [two.id]
    assert [job.id for job in admin.jobs(db, text="100%")] == [two.id]
    assert admin.jobs(db, since=datetime.now(UTC) + timedelta(days=1)) == []


def test_statistics_count_today_and_this_week_by_the_callers_calendar(db: Connection, target: Target) -> None:
    zone = ZoneInfo("Europe/Istanbul")
    # A Wednesday, half an hour after midnight in Istanbul, when it is still Tuesday in UTC.
    now = datetime(2026, 3, 4, 0, 30, tzinfo=zone)
    for uid, ago in [("1", 10), ("2", 40), ("3", 60 * 24 * 3)]:
        load_as(db, target, uid, uid, uid)
        end = now - timedelta(minutes=ago)
        statement = "UPDATE mailferry.jobs SET started_at = %s, finished_at = %s WHERE uid = %s"
        db.execute(statement, (end - timedelta(seconds=3), end, uid))
    found = admin.statistics(db, now, ["f", "other"])
    got = found["f"]
    assert (got.today.completed, got.week.completed, got.states) == (1, 2, {JobState.COMPLETED: 3})
    assert (got.week.files, got.week.rows_read, got.week.inserted, got.week.errors, got.week.seconds) == (
        2,
        2,
        2,
        0,
        3.0,
    )
    assert (found["other"].week.seconds, found["other"].week.completed, found["other"].states) == (
        None,
        0,
        {},
    )
    with pytest.raises(ValueError, match="aware"):
        admin.statistics(db, datetime(2026, 3, 4), [])  # noqa: DTZ001 - that is the point
