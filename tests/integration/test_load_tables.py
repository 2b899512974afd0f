"""What a feed's table looks like after the first workbook, and whether it takes the next ones."""

# ruff: noqa: DTZ001 - cells have no time zone

from __future__ import annotations

import datetime as dt
import errno
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from support_database import Queried
from support_mail import Maildir, feed_of, mail, workbook

from mailferry import database
from mailferry.mailbox import pieces, run_once
from mailferry.mailbox.health import checks
from mailferry.mailbox.ledger import records, rows
from mailferry.mailbox.ledger.jobs import FileState
from mailferry.mailbox.preview import preview
from mailferry.mailbox.target import upsert
from mailferry.secrets import hide

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.mailbox.run_result import Run


class Setting(Queried):
    """A feed of a Maildir, and its database."""

    def __init__(self, base: Path, settings: DatabaseSettings) -> None:
        self.base = base
        self.maildir = Maildir(base / "Maildir")
        self.settings = settings

    def send(self, *rows: tuple[object, ...]) -> None:
        self.maildir.deliver(mail("Track and Trace", ("data.xlsx", workbook(*rows))))

    def load(self, **changes: Any) -> Run:
        return run_once.run(feed_of(self.base / "app", self.maildir.root, self.settings, **changes))


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def states(run: Run) -> list[FileState]:
    return [file.state for _, details in sorted(run.jobs.items()) for file in details.files]


def test_mail_makes_no_table_unless_that_is_allowed_and_waits_for_it(here: Setting) -> None:
    here.send(("HAWB", "Status"), ("1", "a"))
    feed = feed_of(here.base / "app", here.maildir.root, here.settings, create_table=False)
    run = run_once.run(feed)
    assert (run.status, run.exit_status) == ("blocked", 1)
    assert "no table tracking_data" in run.error
    assert "`mailferry preview 1`" in run.error
    assert here.query("SELECT state, error FROM mailferry.jobs") == [("pending", run.error)]
    assert not here.query("SELECT FROM pg_class WHERE relname = 'tracking_data'")
    (checked,) = (one for one in checks(feed) if one.name == "database")
    assert not checked.ok
    assert "mailferry preview FILE" in checked.text
    (path,) = (here.base / "app/pending").glob("*.xlsx")
    with database.connect(here.settings) as pool:
        (seen,) = preview(pool, feed, path, "data.xlsx")
    assert not seen.loads
    here.query(seen.create_sql)
    assert run_once.run(feed).exit_status == 0
    assert here.query("SELECT hawb, status, file_source FROM tracking_data") == [("1", "a", "data.xlsx")]


def test_a_key_with_a_space_in_its_name_works_for_every_file_not_only_for_the_one_that_made_the_table(
    here: Setting,
) -> None:
    here.send(("HAWB No", "Status"), ("1", "out"))
    assert here.load(unique_key="HAWB No").exit_status == 0
    here.send(("HAWB No", "Status"), ("1", "in"), ("2", "out"))
    assert here.load(unique_key="HAWB No").exit_status == 0
    assert here.query("SELECT hawb_no, status FROM tracking_data ORDER BY 1") == [("1", "in"), ("2", "out")]


def test_a_table_made_of_whole_numbers_and_midnights_takes_a_file_with_decimals_and_hours(
    here: Setting,
) -> None:
    header = ("HAWB", "Weight", "Sent", "Due")
    here.send(header, ("1", 2, dt.datetime(2024, 1, 2), dt.time(9)))
    here.send(header, ("2", 1.5, dt.datetime(2024, 1, 3, 10), dt.time(10, 30)))
    run = here.load()
    assert states(run) == [FileState.LOADED] * 2
    assert here.query("SELECT weight, sent FROM tracking_data ORDER BY hawb") == [
        (Decimal(2), dt.datetime(2024, 1, 2)),
        (Decimal("1.5"), dt.datetime(2024, 1, 3, 10)),
    ]


def test_a_table_with_two_columns_of_one_clean_name_is_loaded_by_its_key(here: Setting) -> None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute('CREATE TABLE tracking_data ("HAWB" text, hawb text PRIMARY KEY, status text)')
    here.send(("HAWB", "Status"), ("1", "out"))
    assert states(here.load()) == [FileState.LOADED]
    assert here.query("SELECT * FROM tracking_data") == [(None, "1", "out")]


def test_a_number_that_lost_its_digits_is_a_rejected_row_of_a_text_column(here: Setting) -> None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        conn.execute("CREATE TABLE tracking_data (hawb text PRIMARY KEY, parcel text)")
    here.send(("HAWB", "Parcel"), ("1", 9.4e21), ("2", 940011189922310), ("3", "9400111899223100"))
    assert states(here.load(max_rejected=0.5)) == [FileState.LOADED]
    assert here.query("SELECT hawb, parcel FROM tracking_data ORDER BY 1") == [
        ("2", "940011189922310"),
        ("3", "9400111899223100"),
    ]
    ((column, value, reason),) = here.query('SELECT "column", value, reason FROM mailferry.rejected_rows')
    assert (column, value) == ("parcel", "94" + "0" * 20)
    assert "lost digits" in reason


def test_a_defect_that_one_file_brings_out_is_on_record_and_those_behind_it_are_loaded(
    here: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hide("a-secret-word")
    once = [upsert.load]

    def load(*values: Any, **more: Any) -> upsert.Loaded:
        if once:
            once.pop()
            raise AssertionError("columns of a-secret-word")
        return whole(*values, **more)

    whole = upsert.load
    monkeypatch.setattr(upsert, "load", load)
    header = ("HAWB", "Status")
    here.maildir.deliver(
        mail(
            "Track and Trace",
            ("first.xlsx", workbook(header, ("1", "lost"))),
            ("second.xlsx", workbook(header, ("2", "there"))),
        )
    )
    here.send(header, ("3", "there"))
    with caplog.at_level(logging.ERROR, "mailferry"):
        run = here.load()
    assert states(run) == [FileState.REJECTED, FileState.LOADED, FileState.LOADED]
    (error,) = here.query("SELECT error FROM mailferry.files WHERE state = 'rejected'")[0]
    assert "AssertionError: columns of ****" in error
    assert "mailferry jobs retry" in error
    assert "Traceback" in caplog.text
    assert "a-secret-word" not in caplog.text
    assert here.query("SELECT hawb FROM tracking_data ORDER BY 1") == [("2",), ("3",)]


def test_a_defect_outside_of_any_file_fails_the_job_for_good_and_no_other(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    once: list[bool] = []

    def failing(*values: Any) -> Any:
        if once:
            once.pop()
            raise ZeroDivisionError
        return whole(*values)

    whole = rows.files_of
    monkeypatch.setattr(pieces, "files_of", failing)
    here.send(("HAWB",), ("1",))
    here.send(("HAWB",), ("2",))
    once.append(True)
    run = here.load()
    assert run.exit_status == 1
    assert [details.job.state for _, details in sorted(run.jobs.items())] == ["failed", "completed"]
    assert [details.job.error_kind for _, details in sorted(run.jobs.items())] == ["reject", None]
    assert here.query("SELECT hawb FROM tracking_data ORDER BY 1") == [("2",)]


def test_a_fault_of_the_machine_that_was_not_foreseen_is_tried_again(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "retry_delay", lambda _attempt: dt.timedelta(milliseconds=20))
    once = [OSError(errno.EMFILE, "Too many open files")]

    def load(*values: Any, **more: Any) -> upsert.Loaded:
        if once:
            raise once.pop()
        return whole(*values, **more)

    whole = upsert.load
    monkeypatch.setattr(upsert, "load", load)
    here.send(("HAWB",), ("1",))
    run = here.load()
    assert states(run) == [FileState.LOADED]
    assert [details.job.attempts for details in run.jobs.values()] == [2]
