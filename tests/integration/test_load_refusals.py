"""What the database says about one file refuses that file, or a row of it, with a reason; the mails behind it are loaded."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support_database import query
from support_mail import mail, workbook
from support_run import Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings

BASE = "CREATE TABLE tracking_data (hawb text PRIMARY KEY, status text, pieces integer)"


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def deliver(here: Setting, *rows: tuple[object, ...], name: str = "bad.xlsx") -> None:
    here.maildir.deliver(mail("Track and Trace", (name, workbook(*rows))))


def files(here: Setting) -> list[tuple[Any, ...]]:
    return here.query("SELECT state, coalesce(error, '') FROM mailferry.files ORDER BY id")


#: What stands in the database, the header of the first mail, settings, the reason.
REFUSED: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    "a system column of a table to be made": ("SELECT 1", ("HAWB", "xmin"), {}, "xmin.*in every table"),
    "a system column to be added": (
        BASE,
        ("HAWB", "Ctid"),
        {"unknown_columns": "add"},
        "ctid.*in every table",
    ),
    "a statement trigger": (
        BASE
        + """;
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF EXISTS (SELECT FROM tracking_data WHERE status = 'no') THEN RAISE 'not on sundays'; END IF; RETURN NULL; END$$;
        CREATE TRIGGER no AFTER INSERT ON tracking_data FOR EACH STATEMENT EXECUTE FUNCTION no()""",
        ("HAWB", "Status"),
        {"max_rejected": 0.1},
        "not on sundays",
    ),
    "a row larger than a page": (
        "SELECT 1",
        ("HAWB", *(f"text {n}" for n in range(1580))),
        {},
        "page of the database; load fewer.*unknown_columns",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_the_database_refuses_holds_up_no_mail_behind_it(here: Setting, case: str) -> None:
    statements, header, settings, reason = REFUSED[case]
    query(here.settings, statements)
    deliver(here, header, ("1", *["no" * (len(header) // 99 + 1)] * (len(header) - 1)))
    here.send(("2", "out", 3))
    run = here.load(**settings)
    assert run.exit_status == 1
    (refused, error), (loaded, _) = files(here)
    assert (refused, loaded) == ("rejected", "loaded")
    assert re.search(reason, error), error
    assert [row[0] for row in here.rows()] == ["2"]


@pytest.fixture
def role(database_settings: DatabaseSettings) -> Iterator[str]:
    """A user who owns none of the tables."""
    name = f"r{uuid.uuid4().hex}"
    query(
        database_settings,
        f"CREATE ROLE {name} LOGIN; GRANT ALL ON SCHEMA mailferry, temp_processing, public TO {name};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA mailferry TO {name}; GRANT ALL ON ALL SEQUENCES IN SCHEMA mailferry TO {name}",
    )
    yield name
    query(database_settings, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_a_table_of_another_owner_takes_all_files_but_those_that_need_a_new_column(
    here: Setting, role: str
) -> None:
    query(here.settings, f"{BASE}; GRANT SELECT, INSERT, UPDATE ON tracking_data TO {role}")
    here.settings = here.settings.model_copy(update={"user": role})
    deliver(here, ("HAWB", "New"), ("1", "x"))
    here.send(("2", "out", 3))
    here.load(unknown_columns="add")
    (refused, error), (loaded, _) = files(here)
    assert (refused, loaded) == ("rejected", "loaded")
    assert 'ALTER TABLE "public"."tracking_data" ADD COLUMN IF NOT EXISTS "new" text;' in error


def test_a_column_that_may_not_be_written_refuses_the_file_that_has_it(here: Setting, role: str) -> None:
    query(
        here.settings,
        f"{BASE}; GRANT SELECT ON tracking_data TO {role}; GRANT INSERT (hawb, status), UPDATE (hawb, status) ON tracking_data TO {role}",
    )
    here.settings = here.settings.model_copy(update={"user": role})
    here.send(("1", "out", 3))
    deliver(here, ("HAWB", "Status"), ("2", "in"))
    here.load()
    (refused, error), (loaded, _) = files(here)
    assert (refused, loaded) == ("rejected", "loaded")
    assert "permission denied" in error


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (f"{BASE}; GRANT SELECT ON tracking_data TO ROLE", "permission denied for table"),
        (
            f"{BASE.replace('tracking_data', 'base')}; CREATE VIEW tracking_data AS SELECT * FROM base",
            "is not a table",
        ),
        (
            (
                "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
                "CREATE FOREIGN TABLE tracking_data (hawb text) SERVER s"
            ),
            "is not a table",
        ),
        (
            "CREATE TABLE tracking_data (hawb text GENERATED ALWAYS AS ('1') STORED PRIMARY KEY)",
            "filled by the database",
        ),
        ("REVOKE CREATE ON SCHEMA public FROM public, ROLE", "permission denied for schema"),
        ("REVOKE ALL ON SCHEMA public FROM public, ROLE", "neither found nor made"),
    ],
)
def test_a_table_that_takes_no_file_stops_the_feed_until_a_person_acts(
    here: Setting, role: str, statements: str, reason: str
) -> None:
    query(here.settings, statements.replace("ROLE", role))
    here.settings = here.settings.model_copy(update={"user": role})
    here.send(("1", "out", 3))
    run = here.load()
    assert (run.exit_status, reason in run.error) == (1, True), run.error
    assert [state for state, _ in files(here)] == ["pending"]


def test_a_header_of_a_column_that_the_database_fills_is_ignored_with_a_warning(here: Setting) -> None:
    query(
        here.settings,
        "CREATE TABLE tracking_data (hawb text PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED,"
        " number int GENERATED ALWAYS AS IDENTITY, job text, _job int)",
    )
    deliver(here, ("HAWB", "A", "Twice", "Number", "New", "Job", "_job"), ("1", 4, 5, 6, 7, "8", 9))
    assert here.load(unknown_columns="add").exit_status == 0
    assert here.query("SELECT hawb, a, twice, number, new, job, _job FROM tracking_data") == [
        ("1", 4, 8, 1, 7, "8", 1)
    ]
    ((warnings,),) = here.query("SELECT warnings FROM mailferry.files")
    assert [warning.split("'")[1] for warning in warnings] == ["Twice", "Number", "_job"]


@pytest.mark.parametrize("encoding", ["LATIN1", "LATIN5"])
def test_what_the_databases_encoding_does_not_have_is_a_rejected_row_or_file(
    tmp_path: Path, new_database: Callable[..., DatabaseSettings], encoding: str
) -> None:
    here = Setting(tmp_path, new_database(encoding=encoding))
    arabic = "\u0634\u062d\u0646\u0629"
    header = ("HAWB", "Status")
    deliver(here, header, ("1", "gr\u00fcn"), ("2", arabic), ("3", "ok"), name=f"{arabic}.xlsx")
    here.maildir.deliver(
        mail(f"Track and Trace {arabic}", ("data.xlsx", workbook((*header, arabic), ("4", "x", "y"))))
    )
    deliver(here, header, (arabic, "key"), ("5", "\u015eehir" if encoding == "LATIN5" else "\u00e7a"))
    assert here.load(unknown_columns="add").exit_status == 1
    assert [state for state, _ in files(here)] == ["loaded", "rejected", "loaded"]
    assert "encoding" in files(here)[1][1]
    assert [row[0] for row in here.query("SELECT hawb FROM tracking_data ORDER BY 1")] == ["1", "3", "5"]
    said = here.query('SELECT "row", "column", value, reason FROM mailferry.rejected_rows ORDER BY id')
    assert [(row, column, value) for row, column, value, _ in said] == [
        (3, "status", "????"),
        (2, "hawb", "????"),
    ]
    assert all("a database in UTF8" in reason or "UTF8 holds" in reason for *_, reason in said)
