"""A PostgreSQL of our own in a folder: started when it is needed, shared, stopped by the last who used it.

The folder holds `data` (the cluster), `run` (the socket), `pgpass` (its passwords), `server.log` and two lock files. Only
the owner of `run` and root gets at the socket, and there is no TCP. Not every process of that user is to be trusted with
the data: who connects needs a password from `pgpass`, and work is done by a role that is no superuser. A cluster that
an older version made without passwords gets them when its server is started.

Root may not run PostgreSQL, so for root the programs run as the user whose folder it is in, or `postgres`, or `nobody`.
That user could put a link in root's way, so below the folder root does nothing by a path: it asks a program of that user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.disk import make_folder
from mailferry.errors import Retry, Stop
from mailferry.postgres_account import account_of
from mailferry.postgres_programs import OLDEST, Binaries, copy_for_all, installed
from mailferry.postgres_roles import ADMINISTRATOR, WORKER, Passwords, hand_over

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg

DATABASE = "mailferry"
PGPASS = "pgpass"
#: Seconds for a start, recovery after a crash included, and for a stop.
PATIENCE = 60
#: sun_path holds 108 bytes with the final NUL; the socket's own name is `/.s.PGSQL.5432`.
_LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")
_CONF = """\
# Written again at every start; settings of your own belong into local.conf beside this file.
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 60
shared_buffers = 64MB
max_wal_size = 1GB
wal_level = minimal
max_wal_senders = 0
log_timezone = 'UTC'
log_min_messages = warning
"""


@contextlib.contextmanager
def running(
    folder: Path, *, settings: Mapping[str, str] | None = None, binaries: Sequence[Binaries] | None = None
) -> Iterator[dict[str, str]]:
    """The server of `folder`, made and started where needed, as libpq's parameters: `host`, `port`, `user`, `password`, `dbname`.

    `settings` are configuration parameters, heeded by the process that starts the server. `binaries` are the installations to
    choose from; every one of the machine by default. Any number of threads and processes may be inside at once.

    Raises Stop where a person has to act (no binaries, a folder out of reach, another major version), Retry where
    the server did not come up; its log is named.
    """
    if sys.platform == "win32":
        raise Stop(
            "The private PostgreSQL does not run on Windows. Set DB_HOST, DB_NAME and DB_USERNAME to one that does."
        )
    server = _Server(folder.absolute(), settings or {}, installed() if binaries is None else binaries)
    users = server.enter()
    try:
        yield server.parameters
    finally:
        server.leave(users)


class _Server:
    """One folder's server. Every change of its state happens under the exclusive lock `start.lock`."""

    def __init__(self, folder: Path, settings: Mapping[str, str], binaries: Sequence[Binaries]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._settings = settings
        self._account = account_of(self.data)
        self._make_folders()
        self._binaries = self._choose(binaries)
        self.socket_folder = self._socket_folder()
        #: None as long as the cluster has none.
        self._passwords: Passwords | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """For work in the database: of libpq."""
        passwords = self._passwords
        if passwords is None:  # started by an older version, which may still use it
            return self._where(ADMINISTRATOR)
        return self._where(WORKER) | {"password": passwords.worker}

    def _where(self, user: str) -> dict[str, str]:
        return {"host": str(self.socket_folder), "port": "5432", "user": user, "dbname": DATABASE}

    def enter(self) -> int:
        """Starts the server if it is not up; the file descriptor returned holds the shared lock of its users."""
        import fcntl

        with self._starting():
            users = self._lock("users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                if not (self.data / "PG_VERSION").exists():
                    self._create()
                self._start()
            except BaseException:
                os.close(users)
                raise
        return users

    def leave(self, users: int) -> None:
        """Releases the shared lock; the last user stops the server."""
        import fcntl

        with self._starting():
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                # Closing frees the lock; no process can enter before `start.lock` is free as well.
                os.close(users)
            self._pg_ctl("stop", "-m", "fast")

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        import fcntl

        handle = self._lock("start.lock")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _lock(self, name: str) -> int:
        """The file to lock, which the server's user can open as well when root was here first."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with self._opened() as folder:
                handle = os.open(name, flags, 0o600, dir_fd=folder)
            if self._account.ids and os.fstat(handle).st_nlink == 1:
                os.fchown(handle, self._account.uid, self._account.gid)
        except OSError as error:
            raise Stop(f"Cannot use {self.folder / name} for the private PostgreSQL: {error}") from error
        return handle

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder; for root no link to one, as its user could turn that anywhere."""
        handle = os.open(self.folder, os.O_DIRECTORY | (os.O_NOFOLLOW if self._account.ids else 0))
        try:
            yield handle
        finally:
            os.close(handle)

    def _make_folders(self) -> None:
        try:
            make_folder(self.folder)
            with self._opened() as made:
                if self._account.ids and os.fstat(made).st_uid == 0:
                    os.fchown(made, self._account.uid, self._account.gid)
                    os.fchmod(made, 0o700)
            reached = self._run(["test", "-w", str(self.folder)])
        except OSError as error:
            raise Stop(f"Cannot use {self.folder} for the private PostgreSQL: {error}") from error
        if reached.returncode:
            raise Stop(
                f"The private PostgreSQL runs as user {self._account.name}, who cannot reach {self.folder}. "
                "Choose a data folder outside of private homes, such as /var/lib/mailferry, or do not run as root."
            )

    def _choose(self, binaries: Sequence[Binaries]) -> Binaries:
        """The best installation that made the cluster and that the server's user may run; for root, maybe a copy of it."""
        fitting = self._fitting(binaries)
        for one in fitting:
            if self._may_run(one):
                return one
        if self._account.ids:
            for copy in filter(None, map(copy_for_all, fitting)):
                if self._may_run(copy):
                    return copy
        seen = ", ".join(str(one.folder) for one in fitting)
        reason = f"user {self._account.name} may not run those in {seen}" if seen else "none are installed"
        raise Stop(
            f"The private PostgreSQL needs server programs of version {OLDEST} or later; {reason}: "
            "install PostgreSQL (Debian: apt-get install postgresql), "
            "or pip install 'mailferry[postgres]', or set DB_HOST to a server."
        )

    def _fitting(self, binaries: Sequence[Binaries]) -> list[Binaries]:
        try:
            version = int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return list(binaries)
        except ValueError:
            raise Stop(f"{self.data}/PG_VERSION is damaged. Restore the folder from a backup.") from None
        fitting = [one for one in binaries if one.major == version]
        if binaries and not fitting:
            majors = ", ".join(str(one.major) for one in binaries)
            raise Stop(
                f"{self.data} was made by PostgreSQL {version}, but only {majors} is installed. Install {version} again, "
                f"or move the data with pg_upgrade or pg_dump."
            )
        return fitting

    def _may_run(self, binaries: Binaries) -> bool:
        try:
            return not self._run([str(binaries.folder / "postgres"), "--version"]).returncode
        except OSError:
            return False

    def _socket_folder(self) -> Path:
        folder = self.folder / "run"
        if len(os.fsencode(folder)) > _LONGEST_SOCKET_FOLDER or "," in str(folder):
            digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
            runtime = "" if self._account.ids else os.environ.get("XDG_RUNTIME_DIR", "")
            folder = Path(runtime or tempfile.gettempdir()) / f"mailferry-{digest}"
        try:
            self._run(["mkdir", "-m", "0700", str(folder)])
            found = folder.lstat()
        except OSError as error:
            raise Stop(f"Cannot make the socket's folder {folder}: {error}") from error
        # In a shared /tmp another user may have been there first.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self._account.uid or found.st_mode & 0o077:
            raise Stop(
                f"{folder} must be a folder of user {self._account.name} that is closed to all others (0700)."
            )
        return folder

    def _create(self) -> None:
        """A crash in the middle leaves only `data.new`, which the next attempt removes."""
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        options = [
            "-U",
            ADMINISTRATOR,
            "-E",
            "UTF8",
            "--locale=C",
            "--auth-local=trust",  # until it is started, see `_secure`
            "--auth-host=reject",
            "--no-instructions",
        ]
        if self._binaries.major < 14:
            options.remove("--no-instructions")
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        self._check(self._program("initdb", "-D", str(new), *options), "create")
        new.rename(self.data)

    def _start(self) -> None:
        self._passwords = self._read_passwords()
        if not self._answers():
            self._launch()
        self._create_database()

    def _launch(self) -> None:
        self._remove_foreign_pid_file()
        self._configure()
        deadline = time.monotonic() + PATIENCE
        while trouble := self._trouble_starting():
            # A server killed a moment ago still has children; one that was being started may still be recovering.
            passing = any(sign in trouble for sign in ("shared memory block", "postmaster.pid"))
            if not passing or time.monotonic() > deadline:
                raise Retry(f"The private PostgreSQL in {self.folder} did not start: {trouble}")
            time.sleep(0.1)

    def _trouble_starting(self) -> str:
        """Try to start it; what went wrong, or nothing."""
        if self._passwords is None:
            passwords = Passwords.new()
            if trouble := self._secure(passwords):
                return trouble
            self._passwords = passwords
        if self._pg_ctl("start", "-l", "server.log").returncode and not self._answers():
            return self._log_tail() or "pg_ctl start failed"
        return ""

    def _secure(self, passwords: Passwords) -> str:
        """Give the roles of a cluster whose server does not run these passwords, and ask for them; what went wrong, or nothing.

        The password file comes last: without it all of this is done again.
        """
        single = ["--single", "-D", "data", "-c", "exit_on_error=true", "postgres"]
        done = self._run([str(self._binaries.folder / "postgres"), *single], passwords.statements())
        if done.returncode:
            return " / ".join(done.stderr.strip()[-2000:].splitlines())
        # What an administrator wrote about other hosts and users stays.
        demand = r"s/^(local[[:space:]].*[[:space:]])trust([[:space:]]|$)/\1scram-sha-256\2/"
        self._check(self._run(["sed", "-i", "-E", demand, "data/pg_hba.conf"]), "secure")
        self._check(self._run(["tee", "pgpass.new"], passwords.text()), "secure")
        self._check(self._run(["mv", "-f", "pgpass.new", PGPASS]), "secure")
        return ""

    def _read_passwords(self) -> Passwords | None:
        """None where there are none yet, or the file was lost or cut short."""
        try:
            with self._opened() as folder:
                handle = os.open(PGPASS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
            with os.fdopen(handle, encoding="ascii", errors="replace") as file:
                found = os.fstat(handle)
                if found.st_uid != self._account.uid or found.st_mode & 0o077:
                    raise PermissionError(
                        0, f"it must be of user {self._account.name} and closed to all others (0600)"
                    )
                return Passwords.parse(file.read(10_000))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Stop(
                f"Cannot use the passwords of the private PostgreSQL in {self.folder / PGPASS}: {error.strerror}"
            ) from error

    def _answers(self) -> bool:
        import psycopg

        try:
            self._connect("postgres").close()
        except psycopg.OperationalError as error:
            if "password" in str(error):
                raise Stop(
                    f"The private PostgreSQL runs, but its passwords are not in {self.folder / PGPASS}. Stop all that "
                    "uses it (services, commands): the next start sets new ones. Or restore that file."
                ) from error
            return False
        return True

    def _connect(self, database: str) -> psycopg.Connection:
        """As the administrator."""
        import psycopg

        password = self._passwords and self._passwords.administrator
        where = self._where(ADMINISTRATOR) | {"dbname": database}
        return psycopg.connect(**where, password=password, connect_timeout=5, autocommit=True)  # type: ignore[arg-type] # a mapping of texts

    def _create_database(self) -> None:
        """The worker's own. One that an older version made is handed over."""
        owner = WORKER if self._passwords else ADMINISTRATOR
        with self._connect("postgres") as conn:
            query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
            found = conn.execute(query, (DATABASE,)).fetchone()
            if found is None:
                conn.execute(f"CREATE DATABASE {DATABASE} OWNER {owner}".encode())
            elif self._passwords and found[0] == ADMINISTRATOR:
                with self._connect(DATABASE) as own:
                    own.execute(hand_over())
                # Last: it says that all of that is done.
                conn.execute(f"ALTER DATABASE {DATABASE} OWNER TO {WORKER}".encode())

    def _remove_foreign_pid_file(self) -> None:
        """After a reboot the process id of a killed server may belong to another program, and PostgreSQL would refuse to start.

        A server's working directory is its data folder, so a process elsewhere is none of this folder's.
        """
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(pid_file.read_text().splitlines()[0])
            if Path(f"/proc/{pid}/cwd").readlink() != self.data.resolve():
                pid_file.unlink()

    def _configure(self) -> None:
        lines = [_CONF, f"unix_socket_directories = {_quoted(str(self.socket_folder))}\n"]
        lines += [f"{name} = {_quoted(value)}\n" for name, value in self._settings.items()]
        lines.append("include_if_exists 'local.conf'\n")
        self._check(self._run(["tee", "data/postgresql.conf"], "".join(lines)), "configure")

    def _log_tail(self) -> str:
        tail = self._run(["tail", "-n", "3", "server.log"]).stdout.strip()[-2000:]
        return f"{' / '.join(tail.splitlines())} ({self.folder / 'server.log'})" if tail else ""

    def _pg_ctl(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Relative names: pg_ctl hands these to a shell, and the folder is where it stands.
        return self._program("pg_ctl", command, "-D", "data", "-w", "-t", str(PATIENCE), *arguments)

    def _program(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run([str(self._binaries.folder / name), *arguments])

    def _check(self, done: subprocess.CompletedProcess[str], verb: str) -> None:
        if done.returncode:
            raise Retry(
                f"Could not {verb} the private PostgreSQL in {self.folder}: {done.stderr.strip()[-500:]}"
            )

    def _run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        """Run without our environment, so that no secret and no PG* variable gets there."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return] # a mapping of user, group, extra_groups
            command,
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            umask=0o077,
            text=True,
            errors="replace",
            input=text,
            capture_output=True,
            check=False,
            **self._account.ids,
        )


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
