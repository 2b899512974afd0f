"""History: what loads change is on record, and a job can be undone exactly, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_run import Setting
from test_table import as_csv

from mailferry import database, report_jobs
from mailferry.config.mailbox_feed import Absent
from mailferry.errors import Reject
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.ledger.jobs import FileState
from mailferry.mailbox.target import absent, history, upsert
from mailferry.mailbox.target.absent import Scope
from mailferry.mailbox.target.origins import Origin
from mailferry.mailbox.target.table import Target

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection

#: Columns of all sorts, in an order of their own, with what only the table fills.
TABLE = """
CREATE DOMAIN plz AS varchar(8);
CREATE TABLE t (
    "a %% ""b" numeric, twice numeric GENERATED ALWAYS AS ("a %% ""b" * 2) STORED, "K" text PRIMARY KEY, at timestamptz, j json, f float8,
    fixed char(4), plz plz, list int[], number int GENERATED ALWAYS AS IDENTITY, touched int NOT NULL DEFAULT 0,
    file_source text, processed_at timestamptz, absent_since timestamptz, _job int, _sheet varchar(3), _row bigint, _received date
);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN new.touched := 7; RETURN new; END';
CREATE TRIGGER touch BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch();
"""
COLUMNS = ["K", 'a % "b', "at", "j", "f", "fixed", "plz", "list"]


@pytest.fixture
def target(db: Connection) -> Target:
    db.execute(TABLE.replace("%%", "%").encode())
    found = Target.inspect(db, "t", "K")
    assert found is not None
    return found


def load(
    conn: Connection,
    target: Target,
    job: int,
    *rows: Any,
    columns: list[str] = COLUMNS,
    what: Absent = Absent.KEEP,
) -> None:
    origin = Origin(file=f"{job}.xlsx", job_id=job, file_id=job, sheets=lambda: [("One", 0), ("Second", 2)])
    scope = Scope(feed="f", sender="s", whole_feed=False, what=what, most=None, received=None)
    rules = upsert.Rules(history=True, scope=scope)
    upsert.load(conn, target, columns, as_csv(*rows), origin, rules)
    if what is not Absent.KEEP:
        absent.settle(conn, target, scope, origin, keep=True)


def state(conn: Connection) -> dict[str, str]:
    return dict(conn.execute('SELECT "K", t::text FROM t').fetchall())


VALUES = [
    st.sampled_from([None, "0.10", "1e30", "NaN", "-7"]),
    st.sampled_from([None, "2024-01-02 03:04:05.678901+03", "infinity", "0044-03-15 00:00:00+00 BC"]),
    st.sampled_from([None, '{"b": 1,  "a": 1, "a": 2}', "null"]),
    st.sampled_from([None, "0.1", "-Infinity", "1.7976931348623157e308"]),
    st.sampled_from([None, "a", "ab  "]),
    st.sampled_from([None, "34000", " 'x\\"]),
    st.sampled_from([None, "{}", "{1,NULL,3}"]),
]
SHEETS = st.tuples(
    st.dictionaries(st.sampled_from(["a", "b'", "C"]), st.tuples(*VALUES), min_size=1),
    st.sampled_from(Absent),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sheets=st.lists(SHEETS, min_size=1, max_size=4), order=st.permutations(range(1, 5)))
def test_an_undone_job_leaves_its_rows_as_they_were_before_it_whatever_the_order(
    db: Connection, target: Target, sheets: list[tuple[dict[str, tuple[Any, ...]], Absent]], order: list[int]
) -> None:
    with db.transaction(force_rollback=True):
        #: Job, and the row before it and after it, by key.
        changes: dict[str, list[tuple[int, str | None]]] = {}
        for job, (sheet, what) in enumerate(sheets, 1):
            before = state(db)
            load(db, target, job, *[(key, *values) for key, values in sheet.items()], what=what)
            after = state(db)
            for key in {key for key, row in before.items() ^ after.items()}:
                changes.setdefault(key, []).append((job, before.get(key)))
        for job in [*order, *order]:
            mine = [key for key, stack in changes.items() if any(one[0] == job for one in stack)]
            blocked = [key for key in mine if changes[key][-1][0] != job]
            before = state(db)
            if blocked:
                with pytest.raises(Reject, match="changed since by job"):
                    history.undo(db, job)
                assert state(db) == before
                continue
            done = history.undo(db, job)
            assert done.deleted + done.put_back + done.restored == len(mine)
            expected = dict(before)
            for key in mine:
                expected.pop(key, None)
                if (old := changes[key].pop()[1]) is not None:
                    expected[key] = old
            assert state(db) == expected


def test_what_changed_is_on_record_with_old_and_new_values_and_nothing_else_is(
    db: Connection, target: Target
) -> None:
    columns = ["K", "plz", "f"]
    load(db, target, 1, ("a", "1", None), ("b", "2", None), columns=columns)
    load(db, target, 2, ("a", "1", None), ("b", "3", None), columns=columns)
    rows = db.execute("SELECT job_id, key, old, new FROM mailferry.row_changes ORDER BY id").fetchall()
    assert [(job, key, old) for job, key, old, _ in rows[:2]] == [(1, "a", None), (1, "b", None)]
    assert rows[0][3] | {"processed_at": None} == {
        **dict.fromkeys((*COLUMNS, "processed_at", "absent_since", "_received")),
        "K": "a",
        "plz": "1",
        "number": "1",
        "touched": "7",
        "file_source": "1.xlsx",
        "_job": "1",
        "_sheet": "One",
        "_row": "1",
    }
    assert rows[2:] == [
        (
            2,
            "b",
            {"plz": "2", "_job": "1", "file_source": "1.xlsx"},
            {"plz": "3", "_job": "2", "file_source": "2.xlsx"},
        )
    ]


def test_columns_for_the_origin_of_a_row_are_filled(db: Connection, target: Target) -> None:
    load(db, target, 7, ("a",), ("b",), ("c",), columns=["K"])
    rows = db.execute('SELECT "K", _job, _sheet, _row FROM t ORDER BY 1').fetchall()
    assert rows == [("a", 7, "One", 1), ("b", 7, "One", 2), ("c", 7, "Sec", 1)]


def test_an_undo_is_refused_where_another_program_has_changed_a_row_or_the_table(
    db: Connection, target: Target
) -> None:
    def refused(reason: str, statement: str) -> None:
        with db.transaction(force_rollback=True):
            db.execute(statement.encode())
            before = state(db) if reason != "not there" else {}
            with pytest.raises(Reject, match=reason):
                history.undo(db, 1)
            assert not before or state(db) == before

    load(db, target, 1, ("a", "1"), ("b", "2"), columns=["K", "plz"])
    refused("another program has changed them since: 'b'", "UPDATE t SET plz = 'x' WHERE \"K\" = 'b'")
    refused("another program has changed them since: 'a'", "DELETE FROM t WHERE \"K\" = 'a'")
    refused("no column f any more", "ALTER TABLE t DROP f")
    refused("not there", "DROP TABLE t")
    refused(
        "took back 0 of 2",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER no BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION no()",
    )
    refused("foreign key", "CREATE TABLE r (k text REFERENCES t); INSERT INTO r VALUES ('a')")
    assert history.undo(db, 1).deleted == 2
    assert state(db) == {}


def test_a_partitioned_table_keeps_history_as_any_other(db: Connection) -> None:
    db.execute(
        "CREATE TABLE p (k text PRIMARY KEY, n int) PARTITION BY HASH (k);"
        "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE p1 (n int, k text NOT NULL); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    target = Target.inspect(db, "p", "k")
    assert target is not None
    rows = [(f"k{n}", n) for n in range(20)]
    load(db, target, 1, *rows, columns=["k", "n"])
    load(db, target, 2, ("k3", 33), ("k4", 44), ("new", 1), columns=["k", "n"])
    assert history.undo(db, 2) == history.Undone(deleted=1, put_back=2)
    assert sorted(db.execute("SELECT k, n FROM p").fetchall()) == sorted(rows)


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def undo(here: Setting, job: int) -> admin.Undoing:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        return admin.undo(conn, job)


def test_a_job_is_undone_once_says_who_counted_on_it_and_can_be_done_again(here: Setting) -> None:
    here.send(("1", "a", 1), ("2", "a", 1))
    here.send(("2", "b", 2), ("3", "b", 2))
    here.send(("3", "b", 2), ("9", "c", 3))
    here.load(history=True)
    with pytest.raises(Reject, match=r"changed since by job 2 \(1 rows, such as '2'\)"):
        undo(here, 1)
    done = undo(here, 2)
    assert (done.rows, done.counted_on) == (history.Undone(deleted=1, put_back=1), (3,))
    assert done.job.undone_at is not None
    assert here.rows() == [("1", "a", 1), ("2", "a", 1), ("9", "c", 3)]
    said = report_jobs.undone_text(done)
    assert "1 rows deleted that it had inserted, 1 as they were before, 0 there again" in said
    assert "found rows of the table as they were: 3;" in said
    again = undo(here, 2)
    assert again.rows is None
    assert "nothing to do" in report_jobs.undone_text(again)
    files = here.query("SELECT state, changed FROM mailferry.files ORDER BY id")
    assert files == [("loaded", True), (FileState.UNDONE, False), ("loaded", True)]
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, 2)
    assert here.load(history=True).exit_status == 0
    assert here.rows() == [("1", "a", 1), ("2", "b", 2), ("3", "b", 2), ("9", "c", 3)]
    assert undo(here, 2).rows == history.Undone(deleted=1, put_back=1)


def test_without_history_nothing_is_undone(here: Setting) -> None:
    here.send(("1", "a", 1))
    here.load()
    with pytest.raises(Reject, match="history = true"):
        undo(here, 1)
    here.send(("2", "a", 1))
    here.gather()
    with pytest.raises(Reject, match="Job 2 is pending"):
        undo(here, 2)
    with pytest.raises(Reject, match="no job 3"):
        undo(here, 3)
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.cancel(conn, 2)
    assert undo(here, 2).rows == history.Undone()
    assert here.rows() == [("1", "a", 1)]
