"""The two roles of a private PostgreSQL, and the file that holds their passwords.

The administrator (PostgreSQL's own superuser) is for mailferry's start and for people; all work is done by the worker,
which owns the database and what is in it, and can do nothing besides. The file has the format of libpq's password file
(https://www.postgresql.org/docs/current/libpq-pgpass.html), so that people can use it as PGPASSFILE.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from importlib import resources
from typing import Self

from mailferry.secrets import hide

#: Not called like a schema, or its search path would begin there ("$user").
ADMINISTRATOR, WORKER = "postgres", "loader"
_LINES = re.compile(rf"\*:\*:\*:{ADMINISTRATOR}:(\w{{32,}})\n\*:\*:\*:{WORKER}:(\w{{32,}})\n", re.ASCII)


@dataclass(frozen=True, kw_only=True, repr=False)
class Passwords:
    """Of one cluster."""

    administrator: str
    worker: str

    def __post_init__(self) -> None:
        hide(self.administrator)
        hide(self.worker)

    @classmethod
    def new(cls) -> Self:
        """Random ones."""
        return cls(administrator=secrets.token_hex(32), worker=secrets.token_hex(32))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Those in a password file; None where it was cut short."""
        found = _LINES.fullmatch(text)
        return cls(administrator=found[1], worker=found[2]) if found else None

    def text(self) -> str:
        """The password file."""
        return f"*:*:*:{ADMINISTRATOR}:{self.administrator}\n*:*:*:{WORKER}:{self.worker}\n"

    def statements(self) -> str:
        """SQL that sets them, a statement a line, for `postgres --single`."""
        return (
            f"DO $$BEGIN IF to_regrole('{WORKER}') IS NULL THEN CREATE ROLE {WORKER}; END IF; END$$\n"
            f"ALTER ROLE {WORKER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            f" PASSWORD '{self.worker}'\n"
            f"ALTER ROLE {ADMINISTRATOR} PASSWORD '{self.administrator}'\n"
        )


def hand_over() -> bytes:
    """SQL that makes the worker the owner of what the administrator owns in a database."""
    return (resources.files("mailferry") / "sql" / "ownership.sql").read_bytes()
