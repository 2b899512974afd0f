"""One run of one mailbox, end to end, on a real PostgreSQL and a real Maildir: what becomes of messages, files and rows."""

from __future__ import annotations

import csv
import datetime as dt
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from support_mail import HEADER, mail, workbook
from support_run import Setting, one
from support_workbooks import protected

from mailferry import database
from mailferry.clock import local_now
from mailferry.mailbox import run_once
from mailferry.mailbox.ledger import admin, records
from mailferry.mailbox.ledger.jobs import FileState, JobState
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from mailferry.config.database import DatabaseSettings


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


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
    archive = zipped(**books)
    here.maildir.deliver(mail("Track and Trace", ("all.zip", archive)))
    here.gather()
    pending = [place for place in here.places() if place.endswith("report.xlsx")]
    assert len(pending) == 3
    (here.base / pending[0]).unlink()
    assert here.load().exit_status == 0
    assert [row[0] for row in here.rows()] == ["a", "b", "c"]
    assert here.query("SELECT member, name, state FROM mailferry.files ORDER BY id") == [
        (f"{number}/report.xlsx", "report.xlsx", "loaded") for number in ("a", "b", "c")
    ]
    (kept,) = here.places()
    assert kept.startswith("processed/")
    assert (here.base / kept).read_bytes() == archive


def test_an_archive_is_kept_as_it_came_and_its_files_can_be_retried(
    here: Setting,
) -> None:
    books = {"good": workbook(HEADER, ("1", "a", 1))}
    books |= {name: workbook(HEADER, *[(None, "b", 1)] * 2, (name, "b", 1)) for name in ("bad", "worse")}
    archive = zipped(**books)
    here.maildir.deliver(mail("Track and Trace", ("all.zip", archive)))
    assert here.load().exit_status == 1
    failed = [place for place in here.places() if place.startswith("failed/")]
    assert sorted(place[33:] for place in failed) == ["all.zip", *["report.xlsx.rejects.csv"] * 2]
    (kept,) = (here.base / place for place in failed if place.endswith("all.zip"))
    assert kept.read_bytes() == archive
    assert here.query("SELECT DISTINCT original FROM mailferry.files") == [(str(kept),)]
    # The message is gone: the archive has them.
    for message in (here.maildir.root / "cur").iterdir():
        message.unlink()
    for share in (0.5, 1):
        with psycopg.connect(**database.parameters(here.settings)) as conn:
            admin.retry(conn, 1)
        here.load(max_rejected=share)
        assert kept.exists() == (share < 1)
    assert here.query("SELECT DISTINCT state FROM mailferry.files") == [("loaded",)]
    found = sorted(here.places())
    assert all(place.startswith("processed/") for place in found)
    assert sorted(place[47:] for place in found) == ["all.zip", *["report.xlsx.rejects.csv"] * 2]


def test_what_a_mail_inflates_to_is_not_kept(here: Setting) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "ab":
            archive.writestr(f"{name}.csv", b"no;key\r\n" * (25 * 2**20 // 8))
    message = mail("Track and Trace", ("all.zip", made.getvalue()))
    here.maildir.deliver(message)
    assert [file.state for file in one(here.load()).files] == [FileState.REJECTED] * 2
    kept = sum((here.base / place).stat().st_size for place in here.places())
    assert (kept, kept < len(message) < 2**18) == (len(made.getvalue()), True), "of 50 MiB"


def test_a_run_behind_another_feeds_job_says_so_and_fails(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.gather()
    here.query("UPDATE mailferry.jobs SET feed = 'old' RETURNING id")
    here.send(("2", "b", 2))
    run = here.load()
    assert (run.status, run.exit_status) == ("done", 1)
    assert any("`mailferry jobs cancel 1`" in trouble for trouble in run.troubles)
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.cancel(conn, 1)
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
        admin.retry(conn, 1)
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
        *["failed"] * 2,
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


def test_mail_waits_in_the_mailbox_while_the_disk_is_nearly_full(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_RETRIES", 0)
    here.send(("1", "a", 1))
    run = here.load(min_free=1 << 60)
    assert (run.status, run.exit_status, run.arrived) == ("failed", 1, 0)
    assert "have to stay free (min_free)" in run.error
    assert [place for place in here.places() if not place.startswith(".")] == []
    assert here.load(min_free=0).exit_status == 0
    assert [row[0] for row in here.rows()] == ["1"]


def test_what_is_over_the_bytes_of_a_day_waits_for_tomorrow(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.send(("2", "b", 2))
    run = here.load(max_day_bytes=1)
    assert (run.status, run.exit_status, run.arrived) == ("done", 1, 1)
    assert ["until tomorrow, or until that is raised" in trouble for trouble in run.troubles] == [True]
    assert [row[0] for row in here.rows()] == ["1"]
    tomorrow = local_now() + dt.timedelta(days=1)
    run = run_once.run(here.feed(max_day_bytes=1), clock=lambda: tomorrow)
    assert (run.exit_status, run.arrived) == (0, 1)
    assert [row[0] for row in here.rows()] == ["1", "2"]


def test_a_sender_who_sends_more_than_a_day_allows_waits_and_holds_up_no_other(here: Setting) -> None:
    for key, name in (("1", "A"), ("2", "B"), ("3", "C"), ("4", "")):
        sender = f"{name} <Many@example.com>" if name else "few@example.com"
        book = workbook(HEADER, (key, "a", 1))
        here.maildir.deliver(mail("Track and Trace", ("data.xlsx", book), sender=sender))
    for arrived in (3, 0):
        run = here.load(max_sender_messages=2)
        assert (run.status, run.exit_status, run.arrived) == ("done", 1, arrived)
        assert run.troubles == [
            "1 messages of many@example.com wait in the mailbox until tomorrow: max_sender_messages allows 2 of one sender a day"
        ]
        assert [row[0] for row in here.rows()] == ["1", "2", "4"]
    tomorrow = local_now() + dt.timedelta(days=1)
    run = run_once.run(here.feed(max_sender_messages=2), clock=lambda: tomorrow)
    assert (run.exit_status, run.arrived) == (0, 1)
    assert [row[0] for row in here.rows()] == ["1", "2", "3", "4"]


def test_rows_that_the_server_refuses_are_reported_by_their_sheet_and_row(
    here: Setting, tmp_path: Path
) -> None:
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


@pytest.mark.parametrize(("policy", "columns"), [("ignore", 6), ("add", 7), ("refuse", 6)])
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


def test_a_message_whose_files_could_not_be_taken_is_refused_with_their_reasons(here: Setting) -> None:
    here.maildir.deliver(mail("Track and Trace", ("picture.bin", b"\x89PNG\r\n\x1a\n" + bytes(100))))
    run = here.load()
    details = one(run)
    assert (run.exit_status, details.job.state, details.job.refused) == (1, JobState.FAILED, True)
    assert [file.name for file in details.files] == ["picture.bin"]
    assert "picture.bin: not a spreadsheet but" in (details.job.error or "")
    assert len(details.skipped) == 1
    assert here.places() == []


def test_old_files_and_their_rejected_rows_go_after_their_time(here: Setting) -> None:
    here.send(("1", "a", 1), (None, "b", 2), ("3", "c", 3))
    here.maildir.deliver(mail("Track and Trace", ("no-key.xlsx", workbook(("A",), (1,)))))
    here.load()
    assert len(here.places()) == 3
    later = dt.datetime.now().astimezone() + dt.timedelta(days=29)
    run_once.run(here.feed(), clock=lambda: later)
    assert len(here.places()) == 3
    later += dt.timedelta(days=3)
    assert run_once.run(here.feed(retention_days=0), clock=lambda: later).exit_status == 0
    assert len(here.places()) == 3
    run_once.run(here.feed(), clock=lambda: later)
    assert here.places() == []
    assert here.query("SELECT count(*) FROM mailferry.rejected_rows") == [(0,)]
    assert here.query("SELECT count(*) FROM mailferry.jobs") == [(2,)]


def test_delimited_text_in_the_feeds_charset_becomes_rows(here: Setting) -> None:
    text = "hawb;status;pieces\r\nC1;Gümrükte Şube;3\r\n".encode("cp1254")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("rapor.csv", text)
    here.maildir.deliver(mail("Track and Trace", ("rapor.zip", made.getvalue())))
    assert here.load().exit_status == 0
    assert here.rows() == [("C1", "Gümrükte Şube", "3")]


def test_a_zip_that_only_calls_itself_a_workbook_is_refused(here: Setting) -> None:
    data = Path(__file__).parent.parent / "data" / "workbooks"
    for name in ("zip_named.xlsx", "without_workbook.xlsx"):
        here.maildir.deliver(mail("Track and Trace", (name, (data / name).read_bytes())))
    run = here.load()
    assert [details.job.state for details in run.jobs.values()] == [JobState.FAILED] * 2
    assert sorted(str(file.error) for details in run.jobs.values() for file in details.files) == [
        "a workbook that has lost its parts: neither a list of contents nor a workbook is in it",
        "a zip archive without a workbook in it, whatever its name says",
    ]


def test_a_protected_workbook_waits_for_its_password(here: Setting, tmp_path: Path) -> None:
    made = protected(tmp_path / "a.xlsx", "gizli-parola", Tab(rows=[list(HEADER), ["P1", "out", 3]]))
    here.maildir.deliver(mail("Track and Trace", ("a.xlsx", made.read_bytes())))
    details = one(here.load())
    assert details.job.state is JobState.FAILED
    assert "write the password into the feed's passwords_file" in (details.files[0].error or "")
    passwords = tmp_path / "passwords"
    passwords.write_text("another\ngizli-parola\n", "utf-8")
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, details.job.id)
    assert one(here.load(passwords_file=passwords)).job.state is JobState.COMPLETED
    assert here.rows() == [("P1", "out", 3)]
