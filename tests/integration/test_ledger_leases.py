"""Who works on which job: one worker at a time, in order, and a claim that was lost commits nothing."""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from support_ledger import claim, file_ids, make_due, record
from support_wait import wait_for

from mailferry import database
from mailferry.errors import Retry, Stop
from mailferry.mailbox.ledger import leases, records
from mailferry.mailbox.ledger.jobs import ClaimLost, FileOutcome, FileState, JobState
from mailferry.mailbox.ledger.rows import files_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection


def test_jobs_behind_another_feeds_job_that_no_worker_does_are_reported(db: Connection) -> None:
    first, _, _ = record(db, "1", feed="old"), record(db, "2", feed="old"), record(db, "3")
    record(db, "4")
    (reason,) = leases.held_back(db, "f")
    assert f"job {first.id} of feed 'old'" in reason
    assert f"`mailferry jobs cancel {first.id}`" in reason
    assert "2 of this feed's jobs" in reason
    assert leases.held_back(db, "old") == []
    held = claim(db, feeds=["old"])
    assert leases.held_back(db, "f") == []
    leases.renew(db, held, timedelta(seconds=-1))
    assert leases.held_back(db, "f") == [reason]


def test_one_job_is_claimed_by_one_worker(db: Connection, connect: Callable[[], Connection]) -> None:
    record(db)
    db.commit()
    first = claim(db)
    assert (first.job.state, first.job.attempts, first.job.runner) == (JobState.IN_PROGRESS, 1, "host:1")
    assert leases.claim(connect(), worker_id="other") is None
    db.commit()
    assert leases.claim(connect(), worker_id="other") is None


def test_jobs_of_one_table_come_in_the_order_of_arrival_and_a_waiting_one_holds_back_only_its_own(
    db: Connection,
) -> None:
    late, early = record(db, "2"), record(db, "1")
    elsewhere = record(db, "3", target="u")
    first = claim(db)
    assert first.job.id == early.id
    records.fail(db, first, Retry("away"))
    assert claim(db).job.id == elsewhere.id
    assert leases.claim(db, worker_id="x") is None
    assert leases.claim(db, worker_id="x", job_id=late.id) is None
    make_due(db, early.id)
    again = claim(db)
    records.finish_file(db, again, file_ids(db, early.id)[0], FileOutcome(state=FileState.LOADED))
    records.finish_job(db, again)
    assert claim(db).job.id == late.id


def test_a_worker_whose_job_was_taken_over_can_commit_nothing(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    old = claim(db)
    db.commit()
    late = connect()
    leases.renew(late, old)
    late.commit()
    new = claim(db, reclaim=True)
    db.commit()
    assert (new.fence, new.job.attempts) == (old.fence + 1, 2)
    (file_id,) = file_ids(db, job.id)
    for act in (
        lambda: leases.hold(late, old),
        lambda: leases.renew(late, old),
        lambda: records.finish_file(late, old, file_id, FileOutcome(state=FileState.LOADED)),
        lambda: records.finish_job(late, old),
        lambda: records.fail(late, old, Retry("late")),
    ):
        with pytest.raises(ClaimLost):
            act()
        late.rollback()
    records.finish_file(db, new, file_id, FileOutcome(state=FileState.LOADED))


def test_a_frozen_workers_open_transaction_is_ended_by_the_worker_that_takes_over(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    old = claim(db)
    db.commit()
    frozen, other = connect(), connect()
    leases.hold(frozen, old)
    records.finish_file(frozen, old, file_ids(frozen, job.id)[0], FileOutcome(state=FileState.LOADED))
    new = claim(other, reclaim=True)
    other.commit()
    with pytest.raises(psycopg.OperationalError):
        frozen.commit()
    assert [file.state for file in files_of(db, job.id)] == [FileState.PENDING]
    leases.hold(other, new)


def test_one_of_many_workers_keeps_its_job_until_its_lease_has_run_out(db: Connection) -> None:
    record(db)
    old = claim(db, by_lease=True)
    assert leases.claim(db, worker_id="x", reclaim=True) is None
    leases.renew(db, old, timedelta(seconds=-1))
    assert claim(db).fence == old.fence + 1
    # That was a claim of the other kind.
    assert claim(db, reclaim=True).fence == old.fence + 2


def test_of_two_who_take_over_at_once_one_does_and_neither_ends_the_others_work(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    job = record(db)
    claim(db, lease=timedelta(seconds=-1))
    db.commit()
    one, two = connect(), connect()
    new = claim(one)
    assert leases.claim(two, worker_id="x") is None
    one.commit()
    leases.hold(one, new)
    assert leases.claim(two, worker_id="x") is None
    records.finish_file(one, new, file_ids(one, job.id)[0], FileOutcome(state=FileState.LOADED))
    records.finish_job(one, new)
    one.commit()


def test_a_claim_is_limited_to_a_table_and_to_feeds(db: Connection) -> None:
    record(db, "1", target="a")
    second = record(db, "2", target="b")
    record(db, "3", target="b", feed="g")
    assert leases.claim(db, worker_id="x", target="c") is None
    assert leases.claim(db, worker_id="x", target="b", feeds=["g"]) is None
    assert leases.claim(db, worker_id="x", feeds=[]) is None
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


def test_tables_that_are_due_are_returned_with_the_time_until_then(db: Connection) -> None:
    first = record(db, "1", target="a")
    record(db, "2", target="a")
    record(db, "3", target="b", feed="g")
    record(db, "4", target="c")
    waits = dict(leases.due(db, ["f"]))
    assert (sorted(waits), max(waits.values()) <= 0) == (["a", "c"], True)
    assert [target for target, _ in leases.due(db, ["f", "g"])] == ["a", "b", "c"]
    assert leases.due(db, []) == []
    records.fail(db, claim(db, target="a"), Stop("a person has to act"))
    assert 0 < dict(leases.due(db, ["f"]))["a"] <= 60
    make_due(db, first.id)
    held = claim(db, target="a")
    assert [target for target, _ in leases.due(db, ["f"])] == ["c"]
    found = leases.first_of(db, "a")
    assert found
    assert (found.job_id, found.feed, found.running, 0 < found.wait <= 30) == (first.id, "f", True, True)
    leases.renew(db, held, timedelta(seconds=-1))
    assert [target for target, _ in leases.due(db, ["f"])] == ["a", "c"]
    assert leases.first_of(db, "unheard of") is None


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
        lambda conn: leases.due(conn, ["f"]),
        lambda conn: leases.first_of(conn, "t1"),
        lambda conn: leases.claim(conn, worker_id="x", target="t2", feeds=["f"]),
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
    assert leases.claim(db, worker_id="x") is None
    leases.renew(db, old, timedelta(seconds=-1))
    assert claim(db).fence == old.fence + 1


def test_only_one_worker_has_a_feed_and_a_lost_connection_gives_it_back(
    database_settings: DatabaseSettings,
) -> None:
    with database.connect(database_settings) as pool:
        with (
            leases.only_run(pool, "f") as first,
            leases.only_run(pool, "f", patience=0) as second,
            leases.only_run(pool, "g") as elsewhere,
        ):
            assert (first, second, elsewhere) == (True, False, True)
        with leases.only_run(pool, "f") as again:
            assert again
            with database.transaction(pool) as conn:
                conn.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
                conn.execute("SELECT pg_advisory_lock(%s)", (database.advisory_key("feed", "f"),))
                conn.execute("SELECT pg_advisory_unlock_all()")
            with leases.only_run(pool, "f") as taken:
                assert taken
        with database.transaction(pool) as conn:
            assert conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (
                0,
            )


def test_a_run_waits_for_the_session_of_one_that_was_killed(database_settings: DatabaseSettings) -> None:
    """The database may notice only a little later that the client of the session is gone."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%'"

    def run(pool: database.Pool) -> bool:
        with leases.only_run(pool, "f", patience=60) as alone:
            return alone

    with (
        database.connect(database_settings) as pool,
        psycopg.connect(**database.parameters(database_settings), autocommit=True) as killed,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        killed.execute("SELECT pg_advisory_lock(%s)", (database.advisory_key("feed", "f"),))
        waiting = threads.submit(run, pool)
        wait_for("its asking", lambda: waiting.done() or killed.execute(asked).fetchone() != (0,))
        assert not waiting.done()
        killed.close()
        assert waiting.result(timeout=60)
