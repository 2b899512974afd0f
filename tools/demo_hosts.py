"""The demo of the service: several workers on one database, one of them killed at work, and the truth at the end."""

from __future__ import annotations

import contextlib
import json
import mailbox
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import demo_mailbox
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mailferry import private_postgres
from mailferry.testing import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAILFERRY = [sys.executable, "-m", "mailferry"]
#: Seconds of events, and how long ago they ended.
SPAN, AGO = 2400, 3600
MESSAGES, ROWS = 60, 200
TABLES = ("shipments", "returns")
#: Options of [database], and what libpq calls them.
_DATABASE = {"host": "host", "name": "dbname", "user": "user", "password": "password"}
#: A frozen or killed worker counts as gone after 30 seconds.
PATIENCE = 180


def run(folder: Path, workers: int) -> bool:
    """Show it; True where nothing is lost and nothing twice."""
    folder.mkdir(parents=True)
    print(
        f"The service: {workers} workers, one PostgreSQL, event feeds into a table, a Maildir into two tables\n"
    )
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(private_postgres.running(folder / "postgres"))
        announced = stack.enter_context(_provider())
        config = _configure(folder, where, announced)
        conn = stack.enter_context(psycopg.connect(make_conninfo(**where), autocommit=True))
        service = stack.enter_context(_workers(config, workers))
        _until(lambda: _number(conn, "SELECT count(*) FROM mailferry.workers") == workers)
        _deliver(folder, MESSAGES)
        victim = _busy(conn, service)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        print(f"kill -9    of the worker {victim.pid} at work; the others have to notice, and go on\n")
        begun = time.monotonic()
        _wait(conn, announced)
        print(f"           all done {time.monotonic() - begun:.0f} s later\n\nmailferry status")
        subprocess.run([*MAILFERRY, "status", "--config", config], check=False)
        good = _events(conn, announced) & _rows(conn)
    print(f"\n{'Nothing lost, nothing twice.' if good else 'THAT WENT WRONG.'}")
    print(f"look at    {folder}: mailferry.toml, worker-*.log, data/")
    return good


@contextlib.contextmanager
def _provider() -> Iterator[dict[str, Any]]:
    start = int(time.time()) - AGO - SPAN
    options = {
        "start": start,
        "end": start + SPAN,
        "rate": 0.5,
        "latency": 0.02,
        "troubles": 0.05,
        "odd": 0.04,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen([*MAILFERRY, "simulate", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def _configure(folder: Path, where: dict[str, str], announced: dict[str, Any]) -> Path:
    """A mailferry.toml with the provider's feeds into a table, and a Maildir with two feeds."""
    lines = ["[service]", 'data_dir = "data"', "", "[database]"]
    lines += [f'{name} = "{where[key]}"' for name, key in _DATABASE.items()]
    lines += [
        "",
        "[defaults.events]",
        'destination = "table"',
        'schedule = "5s"',
        f"start_time = {announced['start']}",
    ]
    lines += [
        "max_parallel_details = 8",
        "list_sleep_time = 0.1",
        "detail_sleep_time = 0.1",
        "verbose = false",
    ]
    for feed in announced["feeds"]:
        lines += ["", f'[events."{_name(feed)}"]']
        lines += [f'{option} = "{feed[option]}"' for option in ("api_key", "domain", "category")]
        lines += [f'type = "{feed["type"]}"'] * bool(feed["type"]) + [f'url = "{feed["list_url"]}"']
    mailbox.Maildir(folder / "Maildir")
    for table in TABLES:
        lines += [
            "",
            f"[mailbox.{table}]",
            'maildir = "Maildir"',
            f'base_dir = "data/{table}"',
            "create_table = true",
            'schedule = "1m"',
        ]
        lines += [f'subject_filter = "{table}"', f'target_table = "{table}"', 'unique_key = "hawb_no"']
    config = folder / "mailferry.toml"
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    return config


def _name(feed: dict[str, Any]) -> str:
    return str(feed["section"].partition(":")[2])


@contextlib.contextmanager
def _workers(config: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    started = []
    for number in range(1, count + 1):
        log = (config.parent / f"worker-{number}.log").open("wb")
        started.append(subprocess.Popen([*MAILFERRY, "start", "--config", config], stdout=log, stderr=log))
        log.close()
    print(f"workers    {', '.join(str(process.pid) for process in started)}")
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _deliver(folder: Path, count: int) -> None:
    """Messages with workbooks, by turns for the one table and the other; each row has a key of its own."""
    inbox = mailbox.Maildir(folder / "Maildir")
    for number in range(count):
        table = TABLES[number % len(TABLES)]
        rows = [
            (f"{table[0]}{number:03}{n:05}", f"Example {n}", n % 9 + 1, n / 4, "2026-01-30")
            for n in range(ROWS)
        ]
        demo_mailbox.deliver(inbox, folder, f"{table} {number}", f"{number}.xlsx", rows)
    print(f"mail       {count} messages, {count * ROWS:,} rows")


def _busy(conn: psycopg.Connection[Any], service: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """A worker that is loading a file and has not been quick enough to end before it is killed."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        loaded = _number(conn, "SELECT count(*) FROM mailferry.jobs WHERE state = 'completed'")
        row = conn.execute("SELECT runner FROM mailferry.jobs WHERE state = 'in_progress' LIMIT 1").fetchone()
        if row and loaded > MESSAGES // 4:
            return next(process for process in service if str(process.pid) == row[0].rpartition(":")[2])
        time.sleep(0.02)
    raise RuntimeError("no worker came to work; see worker-*.log")


def _wait(conn: psycopg.Connection[Any], announced: dict[str, Any]) -> bool:
    """Until all that there is has been done."""
    behind = "SELECT count(*) FROM mailferry.feeds WHERE kind = 'events' AND coalesce(position, 0) < %s"
    done = "SELECT count(*) FROM mailferry.jobs WHERE state = 'completed' AND marked_at IS NOT NULL"
    return _until(lambda: not _number(conn, behind, announced["end"]) and _number(conn, done) == MESSAGES)


def _until(there: Callable[[], bool]) -> bool:
    """Whether it came in time."""
    end = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > end:
            print("           NOT in time; see worker-*.log")
            return False
        time.sleep(0.05)
    return True


def _number(conn: psycopg.Connection[Any], query: str, *values: object) -> int:
    try:
        row = conn.execute(query.encode(), values or None).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    return int(row[0]) if row else 0


def _events(conn: psycopg.Connection[Any], announced: dict[str, Any]) -> bool:
    """Every feed's rows against the provider's truth."""
    print(f"\n{'feed':<28} {'events':>7} {'lost':>5} {'twice':>5}")
    good = True
    for feed in announced["feeds"]:
        rows = conn.execute(
            "SELECT coalesce(raw, record::text) FROM mail_events WHERE feed = %s ORDER BY time",
            (_name(feed),),
        )
        found = verify.compare(_truth(announced, feed), (row[0].encode() for row in rows))
        print(f"{_name(feed):<28} {found.total:>7,} {found.lost:>5} {found.twice:>5}")
        good = good and found.total > 0 and not (found.lost or found.twice or found.foreign)
    return good


def _truth(announced: dict[str, Any], feed: dict[str, Any]) -> Iterator[verify.Truth]:
    names = ("api_key", "domain", "category", "type")
    query = urllib.parse.urlencode(
        {name: feed[name] for name in names} | {"start": announced["start"], "end": announced["end"]}
    )
    with urllib.request.urlopen(f"{announced['url']}/_truth?{query}") as answer:
        yield from verify.read_truth(answer)


def _rows(conn: psycopg.Connection[Any]) -> bool:
    """Every row is there, and every file was loaded once: a second load would have changed rows or been a duplicate."""
    print(f"\n{'table':<28} {'rows':>7} {'files':>5} {'loads':>5}")
    good = True
    for table in TABLES:
        rows = _number(conn, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)).as_string(conn))
        where = "FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id WHERE j.feed = %s"
        files = _number(conn, f"SELECT count(*) {where}", table)
        loads = _number(
            conn, f"SELECT count(*) {where} AND f.state = 'loaded' AND f.inserted = {ROWS}", table
        )
        print(f"{table:<28} {rows:>7,} {files:>5} {loads:>5}")
        messages = MESSAGES // len(TABLES)
        good = good and rows == messages * ROWS and files == loads == messages
    return good
