"""A real PostgreSQL for the tests: one server a session (and a worker), a database a test.

It is the private server itself, in shared memory where there is some, with everything off that only a power cut needs.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support_database import ask, forget

from mailferry import database, private_postgres
from mailferry.config.database import DatabaseSettings
from mailferry.postgres_roles import ADMINISTRATOR, Passwords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Not `synchronous_commit`: a killed server must keep what it has committed.
FAST = {"fsync": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that the server's user can reach, whichever user that is."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mailferry-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def administrator(folder: Path, where: dict[str, str]) -> dict[str, str]:
    """libpq's parameters for the superuser of a private server."""
    passwords = Passwords.parse((folder / private_postgres.PGPASS).read_text())
    assert passwords is not None
    return {**where, "user": ADMINISTRATOR, "password": passwords.administrator}


def open_to_all(folder: Path, where: dict[str, str]) -> dict[str, str]:
    """Have a private server take every user by name; libpq's parameters for its superuser."""
    with psycopg.connect(make_conninfo(**administrator(folder, where)), autocommit=True) as conn:
        (folder / "data" / "pg_hba.conf").write_text("local all all trust\n")
        conn.execute("SELECT pg_reload_conf()")
    return {"host": where["host"], "port": where["port"], "user": ADMINISTRATOR, "dbname": where["dbname"]}


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[dict[str, str]]:
    """libpq's parameters of a running server, whose database `template` has our schema.

    Tests make databases and roles of their own.
    """
    folder = server_folder / "postgres"
    with private_postgres.running(folder, settings=FAST) as started:
        where = open_to_all(folder, started)
        with psycopg.connect(make_conninfo(**where), autocommit=True) as conn:
            conn.execute("CREATE DATABASE template")
        database.prepare({**where, "dbname": "template"}, "temp_processing")
        yield where


@pytest.fixture
def new_database(postgres: dict[str, str]) -> Iterator[Callable[..., DatabaseSettings]]:
    """Makes databases, dropped after the test. `template=False`: an empty one. `encoding`: an empty one in that encoding."""
    yield from _databases(postgres)


@pytest.fixture(scope="module")
def new_shared_database(postgres: dict[str, str]) -> Iterator[Callable[..., DatabaseSettings]]:
    """As `new_database`, dropped after the last test of the module."""
    yield from _databases(postgres)


def _databases(postgres: dict[str, str]) -> Iterator[Callable[..., DatabaseSettings]]:
    made: list[str] = []
    # Copying files beats PostgreSQL 15's default several times over; before 15 it was the only way.
    [(version,)] = ask(postgres, "SELECT current_setting('server_version_num')::integer")
    file_copy = " STRATEGY file_copy" if version >= 150_000 else ""

    def make(*, template: bool = True, encoding: str = "") -> DatabaseSettings:
        name = f"t{uuid.uuid4().hex}"
        how = file_copy
        if encoding:
            how += f" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        source = "template" if template and not encoding else "template0"
        ask(postgres, f"CREATE DATABASE {name} TEMPLATE {source}{how}")
        made.append(name)
        return DatabaseSettings(
            host=postgres["host"],
            port=int(postgres["port"]),
            user=postgres["user"],
            name=name,
            lock_timeout=20,
        )

    yield make
    for name in made:
        forget(name)
        ask(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
        ask(postgres, f"DROP DATABASE {name}")


@pytest.fixture
def database_settings(new_database: Callable[..., DatabaseSettings]) -> DatabaseSettings:
    """A database of the test's own, with our schema."""
    return new_database()


@pytest.fixture
def connect(database_settings: DatabaseSettings) -> Iterator[Callable[[], database.Connection]]:
    """Opens connections to the test's database, closed after it."""
    opened: list[database.Connection] = []

    def open_() -> database.Connection:
        opened.append(psycopg.connect(**database.parameters(database_settings)))
        return opened[-1]

    yield open_
    for conn in opened:
        conn.close()


@pytest.fixture
def db(connect: Callable[[], database.Connection]) -> database.Connection:
    """One connection; a transaction is open from its first statement on."""
    return connect()
