"""Reaching a database, and bringing it up to date."""

from __future__ import annotations

import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from mailferry import database
from mailferry.errors import Retry, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection


def version(conn: Connection) -> tuple[Any, ...]:
    return conn.execute("SELECT max(version), count(*) FROM mailferry.versions").fetchall()[0]


def migrate_when_told(where: dict[str, Any], start: Any, results: Any) -> None:
    start.wait()
    try:
        database.prepare(where, "temp_processing")
        results.put("")
    except Exception as error:  # noqa: BLE001 - the other side asserts on it
        results.put(repr(error))


def test_an_empty_database_gets_the_schema_and_a_second_time_changes_nothing(
    new_database: Callable[..., DatabaseSettings],
) -> None:
    where = database.parameters(new_database(template=False))
    with psycopg.connect(**where) as conn:
        database.migrate(conn, "temp_processing")
        count = len(database.migrations())
        assert version(conn) == (count, count)
        first = conn.execute("SELECT xmin::text FROM mailferry.versions").fetchall()
        database.migrate(conn, "temp_processing")
        assert conn.execute("SELECT xmin::text FROM mailferry.versions").fetchall() == first
        assert conn.execute(
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'temp_processing'"
        ).fetchone() == (1,)


def test_two_hosts_may_migrate_at_once(new_database: Callable[..., DatabaseSettings]) -> None:
    where = database.parameters(new_database(template=False))
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    hosts = [context.Process(target=migrate_when_told, args=(where, start, results)) for _ in range(4)]
    for host in hosts:
        host.start()
    start.set()
    assert [results.get(timeout=60) for _ in hosts] == [""] * 4
    for host in hosts:
        host.join()
    with psycopg.connect(**where) as conn:
        assert version(conn) == (len(database.migrations()),) * 2


def test_a_migration_that_fails_leaves_nothing(
    new_database: Callable[..., DatabaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = database.parameters(new_database(template=False))
    monkeypatch.setattr(
        database, "migrations", lambda: [("0001_ok", b"CREATE TABLE mailferry.a ()"), ("0002_bad", b"no")]
    )
    with pytest.raises(Stop):
        database.prepare(where, "temp_processing")
    with psycopg.connect(**where) as conn:
        assert conn.execute("SELECT to_regnamespace('mailferry')").fetchone() == (None,)


def test_a_database_of_a_newer_program_is_refused(database_settings: DatabaseSettings) -> None:
    where = database.parameters(database_settings)
    with psycopg.connect(**where) as conn:
        conn.execute("INSERT INTO mailferry.versions (version, name) VALUES (999, 'future')")
    with pytest.raises(Stop, match="newer mailferry"), database.connect(database_settings):
        pass


def test_a_user_who_owns_only_the_schemas_is_enough_and_one_without_them_sees_the_sql(
    new_database: Callable[..., DatabaseSettings], postgres: dict[str, str]
) -> None:
    settings = new_database(template=False)
    where = database.parameters(settings)
    user = f"u_{settings.name}"
    with psycopg.connect(**where, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {user} LOGIN")
        conn.execute(
            f"REVOKE ALL ON DATABASE {settings.name} FROM PUBLIC; GRANT CONNECT ON DATABASE {settings.name} TO {user}"
        )
    humble = settings.model_copy(update={"user": user})
    try:
        with (
            pytest.raises(Stop, match=rf'CREATE SCHEMA "mailferry" AUTHORIZATION "{user}";'),
            database.connect(humble),
        ):
            pass
        with psycopg.connect(**where, autocommit=True) as conn:
            for schema in ("mailferry", "temp_processing"):
                conn.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {user}")
        with database.connect(humble) as pool, database.transaction(pool) as conn:
            assert version(conn) == (len(database.migrations()),) * 2
    finally:
        with psycopg.connect(**where, autocommit=True) as conn:
            conn.execute(f"DROP OWNED BY {user}")
            conn.execute(f"DROP ROLE {user}")


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"name": "missing"}, Stop, "Create the database"),
        ({"user": "missing"}, Stop, "Create the database user"),
        ({"host": "127.0.0.1", "port": 1, "sslmode": "disable"}, Retry, "cannot be reached"),
        ({"host": "/nowhere"}, Retry, "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_used_says_whether_it_may_pass(
    database_settings: DatabaseSettings, changes: dict[str, Any], kind: Any, says: str
) -> None:
    with pytest.raises(kind, match=says), database.connect(database_settings.model_copy(update=changes)):
        pass


def test_a_pool_outlives_lost_connections_and_returns_the_servers_errors_translated(
    database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    with database.connect(database_settings) as pool:
        with pytest.raises(Retry), database.transaction(pool) as conn:
            # By the backend that runs it.
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        with database.transaction(pool) as conn:
            assert conn.execute("SELECT current_setting('application_name')").fetchone() == ("mailferry",)
        with pytest.raises(Stop), database.transaction(pool) as conn:
            conn.execute("SELECT nonsense")


def test_waiting_for_a_lock_ends_as_a_retry(
    database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    settings = database_settings.model_copy(update={"lock_timeout": 0.05})
    connect().execute("LOCK mailferry.jobs")
    with (
        database.connect(settings) as pool,
        pytest.raises(Retry, match="lock"),
        database.transaction(pool) as conn,
    ):
        conn.execute("SELECT 1 FROM mailferry.jobs")


def test_a_transaction_is_committed_whole_or_not_at_all(
    database_settings: DatabaseSettings, connect: Callable[[], Connection]
) -> None:
    with database.connect(database_settings) as pool:
        with pytest.raises(Stop), database.transaction(pool) as conn:
            conn.execute("CREATE TABLE gone (); SELECT nonsense")
        threads = [threading.Thread(target=_create, args=(pool, f"kept{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = (
        connect().execute("SELECT relname FROM pg_class WHERE relname ~ '^(gone|kept)' ORDER BY 1").fetchall()
    )
    assert [name for (name,) in found] == [f"kept{n}" for n in range(8)]


def _create(pool: database.Pool, name: str) -> None:
    with database.transaction(pool) as conn:
        conn.execute(f"CREATE TABLE {name} ()")


def test_jobs_that_had_ended_before_refusals_were_counted_keep_their_states_and_need_no_person(
    new_database: Callable[..., DatabaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = database.parameters(new_database(template=False))
    steps = database.migrations()
    with psycopg.connect(**where) as conn:
        with monkeypatch.context() as patch:
            patch.setattr(database, "migrations", lambda: [s for s in steps if s[0] < "0007"])
            database.migrate(conn, "temp_processing")
        conn.execute(
            "INSERT INTO mailferry.jobs (feed, account, folder, uidvalidity, uid, header_sha256, message_id,"
            " subject, sender, received, target, state, finished_at)"
            " SELECT 'f', 'a', 'i', 1, state, 'h', '', '', '', now(), 't', state, now()"
            " FROM unnest(ARRAY['completed', 'failed', 'pending']) AS state"
        )
        database.migrate(conn, "temp_processing")
        found = conn.execute("SELECT state, refused FROM mailferry.jobs ORDER BY state").fetchall()
    assert found == [("completed", False), ("failed", False), ("pending", False)]
