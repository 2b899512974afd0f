"""A service process from its start to its end, as systemd and its neighbours see it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support_database import query
from support_events import INCOMING, OUTGOING
from support_fork import Forked, mailferry
from support_link import Link
from support_service import Host, Table, events, feed_row, head, hosts, mailbox, toml
from support_wait import wait_for

from mailferry import database
from mailferry.events.record import event_time
from mailferry.testing.population import Population, Traits
from mailferry.testing.provider import Settings, serve
from mailferry.testing.verify import compare, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings
    from mailferry.testing.provider import Provider

START = int(time.time()) - 60
#: The promise is 10 seconds; a busy machine is no failure.
SOON = 20.0


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    traits = Traits(rate=2, start=START, detail_bytes=100)
    with serve(Population({INCOMING: traits, OUTGOING: traits})) as started:
        yield started


@pytest.fixture
def empty(new_database: Callable[..., DatabaseSettings]) -> DatabaseSettings:
    return new_database(template=False)


def configure(host: Host, *tables: dict[str, dict[str, object]]) -> None:
    merged: dict[str, dict[str, object]] = {}
    for table in tables:
        merged |= table
    host.config.write_text(toml(merged))
    host.config.chmod(0o600)


def into_table(name: str, provider: Provider, **options: object) -> dict[str, dict[str, object]]:
    return events(name, INCOMING, provider.list_url("mail"), start_time=START, destination="table", **options)


def mail_into(table: Table, account: Account, **options: object) -> dict[str, dict[str, object]]:
    return mailbox(table.name, account, target_table=table.name, subject_filter=table.subject, **options)


def runs(settings: DatabaseSettings, name: str) -> int:
    return int(feed_row(settings, name).get("run") or 0)


def wait_for_runs(settings: DatabaseSettings, name: str) -> None:
    """Until it has run some more times."""
    begun = runs(settings, name)
    wait_for(f"more runs of {name}", lambda: runs(settings, name) > begun + 3)


# --- the start


@pytest.mark.slow(25)
def test_it_is_ready_only_when_database_and_mailbox_have_answered(
    tmp_path: Path, empty: DatabaseSettings, account: Account
) -> None:
    table = Table(empty, "alpha")
    with hosts(tmp_path, empty, "a") as (host,), Link(account.dovecot.imaps) as post:
        configure(host, head(host, empty), mail_into(table, account, port=post.port))
        host.link.cut()
        post.cut()
        host.start(ready=False, WATCHDOG_USEC="30000000")
        wait_for("words about the database", lambda: "waiting for the database" in host.manager.status)
        host.link.mend()
        wait_for("words about the mailbox", lambda: "waiting for a mailbox: alpha" in host.manager.status)
        wait_for("its reason", lambda: "refused" in host.manager.status or "reset" in host.manager.status)
        assert host.manager.ready == 0
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in host.manager.said)
        account.deliver(table.message())
        post.mend()
        host.wait_ready()
        wait_for("the load", table.done)
        host.manager.said.clear()
        wait_for("signs of life", lambda: host.manager.said.count("WATCHDOG=1") >= 2)
        assert host.end() == 0
        assert "STOPPING=1" in host.manager.said
    table.assert_exactly_once()


def test_four_at_once_make_one_database_of_an_empty_one(
    tmp_path: Path, empty: DatabaseSettings, provider: Provider
) -> None:
    with hosts(tmp_path, empty, *"abcd") as machines:
        for host in machines:
            configure(host, head(host, empty), into_table("in", provider))
            host.start(ready=False)
        for host in machines:
            host.wait_ready()
        wait_for("a run", lambda: feed_row(empty, "in").get("last_good_at"))
        assert [host.end() for host in machines] == [0] * 4
    steps = database.migrations()
    assert query(empty, "SELECT version FROM mailferry.versions ORDER BY 1") == [
        (number + 1,) for number in range(len(steps))
    ]


def test_a_database_of_an_earlier_program_is_brought_up_with_its_data(
    tmp_path: Path, empty: DatabaseSettings, provider: Provider
) -> None:
    with psycopg.connect(**database.parameters(empty)) as conn:
        database.migrate(conn, "temp_processing")
        conn.execute("DROP SCHEMA mailferry CASCADE")
        conn.execute("CREATE SCHEMA mailferry")
        conn.execute(
            "CREATE TABLE mailferry.versions"
            " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        name, step = database.migrations()[0]
        conn.execute(step)
        conn.execute("INSERT INTO mailferry.versions (version, name) VALUES (1, %s)", (name,))
        conn.execute(
            "INSERT INTO mailferry.jobs (feed, account, folder, uidvalidity, uid, header_sha256, message_id, subject, sender,"
            " received, target) VALUES ('old', 'a', 'f', 1, '1', '', '', '', '', now(), 't')"
        )
    with hosts(tmp_path, empty, "a") as (host,):
        configure(host, head(host, empty), into_table("in", provider))
        host.start()
        assert host.end() == 0
    assert query(empty, "SELECT feed FROM mailferry.jobs") == [("old",)]
    assert query(empty, "SELECT max(version) FROM mailferry.versions") == [(len(database.migrations()),)]


@pytest.mark.parametrize(
    "newer", ["versions (version, name) VALUES (99, '')", "queue_versions (name) VALUES ('99.sql')"]
)
def test_a_database_of_a_newer_program_is_left_alone(
    newer: str, tmp_path: Path, database_settings: DatabaseSettings, provider: Provider
) -> None:
    query(database_settings, f"INSERT INTO mailferry.{newer}")
    with hosts(tmp_path, database_settings, "a") as (host,):
        configure(host, head(host, database_settings), into_table("in", provider))
        host.start(ready=False)
        assert host.wait() == 1
        assert "newer mailferry" in host.log()
        assert "Upgrade this host" in host.log()
        assert "Traceback" not in host.log()
        assert host.manager.ready == 0


@pytest.mark.slow(45)
def test_two_processes_share_a_private_database_that_comes_back_when_it_is_killed(
    server_folder: Path, empty: DatabaseSettings, provider: Provider
) -> None:
    folder = server_folder / f"private-{time.monotonic_ns()}"
    with hosts(folder, empty, "a") as (first,), hosts(folder, empty, "a") as (second,):
        for made in (folder, first.folder):
            made.chmod(0o711)
        service: dict[str, dict[str, object]] = {"service": {"host": "a", "data_dir": "data"}}
        configure(first, service, into_table("in", provider))
        first.start()
        second.start()
        assert first.end() == 0
        server = first.folder / "data" / "postgres"
        asked = make_conninfo(
            host=str(server / "run"), user="loader", dbname="mailferry", passfile=str(server / "pgpass")
        )

        def good_runs() -> int:
            with contextlib.suppress(psycopg.Error), psycopg.connect(asked) as conn:
                row = conn.execute("SELECT run FROM mailferry.feeds WHERE status = 'completed'").fetchone()
                return int(row[0]) if row else 0
            return 0

        begun = wait_for("a good run", good_runs)
        wait_for("another one", lambda: good_runs() > begun)
        psutil.Process(int((server / "data" / "postmaster.pid").read_text().split()[0])).kill()
        wait_for("runs of the new server", lambda: good_runs() > begun + 2)
        assert second.end() == 0
        assert not (server / "data" / "postmaster.pid").exists()


# --- the end


@pytest.mark.parametrize("hanging", ["load", "mailbox", "database"])
@pytest.mark.slow(15)
def test_a_service_that_is_ended_hands_its_work_to_another_whatever_hangs(
    hanging: str, tmp_path: Path, empty: DatabaseSettings, account: Account, provider: Provider
) -> None:
    table = Table(empty, "alpha")
    with contextlib.ExitStack() as stack:
        ending, other = stack.enter_context(hosts(tmp_path, empty, "a", "b"))
        post = stack.enter_context(Link(account.dovecot.imaps))
        configure(ending, head(ending, empty), mail_into(table, account, port=post.port))
        configure(other, head(other, empty), mail_into(table, account))
        ending.start()
        if hanging == "load":
            held = stack.enter_context(psycopg.connect(**database.parameters(empty)))
            held.execute("LOCK TABLE alpha IN EXCLUSIVE MODE")
            account.deliver(table.message(large=2000))
            blocked = "SELECT 1 FROM pg_locks WHERE relation = 'alpha'::regclass AND NOT granted"
            wait_for("the load", lambda: query(empty, blocked))
        else:
            begun = runs(empty, "alpha")
            (post if hanging == "mailbox" else ending.link).swallow()
            account.deliver(table.message())
            if hanging == "mailbox":
                wait_for("a look that hangs", lambda: runs(empty, "alpha") > begun)
            else:
                # What waits on the database is seen by its silence.
                silent = "SELECT 1 FROM mailferry.workers WHERE heartbeat_at < now() - interval '7 seconds'"
                wait_for("silence", lambda: query(empty, silent))
        other.start()
        since = time.monotonic()
        assert ending.end() == 0
        assert time.monotonic() - since < SOON
        if hanging == "load":
            states = "SELECT state, attempts FROM mailferry.jobs"
            wait_for("the way back", lambda: query(empty, states) in ([("pending", 0)], [("in_progress", 1)]))
            held.rollback()
        wait_for(lambda: f"the load: {table.states()}\n{other.log()}", table.done)
        assert query(empty, "SELECT attempts, runner LIKE 'b:%' FROM mailferry.jobs") == [(1, True)]
        assert other.end() == 0
    table.assert_exactly_once()


def test_a_service_that_is_ended_while_it_collects_leaves_the_rest_to_another_at_once(
    tmp_path: Path, empty: DatabaseSettings
) -> None:
    with (
        serve(
            Population({INCOMING: Traits(rate=2, start=START, end=START + 60, detail_bytes=100)}),
            Settings(latency=0.2),
        ) as slow,
        hosts(tmp_path, empty, "a", "b") as (ending, other),
    ):
        for host in (ending, other):
            # By the schedule no worker would come to it.
            configure(host, head(host, empty), into_table("in", slow, schedule="1h"))
        ending.start()
        wait_for("its beginning", lambda: feed_row(empty, "in").get("started_at"))
        other.start()
        assert ending.end() == 0
        wait_for(
            lambda: f"the rest: {feed_row(empty, 'in')}\n{ending.log()}\n{other.log()}",
            lambda: (feed_row(empty, "in").get("position") or 0) >= START + 60,
        )
        assert feed_row(empty, "in")["runner"].startswith("b:")
        assert feed_row(empty, "in")["run"] == 2
        assert other.end() == 0
        lines = query(empty, "SELECT coalesce(raw, record::text) FROM mail_events ORDER BY number")
        found = compare(slow.truth(INCOMING, START, START + 60), [line.encode() for (line,) in lines])
        assert found.clean(), found


# --- a new configuration


@pytest.mark.slow(45)
def test_a_new_configuration_is_taken_and_a_broken_one_refused(
    tmp_path: Path, empty: DatabaseSettings, provider: Provider
) -> None:
    with hosts(tmp_path, empty, "a") as (host,):
        configure(host, head(host, empty), into_table("old", provider))
        host.start()
        wait_for("a run", lambda: feed_row(empty, "old").get("last_good_at"))

        # by signal
        configure(host, head(host, empty), into_table("new", provider))
        host.signal(signal.SIGHUP)
        host.wait_ready(1)
        assert "RELOADING=1" in host.manager.said
        assert any(line.startswith("MONOTONIC_USEC=") for line in host.manager.since("RELOADING=1"))
        wait_for("a run of the new feed", lambda: feed_row(empty, "new").get("last_good_at"))
        gone = runs(empty, "old")
        begun = runs(empty, "new")
        wait_for("more of them", lambda: runs(empty, "new") > begun + 2)
        assert runs(empty, "old") == gone

        # by command
        configure(host, head(host, empty), into_table("newer", provider))
        assert reload(host) == (0, [""])
        host.wait_ready(2)
        wait_for("a run of the newer feed", lambda: feed_row(empty, "newer").get("last_good_at"))

        # broken
        configure(host, head(host, empty), into_table("newest", provider, schedule="never"))
        broken = host.config.read_text()
        host.signal(signal.SIGHUP)
        host.wait_ready(3)
        assert "not taken" in host.log()
        assert "[events.newest] schedule" in host.log()
        begun = runs(empty, "newer")
        wait_for("the old goes on", lambda: runs(empty, "newer") > begun + 2)
        assert query(empty, "SELECT reload_error LIKE '%%never%%' FROM mailferry.workers") == [(True,)]

        # a database that does not take it
        configure(host, head(host, empty), into_table("newest", provider))
        assert "name = " in host.config.read_text()
        host.config.write_text(host.config.read_text().replace(f'name = "{empty.name}"', 'name = "nowhere"'))
        host.signal(signal.SIGHUP)
        host.wait_ready(4)
        assert 'database "nowhere" does not exist' in host.log()
        host.config.write_text(broken)

        # asked for once more while it is being read
        configure(host, head(host, empty), into_table("between", provider))
        between = host.config.read_bytes()
        host.config.unlink()
        os.mkfifo(host.config, 0o600)
        host.signal(signal.SIGHUP)
        pipe = wait_for("its reading", lambda: opened(host.config))
        host.config.unlink()
        configure(host, head(host, empty), into_table("last", provider))
        host.signal(signal.SIGHUP)
        with os.fdopen(pipe, "wb") as writing:
            writing.write(between)
        wait_for("a run of the last feed", lambda: feed_row(empty, "last").get("last_good_at"))
        assert host.end() == 0
    assert query(empty, "SELECT count(*) FROM mailferry.workers") == [(0,)]


def opened(pipe: Path) -> int | None:
    """To write into, once a reader has opened it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def reload(host: Host) -> tuple[int, list[str]]:
    """Exit status, and what each worker answered: "" or its error."""
    arguments = ("reload", "--json", "--config", str(host.config))
    done = Forked(
        mailferry, *arguments, folder=host.folder, variables={"PATH": os.environ["PATH"]}
    ).finished()
    assert done.stdout, done.stderr
    return done.returncode, [worker["error"] for worker in json.loads(done.stdout)["workers"]]


# --- neighbours


@pytest.mark.slow(20)
def test_feeds_stay_on_their_host_and_a_wrong_password_holds_up_no_other(
    tmp_path: Path, empty: DatabaseSettings, account: Account, provider: Provider
) -> None:
    table, other = Table(empty, "alpha"), Table(empty, "beta")
    url = provider.list_url("mail")
    with hosts(tmp_path, empty, "a") as (one,), hosts(tmp_path, empty, "a", "b") as (twin, far):
        for host in (one, far):
            configure(
                host,
                head(host, empty),
                into_table("in", provider),
                events("near", OUTGOING, url, start_time=START, host="a"),
                events("far", INCOMING, url, start_time=START, host="b"),
                mail_into(table, account),
                mail_into(other, account, password="wrong"),
            )
        account.deliver(table.message())
        for host in (one, twin, far):
            host.start(ready=False)
        for host in (one, twin, far):
            host.wait_ready()
        alive = "SELECT array_agg(host ORDER BY host) FROM mailferry.workers"
        assert query(empty, alive) == [(["a", "a", "b"],)]
        put = "SELECT mailferry.procrastinate_defer_jobs_v1(ARRAY[ROW('events', 'collect', 0, NULL, NULL, '{\"feed\": \"nobody\"}', NULL)::mailferry.procrastinate_job_to_defer_v1])"
        query(empty, put.replace("SELECT ", "SET LOCAL search_path TO mailferry; SELECT ", 1))
        wait_for("the load", table.done)
        wait_for("the refusal", lambda: feed_row(empty, "beta").get("status") == "blocked")
        for name in ("in", "near", "far"):
            wait_for_runs(empty, name)
        wait_for(
            "the end of the unknown", lambda: "nobody: not in the configuration" in one.log() + far.log()
        )
        refused = feed_row(empty, "beta")
        assert refused["run"] <= 3
        assert "password" in refused["error"] or "refuses" in refused["error"]
        assert [host.end() for host in (one, twin, far)] == [0] * 3
        files = {host.name: sorted((host.folder / "data").rglob("example.com_*.log")) for host in (one, far)}
        assert {path.name.split("_")[1] for path in files["a"]} == {"outgoinglog"}
        assert {path.name.split("_")[1] for path in files["b"]} == {"incominglog"}
        for name, feed, where in (("near", OUTGOING, "a"), ("far", INCOMING, "b")):
            position = feed_row(empty, name)["position"]
            # A run that is ended may have got into the second of its position.
            lines = [
                line for line in read_lines(files[where]) if (event_time(json.loads(line)) or 0) < position
            ]
            found = compare(provider.truth(feed, START, position), lines)
            assert found.clean(), found
            assert found.total > 100
