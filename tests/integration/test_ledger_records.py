"""What a run writes into the ledger: nothing twice, and every end on record."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_ledger import NOON, claim, file_ids, load_as, make_due, record, stored, summary

from mailferry.errors import Reject, Retry, Stop
from mailferry.mailbox.ledger import admin, leases, records
from mailferry.mailbox.ledger.jobs import FileOutcome, FileState, JobState
from mailferry.mailbox.ledger.rows import files_of, rejected_rows
from mailferry.mailbox.source.message import Outcome, PartOutcome, Unreachable, Verdict
from mailferry.mailbox.target.table import Target, create
from mailferry.mailbox.workbook.values import Column, Counts, RejectedRow
from mailferry.monitor.metrics import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.database import Connection


@pytest.fixture
def target(db: Connection) -> Target:
    return create(db, "t", "k", [Column(name="k", type="text")])


def test_a_message_recorded_again_is_the_same_job_with_the_same_files(db: Connection) -> None:
    files = [stored(), stored("b.xlsx", section="3", sha256="bb")]
    message = summary(subject="bad \0 and \ud800")
    skipped = PartOutcome(verdict=Verdict.SKIPPED, section="1", name="x\0", reason="plain text")
    first = records.record(db, "f", message, "h", target="t", parts=[*files, skipped])
    assert (first.state, first.ref, first.received, first.attempts) == (
        JobState.PENDING,
        message.ref,
        NOON,
        0,
    )
    # A second fetch stores the bytes elsewhere; the newest path is the one that is there.
    again = [replace(files[0], path=Path("/pending/second")), files[1]]
    assert records.record(db, "f", message, "h", target="t", parts=[*again, skipped]).id == first.id
    details = admin.show(db, first.id)
    assert details is not None
    assert [(f.name, f.path) for f in details.files] == [
        ("a.xlsx", "/pending/second"),
        ("b.xlsx", "/pending/b.xlsx"),
    ]
    assert details.skipped == (replace(skipped, name="x"),)
    assert admin.show(db, first.id + 1000) is None


def test_two_workers_that_record_one_message_at_once_get_one_job(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    record(db)
    got = []
    other = connect()
    second = threading.Thread(target=lambda: got.append(record(other).id))
    second.start()
    db.commit()
    second.join()
    other.commit()
    assert got == [job.id for job in admin.jobs(db)]


def test_two_feeds_on_one_mailbox_have_a_job_each(db: Connection) -> None:
    assert record(db).id != record(db, feed="g").id


def test_a_changed_uidvalidity_finds_every_message_again_and_none_is_new(db: Connection) -> None:
    first, copy, other = (record(db, uid) for uid in ("1", "2", "3"))
    db.execute("UPDATE mailferry.jobs SET header_sha256 = 'same' WHERE id = ANY(%s)", ([first.id, copy.id],))
    found = []
    for uid, header, minutes in [("32", "same", 2), ("31", "same", 1), ("33", "header 3", 3)]:
        message = summary(uid, uidvalidity=8, minutes=minutes)
        job = records.find(db, "f", message.ref, header, message.received)
        assert job is not None
        assert job.ref == message.ref
        found.append(job.id)
    assert found == [copy.id, first.id, other.id]
    # A third message of the same header, under the same UIDVALIDITY, is a message of its own.
    third = summary("34", uidvalidity=8, minutes=1)
    assert records.find(db, "f", third.ref, "same", third.received) is None
    assert records.find(db, "f", summary("35", uidvalidity=8).ref, "unheard of", third.received) is None


def test_a_message_of_the_same_header_that_came_at_another_time_is_not_taken_for_an_old_one(
    db: Connection,
) -> None:
    old = record(db, "1")
    message = summary("1", uidvalidity=8, minutes=1_440)
    assert records.find(db, "f", message.ref, old.header_sha256, message.received) is None
    new = records.record(db, "f", message, old.header_sha256, target="t", parts=[stored(sha256="bb")])
    assert new.id != old.id
    assert [file.sha256 for file in files_of(db, old.id, new.id)] == ["aa", "bb"]


def test_two_files_in_one_place_are_refused_and_neither_is_dropped_in_silence(db: Connection) -> None:
    with pytest.raises(Reject, match="part 2"):
        records.record(db, "f", summary(), "h", target="t", parts=[stored(), stored(sha256="bb")])
    job = records.record(db, "f", summary(), "h", target="t", parts=[stored(section="3")])
    refused = PartOutcome(verdict=Verdict.REJECTED, section="3", name="a.xlsx", reason="damaged")
    with pytest.raises(Reject, match="part 3"):
        records.take_in(db, job.id, [refused])
    other = replace(refused, section="4")
    records.take_in(db, job.id, [other])
    records.take_in(db, job.id, [other])
    assert [(file.section, file.state) for file in files_of(db, job.id)] == [
        ("2", FileState.PENDING),
        ("3", FileState.PENDING),
        ("4", FileState.REJECTED),
    ]


def test_a_passing_fault_is_tried_again_after_1_2_and_4_seconds_and_then_given_up(db: Connection) -> None:
    job = record(db)
    for delay in (1, 2, 4):
        failed = records.fail(db, claim(db), Retry("mailbox away"))
        (clock,) = db.execute("SELECT clock_timestamp()").fetchall()[0]
        assert failed.state is JobState.PENDING
        assert (
            timedelta(0)
            < failed.next_attempt_at - clock + timedelta(seconds=1)
            <= timedelta(seconds=delay + 1)
        )
        assert records.retry_delay(failed.attempts) == timedelta(seconds=delay)
        make_due(db, job.id)
    last = records.fail(db, claim(db), Retry("mailbox away"))
    assert (last.state, last.attempts, last.error_kind, last.error) == (
        JobState.FAILED,
        4,
        "retry",
        "mailbox away",
    )
    assert [file.state for file in files_of(db, job.id)] == [FileState.FAILED]


def test_a_reject_ends_a_job_at_once_and_a_stop_leaves_it_for_the_next_run(db: Connection) -> None:
    job = record(db)
    stopped = records.fail(db, claim(db), Stop("no such table"))
    assert (stopped.state, stopped.attempts, stopped.error_kind) == (JobState.PENDING, 0, "stop")
    assert leases.claim(db, worker_id="x") is None
    make_due(db, job.id)
    rejected = records.fail(db, claim(db), Reject("broken"))
    assert (rejected.state, rejected.error_kind) == (JobState.FAILED, "reject")
    assert [file.state for file in files_of(db, job.id)] == [FileState.REJECTED]


@pytest.mark.parametrize(
    ("states", "end"),
    [
        ([], JobState.COMPLETED),
        ([FileState.LOADED], JobState.COMPLETED),
        ([FileState.DUPLICATE], JobState.COMPLETED),
        ([FileState.LOADED, FileState.REJECTED], JobState.COMPLETED),
        ([FileState.REJECTED], JobState.FAILED),
        ([FileState.REJECTED, FileState.FAILED], JobState.FAILED),
    ],
)
def test_a_job_whose_files_all_failed_has_failed(
    db: Connection, states: list[FileState], end: JobState
) -> None:
    files = [stored(f"{n}.xlsx", section=str(n)) for n in range(len(states))]
    job = records.record(db, "f", summary(), "h", target="t", parts=files)
    held = claim(db)
    for file_id, state in zip(file_ids(db, job.id), states, strict=True):
        bad = state in {FileState.REJECTED, FileState.FAILED}
        records.finish_file(db, held, file_id, FileOutcome(state=state, error="why" if bad else None))
    done = records.finish_job(db, held)
    assert done.state is end
    assert (done.error or "").count("why") == sum(
        state in {FileState.REJECTED, FileState.FAILED} for state in states
    )


def test_a_job_with_pending_files_cannot_end_and_a_file_ends_once(db: Connection) -> None:
    job = record(db)
    held = claim(db)
    with pytest.raises(ValueError, match="still pending"):
        records.finish_job(db, held)
    (file_id,) = file_ids(db, job.id)
    records.finish_file(db, held, file_id, FileOutcome(state=FileState.LOADED))
    with pytest.raises(ValueError, match="not pending"):
        records.finish_file(db, held, file_id, FileOutcome(state=FileState.LOADED))


def test_counts_warnings_and_rejected_rows_are_kept(db: Connection, target: Target) -> None:
    job = record(db)
    (file_id,) = file_ids(db, job.id)
    counts = Counts(
        read=9, inserted=1, updated=2, unchanged=3, rejected=2, superseded=1, warnings=["NUL \0 removed"]
    )
    rows = [RejectedRow(sheet="Ş", row=n, column="kg", value="a\0\tb\\N", reason="no number") for n in (2, 5)]
    loaded = FileOutcome(
        state=FileState.LOADED, target=target, counts=counts, content_sha256="cc", rejected=rows
    )
    records.finish_file(db, claim(db), file_id, loaded)
    (file,) = files_of(db, job.id)
    assert file.counts == replace(counts, warnings=["NUL  removed"])
    assert (file.target, file.content_sha256) == ("public.t", "cc")
    assert rejected_rows(db, file_id) == [replace(row, value="a\tb\\N") for row in rows]
    assert len(rejected_rows(db, file_id, limit=1)) == 1
    assert records.forget(db, "f", datetime(2020, 1, 1, tzinfo=UTC)) == 0
    assert records.forget(db, "g", datetime.now(UTC) + timedelta(days=1)) == 0
    assert records.forget(db, "f", datetime.now(UTC) + timedelta(days=1)) == 2
    assert admin.show(db, job.id) is not None


def test_the_same_bytes_or_content_are_a_duplicate_until_another_file_has_changed_the_table(
    db: Connection, target: Target
) -> None:
    assert not load_as(db, target, "1", "A", "a")
    assert load_as(db, target, "2", "A", "a")
    assert load_as(db, target, "3", "A saved again", "a")
    assert not load_as(db, target, "4", "B", "b", changed=0)
    assert load_as(db, target, "5", "A", "a")
    assert not load_as(db, target, "6", "C", "c")
    assert not load_as(db, target, "7", "A", "a")
    assert load_as(db, target, "8", "A", "a")
    assert not load_as(db, target, "9", "C", "c")
    assert not load_as(db, replace(target, generation="emptied"), "10", "C", "c")
    assert not load_as(db, replace(target, name="other"), "11", "C", "c")


def test_the_bytes_of_a_message_seen_again_are_a_duplicate_whatever_came_since(
    db: Connection, target: Target
) -> None:
    assert not load_as(db, target, "1", "A", "a", header="moved", rejected=1)
    assert not load_as(db, target, "2", "B", "b")
    assert load_as(db, target, "3", "A", "a", header="moved")
    # The same content in other bytes, or the same bytes in another message, are the newest word.
    assert not load_as(db, target, "4", "A saved again", "a", header="moved")
    assert not load_as(db, target, "5", "B", "b")
    assert not load_as(db, target, "6", "A", "a")
    assert not load_as(db, replace(target, generation="emptied"), "7", "A", "a", header="moved")


def test_a_mailbox_that_is_unreachable_costs_a_job_no_attempt(db: Connection) -> None:
    record(db)
    failed = records.fail(db, claim(db), Unreachable("away"))
    assert (failed.state, failed.attempts, failed.error_kind) == (JobState.PENDING, 0, "retry")


def test_a_copy_of_a_message_is_recognised_by_its_own_job_whatever_else_is_in_progress(
    db: Connection, target: Target
) -> None:
    assert not load_as(db, target, "1", "A", "a", header="moved")
    assert not load_as(db, target, "2", "B", "b")
    # Another table's worker has a copy of that message at this moment; what comes here is the newest word all the same.
    record(db, "3", target="u", files=[stored(sha256="A")])
    db.execute("UPDATE mailferry.jobs SET header_sha256 = 'moved' WHERE target = 'u'")
    claim(db, target="u")
    assert not load_as(db, target, "4", "A", "a")


def test_what_ended_but_is_not_marked_is_found_after_a_crash(db: Connection) -> None:
    job = record(db)
    assert records.unmarked(db, "f") == []
    held = claim(db)
    records.finish_file(db, held, file_ids(db, job.id)[0], FileOutcome(state=FileState.LOADED))
    done = records.finish_job(db, held)
    assert records.unmarked(db, "f") == [done]
    records.marked(db, done, Outcome.COMPLETED)
    assert records.unmarked(db, "f") == []


def test_what_is_counted_only_grows_whatever_is_retried(db: Connection, target: Target) -> None:
    def totals() -> dict[str, float]:
        rows = db.execute("SELECT metric || ' ' || label, value FROM mailferry.totals WHERE feed = 'f'")
        return dict(rows.fetchall())

    load_as(db, target, "1", "aa", "content", changed=5, rejected=2)
    first = totals()
    assert (first["rows inserted"], first["rows rejected"], first["rows read"]) == (5, 2, 1)
    (job,) = admin.jobs(db)
    assert (job.refused, job.error) == (True, None)
    admin.retry(db, job.id)
    held = claim(db, job_id=job.id)
    records.fail(db, held, Reject("no more"))
    second = totals()
    assert second == first | {name: second[name] for name in second if name.startswith("job_seconds")}
    buckets = [
        value for name, value in second.items() if name.startswith("job_seconds") and "sum" not in name
    ]
    assert sum(buckets) == 2


@pytest.mark.parametrize(
    ("seconds", "label"), [(0.05, "0.1"), (0.1, "0.1"), (2.6, "5"), (7200, "7200"), (7201, "+Inf")]
)
def test_a_duration_counts_in_the_first_bucket_that_holds_it(
    db: Connection, seconds: float, label: str
) -> None:
    for _ in range(2):
        db.execute("SELECT mailferry.count_seconds('f', 'job_seconds', %s)", (seconds,))
    db.execute("SELECT mailferry.count_seconds('f', 'job_seconds', NULL)")
    rows = db.execute("SELECT label, value FROM mailferry.totals ORDER BY label").fetchall()
    assert dict(rows) == {label: 2, "sum": pytest.approx(2 * seconds)}


def test_the_buckets_of_the_database_are_those_of_the_metrics(db: Connection) -> None:
    for bound in BOUNDS:
        db.execute("SELECT mailferry.count_seconds('f', 'job_seconds', %s)", (bound,))
    rows = db.execute("SELECT label, value FROM mailferry.totals WHERE label <> 'sum'").fetchall()
    assert dict(rows) == {f"{bound:g}": 1 for bound in BOUNDS}
