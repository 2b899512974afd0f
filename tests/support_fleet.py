"""Three hosts with feeds of every kind and traffic on all of them, faults that befall them, and the truth at the end."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from support_database import query
from support_events import INCOMING, OUTGOING, QUARANTINE
from support_service import Table, events, feed_row, head, hosts, mailbox, restart, toml
from support_wait import wait_for

from mailferry.events.record import event_time
from mailferry.testing.population import Population, Traits
from mailferry.testing.provider import Settings, serve
from mailferry.testing.verify import compare, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from fixtures_dovecot import Account
    from support_service import Host

    from mailferry.config.database import DatabaseSettings
    from mailferry.testing.population import Feed
    from mailferry.testing.provider import Provider

#: Name of each event feed, what it collects, and whether into the table. The file feed is bound to the first host.
FEEDS = {"in": (INCOMING, True), "out": (OUTGOING, True), "quarantine": (QUARANTINE, False)}
#: Seconds by which events become visible late, at most; less than what is read again.
LATE, LOOK_BACK = 4, 8
#: Within so many seconds of a fault, by the database's clock, others have taken up what the host was at.
TAKEOVER = 60.0


class Fleet:
    """Hosts `a`, `b` and `c` on one database."""

    def __init__(
        self,
        machines: list[Host],
        settings: DatabaseSettings,
        provider: Provider,
        account: Account,
        server: Path,
        start: int,
    ) -> None:
        self.hosts = machines
        self.settings = settings
        self.provider = provider
        self.account = account
        self._server = server
        self._start = start
        self.tables = [Table(settings, name) for name in ("alpha", "beta")]
        self._ended = threading.Event()
        self._mailing = threading.Thread(target=self._send)
        for host in machines:
            host.config.write_text(self._configuration(host))
            host.config.chmod(0o600)

    def _configuration(self, host: Host) -> str:
        tables = head(host, self.settings, max_concurrent_jobs=2)
        for name, (feed, table) in FEEDS.items():
            more = {"destination": "table"} if table else {"host": "a"}
            url = self.provider.list_url(feed.category)
            tables |= events(
                name, feed, url, start_time=self._start, look_back=LOOK_BACK, schedule="3s", **more
            )
        for one in self.tables:
            tables |= mailbox(
                one.name, self.account, target_table=one.name, subject_filter=one.subject, schedule="3s"
            )
        return toml(tables)

    # --- traffic

    def begin(self) -> None:
        """Start all hosts, and let mail come all the while."""
        for host in self.hosts:
            host.start(ready=False)
        for host in self.hosts:
            host.wait_ready()
        self._mailing.start()

    def _send(self) -> None:
        number = 0
        while not self._ended.wait(1.0):
            number += 1
            self.account.deliver(self.tables[number % 2].message(large=3000 if number % 10 == 0 else 0))

    def hush(self) -> None:
        """No more mail."""
        self._ended.set()
        if self._mailing.is_alive():
            self._mailing.join()

    def end(self) -> None:
        """No more mail; everything is done that has come by now."""
        self.hush()
        until = int(time.time())
        for table in self.tables:
            self._wait_for_mail(table)
        for name in FEEDS:
            self._wait_for_position(name, until + LATE + LOOK_BACK)
        for host in self.hosts:
            host.signal(signal.SIGTERM)
        assert [host.wait() for host in self.hosts] == [0] * len(self.hosts)
        self._until = until

    def _wait_for_mail(self, table: Table) -> None:
        wait_for(lambda: self._told(str(table.states())), table.done)

    def _wait_for_position(self, name: str, wanted: int) -> None:
        wait_for(
            lambda: self._told(str(feed_row(self.settings, name))), lambda: self._position(name) > wanted
        )

    def _told(self, what: str) -> str:
        logs = "\n".join(f"--- {host.name}\n{host.log()[-3000:]}" for host in self.hosts)
        return f"{what}\n{logs}"

    def _position(self, name: str) -> int:
        return int(feed_row(self.settings, name).get("position") or 0)

    def assert_exactly_once(self) -> None:
        """Each event and each row once and in order, and nothing else."""
        for name, (feed, _) in FEEDS.items():
            lines = [line for line in self._lines(name) if (event_time(json.loads(line)) or 0) < self._until]
            # Late ones are those of the runs; what they come to in order stands in the feed's row.
            late = feed_row(self.settings, name)["late"]
            found = compare(self.provider.truth(feed, self._start, self._until), lines)
            assert found.clean(late=late), (name, found)
            assert found.total > 0
        for table in self.tables:
            table.assert_exactly_once()

    def _lines(self, name: str) -> Iterator[bytes]:
        if FEEDS[name][1]:
            text = (
                "SELECT coalesce(raw, record::text) FROM public.mail_events WHERE feed = %s ORDER BY number"
            )
            for (line,) in query(self.settings, text, name):
                yield line.encode()
        else:
            folder = self.hosts[0].folder / "data" / "output"
            yield from read_lines(sorted(folder.rglob("example.com_*.log")))

    # --- faults

    def fault(self, random: Random) -> str:
        """Something bad befalls a host, and passes; says what."""
        host = random.choice(self.hosts)
        kind = random.choice(
            ("kill", "kill", "stop", "end", "cut", "swallow", "reload", "restart", "terminate")
        )
        getattr(self, f"_{kind}")(host, random)
        return f"{kind} {host.name}"

    def _kill(self, host: Host, random: Random) -> None:
        host.kill()
        time.sleep(random.uniform(0, 1))
        host.start(ready=False)

    def _stop(self, host: Host, random: Random) -> None:
        host.signal(signal.SIGSTOP)
        time.sleep(random.uniform(0.1, 4))
        host.signal(signal.SIGCONT)

    def _end(self, host: Host, _: Random) -> None:
        host.signal(signal.SIGTERM)
        # It may not have come so far as to listen to signals.
        assert host.wait() in (0, -signal.SIGTERM)
        host.start(ready=False)

    def _cut(self, host: Host, random: Random) -> None:
        host.link.cut()
        time.sleep(random.uniform(0, 3))
        host.link.mend()

    def _swallow(self, host: Host, random: Random) -> None:
        host.link.swallow()
        time.sleep(random.uniform(0.1, 4))
        host.link.mend()

    def _reload(self, host: Host, _: Random) -> None:
        # As systemd does, which sends no SIGHUP before.
        host.wait_ready()
        host.signal(signal.SIGHUP)

    def _restart(self, _: Host, __: Random) -> None:
        restart(self._server)

    def _terminate(self, _: Host, random: Random) -> None:
        """The server ends half of all connections."""
        text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND random() < %s"
        query(self.settings, text, self.settings.name, random.choice((0.1, 0.5, 1.0)))

    # --- takeover

    def now(self) -> Any:
        """The database's clock."""
        return query(self.settings, "SELECT clock_timestamp()")[0][0]

    def wait_taken_over(self, fault: Any, *, without: str) -> None:
        """Until every feed that is not bound has run well without these hosts since `fault`, and so has every table.

        Fails where that took longer than the promise, by the database's clock.
        """
        feeds = [name for name, (_, table) in FEEDS.items() if table] + [table.name for table in self.tables]
        run = "SELECT last_good_at FROM mailferry.feeds WHERE name = %s AND last_good_at > %s AND left(runner, 1) <> ALL(%s)"
        load = (
            "SELECT finished_at FROM mailferry.jobs WHERE target = %s AND finished_at > %s AND left(runner, 1) <> ALL(%s)"
            " ORDER BY 1 LIMIT 1"
        )
        for text, names in ((run, feeds), (load, [table.name for table in self.tables])):
            for name in names:
                [(moment,)] = self._wait_for_row(text, name, fault, list(without))
                assert (moment - fault).total_seconds() < TAKEOVER, (name, text)

    def _wait_for_row(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = wait_for(
            lambda: self._told(f"{values}: {text}"), lambda: query(self.settings, text, *values)
        )
        return found


@contextlib.contextmanager
def a_fleet(
    folder: Path, settings: DatabaseSettings, account: Account, server: Path, *, seed: int = 1
) -> Iterator[Fleet]:
    """Hosts that are not started yet."""
    start = int(time.time()) - 30
    traits: dict[Feed, Traits] = {
        feed: Traits(rate=2, start=start, late=0.05, late_by=LATE, detail_bytes=200)
        for feed, _ in FEEDS.values()
    }
    answers = Settings(latency=0.02)
    with (
        serve(Population(traits, seed=seed), answers) as provider,
        hosts(folder, settings, *"abc") as machines,
    ):
        fleet = Fleet(machines, settings, provider, account, server, start)
        try:
            yield fleet
        finally:
            fleet.hush()
