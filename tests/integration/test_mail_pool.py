"""The open parts of a service's mailbox feeds: acquired by threads, kept open, released and taken over."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import threading
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest
from fixtures_dovecot import PASSWORD, without_starttls
from support_database import Queried
from support_link import Link
from support_mail import HEADER, Maildir, feed_of, mail, workbook
from support_wait import wait_for

from mailferry import database
from mailferry.config.mailbox import MailboxSettings
from mailferry.errors import Retry, Stop
from mailferry.mailbox import run_once
from mailferry.mailbox.cleanup import tidy
from mailferry.mailbox.folders import READING, Folders, reading_prefix
from mailferry.mailbox.ledger import admin, leases, records
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.pool import MailPool
from mailferry.mailbox.source.message import MessageRef, Outcome, Summary
from mailferry.mailbox.turns import StepResult, load_next, poll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.turns import Step

#: Rows whose CSV is more than a pipe holds, so that the reading child waits in the middle of them.
LARGE = 6000


class Service(Queried):
    """Mailbox feeds by name, each with a Maildir of its own, in one database and one folder."""

    def __init__(self, base: Path, settings: DatabaseSettings) -> None:
        self.base = base
        self.settings = settings
        self.maildirs: dict[str, Maildir] = {}
        self.feeds: dict[str, MailboxFeed] = {}

    def add(self, name: str, **changes: Any) -> Maildir:
        maildir = self.maildirs[name] = Maildir(self.base / name)
        changes.setdefault("target_table", name)
        self.feeds[name] = feed_of(
            self.base / "app", maildir.root, self.settings.model_copy(update={"pool_max": 8}), **changes
        ).model_copy(update={"name": name})
        return maildir

    def send(self, name: str, *keys: str, large: int = 0) -> None:
        rows = [(key, os.urandom(200).hex() if large else "x", 1) for key in keys]
        rows += [(f"{keys[0]}-{n}", os.urandom(200).hex(), n) for n in range(large)]
        self.maildirs[name].deliver(mail("Track and Trace", (f"{keys[0]}.xlsx", workbook(HEADER, *rows))))

    @contextlib.contextmanager
    def mail(self, **changes: Any) -> Iterator[MailPool]:
        settings = self.settings.model_copy(update={"pool_max": 8})
        with database.connect(settings) as pool:
            stop = threading.Event()
            with MailPool(self.feeds, pool, worker_id="test", stop=stop, **changes) as mail_pool:
                yield mail_pool

    def keys(self, table: str) -> list[str]:
        return [key for (key,) in self.query(f"SELECT hawb FROM {table} ORDER BY hawb")]

    def files(self) -> list[str]:
        base = self.base / "app"
        found = (path.relative_to(base) for path in base.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.name != ".lock")


@pytest.fixture
def service(tmp_path: Path, database_settings: DatabaseSettings) -> Service:
    return Service(tmp_path, database_settings)


def poll_once(mail_pool: MailPool, name: str) -> int:
    return poll(mail_pool, name).arrived


def load_all(mail_pool: MailPool, target: str) -> list[Step]:
    """Turns at a table until there is nothing to do at this moment, the last one among them."""
    steps: list[Step] = []
    while not steps or steps[-1].result is StepResult.WORKED:
        steps.append(load_next(mail_pool, target, list(mail_pool.feeds)))
    return steps


def reading_children() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [child for child in found if "mailferry.mailbox.workbook.child" in child.cmdline()]


def test_what_arrives_is_recorded_seen_jobs_at_once_and_loaded_in_turns(service: Service) -> None:
    maildir = service.add("orders")
    service.send("orders", "1")
    service.send("orders", "2")
    with service.mail() as mail_pool:
        seen_jobs = []
        polled = poll(mail_pool, "orders", lambda job: seen_jobs.append((job.id, job.state)))
        assert (polled.arrived, polled.troubles) == (2, ())
        assert seen_jobs == [(1, JobState.PENDING), (2, JobState.PENDING)]
        steps = load_all(mail_pool, "orders")
        assert [step.result for step in steps] == [StepResult.WORKED, StepResult.WORKED, StepResult.NOTHING]
        assert [step.job.id for step in steps if step.job] == [1, 2]
        assert poll_once(mail_pool, "orders") == 0
        assert mail_pool.claims == []
    assert service.keys("orders") == ["1", "2"]
    assert set(maildir.flags().values()) == {"S"}
    assert [name.split("/")[0] for name in service.files()] == ["processed"] * 2
    assert service.query("SELECT DISTINCT runner FROM mailferry.jobs") == [("test",)]


def test_one_reading_child_serves_all_feeds_and_is_idle_when_none_needs_it(service: Service) -> None:
    for name in ("a", "b"):
        service.add(name)
        for key in ("1", "2"):
            service.send(name, key)
    with service.mail() as mail_pool:
        seen = set()
        for name in ("a", "b"):
            poll_once(mail_pool, name)
            while load_next(mail_pool, name, [name]).result is StepResult.WORKED:
                seen |= {child.pid for child in reading_children()}
        assert len(seen) == 1
        mail_pool.close_idle()
        assert {child.pid for child in reading_children()} == seen
    assert reading_children() == []
    service.send("a", "3")
    with service.mail(idle=-1) as mail_pool:
        poll_once(mail_pool, "a")
        load_all(mail_pool, "a")
        mail_pool.close_idle()
        assert reading_children() == []


def test_a_child_that_was_killed_is_replaced(service: Service) -> None:
    service.add("a")
    service.send("a", "1")
    service.send("a", "2")
    with service.mail() as mail_pool:
        poll_once(mail_pool, "a")
        load_next(mail_pool, "a", ["a"])
        (child,) = reading_children()
        child.kill()
        child.wait()
        assert load_next(mail_pool, "a", ["a"]).result is StepResult.WORKED
    assert service.keys("a") == ["1", "2"]
    assert service.query("SELECT DISTINCT attempts FROM mailferry.jobs") == [(1,)]


def test_tables_are_loaded_at_the_same_time_and_one_that_stands_still_holds_up_no_other(
    service: Service,
) -> None:
    for name in ("a", "b"):
        service.add(name)
        service.send(name, "1")
    with service.mail() as mail_pool:
        for name in ("a", "b"):
            poll_once(mail_pool, name)
        load_all(mail_pool, "a")
        service.send("a", "2")
        poll_once(mail_pool, "a")
        with psycopg.connect(**database.parameters(service.settings)) as conn:
            conn.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=load_all, args=(mail_pool, "a"))
            thread.start()
            wait_for("a claim", lambda: mail_pool.claims)
            assert [step.result for step in load_all(mail_pool, "b")] == [
                StepResult.WORKED,
                StepResult.NOTHING,
            ]
            assert [held.job.target for held in mail_pool.claims] == ["a"]
            assert load_next(mail_pool, "a", ["a"]).result is StepResult.LATER
        thread.join()
    assert (service.keys("a"), service.keys("b")) == (["1", "2"], ["1"])


def test_a_job_that_waits_for_its_next_attempt_holds_up_its_own_table_only(service: Service) -> None:
    for name in ("a", "b"):
        service.add(name)
        service.send(name, "1")
    with service.mail() as mail_pool:
        for name in ("a", "b"):
            poll_once(mail_pool, name)
        for path in (service.base / "app" / "pending").glob("[!.]*"):
            path.unlink()
        (service.base / "a" / "new").rename(service.base / "a" / "away")
        step = load_next(mail_pool, "a", ["a", "b"])
        assert step.job
        assert (step.result, step.job.state, step.job.attempts) == (StepResult.WORKED, JobState.PENDING, 1)
        later = load_next(mail_pool, "a", ["a", "b"])
        assert (later.result, bool(later.wait)) == (StepResult.LATER, True)
        assert [step.result for step in load_all(mail_pool, "b")] == [StepResult.WORKED, StepResult.NOTHING]
        service.query("UPDATE mailferry.jobs SET next_attempt_at = now() RETURNING id")
        blocked = load_next(mail_pool, "a", ["a", "b"])
        assert (blocked.result, "no Maildir" in blocked.why) == (StepResult.BLOCKED, True)
        assert load_next(mail_pool, "a", ["a", "b"]).result is StepResult.LATER
        (service.base / "a" / "away").rename(service.base / "a" / "new")
        assert poll_once(mail_pool, "a") == 0
        assert [step.result for step in load_all(mail_pool, "a")] == [StepResult.WORKED, StepResult.NOTHING]
    assert (service.keys("a"), service.keys("b")) == (["1"], ["1"])


def test_a_mailbox_that_is_unreachable_is_not_asked_for_every_mark_until_a_poll_has_reached_it(
    service: Service,
) -> None:
    maildir = service.add("a")
    for key in ("1", "2", "3"):
        service.send("a", key)
    new, away = maildir.root / "new", maildir.root / "away"
    with service.mail(lease=dt.timedelta(milliseconds=300)) as mail_pool:
        poll_once(mail_pool, "a")
    with service.mail(lease=dt.timedelta(milliseconds=300)) as mail_pool:
        new.rename(away)
        assert "no Maildir" in load_next(mail_pool, "a", ["a"]).why
        away.rename(new)
        assert load_next(mail_pool, "a", ["a"]).why == "its mailbox is unreachable"
        poll_once(mail_pool, "a")
        assert load_next(mail_pool, "a", ["a"]).why == ""

        def seen() -> bool:
            poll_once(mail_pool, "a")
            return set(maildir.flags().values()) == {"S"}

        wait_for("the marks", seen)
    assert service.keys("a") == ["1", "2", "3"]


def test_what_another_process_has_to_do_is_seen_jobs(service: Service) -> None:
    service.add("a")
    service.add("b", target_table="a")
    service.send("a", "1")
    with service.mail() as mail_pool:
        poll_once(mail_pool, "a")
        step = load_next(mail_pool, "a", ["b"])
        assert step.result is StepResult.HELD_BACK
        assert "job 1 of feed 'a'" in step.why
        with database.transaction(mail_pool.pool) as conn:
            assert leases.due(conn, ["b"]) == []
            ((target, wait),) = leases.due(conn, ["a", "b"])
        assert (target, wait <= 0) == ("a", True)


@contextlib.contextmanager
def copying(service: Service) -> Iterator[tuple[MailPool, threading.Thread, psutil.Process]]:
    """A large file stands still in the middle of its COPY: the thread that loads it, and its reading child."""
    service.add("a")
    with service.mail() as mail_pool:
        service.send("a", "0")
        poll_once(mail_pool, "a")
        load_all(mail_pool, "a")
        service.send("a", "1", large=LARGE)
        poll_once(mail_pool, "a")
        (child,) = reading_children()
        with psycopg.connect(**database.parameters(service.settings)) as conn:
            conn.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=load_next, args=(mail_pool, "a", ["a"]))
            thread.start()
            wait_for("a load that stands", lambda: activity(service, "CREATE UNLOGGED TABLE"))
            child.suspend()
        wait_for("its copying", lambda: activity(service, "COPY"))
        yield mail_pool, thread, child


def activity(service: Service, beginning: str) -> int:
    text = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND starts_with(query, %s)"
    return int(service.query(text, beginning)[0][0])


def test_a_cancelled_job_ends_in_the_middle_of_its_copy(service: Service) -> None:
    with copying(service) as (mail_pool, thread, child):
        with psycopg.connect(**database.parameters(service.settings)) as conn:
            assert admin.cancel(conn, 2).state is JobState.CANCELLED
            assert activity(service, "COPY") == 0
            conn.execute("SET LOCAL lock_timeout = '5s'")
            conn.execute("LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
        with contextlib.suppress(psutil.NoSuchProcess):
            child.resume()
        thread.join()
        assert mail_pool.claims == []
        assert load_next(mail_pool, "a", ["a"]).result is StepResult.NOTHING
    assert service.keys("a") == ["0"]
    assert service.query("SELECT state, error FROM mailferry.jobs WHERE id = 2") == [("cancelled", None)]


def test_claims_are_handed_back_in_the_middle_of_a_copy_and_cost_no_attempt(service: Service) -> None:
    with copying(service) as (mail_pool, thread, _):
        assert [held.job.id for held in mail_pool.claims] == [2]
        assert mail_pool.release_claims(within=30) == [2]
        state = service.query("SELECT state, attempts, error FROM mailferry.jobs WHERE id = 2")
        assert state == [("pending", 0, None)]
        thread.join()
        assert mail_pool.claims == []
        assert load_next(mail_pool, "a", ["a"]).result is StepResult.LATER
    with service.mail() as another:
        assert [step.result for step in load_all(another, "a")] == [StepResult.WORKED, StepResult.NOTHING]
    assert len(service.keys("a")) == LARGE + 2
    assert service.query("SELECT state, attempts FROM mailferry.jobs WHERE id = 2") == [("completed", 1)]


def test_a_release_gives_up_where_the_database_is_unreachable_and_says_what_it_did_not_do(
    service: Service,
) -> None:
    service.add("a")
    service.send("a", "1")
    with service.mail() as mail_pool:
        poll_once(mail_pool, "a")
        held = mail_pool.claim("a", ["a"])
        assert held
        with (
            psycopg.connect(**database.parameters(service.settings)) as conn,
            mail_pool.working(held),
        ):
            conn.execute("SELECT * FROM mailferry.jobs FOR UPDATE")
            assert mail_pool.release_claims(within=0.05) == []
        assert mail_pool.claim("a", ["a"]) is None
    wait_for("the release", lambda: service.query("SELECT state FROM mailferry.jobs") == [("pending",)])


def test_a_load_beside_the_service_passes_by_and_the_service_waits_for_one_that_runs(
    service: Service,
) -> None:
    service.add("a")
    service.send("a", "1")
    with service.mail() as mail_pool, mail_pool.acquire("a"):
        assert run_once.run(service.feeds["a"]).status == "skipped"
        with service.mail() as beside:
            assert beside.usable(["a"]) == ["a"]
    arrived: list[int] = []
    with service.mail() as mail_pool:
        folders = Folders(base=service.base / "app")
        with folders.alone() as alone:
            assert alone
            assert mail_pool.usable(["a"]) == []
            thread = threading.Thread(target=lambda: arrived.append(poll_once(mail_pool, "a")))
            thread.start()
            with database.transaction(mail_pool.pool) as conn:
                job = records.record(conn, "a", _summary(), "header", target="a")
            step = load_next(mail_pool, "a", ["a"])
            assert (step.result, "`mailferry load`" in step.why) == (StepResult.HELD_BACK, True)
            with database.transaction(mail_pool.pool) as conn:
                admin.cancel(conn, job.id)
            assert arrived == []
        thread.join()
        assert arrived == [1]


def _summary() -> Summary:
    ref = MessageRef(account="x", folder="", uidvalidity=0, uid="x")
    return Summary(
        ref=ref,
        subject="",
        sender="",
        message_id="",
        received=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        size=0,
        parts=(),
    )


def test_asked_to_stop_no_thread_waits_for_folders(service: Service) -> None:
    service.add("a")
    with database.connect(service.settings) as pool:
        stop = threading.Event()
        stop.set()
        folders = Folders(base=service.base / "app")
        folders.prepare()
        with (
            MailPool(service.feeds, pool, worker_id="test", stop=stop) as mail_pool,
            folders.alone(),
            pytest.raises(Retry, match="asked to stop"),
            mail_pool.acquire("a"),
        ):
            pass


def test_beside_others_a_sweep_leaves_what_is_young_or_alive(service: Service) -> None:
    service.add("a")
    with service.mail() as mail_pool, mail_pool.acquire("a") as work:
        pending = work.folders.pending
        ended = psutil.Popen(["true"])
        ended.wait()
        dead = reading_prefix().replace(f"-{os.getpid()}-", f"-{ended.pid}-") + "x"
        old = ["0123-old.xlsx", ".incoming-old", f"{READING}elsewhere-1-x"]
        young = ["0123-young.xlsx", ".incoming-young", f"{READING}elsewhere-2-x", f"{reading_prefix()}x"]
        for name in [*old, *young, dead]:
            path = pending / name
            path.mkdir() if name.startswith(READING) else path.touch()
            if name in old:
                os.utime(path, (0, 0))
        tidy(work)
        assert sorted(path.name for path in pending.iterdir()) == sorted(young)


def test_files_of_a_job_that_another_host_settled_are_put_away_here(service: Service) -> None:
    service.add("a")
    service.send("a", "1")
    with service.mail() as mail_pool:
        poll_once(mail_pool, "a")
        (here,) = (service.base / "app" / "pending").glob("[!.]*")
        elsewhere = service.base / "elsewhere"
        here.rename(elsewhere)  # the other host's disk has none
        with database.transaction(mail_pool.pool) as conn:
            conn.execute("UPDATE mailferry.files SET state = 'loaded', finished_at = now()")
            conn.execute(
                "UPDATE mailferry.jobs SET state = 'completed', finished_at = now(), marked_at = now()"
            )
        elsewhere.rename(here)
        with mail_pool.acquire("a") as work:
            tidy(work)
            assert here.is_file()
            os.utime(here, (0, 0))
            tidy(work)
        (place,) = service.files()
        assert place.startswith("processed/")
        assert service.query("SELECT path FROM mailferry.files") == [(str(service.base / "app" / place),)]


def test_two_feeds_on_one_mailbox_do_not_get_hold_of_each_others_files(service: Service) -> None:
    maildir = service.add("a", mark="leave")
    feed = service.feeds["a"]
    service.feeds["b"] = feed.model_copy(update={"name": "b", "target_table": "b"})
    maildir.deliver(mail("Track and Trace", ("x.xlsx", workbook(HEADER, ("1", "x", 1), (None, "y", 2)))))
    with service.mail() as mail_pool:
        for name in ("a", "b"):
            poll_once(mail_pool, name)
        assert len(service.files()) == 2
        for name in ("a", "b"):
            load_all(mail_pool, name)
    assert (service.keys("a"), service.keys("b")) == (["1"], ["1"])
    assert len([name for name in service.files() if name.endswith(".rejects.csv")]) == 2
    assert len(service.files()) == 4


@pytest.mark.parametrize("kept", [True, False])
def test_a_message_that_failed_and_was_moved_away_follows_when_its_job_is_done_again(
    service: Service, *, kept: bool
) -> None:
    maildir = service.add("a", mark="move")
    service.send("a", "long-key", "2", "3")
    with psycopg.connect(**database.parameters(service.settings)) as conn:
        conn.execute("CREATE TABLE a (hawb varchar(1) PRIMARY KEY, status text, pieces int)")
    service.feeds["a"] = service.feeds["a"].model_copy(update={"max_rejected": 0.0})
    with service.mail() as mail_pool:
        poll_once(mail_pool, "a")
        load_all(mail_pool, "a")
        assert service.query("SELECT state FROM mailferry.jobs") == [("failed",)]
        completed, failed = service.feeds["a"].mailbox.marks
        assert places(maildir) == [f".{failed}"]
        with database.transaction(mail_pool.pool) as conn:
            conn.execute("ALTER TABLE a ALTER hawb TYPE text")
            admin.retry(conn, 1)
        if not kept:
            for name in service.files():
                (service.base / "app" / name).unlink()
        assert [step.why for step in load_all(mail_pool, "a")] == ["", ""]
        assert places(maildir) == [f".{completed}"]
    assert service.keys("a") == ["2", "3", "long-key"]
    assert service.query("SELECT marked_at IS NOT NULL, marked_as FROM mailferry.jobs") == [
        (True, "completed")
    ]


def places(maildir: Maildir) -> list[str]:
    """Sub-folders ("." for its own) that hold messages."""
    found = [path for path in maildir.root.rglob("*.test.host*") if path.is_file()]
    return sorted({str(path.parent.parent.relative_to(maildir.root)) for path in found})


def test_what_was_marked_for_an_end_before_a_retry_does_not_count_for_the_next_one(service: Service) -> None:
    service.add("a", max_rejected=0.0)
    service.send("a", "1")
    with service.mail() as mail_pool:
        poll_once(mail_pool, "a")
        load_all(mail_pool, "a")
        with database.transaction(mail_pool.pool) as conn:
            conn.execute("UPDATE mailferry.jobs SET state = 'failed', marked_at = NULL")
            (ended,) = admin.jobs(conn)
            admin.retry(conn, 1)
            records.marked(conn, ended, Outcome.FAILED)
            assert [job.marked_at for job in admin.jobs(conn)] == [None]


# IMAP


def over_imap(service: Service, account: Account, port: int, **changes: Any) -> None:
    mailbox = MailboxSettings(
        host="127.0.0.1",
        port=port,
        ssl=False,
        username=account.user,
        password=PASSWORD,
        read_timeout=20,
        **changes,
    )
    service.add("a")
    service.feeds["a"] = service.feeds["a"].model_copy(update={"mailbox": mailbox})


def message(key: str) -> bytes:
    return mail("Track and Trace", (f"{key}.xlsx", workbook(HEADER, (key, "x", 1))))


def test_a_connection_is_lent_on_and_one_that_the_server_closed_is_made_again(
    service: Service, account: Account
) -> None:
    with Link(account.dovecot.imap, without_starttls) as proxy:
        over_imap(service, account, proxy.port)
        account.deliver(message("1"))
        with service.mail() as mail_pool:
            assert poll_once(mail_pool, "a") == 1
            load_all(mail_pool, "a")
            assert poll_once(mail_pool, "a") == 0
            assert proxy.connections == 1
            proxy.drop()  # as a server does with idle ones
            account.deliver(message("2"))
            assert poll_once(mail_pool, "a") == 1
            load_all(mail_pool, "a")
            assert proxy.connections == 2
            with mail_pool.acquire("a") as one, mail_pool.acquire("a") as two:
                assert (list(one.mailbox.find()), list(two.mailbox.find())) == ([], [])
            assert proxy.connections == 3
            with pytest.raises(Stop), mail_pool.acquire("a"):
                raise Stop
            with mail_pool.acquire("a") as work:
                work.mailbox.find()
            assert proxy.connections == 3
    assert service.keys("a") == ["1", "2"]
    assert account.flags() == {1: {"\\Seen"}, 2: {"\\Seen"}}


def test_files_on_record_are_loaded_while_the_mailbox_is_unreachable_and_their_messages_marked_later(
    service: Service, account: Account
) -> None:
    with Link(account.dovecot.imap, without_starttls) as proxy:
        port = proxy.port
        over_imap(service, account, port)
        account.deliver(message("1"), message("2"), message("3"))
        with service.mail() as mail_pool:
            assert poll_once(mail_pool, "a") == 3
    for path in (service.base / "app" / "pending").glob("*3.xlsx"):
        path.unlink()
    with service.mail(lease=dt.timedelta(seconds=1)) as mail_pool:
        with pytest.raises(Retry):
            poll_once(mail_pool, "a")
        first, second, third, last = load_all(mail_pool, "a")
        assert [step.result for step in (first, second, third)] == [StepResult.WORKED] * 3
        assert (bool(first.why), second.why) == (True, "its mailbox is unreachable")
        assert last.result is StepResult.LATER
        assert third.job
        assert (third.job.state, third.job.attempts) == (JobState.PENDING, 0)
        assert account.flags() == {1: set(), 2: set(), 3: set()}
    with Link(account.dovecot.imap, without_starttls) as proxy:
        over_again(service, proxy.port)
        with service.mail(lease=dt.timedelta(seconds=1)) as mail_pool:

            def seen() -> bool:
                poll_once(mail_pool, "a")
                load_all(mail_pool, "a")
                return account.flags() == {1: {"\\Seen"}, 2: {"\\Seen"}, 3: {"\\Seen"}}

            service.query("UPDATE mailferry.jobs SET next_attempt_at = now() RETURNING id")
            wait_for("the marks", seen)
    assert service.keys("a") == ["1", "2", "3"]
    assert service.query("SELECT DISTINCT attempts FROM mailferry.jobs") == [(1,)]
    assert [name.split("/")[0] for name in service.files()] == ["processed"] * 3


def over_again(service: Service, port: int) -> None:
    feed = service.feeds["a"]
    service.feeds["a"] = feed.model_copy(update={"mailbox": feed.mailbox.model_copy(update={"port": port})})


def test_over_imap_a_message_that_failed_and_was_moved_away_follows_when_its_job_is_done_again(
    service: Service, account: Account
) -> None:
    over_imap(service, account, account.dovecot.imap, mark="move", allow_plaintext=True)
    service.feeds["a"] = service.feeds["a"].model_copy(
        update={"max_rejected": 0.0, "mailbox": account.settings(mark="move")}
    )
    with psycopg.connect(**database.parameters(service.settings)) as conn:
        conn.execute("CREATE TABLE a (hawb varchar(1) PRIMARY KEY, status text, pieces int)")
    account.deliver(message("other"), message("long-key"))
    completed, failed = service.feeds["a"].mailbox.marks
    with service.mail() as mail_pool:
        assert poll_once(mail_pool, "a") == 2
        load_all(mail_pool, "a")
        assert (len(account.flags(failed)), account.flags()) == (2, {})
        with database.transaction(mail_pool.pool) as conn:
            conn.execute("ALTER TABLE a ALTER hawb TYPE text")
            admin.retry(conn, 2)
        load_all(mail_pool, "a")
        assert (len(account.flags(completed)), len(account.flags(failed))) == (1, 1)
    assert service.keys("a") == ["long-key"]


def test_feeds_of_one_account_share_its_tokens(service: Service) -> None:
    oauth = {
        "provider": "generic",
        "client_id": "c",
        "refresh_token": "r",
        "token_endpoint": "https://example.com/t",
        "token_file": service.base / "token",
    }
    for name, folder in (("a", "INBOX"), ("b", "Other")):
        service.add(name)
        mailbox = MailboxSettings(
            host="imap.example.com", username="u@example.com", auth="xoauth2", oauth=oauth, folder=folder
        )
        service.feeds[name] = service.feeds[name].model_copy(update={"mailbox": mailbox})
    service.add("c")
    with service.mail() as mail_pool:
        assert mail_pool.tokens("a") is mail_pool.tokens("b") is not None
        assert mail_pool.tokens("c") is None
