"""Mailbox feeds: workbooks into a private PostgreSQL as users have it (on disk, fsync on), and a poll of a large mailbox."""

from __future__ import annotations

import contextlib
import csv as csv_module
import json
import os
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import psycopg
from harness import Figure, from_tests, run
from imapclient import IMAPClient  # type: ignore[import-untyped]  # has no py.typed
from psycopg.conninfo import make_conninfo
from shipments import COLUMNS, KEY, table_sql, upsert_sql, workbook

from mailferry import database, postgres_programs
from mailferry.mailbox.source.imap import ImapMailbox
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Column, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness import Cost

    from mailferry.config.mailbox import MailboxSettings

HERE = Path(__file__).parent
TABLE = "public.shipments"
ROWS = 100_000
#: What a worksheet holds beside its header.
MOST_ROWS = 1_048_575
ROUNDS = 3
_THREE_DECIMALS = re.compile(r"-?[0-9]+\.[0-9]{3}(?![0-9:])")


# --- the database


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What one load took."""

    client: Cost
    #: CPU seconds of all processes of the server.
    server_cpu: float
    #: Bytes of write-ahead log.
    wal: int

    @property
    def said(self) -> dict[str, Any]:
        """The JSON of load_workbook.py."""
        said: dict[str, Any] = json.loads(self.client.output)
        return said


@dataclass(frozen=True, kw_only=True)
class Server:
    """A private PostgreSQL with an empty table for the rows."""

    where: dict[str, str]
    conn: database.Connection
    folder: Path

    @property
    def conninfo(self) -> str:
        return make_conninfo(**self.where)

    def empty(self) -> None:
        """A table without rows, and nothing left over for a checkpoint to do."""
        self.conn.execute(f"DROP TABLE IF EXISTS {TABLE}".encode())
        self.conn.execute(table_sql(TABLE).encode())

    def measure(self, command: Sequence[str | Path]) -> Loading:
        """Run a command that loads."""
        self.conn.execute("CHECKPOINT")
        cpu, wal = self._cpu(), self._wal()
        client = run(command)
        return Loading(client=client, server_cpu=self._cpu() - cpu, wal=self._wal() - wal)

    def ours(self, *paths: Path, declared: bool = False) -> Loading:
        """Load workbooks the product's way; with all columns `declared`, or none."""
        options = ("--declared",) if declared else ()
        script = HERE / "load_workbook.py"
        return self.measure([sys.executable, script, *options, self.conninfo, TABLE, KEY, *paths])

    def pandas(self, path: Path) -> Loading:
        """Load a workbook the reference's way."""
        user = f"{self.where['user']}:{self.where['password']}"
        url = f"postgresql+psycopg2://{user}@/{self.where['dbname']}?host={self.where['host']}"
        return self.measure([sys.executable, "-W", "ignore", HERE / "reference_pandas.py", url, TABLE, path])

    def copy(self, csv: Path) -> Loading:
        """Load a CSV with psql, by the fewest statements."""
        script = csv.with_suffix(".sql")
        script.write_text(
            "BEGIN;\n"
            f"CREATE UNLOGGED TABLE staged AS SELECT NULL::bigint AS _row, * FROM {TABLE} WITH NO DATA;\n"
            f"\\copy staged FROM '{csv}' (FORMAT csv)\n"
            f"{upsert_sql(TABLE, 'staged', order='_row')};\n"
            "DROP TABLE staged;\nCOMMIT;\n"
        )
        psql = postgres_programs.installed()[0].folder / "psql"
        return self.measure([psql, "-Xq", "-v", "ON_ERROR_STOP=1", "-f", script, self.conninfo])

    def count(self) -> int:
        row = self.conn.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchone()
        assert row
        return int(row[0])

    def _wal(self) -> int:
        row = self.conn.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
        assert row
        return int(row[0])

    def _cpu(self) -> float:
        """Seconds of the postmaster and its children, those that have ended too."""
        postmaster = (self.folder / "data" / "postmaster.pid").read_text().split()[0]
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it ended this moment
                # proc(5): after the name in brackets come state, ppid ..., utime, stime, cutime, cstime.
                fields = path.read_text().rpartition(")")[2].split()
                if path.parent.name == postmaster:
                    ticks += sum(map(int, fields[11:15]))
                elif fields[1] == postmaster:
                    ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Server]:
    """A server with an empty table."""
    with harness.postgres(folder) as where:
        database.prepare(dict(where), "temp_processing")
        with psycopg.connect(make_conninfo(**where), autocommit=True) as conn:
            server = Server(where=where, conn=conn, folder=folder / "postgres")
            server.empty()
            yield server


def median(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The pair (value, limit) with the median ratio."""
    return sorted(values, key=lambda pair: pair[0] / pair[1])[len(values) // 2]


# --- one workbook of 100,000 rows


def load(folder: Path) -> Iterator[Figure]:
    """File on disk to committed upsert, three rounds of the product and `\\copy` in turn, and pandas.

    Of the product also where the sheet is not streamed, as it has a hidden column, and of the rows as text.
    """
    path = workbook(folder / "book.xlsx", ROWS)
    other = workbook(folder / "other.xlsx", ROWS, hidden=True)
    csv = _as_csv(path)
    delimited = _as_delimited(csv, folder / "delimited.csv")
    ways = (
        (Server.ours, path),
        (Server.ours, other),
        (Server.ours, delimited),
        (Server.copy, csv),
    )
    with postgres(folder) as server:
        rounds = [[_loaded(server, way, given) for way, given in ways] for _ in range(ROUNDS)]
        # Once, as it takes a minute and a half, and is further away than rounds differ.
        pandas = _loaded(server, Server.pandas, path)
    figures: dict[str, Callable[[Loading], float]] = {
        "CPU": lambda loading: loading.client.cpu + loading.server_cpu,
        "wall time": lambda loading: loading.client.wall,
    }
    for name, figure in figures.items():
        # Turned round: how many times less.
        yield Figure(
            name=f"100,000 rows, {name} of pandas",
            value=figure(pandas),
            limit=statistics.median(figure(ours) for ours, *_ in rounds),
            unit="s",
            against=f"the product's {name}",
            at_least=20,
        )
    # From the file on disk to the commit, with the child's start but not the interpreter's, which serves many files.
    for place, what, most in ((0, ".xlsx, streamed", 2.6), (1, ".xlsx, by calamine", 3.2), (2, "text", 1.9)):
        taken, bare = median([(one[place].said["seconds"][0], one[3].client.wall) for one in rounds])
        yield Figure(
            name=f"100,000 rows, {what}, file to commit",
            value=taken,
            limit=bare,
            unit="s",
            against="\\copy of ready CSV, same upsert",
            at_most=most,
        )
    yield Figure(
        name="100,000 rows, parent's memory",
        value=max(ours.said["parent_mb"] for ours, *_ in rounds),
        limit=80,
        unit="MB",
        against="80 MB resident at most",
        at_most=1,
    )


def _loaded(server: Server, way: Callable[[Server, Path], Loading], path: Path) -> Loading:
    server.empty()
    loading = way(server, path)
    assert server.count() == ROWS
    return loading


def _as_csv(path: Path) -> Path:
    """The same rows as the product hands them to COPY."""
    contract = RowContract(key=KEY, columns=tuple(Column(name=name, type=kind) for name, kind in COLUMNS))
    csv = path.with_suffix(".csv")
    with Reader() as reader, reader.open(path, Kind.XLSX, contract) as sheet, csv.open("wb") as file:
        file.writelines(sheet.chunks)
    return csv


def _as_delimited(ready: Path, path: Path) -> Path:
    """The same rows as a spreadsheet program saves them; a third decimal gets a fourth, for it might be thousands."""
    with (
        ready.open(encoding="utf-8", newline="") as rows,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv_module.writer(file, delimiter=";")
        writer.writerow([name for name, _ in COLUMNS])
        writer.writerows(
            [_THREE_DECIMALS.sub(r"\g<0>0", field) for field in row[1:]] for row in csv_module.reader(rows)
        )
    return path


def declared(folder: Path) -> Iterator[Figure]:
    """The same with all twelve columns declared, in turn with none; of delimited text each different one is then read."""
    path = workbook(folder / "book.xlsx", ROWS)
    text = _as_delimited(_as_csv(path), folder / "delimited.csv")
    with postgres(folder) as server:
        for name, given, most in ((".xlsx", path, 1.15), ("text", text, 1.5)):
            rounds = []
            for _ in range(ROUNDS):
                taken = []
                for ruled in (True, False):
                    server.empty()
                    loading = server.ours(given, declared=ruled)
                    taken.append(loading.client.cpu + loading.server_cpu)
                    assert server.count() == ROWS
                rounds.append((taken[0], taken[1]))
            with_rules, bare = median(rounds)
            yield Figure(
                name=f"100,000 rows, {name}, 12 columns declared, CPU",
                value=with_rules,
                limit=bare,
                unit="s",
                against="the same without",
                at_most=most,
            )


def again(folder: Path) -> Iterator[Figure]:
    """The same file a second time."""
    path = workbook(folder / "book.xlsx", ROWS)
    with postgres(folder) as server:
        first, second = server.ours(path), server.ours(path)
    assert first.said["inserted"] == second.said["unchanged"] == ROWS
    yield Figure(
        name="the same file again, rows written",
        value=second.said["inserted"] + second.said["updated"],
        limit=ROWS,
        unit="rows",
        against="rows in the file",
        at_most=0,
    )
    yield Figure(
        name="the same file again, WAL",
        value=second.wal / 1e6,
        limit=first.wal / 1e6,
        unit="MB",
        against="the WAL of the first time",
        at_most=0.2,
    )


# --- a full worksheet


def full_sheet(folder: Path) -> Iterator[Figure]:
    """1,048,576 rows with the header, in turn with 100,000, each into a table that is there and one that is not."""
    small, large = (workbook(folder / f"{rows}.xlsx", rows) for rows in (ROWS, MOST_ROWS))
    rates = []
    memory = 0.0
    with postgres(folder) as server:
        for turn in range(ROUNDS):
            per_row = []
            for path, rows in ((large, MOST_ROWS), (small, ROWS)):
                server.empty()
                if turn == ROUNDS - 1:  # all types have to be found out
                    server.conn.execute(f"DROP TABLE {TABLE}".encode())
                loading = server.ours(path)
                assert loading.said["inserted"] == rows
                memory = max(memory, loading.said["child_mb"])
                per_row.append(loading.client.wall / rows * 1e6)
            rates.append((per_row[0], per_row[1]))
    many, few = median(rates)
    yield Figure(
        name="1,048,576 rows, wall time",
        value=many,
        limit=few,
        unit="us/row",
        against="the same of 100,000",
        at_most=1.3,
    )
    yield Figure(
        name="1,048,576 rows, the child's memory",
        value=memory,
        limit=200,
        unit="MB",
        against="200 MB resident at most",
        at_most=1,
    )


# --- small files


def small_files(folder: Path) -> Iterator[Figure]:
    """Files of 100 rows, one after the other, through one child."""
    paths = [workbook(folder / f"{number}.xlsx", 100, first=number * 100) for number in range(201)]
    with postgres(folder) as server:
        seconds = []
        for _ in range(ROUNDS):
            server.empty()
            # The first waits for the child to start.
            seconds.append(sum(server.ours(*paths).said["seconds"][1:]))
    yield Figure(
        name="files of 100 rows, warm child",
        value=(len(paths) - 1) / statistics.median(seconds),
        limit=15,
        unit="files/s",
        against="15 files/s to commit",
        at_least=1,
    )


# --- a mailbox


def poll(_: Path) -> Iterator[Figure]:
    """10,000 messages, 20 of them unread and matching: what a poll gets from the server."""
    with from_tests("fixtures_dovecot").running_dovecot() as server:
        many, few = _mailbox(server, 10_000), _mailbox(server, 20)
        polled, alone, bare = _counted(many, _poll()), _counted(few, _poll()), _counted(many, _bare_envelopes)
    for limit, against, most in (
        (alone, "a mailbox of those 20 alone", 1.5),
        (bare, "ENVELOPE, BODYSTRUCTURE of 20", 4),
    ):
        yield Figure(
            name="poll, 20 of 10,000 messages",
            value=polled / 1000,
            limit=limit / 1000,
            unit="KB",
            against=against,
            at_most=most,
        )


def _mailbox(server: Any, messages: int) -> Any:
    """An account whose last 20 messages are unread and match; of the others most are read, the unread do not match."""
    account = from_tests("fixtures_dovecot").Account(dovecot=server, user=f"{messages}@example.com")
    for number in range(messages):
        wanted, read = number >= messages - 20, number % 4 > 0
        subject = "Daily Track and Trace list" if wanted or read else "Minutes of the meeting"
        content = _message(subject, number, 200_000 if wanted else 2000)
        account.put(f"{1_700_000_000 + number}.M{number}.host", content, seen=read and not wanted)
    return account


def _counted(account: Any, poll: Callable[[MailboxSettings], None]) -> int:
    """Bytes from the server during a poll. One before it is not counted: servers index what they see first."""
    without_starttls = from_tests("fixtures_dovecot").without_starttls
    with from_tests("support_link").Link(account.dovecot.imap, without_starttls) as proxy:
        settings = account.settings(host="127.0.0.1", port=proxy.port, ssl=False, ca_file=None)
        poll(settings)
        before: int = proxy.bytes
        poll(settings)
        total: int = proxy.bytes
    return total - before


def _poll() -> Callable[[MailboxSettings], None]:
    """Polls that remember which messages are not wanted, as the ledger does for the product."""
    strangers: set[str] = set()

    def poll(settings: MailboxSettings) -> None:
        mailbox = ImapMailbox(settings)
        try:
            new = [ref for ref in mailbox.unmarked() if ref.uid not in strangers]
            look = Matcher.of(settings).sort(mailbox.heads(new))
            strangers.update(head.ref.uid for head in look.strangers)
            found = [mailbox.summary(head.ref) for head in look.wanted]
        finally:
            mailbox.close()
        assert len([one for one in found if one and len(one.parts) == 2]) == 20

    return poll


def _bare_envelopes(settings: MailboxSettings) -> None:
    assert settings.password
    with IMAPClient(settings.host, port=settings.port, ssl=False, timeout=60) as client:
        client.login(settings.username, settings.password.get_secret_value())
        client.select_folder("INBOX", readonly=True)
        uids = client.search(["UNSEEN", "SUBJECT", settings.subject_filter])
        assert len(client.fetch(uids, ["ENVELOPE", "BODYSTRUCTURE"])) == 20


def _message(subject: str, number: int, size: int) -> bytes:
    """Headers of a usual length, a line of text and a spreadsheet's part of so many bytes."""
    hops = "".join(
        f"Received: from relay{hop}.example.com by mx.example.com; Mon, 2 Nov 2026 08:00:0{hop} +0300\n"
        for hop in range(4)
    )
    filler = ("A" * 76 + "\n") * (size // 77)
    return (
        f"{hops}From: Branch <branch@example.com>\nTo: lists@example.com\nSubject: {subject}\n"
        f"Message-ID: <{number}@example.com>\nDate: Mon, 2 Nov 2026 08:00:09 +0300\nMIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/plain\n\nThe list.\n--b\n'
        'Content-Type: application/octet-stream; name="list.xlsx"\nContent-Transfer-Encoding: base64\n'
        f'Content-Disposition: attachment; filename="list.xlsx"\n\n{filler}--b--\n'
    ).encode()


BENCHMARKS = {
    "load": load,
    "declared": declared,
    "again": again,
    "full-sheet": full_sheet,
    "small-files": small_files,
    "poll": poll,
}
