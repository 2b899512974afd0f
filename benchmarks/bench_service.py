"""The service as processes: a thousand idle feeds, an idle service, and small files from mail to commit."""

from __future__ import annotations

import contextlib
import mailbox
import os
import signal
import statistics
import subprocess
import time
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from harness import MAILFERRY, Figure, bare_start, from_tests, postgres, run, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HEADER = ("HAWB", "Status", "Pieces", "Weight", "City")
ROWS = 100


# --- a service and what it takes


@contextlib.contextmanager
def database(folder: Path) -> Iterator[str]:
    """A server of the benchmark's own, as [database] of a configuration."""
    with postgres(folder) as where:
        named = {"host": "host", "name": "dbname", "user": "user", "password": "password"}
        yield "[database]\n" + "".join(f'{name} = "{where[key]}"\n' for name, key in named.items())


@contextlib.contextmanager
def services(config: Path, count: int = 1) -> Iterator[list[psutil.Process]]:
    """So many workers of one configuration."""
    log = config.with_suffix(".log").open("wb")
    started = [
        subprocess.Popen([*MAILFERRY, "start", "--config", config], stdout=log, stderr=log)
        for _ in range(count)
    ]
    try:
        yield [psutil.Process(process.pid) for process in started]
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
        log.close()


def cpu(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of processes and their children, living and ended."""
    total = 0.0
    for process in processes:
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
        ended = process.cpu_times()
        total += ended.children_user + ended.children_system
    return total


def ask(head: str, query: str) -> int:
    """A number from the database that `[database]` names."""
    with _connected(head) as conn:
        return _number(conn, query)


def wait_until(head: str, query: str, value: int) -> None:
    with _connected(head) as conn:
        while _number(conn, query) < value:
            time.sleep(0.1)


def _connected(head: str) -> psycopg.Connection[Any]:
    values = dict(line.replace('"', "").split(" = ") for line in head.splitlines()[1:])
    return psycopg.connect(
        host=values["host"],
        dbname=values["name"],
        user=values["user"],
        password=values["password"],
        autocommit=True,
    )


def _number(conn: psycopg.Connection[Any], query: str) -> int:
    try:
        row = conn.execute(query.encode()).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    return int(row[0]) if row else 0


# --- feeds with nothing new


def idle_feeds(folder: Path) -> Iterator[Figure]:
    """A thousand event feeds that have nothing new, every five minutes: a minute of it, after each has run once."""
    feeds = 1000
    with database(folder) as head, simulate(["mail/outgoinglog"], start=0, end=1) as provider:
        announced = provider.announced["feeds"][0]
        sections = "".join(
            f'[events.feed-{number}]\napi_key = "{announced["api_key"]}"\ndomain = "{announced["domain"]}"\nurl = "{announced["list_url"]}"\n'
            f'log_file_name_format = "{{section}}_%Y-%m-%d_%H.log"\n'
            for number in range(feeds)
        )
        config = folder / "mailferry.toml"
        config.write_text(
            f'{head}[service]\ndata_dir = "data"\n[defaults.events]\nschedule = "5m"\nverbose = false\n{sections}'
        )
        with services(config) as [worker]:
            wait_until(head, "SELECT count(*) FROM mailferry.feeds WHERE ended_at IS NOT NULL", feeds)
            before, runs = cpu([worker]), ask(head, "SELECT sum(run) FROM mailferry.feeds")
            begun = time.monotonic()
            time.sleep(60)
            spent, took = cpu([worker]) - before, time.monotonic() - begun
            runs = ask(head, "SELECT sum(run) FROM mailferry.feeds") - runs
            memory = worker.memory_info().rss / 1e6
    # Each run, whatever share of the feeds fell into this minute.
    yield Figure(
        name="1,000 idle event feeds, a run",
        value=spent / max(runs, 1),
        limit=bare_start().cpu,
        unit="CPU s",
        against=f"a bare start with asyncio ({runs} runs in {took:.0f} s)",
        at_most=1.2,
    )
    yield Figure(
        name="1,000 idle event feeds, memory",
        value=memory,
        limit=200,
        unit="MB",
        against="200 MB",
        at_most=1.0,
    )


def idle_service(folder: Path) -> Iterator[Figure]:
    """Four event feeds and a mailbox, a minute with nothing to do."""
    with database(folder) as head, simulate(["mail/outgoinglog"], start=0, end=1) as provider:
        announced = provider.announced["feeds"][0]
        sections = "".join(
            f'[events.feed-{number}]\napi_key = "{announced["api_key"]}"\ndomain = "{announced["domain"]}"\nurl = "{announced["list_url"]}"\n'
            f'log_file_name_format = "{{section}}_%Y-%m-%d_%H.log"\n'
            for number in range(4)
        )
        mailbox.Maildir(folder / "Maildir")
        config = folder / "mailferry.toml"
        config.write_text(
            f'{head}[service]\ndata_dir = "data"\n{sections}[mailbox.shipments]\nmaildir = "Maildir"\ncreate_table = true\n'
        )
        with services(config) as [worker]:
            wait_until(head, "SELECT count(*) FROM mailferry.feeds WHERE ended_at IS NOT NULL", 5)
            time.sleep(5)
            before = cpu([worker])
            begun = time.monotonic()
            time.sleep(60)
            spent = (cpu([worker]) - before) / (time.monotonic() - begun) * 60
    yield Figure(
        name="idle service, 5 feeds, a minute",
        value=spent,
        limit=bare_start().cpu,
        unit="CPU s",
        against="a bare start with asyncio",
        at_most=7,
    )


# --- small files


def files(folder: Path) -> Iterator[Figure]:
    """Workbooks of 100 rows, one a message, each row new: from the Maildir to the commit, one worker and two."""
    with database(folder) as head:
        alone = _rate(folder / "one", head, workers=1)
        both = _rate(folder / "two", head, workers=2)
    yield Figure(
        name="files of 100 rows, one worker, four tables",
        value=alone,
        limit=15,
        unit="jobs/s",
        against="15 jobs/s",
        at_least=1.0,
    )
    yield Figure(
        name="files of 100 rows, two workers, four tables",
        value=both,
        limit=alone,
        unit="jobs/s",
        against="one worker",
        at_least=1.7,
    )


def one_load(folder: Path) -> Iterator[Figure]:
    """`mailferry load` of one message with a workbook of 100 rows: from the start of the process to the commit."""
    seconds = []
    with database(folder) as head:
        mailbox.Maildir(folder / "Maildir")
        config = folder / "mailferry.toml"
        config.write_text(
            f'{head}[service]\ndata_dir = "data"\n[mailbox.shipments]\nmaildir = "Maildir"\ncreate_table = true\nsubject_filter = ""\n'
        )
        # The first makes the table, and warms the disk.
        for _ in range(10):
            _deliver(folder / "Maildir", folder, 1)
            begun = time.time()
            run([*MAILFERRY, "load", "--config", config])
            with _connected(head) as conn:
                [(committed,)] = conn.execute("SELECT max(finished_at) FROM mailferry.jobs").fetchall()
            seconds.append(committed.timestamp() - begun)
    yield Figure(
        name="load of one file of 100 rows, start to commit",
        value=statistics.median(seconds[1:]),
        limit=0.8,
        unit="s",
        against="0.8 s",
        at_most=1,
    )


def _rate(folder: Path, head: str, *, workers: int, count: int = 400, tables: int = 4) -> float:
    """Jobs a second, from the moment when the mail is there to the last commit; start-up not counted."""
    folder.mkdir()
    sections = ""
    for table in range(tables):
        name = f"{folder.name}_{table}"
        mailbox.Maildir(folder / name)
        sections += (
            f'[mailbox.{name}]\nmaildir = "{name}"\nbase_dir = "{name}.d"\nsubject_filter = ""\n'
            f'target_table = "{name}"\ncreate_table = true\nschedule = "1h"\n'
        )
    config = folder / "mailferry.toml"
    config.write_text(f'{head}[service]\ndata_dir = "data"\n{sections}')
    done = f"SELECT count(*) FROM mailferry.jobs WHERE state = 'completed' AND feed LIKE '{folder.name}\\_%'"
    with services(config, workers):
        wait_until(
            head,
            "SELECT count(*) FROM mailferry.feeds WHERE ended_at IS NOT NULL AND watch_state = 'watching'"
            f" AND name LIKE '{folder.name}\\_%'",
            tables,
        )
        # One each warms everything up.
        for table in range(tables):
            _deliver(folder / f"{folder.name}_{table}", folder, 1)
        wait_until(head, done, tables)
        for table in range(tables):
            _deliver(folder / f"{folder.name}_{table}", folder, count // tables)
        begun = time.monotonic()
        wait_until(head, done, tables + count // tables * tables)
        return count / (time.monotonic() - begun)


def _deliver(root: Path, folder: Path, count: int) -> None:
    """So many messages at once: written beside the Maildir, and then moved in."""
    shared, written = from_tests("support_mail"), []
    for number in range(count):
        rows = [(os.urandom(6).hex(), "in transit", n, n / 7, "İzmir") for n in range(ROWS)]
        path = folder / f"{time.time_ns()}.{number}.bench"
        path.write_bytes(
            shared.mail(f"Shipments {number}", (f"{number}.xlsx", shared.workbook(HEADER, *rows)))
        )
        written.append(path)
    for path in written:
        path.rename(root / "new" / path.name)


BENCHMARKS = {"idle-feeds": idle_feeds, "idle-service": idle_service, "one-load": one_load, "files": files}
