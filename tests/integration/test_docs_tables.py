"""The reference of tables against a database as the program makes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailferry import database

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
