"""The ledger: nothing twice, in order, one runner at a time, and every end on record."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from mailferry import database
from mailferry.errors import Reject, Retry, Stop
from mailferry.mailbox.attachments import RejectedFile
from mailferry.mailbox.ledger import arrivals, leases, records
from mailferry.mailbox.ledger.jobs import Claim, ClaimLost, FileState, Job, JobState, OutOfReach
from mailferry.mailbox.source.message import MessageRef, Outcome, Passed, StoredFile, Summary
from mailferry.mailbox.target.table import create
from mailferry.mailbox.workbook.values import Column, Counts, Kind, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection
    from mailferry.mailbox.target.table import Target

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def summary(uid: str = "1", *, uidvalidity: int = 7, minutes: Any = 0, subject: str = "Track") -> Summary:
    ref = MessageRef(account="u@example.com", folder="INBOX", uidvalidity=uidvalidity, uid=uid)
    return Summary(
        ref=ref,
        subject=subject,
        sender="a@example.com",
        message_id=f"<{uid}@example.com>",
        received=NOON + timedelta(minutes=minutes),
        size=1,
        parts=(),
    )


def stored(name: str = "a.xlsx", *, section: str = "2", sha256: str = "aa") -> StoredFile:
    return StoredFile(
        path=Path("/pending") / name,
        name=name,
        section=section,
        member="",
        kind=Kind.XLSX,
        size=9,
        sha256=sha256,
    )


def record(
    conn: Connection,
    uid: str = "1",
    *,
    files: Any = None,
    feed: str = "f",
    target: str = "t",
    minutes: Any = None,
    **more: Any,
) -> Job:
    message = summary(uid, minutes=int(uid) if minutes is None else minutes, **more)
    return records.record(conn, feed, message, f"header {uid}", target=target, files=files or [stored()])


def claim(conn: Connection, **more: Any) -> Claim:
    got = leases.claim(conn, runner="host:1", **more)
    assert got is not None
    return got


def file_ids(conn: Connection, job_id: int) -> list[int]:
    return [file.id for file in records.files_of(conn, job_id)]


def make_due(conn: Connection, job_id: int) -> None:
    conn.execute("UPDATE mailferry.jobs SET next_attempt_at = now() WHERE id = %s", (job_id,))


@pytest.fixture
def target(db: Connection) -> Target:
    return create(db, "t", "k", [Column(name="k", type="text")])


def test_a_message_recorded_again_is_the_same_job_with_the_same_files(db: Connection) -> None:
    files = [stored(), stored("b.xlsx", section="3", sha256="bb")]
    message = summary(subject="bad \0 and \ud800")
    passed = [Passed(section="1", name="x\0", reason="plain text")]
    first = records.record(db, "f", message, "h", target="t", files=files, passed=passed)
    assert (first.state, first.ref, first.received, first.attempts) == (
        JobState.PENDING,
        message.ref,
        NOON,
        0,
    )
    # A second fetch stores the bytes elsewhere; the newest path is the one that is there.
    again = [replace(files[0], path=Path("/pending/second")), files[1]]
    assert records.record(db, "f", message, "h", target="t", files=again, passed=passed).id == first.id
    details = records.show(db, first.id)
    assert details is not None
    assert [(f.name, f.path) for f in details.files] == [
        ("a.xlsx", "/pending/second"),
        ("b.xlsx", "/pending/b.xlsx"),
    ]
    assert details.passed == (Passed(section="1", name="x", reason="plain text"),)
    assert records.show(db, first.id + 1000) is None


def test_two_runners_that_record_one_message_at_once_get_one_job(
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
    assert got == [job.id for job in records.jobs(db)]


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
    new = records.record(db, "f", message, old.header_sha256, target="t", files=[stored(sha256="bb")])
    assert new.id != old.id
    assert [file.sha256 for file in records.files_of(db, old.id, new.id)] == ["aa", "bb"]


def test_two_files_in_one_place_are_refused_and_neither_is_dropped_in_silence(db: Connection) -> None:
    with pytest.raises(Reject, match="part 2"):
        records.record(db, "f", summary(), "h", target="t", files=[stored(), stored(sha256="bb")])
    job = records.record(db, "f", summary(), "h", target="t", files=[stored(section="3")])
    refused = RejectedFile(section="3", name="a.xlsx", member="", reason="damaged")
    with pytest.raises(Reject, match="part 3"):
        arrivals.reject(db, job.id, [refused])
    other = replace(refused, section="4")
    arrivals.reject(db, job.id, [other])
    arrivals.reject(db, job.id, [other])
    assert [(file.section, file.state) for file in records.files_of(db, job.id)] == [
        ("2", FileState.PENDING),
        ("3", FileState.PENDING),
        ("4", FileState.REJECTED),
    ]


def test_jobs_behind_another_feeds_job_that_nobody_does_are_told(db: Connection) -> None:
    first, _, _ = record(db, "1", feed="old"), record(db, "2", feed="old"), record(db, "3")
    record(db, "4")
    (told,) = arrivals.held_back(db, "f")
    assert f"job {first.id} of feed 'old'" in told
    assert f"`mailferry jobs cancel {first.id}`" in told
    assert "2 of this feed's jobs" in told
    assert arrivals.held_back(db, "old") == []
    held = claim(db, feed="old")
    assert arrivals.held_back(db, "f") == []
    leases.renew(db, held, timedelta(seconds=-1))
    assert arrivals.held_back(db, "f") == [told]


def test_one_job_is_claimed_by_one_runner(db: Connection, connect: Callable[[], Connection]) -> None:
    record(db)
    db.commit()
    first = claim(db)
    assert (first.job.state, first.job.attempts, first.job.runner) == (JobState.IN_PROGRESS, 1, "host:1")
    assert leases.claim(connect(), runner="other") is None
    db.commit()
    assert leases.claim(connect(), runner="other") is None


def test_jobs_of_one_table_come_in_the_order_of_arrival_and_a_waiting_one_holds_back_only_its_own(
    db: Connection,
) -> None:
    late, early = record(db, "2"), record(db, "1")
    elsewhere = record(db, "3", target="u")
    first = claim(db)
    assert first.job.id == early.id
    records.fail(db, first, Retry("away"))
    assert claim(db).job.id == elsewhere.id
    assert leases.claim(db, runner="x") is None
    assert leases.claim(db, runner="x", job_id=late.id) is None
    make_due(db, early.id)
    again = claim(db)
    records.finish_file(db, again, file_ids(db, early.id)[0], FileState.LOADED)
    records.finish_job(db, again)
    assert claim(db).job.id == late.id


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
    assert [file.state for file in records.files_of(db, job.id)] == [FileState.FAILED]


def test_a_reject_ends_a_job_at_once_and_a_stop_leaves_it_for_the_next_run(db: Connection) -> None:
    job = record(db)
    stopped = records.fail(db, claim(db), Stop("no such table"))
    assert (stopped.state, stopped.attempts, stopped.error_kind) == (JobState.PENDING, 0, "stop")
    assert leases.claim(db, runner="x") is None
    make_due(db, job.id)
    rejected = records.fail(db, claim(db), Reject("broken"))
    assert (rejected.state, rejected.error_kind) == (JobState.FAILED, "reject")
    assert [file.state for file in records.files_of(db, job.id)] == [FileState.REJECTED]


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
    job = records.record(db, "f", summary(), "h", target="t", files=files)
    held = claim(db)
    for file_id, state in zip(file_ids(db, job.id), states, strict=True):
        bad = state in {FileState.REJECTED, FileState.FAILED}
        records.finish_file(db, held, file_id, state, error="why" if bad else None)
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
    records.finish_file(db, held, file_id, FileState.LOADED)
    with pytest.raises(ValueError, match="not pending"):
        records.finish_file(db, held, file_id, FileState.LOADED)


def test_counts_warnings_and_rejected_rows_are_kept(db: Connection, target: Target) -> None:
    job = record(db)
    (file_id,) = file_ids(db, job.id)
    counts = Counts(
        read=9, inserted=1, updated=2, unchanged=3, rejected=2, superseded=1, warnings=["NUL \0 removed"]
    )
    rows = [RejectedRow(sheet="Ş", row=n, column="kg", value="a\0\tb\\N", reason="no number") for n in (2, 5)]
    records.finish_file(
        db,
        claim(db),
        file_id,
        FileState.LOADED,
        target=target,
        counts=counts,
        content_sha256="cc",
        rejected=rows,
    )
    (file,) = records.files_of(db, job.id)
    assert file.counts == replace(counts, warnings=["NUL  removed"])
    assert (file.target, file.content_sha256) == ("public.t", "cc")
    assert records.rejected_rows(db, file_id) == [replace(row, value="a\tb\\N") for row in rows]
    assert len(records.rejected_rows(db, file_id, limit=1)) == 1
    assert records.forget(db, "f", datetime(2020, 1, 1, tzinfo=UTC)) == 0
    assert records.forget(db, "g", datetime.now(UTC) + timedelta(days=1)) == 0
    assert records.forget(db, "f", datetime.now(UTC) + timedelta(days=1)) == 2
    assert records.show(db, job.id) is not None


def load_as(
    conn: Connection,
    target: Target,
    uid: str,
    sha256: str,
    content: str,
    *,
    changed: Any = 1,
    rejected: int = 0,
    header: str = "",
) -> bool:
    """A file of these hashes arrives: whether it was a duplicate, else it is loaded."""
    message = summary(uid, minutes=int(uid))
    files = [stored(sha256=sha256)]
    job = records.record(conn, "f", message, header or f"header {uid}", target="t", files=files)
    return do(conn, target, job, content, changed=changed, rejected=rejected)


def do(
    conn: Connection, target: Target, job: Job, content: str, *, changed: int = 1, rejected: int = 0
) -> bool:
    """Work on a job of one file, as `process` does: whether it was a duplicate."""
    held = claim(conn, job_id=job.id)
    (file,) = records.files_of(conn, job.id)
    sha256 = file.sha256
    found = records.duplicate_of(conn, held, target, sha256=sha256, content_sha256=content)
    state = FileState.LOADED if found is None else FileState.DUPLICATE
    counts = Counts(read=1, inserted=changed, rejected=rejected) if found is None else None
    records.finish_file(
        conn,
        held,
        file_ids(conn, job.id)[0],
        state,
        target=target,
        counts=counts,
        content_sha256=content,
        duplicate_of=found,
    )
    records.finish_job(conn, held)
    return found is not None


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


def test_rows_that_were_rejected_are_loaded_by_a_retry_once_the_cause_is_gone(
    db: Connection, target: Target
) -> None:
    load_as(db, target, "1", "B", "b")
    load_as(db, target, "2", "A", "a", rejected=2)
    (job,) = records.jobs(db, limit=1)
    records.marked(db, job, Outcome.COMPLETED)
    again = records.retry(db, job.id)
    assert (again.state, again.marked_at) == (JobState.PENDING, None)
    assert [file.state for file in records.files_of(db, job.id)] == [FileState.PENDING]
    assert not do(db, target, job, "a", changed=0)
    with pytest.raises(Reject, match="is completed"):
        records.retry(db, job.id)
    # What its first load changed has not been forgotten.
    assert not load_as(db, target, "3", "B", "b")


def test_a_runner_whose_job_was_taken_over_can_commit_nothing(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    old = claim(db)
    db.commit()
    late = connect()
    leases.renew(late, old)
    late.commit()
    new = claim(db, take_over=True)
    db.commit()
    assert (new.fence, new.job.attempts) == (old.fence + 1, 2)
    (file_id,) = file_ids(db, job.id)
    for act in (
        lambda: leases.hold(late, old),
        lambda: leases.renew(late, old),
        lambda: records.finish_file(late, old, file_id, FileState.LOADED),
        lambda: records.finish_job(late, old),
        lambda: records.fail(late, old, Retry("late")),
    ):
        with pytest.raises(ClaimLost):
            act()
        late.rollback()
    records.finish_file(db, new, file_id, FileState.LOADED)


def test_a_frozen_runners_open_transaction_is_ended_by_whoever_takes_over(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    old = claim(db)
    db.commit()
    frozen, other = connect(), connect()
    leases.hold(frozen, old)
    records.finish_file(frozen, old, file_ids(frozen, job.id)[0], FileState.LOADED)
    new = claim(other, take_over=True)
    other.commit()
    with pytest.raises(psycopg.OperationalError):
        frozen.commit()
    assert [file.state for file in records.files_of(db, job.id)] == [FileState.PENDING]
    leases.hold(other, new)


def test_one_of_many_workers_keeps_its_job_until_its_lease_has_run_out(db: Connection) -> None:
    record(db)
    old = claim(db, by_lease=True)
    assert leases.claim(db, runner="x", take_over=True) is None
    leases.renew(db, old, timedelta(seconds=-1))
    assert claim(db).fence == old.fence + 1
    # That was a claim of the other kind.
    assert claim(db, take_over=True).fence == old.fence + 2


def test_of_two_who_take_over_at_once_one_does_and_neither_ends_the_others_work(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    claim(db, lease=timedelta(seconds=-1))
    db.commit()
    one, two = connect(), connect()
    new = claim(one)
    assert leases.claim(two, runner="x") is None
    one.commit()
    leases.hold(one, new)
    assert leases.claim(two, runner="x") is None
    records.finish_file(one, new, file_ids(one, job.id)[0], FileState.LOADED)
    records.finish_job(one, new)
    one.commit()


def test_a_claim_is_limited_to_a_table_and_to_feeds(db: Connection) -> None:
    record(db, "1", target="a")
    second = record(db, "2", target="b")
    record(db, "3", target="b", feed="g")
    assert leases.claim(db, runner="x", target="c") is None
    assert leases.claim(db, runner="x", target="b", feeds=["g"]) is None
    assert leases.claim(db, runner="x", feeds=[]) is None
    assert claim(db, target="b", feeds=["f", "g"]).job.id == second.id


def test_a_released_claim_is_void_and_its_job_due_at_once_with_no_attempt_counted(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    held = claim(db)
    db.commit()
    working = connect()
    leases.hold(working, held)
    released = leases.release(db, held)
    assert (released.state, released.attempts) == (JobState.PENDING, 0)
    db.commit()
    with pytest.raises(psycopg.OperationalError):
        working.execute("SELECT 1")
    with pytest.raises(ClaimLost):
        leases.release(db, held)
    again = claim(db)
    assert (again.job.id, again.fence) == (job.id, held.fence + 2)


def test_a_cancel_ends_the_transaction_that_works_on_the_job(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    held = claim(db)
    db.commit()
    working = connect()
    leases.hold(working, held)
    records.finish_file(working, held, file_ids(working, job.id)[0], FileState.LOADED)
    with pytest.raises(Reject, match="in progress can be cancelled first"):
        records.retry(db, job.id)
    assert records.cancel(db, job.id).state is JobState.CANCELLED
    with pytest.raises(psycopg.OperationalError):
        working.commit()
    db.commit()
    assert [file.state for file in records.files_of(db, job.id)] == [FileState.PENDING]
    assert records.retry(db, job.id).state is JobState.PENDING


def test_a_mailbox_that_is_away_costs_a_job_no_attempt(db: Connection) -> None:
    record(db)
    failed = records.fail(db, claim(db), OutOfReach("away"))
    assert (failed.state, failed.attempts, failed.error_kind) == (JobState.PENDING, 0, "retry")


def test_a_copy_of_a_message_is_told_by_its_own_job_whatever_else_is_in_progress(
    db: Connection, target: Target
) -> None:
    assert not load_as(db, target, "1", "A", "a", header="moved")
    assert not load_as(db, target, "2", "B", "b")
    # Another table's worker has a copy of that message at this moment; what comes here is the newest word all the same.
    record(db, "3", target="u", files=[stored(sha256="A")])
    db.execute("UPDATE mailferry.jobs SET header_sha256 = 'moved' WHERE target = 'u'")
    claim(db, target="u")
    assert not load_as(db, target, "4", "A", "a")


def test_tables_that_are_due_are_told_with_the_time_until_then(db: Connection) -> None:
    first = record(db, "1", target="a")
    record(db, "2", target="a")
    record(db, "3", target="b", feed="g")
    record(db, "4", target="c")
    waits = dict(arrivals.due(db, ["f"]))
    assert (sorted(waits), max(waits.values()) <= 0) == (["a", "c"], True)
    assert [target for target, _ in arrivals.due(db, ["f", "g"])] == ["a", "b", "c"]
    assert arrivals.due(db, []) == []
    records.fail(db, claim(db, target="a"), Stop("somebody has to act"))
    assert 0 < dict(arrivals.due(db, ["f"]))["a"] <= 60
    make_due(db, first.id)
    held = claim(db, target="a")
    assert [target for target, _ in arrivals.due(db, ["f"])] == ["c"]
    found = arrivals.first_of(db, "a")
    assert found
    assert (found.job_id, found.feed, found.running, 0 < found.wait <= 30) == (first.id, "f", True, True)
    leases.renew(db, held, timedelta(seconds=-1))
    assert [target for target, _ in arrivals.due(db, ["f"])] == ["a", "c"]
    assert arrivals.first_of(db, "unheard of") is None


def test_what_is_due_is_found_without_looking_through_finished_or_waiting_jobs(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    db.execute(
        "INSERT INTO mailferry.jobs (feed, account, folder, uidvalidity, uid, header_sha256, message_id, subject,"
        " sender, received, target, state, finished_at, marked_at)"
        " SELECT 'f', 'a', 'i', 1, n, 'h', '', '', '', now() - n * interval '1 second', 't' || n % 3,"
        " CASE WHEN n % 10 = 0 THEN 'pending' ELSE 'completed' END, now(), now() FROM generate_series(1, 30000) AS n"
    )
    db.commit()
    db.execute("ANALYZE mailferry.jobs")
    db.commit()
    asked: list[Callable[[Connection], object]] = [
        lambda conn: arrivals.due(conn, ["f"]),
        lambda conn: arrivals.first_of(conn, "t1"),
        lambda conn: leases.claim(conn, runner="x", target="t2", feeds=["f"]),
    ]
    for ask in asked:
        conn = connect()
        before = read_rows(conn)
        assert ask(conn)
        # A few a table, where a scan would read thousands.
        assert read_rows(conn) - before < 40


def read_rows(conn: Connection) -> int:
    """Rows of the jobs' table that the transaction has read so far, one way or the other."""
    row = conn.execute(
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_all_tables"
        " WHERE relid = 'mailferry.jobs'::regclass"
    ).fetchone()
    return int(row[0]) if row else 0


def test_a_lease_that_has_run_out_frees_the_job_and_one_that_is_renewed_does_not(db: Connection) -> None:
    record(db)
    old = claim(db, lease=timedelta(seconds=-1))
    leases.renew(db, old)
    assert leases.claim(db, runner="x") is None
    leases.renew(db, old, timedelta(seconds=-1))
    assert claim(db).fence == old.fence + 1


def test_only_one_runner_has_a_feed_and_a_lost_connection_gives_it_back(
    database_settings: DatabaseSettings,
) -> None:
    with database.connect(database_settings) as pool:
        with (
            leases.only_runner(pool, "f") as first,
            leases.only_runner(pool, "f", patience=0) as second,
            leases.only_runner(pool, "g") as elsewhere,
        ):
            assert (first, second, elsewhere) == (True, False, True)
        with leases.only_runner(pool, "f") as again:
            assert again
            with database.transaction(pool) as conn:
                conn.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
                conn.execute("SELECT pg_advisory_lock(%s)", (database.advisory_key("feed", "f"),))
                conn.execute("SELECT pg_advisory_unlock_all()")
            with leases.only_runner(pool, "f") as taken:
                assert taken
        with database.transaction(pool) as conn:
            assert conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (
                0,
            )


def test_a_run_waits_for_the_session_of_one_that_was_killed(database_settings: DatabaseSettings) -> None:
    """The database may notice only a little later that the client of the session is gone."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%'"

    def run(pool: database.Pool) -> bool:
        with leases.only_runner(pool, "f", patience=60) as alone:
            return alone

    with (
        database.connect(database_settings) as pool,
        psycopg.connect(**database.parameters(database_settings), autocommit=True) as killed,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        killed.execute("SELECT pg_advisory_lock(%s)", (database.advisory_key("feed", "f"),))
        waiting = threads.submit(run, pool)
        while killed.execute(asked).fetchone() == (0,):
            assert not waiting.done()
            time.sleep(0.01)
        killed.close()
        assert waiting.result(timeout=60)


def test_what_ended_but_is_not_marked_is_found_after_a_crash(db: Connection) -> None:
    job = record(db)
    assert records.unmarked(db, "f") == []
    held = claim(db)
    records.finish_file(db, held, file_ids(db, job.id)[0], FileState.LOADED)
    done = records.finish_job(db, held)
    assert records.unmarked(db, "f") == [done]
    records.marked(db, done, Outcome.COMPLETED)
    assert records.unmarked(db, "f") == []


def test_people_cancel_and_retry(db: Connection) -> None:
    waiting, running = record(db, "1"), record(db, "2", target="u")
    assert records.cancel(db, waiting.id).state is JobState.CANCELLED
    held = claim(db)
    assert held.job.id == running.id
    records.cancel(db, running.id)
    with pytest.raises(ClaimLost):
        records.finish_file(db, held, file_ids(db, running.id)[0], FileState.LOADED)
    with pytest.raises(Reject, match="is cancelled"):
        records.cancel(db, waiting.id)
    with pytest.raises(Reject, match="no job"):
        records.cancel(db, 10**6)
    assert records.retry(db, waiting.id).state is JobState.PENDING
    rejected = claim(db)
    row = RejectedRow(sheet="s", row=1, column="c", value="v", reason="r")
    (file_id,) = file_ids(db, waiting.id)
    records.finish_file(db, rejected, file_id, FileState.REJECTED, error="bad", rejected=[row])
    failed = records.finish_job(db, rejected)
    records.marked(db, failed, Outcome.FAILED)
    again = records.retry(db, waiting.id)
    assert (again.state, again.attempts, again.error, again.marked_at) == (JobState.PENDING, 0, None, None)
    assert records.rejected_rows(db, file_id) == []
    loaded = claim(db)
    records.finish_file(db, loaded, file_id, FileState.LOADED)
    records.finish_job(db, loaded)
    with pytest.raises(Reject, match="is completed"):
        records.retry(db, waiting.id)


def test_jobs_are_listed_by_feed_state_time_and_text(db: Connection) -> None:
    one, two = record(db, "1"), record(db, "2", feed="g", subject="Günlük 100%")
    claim(db, feed="f")
    assert [job.id for job in records.jobs(db)] == [two.id, one.id]
    assert [job.id for job in records.jobs(db, limit=1)] == [two.id]
    assert [job.id for job in records.jobs(db, feed="f")] == [one.id]
    assert [job.id for job in records.jobs(db, state=JobState.PENDING)] == [two.id]
    assert [job.id for job in records.jobs(db, text="100%")] == [two.id]
    assert records.jobs(db, since=datetime.now(UTC) + timedelta(days=1)) == []


def test_statistics_count_today_and_this_week_by_the_callers_calendar(db: Connection, target: Target) -> None:
    zone = ZoneInfo("Europe/Istanbul")
    # A Wednesday, half an hour after midnight in Istanbul, when it is still Tuesday in UTC.
    now = datetime(2026, 3, 4, 0, 30, tzinfo=zone)
    for uid, ago in [("1", 10), ("2", 40), ("3", 60 * 24 * 3)]:
        load_as(db, target, uid, uid, uid)
        end = now - timedelta(minutes=ago)
        statement = "UPDATE mailferry.jobs SET started_at = %s, finished_at = %s WHERE uid = %s"
        db.execute(statement, (end - timedelta(seconds=3), end, uid))
    got = records.statistics(db, now)
    assert (got.today.completed, got.week.completed, got.states) == (1, 2, {JobState.COMPLETED: 3})
    assert (got.week.files, got.week.rows_read, got.week.inserted, got.week.errors, got.week.seconds) == (
        2,
        2,
        2,
        0,
        3.0,
    )
    assert records.statistics(db, now, feed="other").week.seconds is None
    with pytest.raises(ValueError, match="aware"):
        records.statistics(db, datetime(2026, 3, 4))  # noqa: DTZ001 - that is the point
