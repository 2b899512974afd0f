"""Cells that are empty, and rows that are absent: what they do to a row that the table has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from support_mail import HEADER, mail, workbook
from support_run import Setting, one
from test_table import as_csv

from mailferry import database
from mailferry.config.columns import Blanks, ColumnRule, Route
from mailferry.config.mailbox_feed import Absent
from mailferry.mailbox import health
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.target import absent, history, upsert
from mailferry.mailbox.target.absent import Scope
from mailferry.mailbox.target.origins import Origin
from mailferry.mailbox.target.table import Target
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def send(here: Setting, *keys: str, sender: str = "a@example.com", files: int = 1, bad: int = 0) -> str:
    """A list of these keys, spread over so many files."""
    rows: list[list[tuple[object, ...]]] = [[(key, "x", 1) for key in keys[n::files]] for n in range(files)]
    rows[-1] += [(f"bad {n}", "x", "no number") for n in range(bad)]
    books = [(f"{n}.xlsx", workbook(HEADER, *some)) for n, some in enumerate(rows)]
    return here.maildir.deliver(mail("Track and Trace", *books, sender=f"Any Name <{sender}>"))


def keys(here: Setting) -> str:
    return " ".join(key for key, *_ in here.rows())


def undo(here: Setting, job: int) -> history.Undone | None:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        return admin.undo(conn, job).rows


# --- cells


def test_an_empty_cell_leaves_the_value_of_the_columns_that_keep_it(db: Connection) -> None:
    db.execute("CREATE TABLE t (k text PRIMARY KEY, a int NOT NULL, ip inet, note text)")
    target = Target.inspect(db, "t", "k")
    assert target is not None

    def load(*rows: Any) -> upsert.Loaded:
        rules = upsert.Rules(keep_blanks=frozenset({"a", "ip"}))
        return upsert.load(db, target, ["k", "a", "ip", "note"], as_csv(*rows), Origin(file="x"), rules)

    load(("1", 1, "10.0.0.1", "n"), ("2", 2, None, "n"))
    done = load(("1", None, None, "n"), ("2", None, "10.0.0.2", None), ("3", None, None, None))
    assert (done.counts.unchanged, done.counts.updated, done.counts.rejected) == (1, 1, 1)
    assert (done.rejected[0].row, done.rejected[0].column) == (3, "a")
    assert db.execute("SELECT k, a, host(ip), note FROM t ORDER BY 1").fetchall() == [
        ("1", 1, "10.0.0.1", "n"),
        ("2", 2, "10.0.0.2", None),
    ]


def test_a_column_says_for_itself_what_its_empty_cells_do(here: Setting) -> None:
    rules = (ColumnRule(name="status", blanks=Blanks.NULL),)
    here.send(("1", "a", 1))
    here.send(("1", None, None))
    assert here.load(blanks="keep", columns=rules).exit_status == 0
    assert here.rows() == [("1", None, 1)]


def test_a_key_that_is_written_in_another_way_is_in_the_list(db: Connection) -> None:
    db.execute("CREATE TABLE t (k numeric PRIMARY KEY, a text)")
    target = Target.inspect(db, "t", "k")
    assert target is not None
    scope = Scope(feed="f", sender="s", whole_feed=False, what=Absent.DELETE, most=1, received=None)
    for job, number in enumerate(("1", "1.0", "1.00"), 1):
        origin = Origin(file="x", job_id=job)
        upsert.load(db, target, ["k", "a"], as_csv((number, job), (2, 2)), origin, upsert.Rules(scope=scope))
        assert absent.settle(db, target, scope, origin, keep=False) == (0, "")
    assert db.execute("SELECT k::text, a FROM t ORDER BY k").fetchall() == [("1", "3"), ("2", "2")]


# --- rows


@pytest.mark.parametrize("kept", [True, False])
def test_rows_that_a_later_list_of_the_sender_does_not_have_are_deleted_and_no_others(
    here: Setting, *, kept: bool
) -> None:
    settings = {"absent": "delete", "max_absent": 0.5, "history": kept}
    send(here, "a", "b", "c", files=2)
    send(here, "x", "b", sender="B@example.com")
    here.load(**settings)
    here.query("INSERT INTO tracking_data (hawb) VALUES ('own')")
    send(here, "a", "d", files=2, sender="A@Example.com")
    run = here.load(**settings)
    assert keys(here) == "a b d own x"  # b is the other sender's by now
    assert sum(file.counts.absent for file in one(run).files) == 1
    send(here, "d")
    here.load(**settings)
    assert keys(here) == "b d own x"
    if kept:
        assert undo(here, 4) == history.Undone(restored=1)
        assert undo(here, 3) == history.Undone(deleted=1, restored=1)
        assert keys(here) == "a b c own x"
        send(here, "c")
        here.load(**settings)
        assert keys(here) == "b c own x"


def test_rows_are_marked_as_absent_until_they_are_sent_again(here: Setting) -> None:
    def marked() -> str:
        return " ".join(
            key
            for (key,) in here.query(
                "SELECT hawb FROM tracking_data WHERE absent_since IS NOT NULL ORDER BY 1"
            )
        )

    settings = {"absent": "mark", "max_absent": 0.5, "history": True}
    for listed in ("a b c", "b c", "b c", "a b"):
        send(here, *listed.split())
        here.load(**settings)
    assert (keys(here), marked()) == ("a b c", "c")
    counts = here.query("SELECT inserted, updated, unchanged, absent FROM mailferry.files ORDER BY id")
    assert counts == [(3, 0, 0, 0), (0, 0, 2, 1), (0, 0, 2, 0), (0, 1, 1, 1)]
    undo(here, 4)
    assert marked() == "a"
    undo(here, 2)
    assert marked() == ""


def test_a_list_that_lacks_too_many_rows_is_refused_until_a_person_wants_it(here: Setting) -> None:
    settings = {"absent": "delete"}
    send(here, *"abcdefghij")
    send(here, *"abcdefghi")
    here.load(**settings)
    assert keys(here) == "a b c d e f g h i"
    send(here, *"abcdefg", "new")
    run = here.load(**settings)
    error = one(run).files[0].error or ""
    assert "2 of the 9 rows that a@example.com sent before are absent" in error
    assert "mailferry jobs retry 3" in error
    assert keys(here) == "a b c d e f g h i"
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, 3)
    here.load(**settings)
    assert keys(here) == "a b c d e f g new"


def test_a_list_that_is_not_whole_or_not_the_latest_removes_nothing(here: Setting, tmp_path: Path) -> None:
    settings = {"absent": "delete", "max_absent": 1, "order": "received"}
    send(here, "a", "b", "c", "d")
    here.load(**settings)
    send(here, "a", "b", bad=1)  # a row is rejected
    here.load(**settings)
    assert keys(here) == "a b c d"
    broken = ("2.xlsx", b"PK\x03\x04 broken")
    book = ("1.xlsx", workbook(HEADER, ("a", "x", 1)))
    here.maildir.deliver(mail("Track and Trace", broken, book, sender="a@example.com"))
    here.load(**settings)
    assert keys(here) == "a b c d"
    warnings = here.query("SELECT warnings FROM mailferry.files WHERE warnings <> '{}' ORDER BY id")
    assert ["were rejected" in warnings[0][0][-1], "1 files of the message" in warnings[1][0][-1]] == [
        True,
        True,
    ]
    rows = [HEADER, ("a", "x", 1), ("b", "x", 1)]
    filtered = xlsx(
        tmp_path / "filtered.xlsx", Tab(name="List", rows=rows, hidden=frozenset({3}))
    ).read_bytes()
    books = [("1.xlsx", filtered), ("2.xlsx", workbook(HEADER, ("c", "x", 1)))]
    here.maildir.deliver(mail("Track and Trace", *books, sender="a@example.com"))
    run = here.load(**settings, hidden="skip")
    assert keys(here) == "a b c d"
    assert [file.counts.left_out for file in one(run).files] == [1, 0]
    assert "1 files of the message" in one(run).files[1].counts.warnings[-1]
    here.maildir.deliver(mail("Track and Trace", books[0], sender="a@example.com"))
    run = here.load(**settings, hidden="skip")
    assert keys(here) == "a b c d"
    assert "are hidden and were left out" in one(run).files[0].counts.warnings[-1]
    send(here, "a")
    here.load(**settings)
    assert keys(here) == "a"
    older = here.maildir.root / "new" / send(here, "z")
    os.utime(older, (1_600_000_000, 1_600_000_000))
    run = here.load(**settings)
    assert keys(here) == "a z"
    assert "job 6 brought a later one" in one(run).files[0].counts.warnings[-1]


def test_a_file_that_is_done_again_after_another_list_removes_nothing_of_that(here: Setting) -> None:
    settings = {"absent": "delete", "max_absent": 1, "order": "arrival"}
    here.query("CREATE TABLE tracking_data (hawb text PRIMARY KEY, status varchar(3), pieces int)")
    send(here, "a", "c", "b")
    here.load(**settings)
    books = [
        (f"{key}.xlsx", workbook(HEADER, (key, status, 1), ("ok", "x", 1)))
        for key, status in (("a", "x"), ("c", "long"))
    ]
    here.maildir.deliver(mail("Track and Trace", *books, sender="a@example.com"))
    send(here, "a", "b")
    here.load(**settings)
    assert keys(here) == "a b"
    here.query("ALTER TABLE tracking_data ALTER status TYPE text")
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, 2)
    here.load(**settings)
    assert keys(here) == "a b c ok"


def test_by_feed_all_senders_write_one_list(here: Setting) -> None:
    settings = {"absent": "delete", "absent_scope": "feed", "max_absent": 1}
    send(here, "a", "b")
    send(here, "c", sender="b@example.com")
    here.load(**settings)
    assert keys(here) == "c"


def test_each_table_of_a_message_has_a_list_of_its_own(here: Setting, tmp_path: Path) -> None:
    routes = (Route(sheet="A", table="a"), Route(sheet="B", table="b"))
    for first, second in (("1 2", "3 4"), ("1", "3")):
        tabs = [
            Tab(name=name, rows=(("HAWB",), *((key,) for key in keys.split())))
            for name, keys in (("A", first), ("B", second))
        ]
        here.maildir.deliver(
            mail("Track and Trace", ("d.xlsx", xlsx(tmp_path / "book.xlsx", *tabs).read_bytes()))
        )
        run = here.load(absent="delete", max_absent=0.5, routes=routes)
    assert [file.counts.absent for file in one(run).files] == [1, 1]
    assert here.query("SELECT hawb FROM a UNION ALL SELECT hawb FROM b") == [("1",), ("3",)]


def test_a_table_whose_rows_cannot_be_marked_stops_the_feed_with_the_statement_to_run(here: Setting) -> None:
    def checked(what: str) -> tuple[bool, str]:
        found = [one for one in health.checks(here.feed(absent=what, history=True)) if one.name == "database"]
        return found[0].ok, found[0].text

    remedy = 'ALTER TABLE "public"."tracking_data" ADD COLUMN "absent_since" timestamptz;'
    assert checked("mark")[0]  # it would be made
    here.query("CREATE TABLE tracking_data (hawb text PRIMARY KEY, status text, pieces int)")
    send(here, "a")
    assert remedy in here.load(absent="mark").error
    assert (checked("mark")[0], remedy in checked("mark")[1]) == (False, True)
    assert checked("delete")[0]
    here.query(remedy)
    assert checked("mark")[0]
    assert here.load(absent="mark").exit_status == 0
