"""The target table: recognised, made, and loaded exactly."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailferry import postgres_programs, private_postgres
from mailferry.errors import Reject, Retry, Stop
from mailferry.mailbox.target import upsert
from mailferry.mailbox.target.origins import Origin
from mailferry.mailbox.target.table import Target, create, lock
from mailferry.mailbox.workbook.infer import TYPES
from mailferry.mailbox.workbook.values import Column, Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mailferry.database import Connection


def as_csv(*rows: Any) -> list[bytes]:
    """Rows as the reader writes them: `_row` first, None as nothing, text quoted."""
    text = io.StringIO()
    for number, row in enumerate(rows, start=1):
        cells = ["" if cell is None else '"' + str(cell).replace('"', '""') + '"' for cell in row]
        text.write(",".join([str(number), *cells]) + "\n")
    return [text.getvalue().encode()]


def load(
    conn: Connection, target: Target, columns: Sequence[str], *rows: Any, source: str = "a.xlsx"
) -> upsert.Loaded:
    return upsert.load(conn, target, columns, as_csv(*rows), Origin(file=source))


def counts(**changed: Any) -> Counts:
    return Counts(**changed)


@pytest.fixture
def target(db: Connection) -> Target:
    return create(
        db,
        "tracking_data",
        "hawb",
        [Column(name="hawb", type="text"), Column(name="n", type="bigint"), Column(name="note", type="text")],
    )


COLUMNS = ["hawb", "n", "note"]


def rows_of(
    conn: Connection, what: str = "hawb, n, note", table: str = "tracking_data"
) -> list[tuple[Any, ...]]:
    return conn.execute(f"SELECT {what} FROM {table} ORDER BY 1").fetchall()


def test_a_missing_table_is_made_with_a_key_and_our_own_columns(db: Connection, target: Target) -> None:
    assert Target.inspect(db, "nothing", "hawb") is None
    again = Target.inspect(db, "Tracking_Data", "HAWB")
    assert again == target
    assert [c.name for c in target.columns] == COLUMNS
    assert [c.name for c in target.all_columns] == [
        *COLUMNS,
        "file_source",
        "processed_at",
        "mail_received_at",
    ]
    assert target.columns[0].nullable is False
    assert create(db, "tracking_data", "hawb", []) == target


def test_the_key_is_found_by_its_clean_name_where_only_one_column_has_it(db: Connection) -> None:
    create(db, "t", "hawb_no", [Column(name="hawb_no", type="text")])
    for key in ("HAWB No", "hawb no.", "Hawb_No"):
        found = Target.inspect(db, "t", key)
        assert found is not None
        assert found.key == "hawb_no"
    db.execute('ALTER TABLE t ADD COLUMN "HAWB-No" text')
    with pytest.raises(Stop, match="no column HAWB No"):
        Target.inspect(db, "t", "HAWB No")


def test_a_table_can_be_made_of_every_type_that_is_inferred(db: Connection) -> None:
    columns = [Column(name=f"c{n}", type=name) for n, name in enumerate(sorted({"text", *TYPES.values()}))]
    made = create(db, "t", "k", [Column(name="k", type="text"), *columns])
    assert [column.type for column in made.columns[1:]] == [column.type for column in columns]


def test_new_changed_equal_and_repeated_rows_are_distinguished(db: Connection, target: Target) -> None:
    first = load(db, target, COLUMNS, ("a", 1, "x"), ("b", 2, None), ("c", 3, ""), ("a", 4, "y"))
    assert first.counts == counts(read=4, inserted=3, superseded=1)
    assert rows_of(db) == [("a", 4, "y"), ("b", 2, None), ("c", 3, "")]
    second = load(
        db, target, COLUMNS, ("a", 4, "y"), ("b", 2, ""), ("d", 5, None), ("d", 6, None), source="b.xlsx"
    )
    assert second.counts == counts(read=4, inserted=1, updated=1, unchanged=1, superseded=1)
    assert rows_of(db, "hawb, n, note, file_source") == [
        ("a", 4, "y", "a.xlsx"),
        ("b", 2, "", "b.xlsx"),
        ("c", 3, "", "a.xlsx"),
        ("d", 6, None, "b.xlsx"),
    ]


@given(
    files=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("abcd"), st.none() | st.integers(0, 2), st.sampled_from(["", "ş", None])
            )
        ),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_files_leave_what_a_dictionary_would_hold_and_counts_that_add_up(
    db: Connection, target: Target, files: Any
) -> None:
    db.execute("DELETE FROM tracking_data")
    model: dict[str, tuple[str, int | None, str | None]] = {}
    for file in files:
        got = load(db, target, COLUMNS, *file).counts
        last = {row[0]: row for row in file}
        assert got == counts(
            read=len(file),
            superseded=len(file) - len(last),
            inserted=len(last.keys() - model.keys()),
            updated=sum(key in model and model[key] != row for key, row in last.items()),
            unchanged=sum(model.get(key) == row for key, row in last.items()),
        )
        model |= last
    assert rows_of(db) == sorted(model.values())


def test_unchanged_rows_are_neither_rewritten_nor_locked(
    db: Connection, target: Target, connect: Callable[[], Connection]
) -> None:
    rows = [(f"k{n}", n, "x") for n in range(100)]
    load(db, target, COLUMNS, *rows)
    db.commit()
    before = rows_of(db, "hawb, ctid::text, xmin::text, processed_at")
    db.commit()
    assert load(db, target, COLUMNS, *rows).counts.unchanged == 100
    other = connect()
    assert len(other.execute("SELECT 1 FROM tracking_data FOR UPDATE NOWAIT").fetchall()) == 100
    other.commit()
    db.commit()
    assert rows_of(db, "hawb, ctid::text, xmin::text, processed_at") == before


def test_the_same_file_again_writes_less_than_a_fifth_of_the_wal(db: Connection, target: Target) -> None:
    rows = [(f"k{n}", n, "some text") for n in range(5000)]

    def wal(*files: Any) -> int:
        (start,) = db.execute("SELECT pg_current_wal_insert_lsn()").fetchall()[0]
        load(db, target, COLUMNS, *files)
        db.commit()
        (written,) = db.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::bigint", (start,)
        ).fetchall()[0]
        return int(written)

    first = wal(*rows)
    assert wal(*rows) * 5 < first


def test_nothing_stays_of_a_load_that_is_rolled_back_and_no_staging_table_of_one_that_is_not(
    db: Connection, target: Target, connect: Callable[[], Connection]
) -> None:
    db.commit()
    load(db, target, COLUMNS, ("a", 1, None))
    db.rollback()
    assert rows_of(db) == []
    load(db, target, COLUMNS, ("a", 1, None))
    db.commit()
    left = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'temp_processing'"
    assert connect().execute(left).fetchone() == (0,)


def test_what_is_prepared_on_a_connection_outlives_a_load(db: Connection, target: Target) -> None:
    for _ in range(10):
        db.execute("SELECT %s::int", (1,))
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1::int'"
    assert db.execute(prepared).fetchone() == (1,)
    load(db, target, COLUMNS, ("a", 1, None))
    assert db.execute(prepared).fetchone() == (1,)


def test_names_with_anything_in_them_are_only_names(db: Connection) -> None:
    evil = 'x"; DROP TABLE kept; --'
    db.execute("CREATE TABLE kept ()")
    columns = [
        Column(name=evil, type="text"),
        Column(name="_row", type="text"),
        Column(name="%s c0", type="text"),
    ]
    target = create(db, '"ş.%s;"', evil, columns)
    assert load(db, target, [c.name for c in columns], ("'; DROP", "r", "%(x)s")).counts.inserted == 1
    assert load(db, target, [c.name for c in columns], ("'; DROP", "r", "z")).counts.updated == 1
    assert db.execute('SELECT * FROM "ş.%s;"'.encode()).fetchall()[0][:3] == ("'; DROP", "r", "z")
    assert db.execute("SELECT to_regclass('kept') IS NOT NULL").fetchone() == (True,)


@pytest.mark.parametrize("name", ["", ".", "a.", ".b", "a.b.c", 'a"b', "x" * 64, "ş" * 32, "a\0b", '"'])
def test_what_is_no_name_is_refused(db: Connection, name: str) -> None:
    with pytest.raises(Stop, match="not the name of a table"):
        Target.inspect(db, name, "k")


def test_a_schema_may_be_named_and_the_search_path_decides_otherwise(db: Connection) -> None:
    db.execute(
        "CREATE SCHEMA other; CREATE TABLE other.t (k text PRIMARY KEY); CREATE TABLE t (k int PRIMARY KEY)"
    )
    # A role has a schema of its own name on its path; ours is not meant, even if the role is called like it.
    db.execute("SET search_path TO mailferry, public")
    for name, title in [("other.t", "other.t"), ("t", "public.t"), ('"other"."t"', "other.t")]:
        found = Target.inspect(db, name, "k")
        assert found is not None
        assert found.title == title
    db.execute("SET search_path TO nowhere")
    with pytest.raises(Stop, match=r"Write schema\.table"):
        create(db, "new", "k", [Column(name="k", type="text")])


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE t (k text)",
        "CREATE TABLE t (k text, b text, PRIMARY KEY (k, b))",
        "CREATE TABLE t (k text UNIQUE DEFERRABLE)",
        "CREATE TABLE t (k text); CREATE UNIQUE INDEX ON t (k) WHERE k <> ''",
        "CREATE TABLE t (k text); CREATE UNIQUE INDEX ON t (lower(k))",
    ],
)
def test_a_table_without_a_unique_index_on_the_key_is_refused_with_the_sql_that_makes_one(
    db: Connection, table: str
) -> None:
    db.execute(table)
    with pytest.raises(Stop) as stopped:
        Target.inspect(db, "t", "k")
    remedy = str(stopped.value).partition("Run: ")[2]
    assert remedy == 'CREATE UNIQUE INDEX ON "public"."t" ("k");'
    db.execute(remedy)
    assert Target.inspect(db, "t", "k") is not None


def test_a_view_and_a_missing_key_column_are_refused(db: Connection) -> None:
    db.execute("CREATE VIEW v AS SELECT 1 AS k; CREATE TABLE t (a int, b int)")
    with pytest.raises(Stop, match="not a table"):
        Target.inspect(db, "v", "k")
    with pytest.raises(Stop, match=r"no column k.*a, b"):
        Target.inspect(db, "t", "k")


def test_columns_say_what_the_row_contract_needs(db: Connection) -> None:
    db.execute(
        """
        CREATE DOMAIN plz AS varchar(5) NOT NULL;
        CREATE TABLE t (k varchar(50) PRIMARY KEY, a numeric(10,2), b timestamptz DEFAULT now(), c int GENERATED ALWAYS AS IDENTITY,
                        d int GENERATED ALWAYS AS (1) STORED, e plz, dropped int, processed_at timestamp, file_source varchar(8));
        ALTER TABLE t DROP COLUMN dropped
        """
    )
    target = Target.inspect(db, "t", "k")
    assert target is not None
    assert [(c.name, c.type, c.nullable, c.has_default) for c in target.columns] == [
        ("k", "character varying(50)", False, False),
        ("a", "numeric(10,2)", True, False),
        ("b", "timestamp with time zone", True, True),
        ("e", "plz", False, False),
    ]
    # The file's name is for people: it is cut, not refused.
    done = load(
        db, target, ["k", "e"], ("1", "34000"), ("2", "too long"), ("3", None), source="a long name.xlsx"
    )
    assert done.counts == counts(read=3, inserted=1, rejected=2)
    assert rows_of(db, "k, e, file_source", "t") == [("1", "34000", "a long n")]


def test_added_columns_are_there_and_adding_twice_is_harmless(db: Connection, target: Target) -> None:
    more = [Column(name="Yeni", type="numeric(10,2)"), Column(name="n", type="bigint")]
    wider = target.add_columns(db, more).add_columns(db, more)
    assert [c.name for c in wider.columns] == [*COLUMNS, "Yeni"]
    assert load(db, wider, ["hawb", "Yeni"], ("a", "1.50")).counts.inserted == 1


def test_columns_a_sheet_does_not_have_keep_what_they_hold(db: Connection, target: Target) -> None:
    load(db, target, COLUMNS, ("a", 1, "x"))
    assert load(db, target, ["hawb", "n"], ("a", 2)).counts == counts(read=1, updated=1)
    assert load(db, target, ["hawb"], ("a",), ("z",)).counts == counts(read=2, unchanged=1, inserted=1)
    assert rows_of(db) == [("a", 2, "x"), ("z", None, None)]


def test_a_row_that_the_server_refuses_is_rejected_by_itself_with_its_reason(db: Connection) -> None:
    db.execute(
        """
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        CREATE TABLE country (code text PRIMARY KEY);
        INSERT INTO country VALUES ('TR');
        CREATE TABLE t (k text PRIMARY KEY, kg int CHECK (kg > 0), ip inet, mood mood, j jsonb, must text NOT NULL,
                        country text REFERENCES country DEFERRABLE INITIALLY DEFERRED, one int UNIQUE)
        """
    )
    target = Target.inspect(db, "t", "k")
    assert target is not None
    good = (1, "10.0.0.1", "sad", '{"a": 1}', "x", "TR")
    rows: list[tuple[Any, ...]] = [(f"k{n:03}", *good, n) for n in range(64)]
    bad = {
        3: (1, -5),
        7: (2, "no ip"),
        8: (3, "angry"),
        20: (4, "{"),
        31: (5, None),
        40: (6, "XX"),
        63: (7, 1),
    }
    for n, (place, value) in bad.items():
        rows[n] = (*rows[n][:place], value, *rows[n][place + 1 :])
    done = load(db, target, ["k", "kg", "ip", "mood", "j", "must", "country", "one"], *rows)
    assert done.counts == counts(read=64, inserted=57, rejected=7)
    assert [row.row for row in done.rejected] == [n + 1 for n in sorted(bad)]
    reasons = " | ".join(row.reason for row in done.rejected)
    for part in ("check constraint", "inet", "mood", "json", "must not be empty", "(XX)", "(one)=(1)"):
        assert part in reasons
    assert done.rejected[4].column == "must"


#: Where one row of two is refused: the table, its header and value, and what the rejected row says.
ROWS: dict[str, tuple[str, tuple[str, ...], tuple[Any, ...], tuple[str, str, str]]] = {
    "check": ("kg int CHECK (kg > 0)", ("kg",), (-5,), ("kg", "-5", "check constraint")),
    "check of two": (
        "a int, b int, CHECK (a < b)",
        ("a", "b"),
        (2, 1),
        ("a, b", "a = 2, b = 1", "check constraint"),
    ),
    "unique": (
        "one int, two int, UNIQUE (one, two)",
        ("one", "two"),
        (7, 7),
        ("one, two", "one = 7, two = 7", "(7, 7)"),
    ),
    "type": ("ip inet", ("ip",), ("no ip",), ("ip", "no ip", "inet")),
    "enum": ("mood mood", ("mood",), ("angry",), ("mood", "angry", "mood")),
    "domain": ("plz plz", ("plz",), ("340001",), ("plz", "340001", "too long")),
    "domain check": ("even even", ("even",), (3,), ("even", "3", "check constraint")),
    "not null": ("must text NOT NULL", ("must",), (None,), ("must", "", "must not be empty")),
    "deferred": (
        "other text REFERENCES other DEFERRABLE INITIALLY DEFERRED",
        ("other",),
        ("XX",),
        ("other", "XX", "foreign key"),
    ),
    "a trigger's own code": ("n int", ("n",), (13,), ("", "", "not thirteen")),
    "a deferred trigger": ("n int", ("n",), (13,), ("", "", "not thirteen")),
    "a policy of rows": ("p int", ("p",), (666,), ("", "", "row-level security")),
}
_MORE = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN plz AS varchar(5);
CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
CREATE TABLE other (code text PRIMARY KEY);
"""
_AFTER = {
    "unique": "INSERT INTO t VALUES ('0', 7, 7)",
    "a trigger's own code": """
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.n = 13 THEN RAISE 'not thirteen' USING ERRCODE = 'XY013'; END IF; RETURN NEW; END$$;
        CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()""",
    "a deferred trigger": """
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.n = 13 THEN RAISE 'not thirteen'; END IF; RETURN NEW; END$$;
        CREATE CONSTRAINT TRIGGER no AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()""",
    "a policy of rows": """
        ALTER TABLE t ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (true) WITH CHECK (p IS NULL OR p <> 666)""",
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_the_database_refuses_names_its_columns_and_value(db: Connection, case: str) -> None:
    columns, header, values, expected = ROWS[case]
    db.execute(f"{_MORE}; CREATE TABLE t (k text PRIMARY KEY, {columns}); {_AFTER.get(case, '')}")
    target = Target.inspect(db, "t", "k")
    assert target is not None
    empty = [None if case != "not null" else "x"] * len(values)
    if case == "a policy of rows":
        db.execute(
            "CREATE ROLE plain; GRANT ALL ON t TO plain; GRANT ALL ON SCHEMA temp_processing TO plain; SET ROLE plain"
        )
    done = load(db, target, ["k", *header], ("1", *empty), ("2", *values), ("3", *empty))
    assert (done.counts.inserted, [row.row for row in done.rejected]) == (2, [2])
    (row,) = done.rejected
    assert (row.column, row.value) == expected[:2]
    assert expected[2] in row.reason


def test_a_trigger_that_refuses_a_row_rejects_that_row(db: Connection, target: Target) -> None:
    db.execute(
        """
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.n = 13 THEN RAISE 'not thirteen'; END IF; RETURN NEW; END$$;
        CREATE TRIGGER no BEFORE INSERT ON tracking_data FOR EACH ROW EXECUTE FUNCTION no()
        """
    )
    done = load(db, target, COLUMNS, *[(f"{n:02}", n, None) for n in range(20)])
    assert (done.counts.inserted, [(row.row, row.reason) for row in done.rejected]) == (
        19,
        [(14, "not thirteen")],
    )


def test_too_many_refused_rows_reject_the_file_and_leave_the_transaction_usable(
    db: Connection, target: Target
) -> None:
    db.execute("ALTER TABLE tracking_data ADD CHECK (n > 0)")
    with pytest.raises(Reject, match="more than 100 rows"):
        load(db, target, COLUMNS, *[(f"k{n}", -n, None) for n in range(150)])
    assert rows_of(db) == []
    assert load(db, target, COLUMNS, ("a", 1, None)).counts.inserted == 1


def test_a_value_that_copy_refuses_rejects_the_file_and_says_where(db: Connection, target: Target) -> None:
    with pytest.raises(Reject, match=r'"no".*row 2 as copied, column n'):
        load(db, target, COLUMNS, ("a", 1, None), ("b", "no", None))
    with pytest.raises(Reject, match="as copied"):
        upsert.load(db, target, COLUMNS, [b"1,a,1\n"], Origin(file="x"))
    with pytest.raises(Reject, match="UTF8"):
        upsert.load(db, target, COLUMNS, [b"1,\xff,1,\n"], Origin(file="x"))
    assert load(db, target, COLUMNS, ("a", 1, None)).counts.inserted == 1


def test_a_reader_that_gives_up_undoes_the_load_and_its_error_comes_out(
    db: Connection, target: Target
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"1,a,1,\n"
        raise Reject("the workbook ends in the middle")

    with pytest.raises(Reject, match="ends in the middle"):
        upsert.load(db, target, COLUMNS, chunks(), Origin(file="x"))
    assert rows_of(db) == []


def test_types_whose_equality_is_lax_or_missing_are_compared_by_letter(db: Connection) -> None:
    db.execute("CREATE TABLE t (k text PRIMARY KEY, j json, b box, a int[], i interval)")
    target = Target.inspect(db, "t", "k")
    assert target is not None
    columns = ["k", "j", "b", "a", "i"]
    first = ("1", '{"a":1}', "(2,2),(0,0)", "{1,2}", "1 mon")
    load(db, target, columns, first)
    assert load(db, target, columns, first).counts.unchanged == 1
    for place, value in [(1, '{"a":2}'), (2, "(4,1),(0,0)"), (3, "{2,1}"), (4, "30 days")]:
        changed = (*first[:place], value, *first[place + 1 :])
        assert load(db, target, columns, changed).counts.updated == 1
        assert load(db, target, columns, first).counts.updated == 1


def test_a_partitioned_table_is_loaded_and_counted_like_any_other(db: Connection) -> None:
    db.execute(
        "CREATE TABLE t (k text PRIMARY KEY, n int) PARTITION BY HASH (k);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    target = Target.inspect(db, "t", "k")
    assert target is not None
    rows = [(f"k{n}", n) for n in range(20)]
    assert load(db, target, ["k", "n"], *rows).counts == counts(read=20, inserted=20)
    assert load(db, target, ["k", "n"], *rows[:5], ("k9", 0), ("new", 1)).counts == counts(
        read=7, unchanged=5, updated=1, inserted=1
    )


def test_two_loads_into_one_table_come_one_after_the_other(
    db: Connection, target: Target, connect: Callable[[], Connection]
) -> None:
    db.commit()
    other = connect()
    load(db, target, COLUMNS, ("a", 1, "first"), ("b", 1, "first"))
    done = []
    second = threading.Thread(
        target=lambda: done.append(
            load(other, target, COLUMNS, ("b", 2, "second"), ("a", 2, "second")).counts
        )
    )
    second.start()
    watcher = connect()
    watcher.autocommit = True
    while not watcher.execute(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    ).fetchone():
        assert second.is_alive()
    assert done == []
    db.commit()
    second.join()
    other.commit()
    assert done == [counts(read=2, updated=2)]
    assert rows_of(db) == [("a", 2, "second"), ("b", 2, "second")]


def test_the_lock_is_the_same_however_the_table_is_spelled(
    db: Connection, target: Target, connect: Callable[[], Connection]
) -> None:
    db.commit()
    lock(db, "Tracking_Data")
    other = connect()
    other.execute("SET lock_timeout = 50")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        lock(other, "public.tracking_data")


def test_the_generation_changes_when_the_table_is_emptied_or_made_again(
    db: Connection, target: Target
) -> None:
    # In the transaction that has made it, a table is emptied in place.
    db.commit()
    db.execute("TRUNCATE tracking_data")
    emptied = Target.inspect(db, "tracking_data", "hawb")
    db.execute("DROP TABLE tracking_data")
    again = create(db, "tracking_data", "hawb", target.columns)
    assert emptied is not None
    assert len({target.generation, emptied.generation, again.generation}) == 3


def test_a_connection_that_is_lost_in_the_middle_is_a_retry(
    db: Connection, target: Target, connect: Callable[[], Connection]
) -> None:
    db.commit()
    killer = connect()

    def chunks() -> Iterator[bytes]:
        yield b"1,a,1,\n"
        killer.execute("SELECT pg_terminate_backend(%s)", (db.info.backend_pid,))
        for number in range(2, 400_000):
            yield b"%d,k%d,1,xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n" % (number, number)

    with pytest.raises(Retry):
        upsert.load(db, target, COLUMNS, chunks(), Origin(file="x"))
    assert rows_of(connect()) == []


def versions() -> dict[int, postgres_programs.Binaries]:
    return {binaries.major: binaries for binaries in postgres_programs.installed()}


@pytest.mark.parametrize("major", versions())
def test_the_counts_are_exact_on_every_version_that_is_installed(major: int, server_folder: Path) -> None:
    from fixtures_postgres import FAST
    from psycopg.conninfo import make_conninfo

    folder = server_folder / f"version{major}"
    with (
        private_postgres.running(folder, settings=FAST, binaries=[versions()[major]]) as where,
        psycopg.connect(make_conninfo(**where)) as conn,
    ):
        assert conn.info.server_version // 10_000 == major
        conn.execute(
            "CREATE SCHEMA temp_processing; CREATE TABLE t (k text PRIMARY KEY, n int) PARTITION BY HASH (k)"
        )
        conn.execute("CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
        conn.execute("CREATE TABLE u (k text PRIMARY KEY, n int)")
        for name in ("t", "u"):
            target = Target.inspect(conn, name, "k")
            assert target is not None
            load(conn, target, ["k", "n"], ("a", 1), ("b", 1))
            assert load(conn, target, ["k", "n"], ("a", 1), ("b", 2), ("c", 3), ("c", 4)).counts == counts(
                read=4, inserted=1, updated=1, unchanged=1, superseded=1
            )
