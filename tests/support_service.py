"""The service as processes: hosts that share a database, each behind a link that can be cut, and what they tell systemd."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fixtures_dovecot import PASSWORD
from fixtures_postgres import FAST
from support_database import query
from support_events import KEY
from support_fork import Forked, mailferry
from support_link import Link
from support_mail import mail, workbook
from support_wait import PATIENCE, wait_for

from mailferry import private_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings
    from mailferry.testing.population import Feed


class Manager:
    """Stands in systemd's place at the notification socket, and keeps what it receives."""

    def __init__(self) -> None:
        self.said: list[str] = []
        # Abstract, as a path would be too long.
        self.address = f"\0mailferry-test-{os.getpid()}-{id(self)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        # An empty one is its end.
        while message := self._socket.recv(65536).decode():
            self.said += message.splitlines()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join(timeout=10)
        self._socket.close()

    @property
    def ready(self) -> int:
        """How often it was said."""
        return self.said.count("READY=1")

    def since(self, what: str) -> list[str]:
        """What was said from the last `what` on, that line first."""
        at = len(self.said) - 1 - self.said[::-1].index(what)
        return self.said[at:]

    @property
    def status(self) -> str:
        return next(
            (line.removeprefix("STATUS=") for line in reversed(self.said) if line.startswith("STATUS=")), ""
        )


class Host:
    """One worker process, on a host of a name, in a folder of its own."""

    def __init__(self, folder: Path, name: str, link: Link) -> None:
        self.folder = folder
        self.name = name
        self.link = link
        self.config = folder / "mailferry.toml"
        self._process: Forked | None = None
        #: How often others of it were ready.
        self._before = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.manager = Manager()

    def start(self, *, ready: bool = True, **variables: str) -> Self:
        """Start it; `ready`: and wait until it says so."""
        before = self._before = self.manager.ready
        self._process = Forked(
            mailferry,
            *("start", "--config", str(self.config)),
            folder=self.folder,
            variables={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
                "NOTIFY_SOCKET": "@" + self.manager.address[1:],
                **variables,
            },
            log=self.folder / "service.log",
        )
        if ready:
            self.wait_ready(before)
        return self

    def wait_ready(self, before: int | None = None) -> None:
        """Until it has said once more that it is ready: since its start, or since it had said so `before` times."""
        before = self._before if before is None else before
        wait_for(
            lambda: f"{self.name} ready: {self.manager.status}\n{self.log()[-2000:]}",
            lambda: self.manager.ready > before or not self.alive,
        )
        assert self.alive, self.log()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process
        return self._process.wait(PATIENCE)

    def end(self) -> int:
        """End it in good order."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def log(self) -> str:
        file = self.folder / "service.log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def close(self) -> None:
        if self.alive:
            self.signal(signal.SIGCONT)
            self.kill()
        self.manager.close()


@contextlib.contextmanager
def hosts(folder: Path, settings: DatabaseSettings, *names: str) -> Iterator[list[Host]]:
    """Hosts that are not started yet, each with a link of its own to the database."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in names:
            host = Host(folder / name, name, stack.enter_context(Link(settings)))
            stack.callback(host.close)
            made.append(host)
        yield made


def toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Tables of a configuration; a bool, a number or a text each."""
    lines = []
    for name, values in tables.items():
        lines.append(f"[{name}]")
        for option, value in values.items():
            written = (
                str(value).lower()
                if isinstance(value, bool)
                else str(value)
                if isinstance(value, int | float)
                else f'"{value}"'
            )
            lines.append(f"{option} = {written}")
    return "\n".join(lines) + "\n"


def head(host: Host, settings: DatabaseSettings, **service: object) -> dict[str, dict[str, object]]:
    """[service] and [database]: a host that reaches the database by its link."""
    where = {"host": "127.0.0.1", "port": host.link.port, "name": settings.name, "user": settings.user}
    return {
        "service": {"host": host.name, "data_dir": "data", **service},
        # Many at once on one machine: none has the page.
        "page": {"listen": ""},
        "database": {**where, "sslmode": "disable"},
    }


def events(name: str, feed: Feed, url: str, **options: object) -> dict[str, dict[str, object]]:
    """A quick event feed."""
    known = {"api_key": KEY, "domain": feed.domain, "category": feed.category, "type": feed.type, "url": url}
    quick = {"schedule": "1s", "settle": 1, "timezone": "UTC", "list_sleep_time": 0.1, "verbose": False}
    return {f"events.{name}": {**known, **quick, "detail_sleep_time": 0.1, **options}}


def mailbox(name: str, account: Account, **options: object) -> dict[str, dict[str, object]]:
    """A feed of a Dovecot account; `password`, `port` are its mailbox's."""
    dovecot = account.dovecot
    imap = {
        "host": "localhost",
        "port": options.pop("port", dovecot.imaps),
        "username": account.user,
        "password": options.pop("password", PASSWORD),
        "ca_file": dovecot.ca_file,
    }
    return {f"mailbox.{name}": {"schedule": "1s", **options}, f"mailbox.{name}.imap": imap}


class Table:
    """A table that mail is loaded into, what it must hold, and every change of it in order."""

    def __init__(self, settings: DatabaseSettings, name: str) -> None:
        self._settings = settings
        self.name = name
        self.sent = 0
        self._rows: dict[str, tuple[str, int]] = {}
        self._changes: Counter[tuple[str, str, int]] = Counter()
        query(
            settings,
            f"""
            CREATE TABLE {name} (hawb text PRIMARY KEY, status text, pieces integer);
            CREATE TABLE {name}_changes
                (id bigint GENERATED ALWAYS AS IDENTITY, hawb text, status text, pieces integer);
            CREATE FUNCTION {name}_note() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN INSERT INTO {name}_changes (hawb, status, pieces) VALUES (new.hawb, new.status, new.pieces);
                 RETURN NULL; END';
            CREATE TRIGGER note AFTER INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_note()
            """,
        )

    @property
    def subject(self) -> str:
        return f"Rows of {self.name}"

    def message(self, *, large: int = 0) -> bytes:
        """The next message: a key that others change as well, one of its own, and so many more."""
        self.sent += 1
        number = self.sent
        rows = [(f"old-{number % 3}", f"as of {number}", number), (f"new-{number}", "x", number)]
        rows += [(f"large-{number}-{n}", os.urandom(200).hex(), number) for n in range(large)]
        self._rows |= {key: (status, pieces) for key, status, pieces in rows}
        self._changes.update(rows)
        return mail(self.subject, (f"{number}.xlsx", workbook(("hawb", "status", "pieces"), *rows)))

    def done(self) -> bool:
        """Whether every message is loaded and marked."""
        text = "SELECT count(*) FROM mailferry.jobs WHERE target = %s AND state = 'completed' AND marked_at IS NOT NULL"
        return query(self._settings, text, self.name) == [(self.sent,)]

    def states(self) -> list[tuple[Any, ...]]:
        text = (
            "SELECT id, state, attempts, runner, error, marked_at, lease_until - now() FROM mailferry.jobs"
            " WHERE target = %s AND (state <> 'completed' OR marked_at IS NULL) ORDER BY id"
        )
        return query(self._settings, text, self.name)

    def assert_exactly_once(self) -> None:
        """Each message's rows once, in the order of arrival."""
        assert self.sent
        rows = query(self._settings, f"SELECT hawb, status, pieces FROM {self.name}")
        assert {row[0]: row[1:] for row in rows} == self._rows
        changes = query(self._settings, f"SELECT hawb, status, pieces FROM {self.name}_changes ORDER BY id")
        assert Counter(changes) == self._changes
        order = [pieces for _, _, pieces in changes]
        assert order == sorted(order)


def feed_row(settings: DatabaseSettings, name: str) -> dict[str, Any]:
    """What the service has on record of a feed; empty before it has any."""
    found = query(settings, "SELECT to_regclass('mailferry.feeds') IS NOT NULL")
    rows = (
        query(settings, "SELECT to_jsonb(f) FROM mailferry.feeds AS f WHERE name = %s", name)
        if found == [(True,)]
        else []
    )
    return rows[0][0] if rows else {}


def restart(server: Path) -> None:
    """PostgreSQL ends at once, as if it had crashed, and is started again."""
    pid = int((server / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    wait_for("the end of PostgreSQL", lambda: not Path(f"/proc/{pid}").exists())
    with private_postgres.running(server / "postgres", settings=FAST):
        pass  # there are other users, so it stays
