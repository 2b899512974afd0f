"""The reference of tables against a database as the program makes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from mailferry import database
from mailferry.errors import Stop
from mailferry.events import partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.database import DatabaseSettings

JANUARY_2026 = 1_767_225_600
PAGE = (Path(__file__).parents[2] / "docs/reference/tables.md").read_text("utf-8")


def documented() -> dict[str, set[str]]:
    """Columns by table, as the page has them."""
    found: dict[str, set[str]] = {}
    for heading, text in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        columns = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        for table in re.findall(r"`mailferry\.(\w+)`", heading):
            found[table] = columns
    return found


def test_every_table_and_column_of_our_schema_stands_in_the_reference_and_nothing_else(
    db: database.Connection,
) -> None:
    rows = db.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'mailferry'"
        " AND table_name NOT LIKE 'procrastinate%'"
    ).fetchall()
    there: dict[str, set[str]] = {}
    for table, column in rows:
        there.setdefault(table, set()).add(column)
    assert there["queue_versions"] == there["versions"] - {"version"}  # as the page says in words
    there["queue_versions"] = there["versions"]
    assert documented() == there


def test_every_state_that_the_database_allows_stands_in_the_reference(db: database.Connection) -> None:
    checks = db.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND connamespace = 'mailferry'::regnamespace"
        " AND conrelid::regclass::text NOT LIKE '%procrastinate%'"
    ).fetchall()
    states = {state for (text,) in checks for state in re.findall(r"'(\w+)'::text", text)}
    assert {"pending", "in_progress", "duplicate", "retry"} <= states
    assert not {state for state in states if f"`{state}`" not in PAGE}


# --- questions to the table of an event feed

#: One every two minutes, by turns of two feeds: the page's figures are of these.
EVENTS = """
INSERT INTO mail_events (time, feed, identity, number, record)
SELECT to_timestamp(%(start)s + n * 120), CASE n %% 2 WHEN 1 THEN 'example-outgoing' ELSE 'example-incoming' END,
       lpad(to_hex(n), 16, '0'), (n + 1) / 2,
       jsonb_build_object('queue_id', 'Q' || n, 'sender', 'User' || n %% 1000 || '@Example.COM', 'subject', 'no. ' || n,
           'recipients', jsonb_build_array(jsonb_build_object('email', 'RCPT' || n %% 700 || '@example.net', 'status', 'sent'),
                                           jsonb_build_object('email', 'all@example.net', 'status', 'deferred')),
           'logs', repeat(md5(n::text), 20))
FROM generate_series(1, 20000) AS n
"""
#: As earlier versions made it.
EARLIER = """
CREATE TABLE mail_events (
    time timestamptz NOT NULL, feed text COLLATE "C" NOT NULL, identity text COLLATE "C" NOT NULL, number bigint NOT NULL,
    record jsonb NOT NULL, raw text, collected_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (feed, time, identity)
) PARTITION BY RANGE (time)
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def documented_questions() -> list[tuple[str, str]]:
    """Each question with the plan that stands below it."""
    return re.findall(r"^```sql\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def psql(conn: database.Connection, script: str) -> None:
    r"""Run a script as psql does: what stands before \gexec returns statements, which are run, too."""
    for statement in script.replace("\\gexec", "\\gexec;").split(";"):
        text = statement.strip()
        if text.endswith("\\gexec"):
            for (made,) in conn.execute(text.removesuffix("\\gexec").encode()).fetchall():
                conn.execute(made.encode())
        elif text:
            conn.execute(text.encode())


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def assert_answered_by_the_documented_indexes(conn: database.Connection) -> None:
    questions = documented_questions()
    assert len(questions) == len(blocks("sql")) >= 5
    for question, documented_plan in questions:
        row = conn.execute(b"EXPLAIN (FORMAT JSON) " + question.encode()).fetchone()
        assert row is not None
        found = list(nodes(row[0][0]["Plan"]))
        assert "Seq Scan" not in {node["Node Type"] for node in found}, question
        used = {_index_of_table(conn, node["Index Name"]) for node in found if "Index Name" in node}
        named = set(re.findall(r"mail_events_2026_01_\w+_(?:idx\d*|pkey)\b", documented_plan))
        assert used == {_index_of_table(conn, name) for name in named} != set(), question
        assert conn.execute(question.encode()).fetchall(), question


def _index_of_table(conn: database.Connection, name: str) -> str:
    row = conn.execute(
        "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = to_regclass(%s)", (name,)
    ).fetchone()
    assert row is not None, name
    return str(row[0])


@pytest.fixture
def conn(database_settings: DatabaseSettings) -> Iterator[database.Connection]:
    with psycopg.connect(**database.parameters(database_settings), autocommit=True) as conn:
        yield conn


def fill(conn: database.Connection, start: int = JANUARY_2026) -> None:
    """Events of a month for the table, which is made where it is missing."""
    table = partitions.prepared(conn, "mail_events")
    partitions.make_room(conn, table, [start])
    conn.execute(EVENTS.encode(), {"start": start})


def indexes(conn: database.Connection) -> dict[str, tuple[str, bool]]:
    """What each index of the table is on, and whether it is complete."""
    rows = conn.execute(
        "SELECT indexrelid::regclass::text, substring(pg_get_indexdef(indexrelid) FROM ' USING (.*)'), indisvalid"
        " FROM pg_index WHERE indrelid = 'mail_events'::regclass"
    )
    return {name: (on, valid) for name, on, valid in rows}


def test_every_documented_question_is_answered_by_the_indexes_of_its_documented_plan(
    conn: database.Connection,
) -> None:
    fill(conn)
    conn.execute("ANALYZE mail_events")
    assert_answered_by_the_documented_indexes(conn)
    assert set(re.findall(r"^\| `(mail_events_\w+)` \|", PAGE, re.MULTILINE)) == set(indexes(conn))
    columns = conn.execute("SELECT * FROM mail_events_flat LIMIT 0").description
    section = PAGE.partition("The view has")[2].partition("```")[0]
    assert {column.name for column in columns or ()} <= set(re.findall(r"`(\w+)`", section))


def test_the_view_has_a_row_for_each_recipient_and_keeps_events_that_have_none(
    conn: database.Connection,
) -> None:
    table = partitions.prepared(conn, "mail_events")
    partitions.make_room(conn, table, [JANUARY_2026])
    records = [
        '{"sender":"INFO@X.example","recipients":[{"email":"Ali@x.example","status":"sent"},{"email":7},"odd"]}',
        '{"from":"a@x.example","to":["B@x.example"]}',
        '{"from":"a@x.example","to":"C@x.example","recipients":null}',
        '{"user":"d@x.example"}',
        "null",
        '["recipients"]',
        '{"recipients":[]}',
        '{"sender":{"a":["B"]},"queue_id":[1]}',
    ]
    for number, record in enumerate(records):
        conn.execute(
            "INSERT INTO mail_events (time, feed, identity, number, record) VALUES (to_timestamp(%s), 'f', %s, %s, %s)",
            (JANUARY_2026, str(number), number, record),
        )
    rows = conn.execute(
        "SELECT number, sender, recipient, status FROM mail_events_flat ORDER BY number, recipient NULLS LAST"
    ).fetchall()
    assert rows == [
        (0, "info@x.example", "7", None),
        (0, "info@x.example", "ali@x.example", "sent"),
        (0, "info@x.example", None, None),
        (1, "a@x.example", "b@x.example", None),
        (2, "a@x.example", "c@x.example", None),
        (3, None, None, None),
        (4, None, None, None),
        (5, None, None, None),
        (6, None, None, None),
        (7, '{"a": ["b"]}', None, None),
    ]


def test_values_that_no_index_could_hold_are_written_as_they_are(conn: database.Connection) -> None:
    table = partitions.prepared(conn, "mail_events")
    partitions.make_room(conn, table, [JANUARY_2026])
    conn.execute(
        "INSERT INTO mail_events (time, feed, identity, number, record)"
        " SELECT to_timestamp(%s), 'f', '1', 1, jsonb_build_object('queue_id', long, 'sender', long, 'recipients',"
        " jsonb_build_array(jsonb_build_object('email', long)))"
        " FROM (SELECT string_agg(chr(65536 + (n * 7919 %% 60000)), '') AS long FROM generate_series(1, 20000) AS n) AS x",
        (JANUARY_2026,),
    )
    assert conn.execute(
        "SELECT length(queue_id), length(sender), length(recipient), length(record ->> 'sender') FROM mail_events_flat"
    ).fetchall() == [(320, 320, 20_000, 20_000)]


def test_a_table_of_an_earlier_version_goes_on_and_the_documented_statements_give_it_the_indexes(
    conn: database.Connection, new_database: Callable[..., DatabaseSettings]
) -> None:
    conn.execute(EARLIER.encode())
    fill(conn)
    assert list(indexes(conn)) == ["mail_events_pkey"]  # nothing is added, and nothing locked
    assert conn.execute("SELECT to_regclass('mail_events_flat')").fetchone() == (None,)
    described, built, view = blocks("sql run")
    psql(conn, described)
    fill(conn, JANUARY_2026 + 31 * 86_400)  # in between
    assert not all(valid for _, valid in indexes(conn).values())
    psql(conn, built)
    conn.execute(view.encode())
    assert_answered_by_the_documented_indexes(conn)
    with psycopg.connect(**database.parameters(new_database()), autocommit=True) as other:
        partitions.prepared(other, "mail_events")
        assert indexes(conn) == indexes(other)
        text = "SELECT pg_get_viewdef('mail_events_flat')"
        assert conn.execute(text).fetchone() == other.execute(text).fetchone()
    # Run twice, they do nothing.
    before = conn.execute("SELECT count(*) FROM pg_index").fetchone()
    psql(conn, built)
    assert conn.execute("SELECT count(*) FROM pg_index").fetchone() == before


def test_a_name_that_is_taken_keeps_the_table_from_being_made_and_is_named(conn: database.Connection) -> None:
    conn.execute("CREATE TABLE mail_events_flat (a int)")
    with pytest.raises(Stop, match=r'relation "mail_events_flat" already exists\. Rename that'):
        partitions.prepared(conn, "mail_events")
    assert conn.execute("SELECT to_regclass('mail_events')").fetchone() == (None,)
    name = "m" * 55  # the longest
    partitions.prepared(conn, name)
    assert conn.execute("SELECT to_regclass(%s)", (f"{name}_flat",)).fetchone() == (f"{name}_flat",)
