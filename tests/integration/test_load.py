"""One run of one mailbox, end to end, on a real PostgreSQL and real mailboxes."""

from __future__ import annotations

import csv
import datetime as dt
import io
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from support_mail import Maildir, feed_of, mail, workbook

from mailferry import database
from mailferry.errors import Reject, Retry
from mailferry.mailbox import health, ledger, loader, staging
from mailferry.mailbox.explain import explain
from mailferry.mailbox.folders import Folders
from mailferry.mailbox.gather import gather
from mailferry.mailbox.jobs import Details, FileState, JobState
from mailferry.mailbox.maildir import MaildirMailbox
from mailferry.mailbox.work import only_runner, opened
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed

HEADER = ("HAWB", "Status", "Pieces")


class Setting:
    """A feed, its mailbox, its database and its folders."""

    def __init__(self, base: Path, settings: DatabaseSettings) -> None:
        self.base = base / "app"
        self.maildir = Maildir(base / "Maildir")
        self.settings = settings

    def feed(self, **changes: Any) -> MailboxFeed:
        return feed_of(self.base, self.maildir.root, self.settings, **changes)

    def load(self, **changes: Any) -> loader.Run:
        return loader.run(self.feed(**changes))

    def gather(self) -> None:
        """Only store and record what has arrived."""
        folders = Folders(base=self.base)
        folders.prepare()
        with opened(self.feed(), folders) as work:
            list(gather(work, Counter()))

    def send(
        self, *rows: tuple[object, ...], subject: str = "Track and Trace", name: str = "data.xlsx"
    ) -> str:
        return self.maildir.deliver(mail(subject, (name, workbook(HEADER, *rows))))

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(**database.parameters(self.settings)) as conn:
            return conn.execute(text.encode(), values).fetchall()

    def rows(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT hawb, status, pieces FROM tracking_data ORDER BY hawb")

    def places(self) -> list[str]:
        """Files below the base, but for the lock."""
        found = (path.relative_to(self.base) for path in self.base.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.name != ".lock")


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def one(run: loader.Run) -> Details:
    (details,) = run.jobs.values()
    return details


def test_a_workbook_in_a_matching_mail_becomes_rows(here: Setting) -> None:
    here.send(("00012", "out", 3), ("A-7", "in", 1))
    here.send(("9", "no", 9), subject="Something else")
    run = here.load()
    assert (run.status, run.exit_status, run.arrived) == ("done", 0, 1)
    details = one(run)
    assert details.job.state is JobState.COMPLETED
    assert details.files[0].state is FileState.LOADED
    assert (details.files[0].counts.inserted, details.files[0].target) == (2, "public.tracking_data")
    assert here.rows() == [("00012", "out", 3), ("A-7", "in", 1)]
    assert here.maildir.flags() == {"1.test.host": "S", "2.test.host": ""}
    day = dt.datetime.now().astimezone().date()
    (place,) = here.places()
    assert place.startswith(f"processed/{day}/")
    assert place.endswith("data.xlsx")
    assert str(here.base / place) == here.query("SELECT path FROM mailferry.files")[0][0]
    assert (
        here.query("SELECT file_source FROM tracking_data WHERE processed_at IS NOT NULL")
        == [("data.xlsx",)] * 2
    )


def zipped(**books: bytes) -> bytes:
    """An archive with one report in each folder."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for folder, book in books.items():
            archive.writestr(f"{folder}/report.xlsx", book)
    return made.getvalue()


def test_files_of_one_name_in_a_zip_are_all_loaded(here: Setting) -> None:
    books = {number: workbook(HEADER, (number, "out", 1)) for number in ("a", "b", "c")}
    here.maildir.deliver(mail("Track and Trace", ("all.zip", zipped(**books))))
    here.gather()
    pending = here.places()
    assert len(pending) == 3
    (here.base / pending[0]).unlink()
    assert here.load().exit_status == 0
    assert [row[0] for row in here.rows()] == ["a", "b", "c"]
    assert here.query("SELECT member, name, state FROM mailferry.files ORDER BY id") == [
        (f"{number}/report.xlsx", "report.xlsx", "loaded") for number in ("a", "b", "c")
    ]
    assert [Path(place).name for place in here.places()] == [Path(place).name for place in pending]


def test_a_run_behind_another_feeds_job_says_so_and_fails(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.gather()
    here.query("UPDATE mailferry.jobs SET feed = 'old' RETURNING id")
    here.send(("2", "b", 2))
    run = here.load()
    assert (run.status, run.exit_status) == ("done", 1)
    assert any("`mailferry jobs cancel 1`" in trouble for trouble in run.troubles)
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        ledger.cancel(conn, 1)
    assert here.load().exit_status == 0


@pytest.mark.parametrize("kept", [True, False])
def test_rejected_rows_are_loaded_by_a_retry_once_the_cause_is_corrected(
    here: Setting, *, kept: bool
) -> None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("CREATE TABLE tracking_data (hawb varchar(2) PRIMARY KEY, status text, pieces integer)")
    here.send(("1", "a", 1), ("2", "b", 2), ("long", "c", 3))
    here.load()
    assert [row[0] for row in here.rows()] == ["1", "2"]
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("ALTER TABLE tracking_data ALTER hawb TYPE varchar(20)")
        ledger.retry(conn, 1)
    if not kept:
        (place,) = (place for place in here.places() if place.endswith(".xlsx"))
        (here.base / place).unlink()
    run = here.load()
    assert (run.exit_status, one(run).files[0].counts.inserted) == (0, 1)
    assert [row[0] for row in here.rows()] == ["1", "2", "long"]
    assert here.query("SELECT count(*) FROM mailferry.rejected_rows") == [(0,)]
    assert not [place for place in here.places() if place.endswith(".csv")]


def test_a_message_moved_out_and_back_brings_nothing_old_back(here: Setting) -> None:
    first = mail("Track and Trace", ("data.xlsx", workbook(HEADER, ("1", "old", 1))))
    here.maildir.deliver(first)
    here.send(("1", "new", 1))
    here.load()
    here.maildir.deliver(first)
    assert one(here.load()).files[0].state is FileState.DUPLICATE
    assert here.rows() == [("1", "new", 1)]


def test_a_run_with_nothing_new_changes_nothing(here: Setting) -> None:
    here.send(("1", "out", 3))
    here.load()
    before = here.query("SELECT xmin::text, * FROM tracking_data")
    run = here.load()
    assert (run.exit_status, run.arrived, run.jobs) == (0, 0, {})
    assert here.query("SELECT xmin::text, * FROM tracking_data") == before


def test_a_correction_updates_only_the_rows_that_differ(here: Setting) -> None:
    here.send(("1", "out", 3), ("2", "out", 4))
    here.send(("1", "out", 3), ("2", "back", 4), ("3", "new", 1))
    here.load()
    assert here.rows() == [("1", "out", 3), ("2", "back", 4), ("3", "new", 1)]
    counts = here.query("SELECT inserted, updated, unchanged FROM mailferry.files ORDER BY id")
    assert counts == [(2, 0, 0), (1, 1, 1)]


def test_messages_are_loaded_in_the_order_of_their_arrival_not_of_their_names(here: Setting) -> None:
    for status in ("first", "second", "third"):
        here.send(("1", status, 1))
    here.load()
    assert here.rows() == [("1", "third", 1)]


def test_the_same_bytes_and_the_same_content_are_duplicates(here: Setting) -> None:
    book = workbook(HEADER, ("1", "out", 3))
    again = workbook(HEADER, ("1", "out", 3), (None, None, None), name="Other")
    assert book != again
    for content in (book, book, again):
        here.maildir.deliver(mail("Track and Trace", ("data.xlsx", content)))
    run = here.load()
    assert run.exit_status == 0
    assert here.query("SELECT state, duplicate_of FROM mailferry.files ORDER BY id") == [
        ("loaded", None),
        ("duplicate", 1),
        ("duplicate", 1),
    ]
    assert set(here.maildir.flags().values()) == {"S"}


def test_an_earlier_file_sent_again_is_loaded_when_another_has_changed_the_table_since(here: Setting) -> None:
    book = workbook(HEADER, ("1", "out", 3))
    other = workbook(HEADER, ("1", "back", 3))
    for content in (book, other, book):
        here.maildir.deliver(mail("Track and Trace", ("data.xlsx", content)))
    here.load()
    assert here.rows() == [("1", "out", 3)]
    assert here.query("SELECT DISTINCT state FROM mailferry.files") == [("loaded",)]


def test_broken_files_are_rejected_with_their_reason_and_disturb_nothing(here: Setting) -> None:
    good = workbook(HEADER, ("1", "out", 3))
    here.maildir.deliver(
        mail(
            "Track and Trace",
            ("cut.xlsx", good[: len(good) // 2]),
            ("text.xls", b"a;b\n1;2\n"),
            ("good.xlsx", good),
        )
    )
    here.maildir.deliver(mail("Track and Trace", ("no-key.xlsx", workbook(("A", "B"), (1, 2)))))
    here.send(("2", "in", 1))
    run = here.load()
    assert here.rows() == [("1", "out", 3), ("2", "in", 1)]
    states = {f.name: (f.state, f.error) for d in run.jobs.values() for f in d.files}
    assert states["good.xlsx"] == (FileState.LOADED, None)
    assert states["cut.xlsx"][0] is states["text.xls"][0] is states["no-key.xlsx"][0] is FileState.REJECTED
    assert all(error for state, error in states.values() if state is FileState.REJECTED)
    assert "hawb" in (states["no-key.xlsx"][1] or "")
    assert [d.job.state for _, d in sorted(run.jobs.items())] == ["completed", "failed", "completed"]
    assert run.exit_status == 1
    assert here.maildir.flags() == {"1.test.host": "S", "2.test.host": "", "3.test.host": "S"}
    assert [Path(place).parent.name for place in here.places()] == [
        "failed",
        *[str(dt.datetime.now().astimezone().date())] * 2,
    ]


def test_a_failed_message_left_unread_is_not_loaded_again(here: Setting) -> None:
    here.maildir.deliver(mail("Track and Trace", ("text.xls", b"a;b\n1;2\n")))
    assert here.load().exit_status == 1
    run = here.load()
    assert (run.exit_status, run.arrived, run.jobs) == (0, 0, {})


def test_rejected_rows_stand_in_a_table_and_in_a_csv_beside_the_file(here: Setting) -> None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute(
            "CREATE TABLE tracking_data (hawb varchar(50) PRIMARY KEY, status text, pieces integer CHECK (pieces < 100))"
        )
    here.send(
        ("1", "a", 1),
        ("2", "=HYPERLINK()", "many"),
        (None, "c", 3),
        ("4", "d", 400),
        ("5", "e", 5),
        ("6", "f", 6),
        ("7", "g", 7),
    )
    run = here.load()
    (file,) = one(run).files
    assert (file.state, file.counts.inserted, file.counts.rejected) == (FileState.LOADED, 4, 3)
    stored = here.query('SELECT sheet, "row", "column", value FROM mailferry.rejected_rows ORDER BY "row"')
    assert [(row[1], row[2], row[3]) for row in stored if row[1] != 5] == [
        (3, "pieces", "many"),
        (4, "hawb", ""),
    ]
    assert {row[0] for row in stored} == {"Sheet1"}
    assert {row[1] for row in stored} == {3, 4, 5}
    (rejects,) = [place for place in here.places() if place.endswith(".rejects.csv")]
    lines = list(csv.reader((here.base / rejects).read_text("utf-8-sig").splitlines()))
    assert lines[0] == ["sheet", "row", "column", "value", "reason"]
    assert len(lines) == 4
    assert rejects.removesuffix(".rejects.csv") in here.places()


def test_rows_that_the_server_refuses_are_told_by_their_sheet_and_row(here: Setting, tmp_path: Path) -> None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute(
            "CREATE TABLE tracking_data (hawb text PRIMARY KEY, status text, pieces integer CHECK (pieces < 100))"
        )
    tabs = [
        Tab(name="North", rows=[("Report",), HEADER, ("1", "a", 1), ("2", "b", 200)]),
        Tab(name="South", rows=[HEADER, ("3", "c", 300), ("4", "d", 4), ("5", "e", 5)]),
    ]
    book = xlsx(tmp_path / "book.xlsx", *tabs).read_bytes()
    here.maildir.deliver(mail("Track and Trace", ("book.xlsx", book)))
    assert here.load(sheet="all").exit_status == 0
    rejected = here.query('SELECT sheet, "row" FROM mailferry.rejected_rows ORDER BY id')
    assert rejected == [("North", 4), ("South", 2)]
    assert [row[0] for row in here.rows()] == ["1", "4", "5"]


def test_more_rejects_than_allowed_fail_the_file_as_a_whole_and_leave_no_table(here: Setting) -> None:
    here.send(("1", "a", 1), (None, "b", 2), (None, "c", 3))
    run = here.load()
    (file,) = one(run).files
    assert (one(run).job.state, file.state, file.counts.inserted) == (JobState.FAILED, FileState.REJECTED, 0)
    assert file.error
    assert "2 of 3 rows were rejected" in file.error
    assert here.query("SELECT to_regclass('tracking_data')::text") == [(None,)]
    assert any(place.startswith("failed/") and place.endswith(".rejects.csv") for place in here.places())
    assert here.query("SELECT count(*) FROM mailferry.rejected_rows") == [(2,)]


@pytest.mark.parametrize(("policy", "columns"), [("ignore", 5), ("add", 6), ("refuse", 5)])
def test_unknown_columns_are_ignored_added_or_refused(here: Setting, policy: str, columns: int) -> None:
    here.send(("1", "a", 1))
    here.load()
    here.maildir.deliver(
        mail("Track and Trace", ("x.xlsx", workbook((*HEADER, "Weight kg"), ("2", "b", 2, 1.5))))
    )
    run = here.load(unknown_columns=policy)
    expected = FileState.REJECTED if policy == "refuse" else FileState.LOADED
    assert one(run).files[0].state is expected
    found = here.query(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'tracking_data'"
    )
    assert len(found) == columns
    if policy == "add":
        assert here.query("SELECT hawb, weight_kg::float FROM tracking_data ORDER BY 1") == [
            ("1", None),
            ("2", 1.5),
        ]


def test_two_messages_of_one_message_id_are_both_loaded(here: Setting) -> None:
    for number in ("1", "2"):
        book = workbook(HEADER, (number, "a", 1))
        here.maildir.deliver(mail("Track and Trace", ("d.xlsx", book), message_id="<same@example.com>"))
    here.load()
    assert [row[0] for row in here.rows()] == ["1", "2"]


def test_a_message_without_a_spreadsheet_completes_with_its_reasons(here: Setting) -> None:
    here.maildir.deliver(mail("Track and Trace", ("picture.bin", b"\x89PNG\r\n\x1a\n" + bytes(100))))
    details = one(here.load())
    assert (details.job.state, details.files) == (JobState.COMPLETED, ())
    assert len(details.passed) == 2
    assert here.places() == []


def die(here: Setting, step: str) -> None:
    """Load in another process, which is killed the moment it comes to `step`, a function's full name."""
    code = (
        "import os, pickle, pkgutil, signal, sys\n"
        "from mailferry.mailbox import loader\n"
        "feed = pickle.load(sys.stdin.buffer)\n"
        "owner, _, name = sys.argv[1].rpartition('.')\n"
        "kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(pkgutil.resolve_name(owner), name, kill)\n"
        "loader.run(feed)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, step], input=pickle.dumps(here.feed()), check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "step",
    [
        "mailferry.mailbox.ledger.record",
        "mailferry.mailbox.ledger.claim",
        "mailferry.mailbox.ledger.finish_file",
        "mailferry.mailbox.ledger.finish_job",
        "mailferry.mailbox.folders.sync_folder",
        "mailferry.mailbox.maildir.MaildirMailbox.mark",
        "mailferry.mailbox.ledger.marked",
    ],
)
def test_after_a_kill_at_any_step_the_next_run_makes_all_right(here: Setting, step: str) -> None:
    here.send(("1", "a", 1), ("2", "b", 2), (None, "c", 3))
    here.maildir.deliver(mail("Track and Trace", ("cut.xlsx", workbook(HEADER)[:700])))
    here.send(("2", "later", 2))
    die(here, step)
    assert here.load().status == "done"
    assert here.rows() == [("1", "a", 1), ("2", "later", 2)]
    assert here.query("SELECT state FROM mailferry.jobs ORDER BY received") == [
        ("completed",),
        ("failed",),
        ("completed",),
    ]
    assert here.query("SELECT inserted, updated FROM mailferry.files WHERE state = 'loaded' ORDER BY id") == [
        (2, 0),
        (0, 1),
    ]
    assert here.query("SELECT count(*) FROM mailferry.rejected_rows") == [(1,)]
    assert here.maildir.flags() == {"1.test.host": "S", "2.test.host": "", "3.test.host": "S"}
    places = here.places()
    assert [place.split("/")[0] for place in places] == ["processed"] * 3
    assert sum(place.endswith(".rejects.csv") for place in places) == 1
    recorded = {path for (path,) in here.query("SELECT path FROM mailferry.files WHERE path <> ''")}
    assert recorded == {str(here.base / place) for place in places if not place.endswith(".csv")}
    assert here.load().jobs == {}


def test_after_a_crash_between_commit_and_marking_the_message_is_only_marked(here: Setting) -> None:
    here.send(("1", "a", 1))
    die(here, "mailferry.mailbox.maildir.MaildirMailbox.mark")
    assert here.rows() == [("1", "a", 1)]
    assert here.maildir.flags() == {"1.test.host": ""}
    before = here.query("SELECT xmin::text FROM tracking_data")
    run = here.load()
    assert (run.exit_status, run.arrived, run.jobs) == (0, 0, {})
    assert here.maildir.flags() == {"1.test.host": "S"}
    assert here.query("SELECT xmin::text FROM tracking_data") == before
    assert here.query("SELECT attempts FROM mailferry.jobs") == [(1,)]


def test_a_file_lost_from_pending_is_fetched_again(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.gather()
    (place,) = here.places()
    (here.base / place).unlink()
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1)]


def test_leftovers_that_no_job_knows_are_deleted(here: Setting) -> None:
    (here.base / "pending").mkdir(parents=True)
    (here.base / "pending" / "0123-4567-old.xlsx").write_bytes(b"x")
    (here.base / "pending" / ".incoming-abc").write_bytes(b"x")
    here.send(("1", "a", 1))
    here.load()
    assert [place.split("/")[0] for place in here.places()] == ["processed"]


def test_a_job_and_its_message_that_are_both_gone_fail_with_that_reason(here: Setting) -> None:
    name = here.send(("1", "a", 1))
    here.gather()
    (here.base / here.places()[0]).unlink()
    (here.maildir.root / "new" / name).unlink()
    run = here.load()
    assert one(run).job.state is JobState.FAILED
    assert "neither the file nor its message" in (one(run).job.error or "")


def test_of_two_runs_at_once_one_works_and_the_other_passes_by(here: Setting) -> None:
    here.send(("1", "a", 1))
    feed = here.feed()
    folders = Folders(base=feed.base_dir)
    folders.prepare()
    with folders.alone() as alone:
        assert alone
        assert here.load().status == "skipped"
    other = feed.model_copy(update={"base_dir": here.base.parent / "other"})
    with opened(feed, folders) as work, only_runner(work) as alone:
        assert alone
        run = loader.run(other)
    assert (run.status, run.exit_status, run.jobs) == ("skipped", 0, {})
    assert loader.run(other).status == "done"
    assert here.rows() == [("1", "a", 1)]


def test_a_passing_fault_of_a_job_is_tried_again(here: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    here.send(("1", "a", 1))
    monkeypatch.setattr(ledger, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))
    faults = iter([Retry("away"), Retry("away")])
    real = ledger.finish_file

    def finish_file(*args: Any, **kwargs: Any) -> None:
        for fault in faults:
            raise fault
        real(*args, **kwargs)

    monkeypatch.setattr(ledger, "finish_file", finish_file)
    run = here.load()
    assert (one(run).job.state, one(run).job.attempts) == (JobState.COMPLETED, 3)
    assert here.rows() == [("1", "a", 1)]


def test_a_fault_that_does_not_pass_fails_the_job_after_three_retries_and_a_person_can_retry_it(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    here.send(("2", "b", 2))
    monkeypatch.setattr(ledger, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))

    def finish_file(conn: Any, held: Any, *args: Any, **kwargs: Any) -> None:
        if held.job.id == 1:
            raise Retry("still away")
        real(conn, held, *args, **kwargs)

    real = ledger.finish_file
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "finish_file", finish_file)
        run = here.load()
    assert run.exit_status == 1
    assert [(d.job.state, d.job.attempts) for _, d in sorted(run.jobs.items())] == [
        ("failed", 4),
        ("completed", 1),
    ]
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        ledger.retry(conn, 1)
    assert here.load().exit_status == 0
    assert [row[0] for row in here.rows()] == ["1", "2"]
    assert here.maildir.flags() == {"1.test.host": "S", "2.test.host": "S"}
    assert {place.split("/")[0] for place in here.places()} == {"processed"}


def test_a_cancelled_job_is_not_loaded_and_can_be_wanted_after_all(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.gather()
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        ledger.cancel(conn, 1)
    assert here.load().jobs == {}
    assert here.places() == []
    assert here.maildir.flags() == {"1.test.host": ""}
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        ledger.retry(conn, 1)
    here.load()
    assert here.rows() == [("1", "a", 1)]


def test_a_table_without_a_unique_index_stops_the_run_until_somebody_acts(here: Setting) -> None:
    here.send(("1", "a", 1))
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("CREATE TABLE tracking_data (hawb text, status text, pieces int)")
    run = here.load()
    assert (run.status, run.exit_status) == ("blocked", 1)
    assert "CREATE UNIQUE INDEX" in run.error
    assert here.query("SELECT state, attempts FROM mailferry.jobs") == [("pending", 0)]
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("CREATE UNIQUE INDEX ON tracking_data (hawb)")
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1)]


def test_a_database_that_is_away_is_tried_again_and_then_reported(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    waits: list[int] = []

    def delay(attempt: int) -> dt.timedelta:
        waits.append(attempt)
        return dt.timedelta(milliseconds=1)

    monkeypatch.setattr(ledger, "retry_delay", delay)
    away = here.settings.model_copy(update={"host": "127.0.0.1", "port": 1})
    run = loader.run(here.feed().model_copy(update={"database": away}))
    assert (run.status, run.exit_status, waits) == ("failed", 3, [1, 2, 3])
    assert "reached" in run.error
    assert here.maildir.flags() == {"1.test.host": ""}
    assert here.load().exit_status == 0


def test_connections_cut_in_the_middle_of_a_load_cost_nothing(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    monkeypatch.setattr(ledger, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))
    real = ledger.finish_file
    cuts = iter([True])

    def finish_file(*args: Any, **kwargs: Any) -> None:
        for _ in cuts:
            here.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        real(*args, **kwargs)

    monkeypatch.setattr(ledger, "finish_file", finish_file)
    run = here.load()
    assert run.exit_status == 0, run
    assert here.rows() == [("1", "a", 1)]
    assert here.query("SELECT state, attempts FROM mailferry.jobs") == [("completed", 2)]


def test_a_message_that_cannot_be_fetched_is_given_up_when_all_else_works(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    here.send(("2", "b", 2))
    monkeypatch.setattr(ledger, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=1))
    real = MaildirMailbox.summary

    def summary(self: MaildirMailbox, ref: Any) -> Any:
        if ref.uid.startswith("1."):
            raise Retry("the server refused")
        return real(self, ref)

    monkeypatch.setattr(MaildirMailbox, "summary", summary)
    run = here.load()
    assert run.exit_status == 1
    assert here.rows() == [("2", "b", 2)]
    (error,) = here.query("SELECT error FROM mailferry.jobs WHERE state = 'failed'")
    assert "the server refused" in error[0]
    monkeypatch.setattr(MaildirMailbox, "summary", real)
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        ledger.retry(conn, here.query("SELECT id FROM mailferry.jobs WHERE state = 'failed'")[0][0])
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1), ("2", "b", 2)]


def test_a_message_beyond_reading_is_rejected_as_a_whole(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))

    def summary(*_: object) -> None:
        raise Reject("beyond reading")

    monkeypatch.setattr(MaildirMailbox, "summary", summary)
    details = one(here.load())
    assert (details.job.state, details.job.subject) == (JobState.FAILED, "Track and Trace")
    assert "beyond reading" in (details.files[0].error or "")


def test_old_files_and_their_rejected_rows_go_after_their_time(here: Setting) -> None:
    here.send(("1", "a", 1), (None, "b", 2), ("3", "c", 3))
    here.maildir.deliver(mail("Track and Trace", ("no-key.xlsx", workbook(("A",), (1,)))))
    here.load()
    assert len(here.places()) == 3
    later = dt.datetime.now().astimezone() + dt.timedelta(days=29)
    loader.run(here.feed(), clock=lambda: later)
    assert len(here.places()) == 3
    later += dt.timedelta(days=3)
    assert loader.run(here.feed(retention_days=0), clock=lambda: later).exit_status == 0
    assert len(here.places()) == 3
    loader.run(here.feed(), clock=lambda: later)
    assert here.places() == []
    assert here.query("SELECT count(*) FROM mailferry.rejected_rows") == [(0,)]
    assert here.query("SELECT count(*) FROM mailferry.jobs") == [(2,)]


def test_a_claim_is_renewed_as_long_as_the_work_goes_on(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.send(("1", "a", 1))
    monkeypatch.setattr("mailferry.mailbox.work.RENEWAL", 0.01)
    real = staging.load

    def load(*args: Any, **kwargs: Any) -> Any:
        first = here.query("SELECT lease_until FROM mailferry.jobs")
        while here.query("SELECT lease_until FROM mailferry.jobs") == first:
            pass  # without a renewal the test's time-out ends this
        return real(*args, **kwargs)

    monkeypatch.setattr(staging, "load", load)
    assert here.load().exit_status == 0
    assert here.rows() == [("1", "a", 1)]


def test_asked_to_stop_a_run_ends_after_the_step_it_is_at(here: Setting) -> None:
    here.send(("1", "a", 1))
    stop = threading.Event()
    stop.set()
    run = loader.run(here.feed(), stop=stop)
    assert (run.status, run.exit_status, run.arrived) == ("stopped", 0, 0)
    assert here.load().exit_status == 0


def test_with_marks_left_alone_the_ledger_alone_knows(here: Setting) -> None:
    here.send(("1", "a", 1))
    assert here.load(mark="leave").arrived == 1
    run = here.load(mark="leave")
    assert (run.arrived, run.jobs, here.maildir.flags()) == (0, {}, {"1.test.host": ""})


def test_over_imap_a_workbook_is_loaded_and_its_message_seen(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    book = workbook(HEADER, ("1", "out", 3))
    account.deliver(mail("Track and Trace: Güncelleme", ("data.xlsx", book)), mail("Other", ("o.xlsx", book)))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings()}
    )
    run = loader.run(feed)
    assert (run.exit_status, run.arrived) == (0, 1), run
    assert account.flags() == {1: {"\\Seen"}, 2: set()}
    assert loader.run(feed).arrived == 0


def test_over_imap_checks_and_explanations_change_nothing(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    book = workbook(HEADER, ("1", "out", 3))
    account.deliver(mail("Track and Trace", ("data.xlsx", book)), mail("Other", ("o.xlsx", book)))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings()}
    )
    found = list(health.checks(feed))
    assert [check.ok for check in found] == [True] * 4, found
    assert "1 messages match" in found[3].text
    assert [message.verdict for message in explain(feed, limit=5)] == ["passed over", "taken"]
    assert account.flags() == {1: set(), 2: set()}
    refused = account.settings(password="another-password")
    (mailbox,) = [c for c in health.checks(feed.model_copy(update={"mailbox": refused})) if not c.ok]
    assert (mailbox.name, mailbox.unreachable) == ("mailbox", False)
    assert "app password" in mailbox.text
    run = loader.run(feed.model_copy(update={"mailbox": refused}))
    assert (run.status, run.exit_status) == ("blocked", 1)


def test_over_imap_a_changed_uidvalidity_loads_nothing_twice(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    account.deliver(mail("Track and Trace", ("data.xlsx", workbook(HEADER, ("1", "out", 3)))))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings()}
    )
    assert loader.run(feed).arrived == 1
    with psycopg.connect(**database.parameters(database_settings)) as conn:
        conn.execute("UPDATE mailferry.jobs SET uidvalidity = uidvalidity + 1, uid = '77', marked_at = NULL")
    with account.client() as client:
        client.select_folder("INBOX")
        client.remove_flags([1], [b"\\Seen"])
    run = loader.run(feed)
    assert (run.exit_status, run.arrived, run.jobs) == (0, 0, {})
    assert account.flags() == {1: {"\\Seen"}}
    with psycopg.connect(**database.parameters(database_settings)) as conn:
        found = conn.execute("SELECT uid, marked_at IS NOT NULL FROM mailferry.jobs").fetchall()
    assert found == [("1", True)]


def test_over_imap_a_message_that_only_looks_like_an_old_one_is_a_job_of_its_own(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    account.deliver(mail("Track and Trace", ("data.xlsx", workbook(HEADER, ("1", "out", 3)))))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings(mark="leave")}
    )
    assert loader.run(feed).arrived == 1
    with psycopg.connect(**database.parameters(database_settings)) as conn:
        conn.execute(
            "UPDATE mailferry.jobs SET uidvalidity = uidvalidity + 1, received = received - interval '1 day'"
        )
    run = loader.run(feed)
    assert (run.exit_status, run.arrived) == (0, 1)
    assert one(run).files[0].state is FileState.DUPLICATE
