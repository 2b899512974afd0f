"""The one way to the database: a pool of connections, our schema brought up to date, and its errors as Retry, Reject or Stop.

Session settings are made by `set_config` after connecting, not in the start-up packet, which poolers refuse.
The session's time zone and search path are left as the server, the database and the role have them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import selectors
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from mailferry.config.database import is_local
from mailferry.errors import MailferryError, Reject, Retry, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.rows import TupleRow
    from psycopg_pool import ConnectionPool

    from mailferry.config.database import DatabaseSettings

    Connection = psycopg.Connection[TupleRow]
    Pool = ConnectionPool[Connection]

SCHEMA = "mailferry"
_OLDEST = 120_000
#: Seconds: to connect, to get a connection from the pool, to sit in a transaction doing nothing: a worker that is frozen in
#: one blocks the other workers for so long. Work that takes longer asks for more, see `leases.hold`.
_CONNECT, _POOL, _IDLE = 10, 30, 20

#: libpq passes on no SQLSTATE for a connection that failed, so the English text has to do; what is not listed here
#: is taken for a passing fault, and tried again with growing pauses.
_NEEDS_A_PERSON = [
    (r"password authentication failed|no password supplied", "Check the database's user name and password."),
    (
        r"authentication failed|authentication method",
        "Check the database's user name and the server's pg_hba.conf.",
    ),
    (r'database "[^"]*" does not exist', "Create the database, or correct its name."),
    (
        r'role "[^"]*" (does not exist|is not permitted to log in)',
        "Create the database user, or correct its name.",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "Allow this host, user and TLS mode in the server's pg_hba.conf.",
    ),
    (r"permission denied for database", "GRANT CONNECT ON DATABASE ... to the database user."),
    (
        r"does not support SSL|server does not support SSL",
        "Switch TLS on at the server, or set sslmode (DB_SSLMODE) to prefer if the network in between is trusted.",
    ),
    (
        r"certificate|SSL error|root\.crt",
        "Check the server's certificate, the CA file (sslrootcert) and sslmode (DB_SSLMODE).",
    ),
]

#: Parts of ISO 8859 by PostgreSQL's numbers, where they differ.
_LATIN = {5: 9, 6: 10, 7: 13, 8: 14, 9: 15, 10: 16}
#: SQLSTATE classes and codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING = ("08", "40", "53", "55P03", "57", "58", "25006", "25P03", "XX", "72")
_DATA = ("21", "22", "23", "44", "P0", "54")


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A table, by schema and name."""

    schema: str
    name: str

    @property
    def title(self) -> str:
        """Schema and name, as people write them, and as the ledger keeps them."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The table in a statement."""
        return sql.Identifier(self.schema, self.name)


def parameters(settings: DatabaseSettings) -> dict[str, Any]:
    """What libpq is given for a server that is not the private one. Raises Stop for a URL that cannot be read."""
    given: dict[str, Any]
    if settings.url is not None:
        try:
            given = psycopg.conninfo.conninfo_to_dict(settings.url.get_secret_value())
        except psycopg.ProgrammingError:
            # libpq's message may quote a piece of the password.
            raise Stop(
                "The database URL cannot be read. It is postgresql://user:password@host:port/name, "
                "with special characters as percent codes."
            ) from None
    else:
        given = {
            "host": settings.host,
            "port": settings.port,
            "dbname": settings.name,
            "user": settings.user,
            "password": settings.password.get_secret_value() or None,
        }
    host = given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST", "")
    local = is_local(str(host)) and "service" not in given
    if settings.sslmode or "sslmode" not in given:
        given["sslmode"] = settings.sslmode or ("prefer" if local else "require")
    defaults = {
        "connect_timeout": _CONNECT,
        "application_name": "mailferry",
        # Else a database in another encoding has us write in that, and fail over what it does not have.
        "client_encoding": "UTF8",
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # Milliseconds that sent data may stay unacknowledged.
        "tcp_user_timeout": 30_000,
    }
    return defaults | given


@contextlib.contextmanager
def connect(settings: DatabaseSettings) -> Iterator[Pool]:
    """A pool on a database that is reachable, of a fit version, and has our schema as this program knows it.

    The private server is started first where it is meant, and stopped afterwards. Raises Retry or Stop.
    """
    with located(settings) as where, pooled(where, settings) as pool:
        yield pool


@contextlib.contextmanager
def located(settings: DatabaseSettings) -> Iterator[dict[str, Any]]:
    """What libpq is given for the database of `connect`, which is there and up to date. Raises Retry or Stop."""
    with contextlib.ExitStack() as stack:
        if settings.private:
            from mailferry import private_postgres

            assert settings.data_dir is not None
            found: dict[str, Any] = dict(
                stack.enter_context(private_postgres.running(settings.data_dir / "postgres"))
            )
            found["application_name"] = "mailferry"
        else:
            found = parameters(settings)
        prepare(found, settings.temp_schema)
        yield found


@contextlib.contextmanager
def pooled(
    where: dict[str, Any], settings: DatabaseSettings, kind: type[Connection] = psycopg.Connection
) -> Iterator[Pool]:
    """A pool of connections, each a `kind`, to where `located` says."""
    from psycopg_pool import ConnectionPool

    with ConnectionPool(
        kwargs=where,
        connection_class=kind,
        min_size=settings.pool_min,
        max_size=settings.pool_max,
        timeout=_POOL,
        # Else its pauses between two tries double for five minutes, however long the database has been back.
        reconnect_timeout=5,
        configure=functools.partial(_configure, settings),
        check=_check,
        open=False,
    ) as pool:
        yield pool


def _check(conn: Connection) -> None:
    """Raise psycopg.OperationalError for a connection that ended while it was idle.

    A server that closes one sends a message, and keep-alives find one that is cut: both make the socket readable, so no
    query is needed before each transaction.
    """
    from psycopg_pool import ConnectionPool

    with selectors.DefaultSelector() as heard:
        heard.register(conn.fileno(), selectors.EVENT_READ)
        if heard.select(timeout=0):
            ConnectionPool.check_connection(conn)


def data_folder(conn: Connection) -> Path | None:
    """Where a server of this machine keeps its data, as far as this user can see it: the private one, and others of the same user.

    The second line of its socket's lock file says so, https://www.postgresql.org/docs/current/storage-file-layout.html.
    """
    folder = Path(conn.info.host)
    if not folder.is_absolute():
        return None
    try:
        lines = (folder / f".s.PGSQL.{conn.info.port}.lock").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    found = Path(lines[1]) if len(lines) > 1 else None
    return found if found and found.is_dir() else None


def prepare(where: dict[str, Any], temp_schema: str) -> None:
    """Connect once, so that a fault has a clear error, and bring our schema up to date."""
    try:
        with psycopg.connect(**where) as conn:
            migrate(conn, temp_schema)
    except psycopg.Error as error:
        raise translated(error) from error


@contextlib.contextmanager
def transaction(pool: Pool) -> Iterator[Connection]:
    """One transaction on one connection of the pool; the database's errors come out as Retry, Reject or Stop.

    A connection that is lost while it commits is a Retry, and whether the work was committed is then unknown: the
    next attempt reads that from the ledger, which changes in the same transaction.
    """
    try:
        with pool.connection() as conn, conn.transaction():
            yield conn
    except psycopg.Error as error:
        raise translated(error) from error


@contextlib.contextmanager
def single(pool: Pool) -> Iterator[Connection]:
    """A connection for one statement, which is its own transaction; errors as of `transaction`.

    Spares the server the two statements around it.
    """
    try:
        with pool.connection() as conn:
            conn.autocommit = True
            try:
                yield conn
            finally:
                with contextlib.suppress(psycopg.Error):  # it is lost, and the pool makes a new one
                    conn.autocommit = False
    except psycopg.Error as error:
        raise translated(error) from error


def translated(error: psycopg.Error) -> MailferryError:
    """What to do about an error of the database. Connection errors carry no SQLSTATE, see `_NEEDS_A_PERSON`."""
    # libpq says in several lines what is one event in a log.
    text = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    code = error.sqlstate or ""
    if code:
        if error.diag.message_detail and not code.startswith("23"):
            text += f" ({error.diag.message_detail})"
        if code.startswith(("28", "3D")):
            return Stop(f"The database refuses the connection: {text}")
        if code.startswith(_PASSING):
            return Retry(f"The database: {text}")
        if code == "22P05":
            text += "; a database in UTF8 holds every character"
        if code.startswith(_DATA):
            return Reject(f"The database does not take the data: {text}")
        if code == "42501":
            return Stop(f"The database user lacks a right: {text}. GRANT it, or use a user who has it.")
        return Stop(f"The database: {text} [{code}]")
    if isinstance(error, psycopg.OperationalError):
        for pattern, remedy in _NEEDS_A_PERSON:
            if re.search(pattern, text):
                return Stop(f"Cannot use the database: {text}. {remedy}")
        return Retry(f"The database cannot be reached, or was lost: {text}")
    if isinstance(error, psycopg.InterfaceError):
        return Retry(f"The connection to the database was lost: {text}")
    if isinstance(error, psycopg.DataError):
        return Reject(f"The database does not take the data: {text}")
    return Stop(f"The database: {text}")


def _configure(settings: DatabaseSettings, conn: Connection) -> None:
    values = {
        "statement_timeout": int(settings.statement_timeout * 1000),
        "lock_timeout": int(settings.lock_timeout * 1000),
        "idle_in_transaction_session_timeout": _IDLE * 1000,
        # So that the server, too, lets go of a host that has vanished, and of the locks it held.
        "tcp_keepalives_idle": 20,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
        "DateStyle": "ISO",
    }
    for name, value in values.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
    conn.commit()


def server_codec(conn: Connection) -> str:
    """Python's name for the database's encoding; "ascii" for one that is not known here, whose other letters we do not know."""
    name = conn.info.parameter_status("server_encoding") or ""
    if latin := re.fullmatch(r"LATIN(\d+)", name):
        return f"iso8859-{_LATIN.get(int(latin[1]), latin[1])}"
    if windows := re.fullmatch(r"WIN(\d+)", name):
        return f"cp{windows[1]}"
    # A database without encoding keeps the bytes that it gets.
    return {"UTF8": "utf-8", "SQL_ASCII": "utf-8"}.get(name, "ascii")


def storable(conn: Connection, text: str) -> str:
    """Text for people as the database can hold it: no NUL, and `?` for what its encoding does not have."""
    codec = server_codec(conn)
    return text.replace("\0", "").encode(codec, "replace").decode(codec)


def advisory_key(*names: str) -> int:
    """The number of an advisory lock, from what it is for: a signed 64-bit hash."""
    digest = hashlib.sha256("\0".join((SCHEMA, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def migrate(conn: Connection, temp_schema: str) -> None:
    """Bring schema `mailferry` to this program's version; make `temp_schema` where it is missing. Commits.

    All steps that are missing happen in one transaction, one host at a time. Raises Stop for a server that is too
    old, a database of a newer program, and a user who may not create what is missing.
    """
    if conn.info.server_version < _OLDEST:
        raise Stop(
            f"PostgreSQL {conn.info.server_version // 10_000} is too old: version {_OLDEST // 10_000} or later is needed."
        )
    steps = migrations()
    with conn.transaction():
        if _version(conn) == len(steps) and _has_schema(conn, temp_schema):
            return
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_key("migrate"),))
        for schema in (SCHEMA, temp_schema):
            _create_schema(conn, schema)
        conn.execute(
            "CREATE TABLE IF NOT EXISTS mailferry.versions"
            " (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for number, (name, step) in enumerate(steps[_version(conn) :], start=_version(conn) + 1):
            conn.execute(step)
            conn.execute("INSERT INTO mailferry.versions (version, name) VALUES (%s, %s)", (number, name))


def migrations() -> list[tuple[str, bytes]]:
    """The steps in order, (file name, SQL); step n leads to version n."""
    files = (
        entry for entry in (resources.files("mailferry") / "sql").iterdir() if re.match(r"\d{4}_", entry.name)
    )
    steps = [(entry.name, entry.read_bytes()) for entry in sorted(files, key=lambda entry: entry.name)]
    assert [int(name[:4]) for name, _ in steps] == list(range(1, len(steps) + 1))
    return steps


@functools.cache
def queries(name: str) -> dict[str, bytes]:
    """The named statements of `sql/<name>.sql`: each follows a line `-- name: ...`."""
    text = (resources.files("mailferry") / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    pieces = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {key: body.strip().encode() for key, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def _version(conn: Connection) -> int:
    """The schema's version; 0 where there is none. Raises Stop for one from the future."""
    row = conn.execute("SELECT to_regclass('mailferry.versions') IS NOT NULL").fetchone()
    if row == (False,):
        return 0
    row = conn.execute("SELECT coalesce(max(version), 0) FROM mailferry.versions").fetchone()
    version: int = row[0] if row else 0
    if version > len(migrations()):
        raise Stop(
            f"The database is of a newer mailferry (its schema is at version {version}, this program knows "
            f"{len(migrations())}). Upgrade this host."
        )
    return version


def _has_schema(conn: Connection, name: str) -> bool:
    return conn.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (name,)).fetchone() is not None


def _create_schema(conn: Connection, name: str) -> None:
    # IF NOT EXISTS would ask for the right to create schemas even where nothing is to be created.
    if _has_schema(conn, name):
        return
    statement = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name))
    try:
        conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        owner = sql.Identifier(conn.info.user).as_string(conn)
        remedy = f"{statement.as_string(conn)} AUTHORIZATION {owner}"
        raise Stop(
            f"The database user may not create a schema. Let an administrator run: {remedy};"
        ) from error
