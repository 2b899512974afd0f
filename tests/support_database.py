"""To ask a test's database from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from mailferry import database

if TYPE_CHECKING:
    from mailferry.config.database import DatabaseSettings


def query(settings: DatabaseSettings, text: str, *values: object) -> list[tuple[Any, ...]]:
    """One statement in a connection of its own, past all links. Without values a `%` is itself."""
    with psycopg.connect(**database.parameters(settings)) as conn:
        cursor = conn.execute(text.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


class Queried:
    """Whatever has a database."""

    settings: DatabaseSettings

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        return query(self.settings, text, *values)
