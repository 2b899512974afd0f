"""Word of what needs a person, delivered by real servers: once, after a refusal too, and never in the way of the work."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support_alerts import Post, Web, post_office, web_server
from support_fork import KILLED, Forked, mailferry
from support_load import Site
from support_mail import HEADER, mail, workbook
from support_wait import wait_for

from mailferry import database
from mailferry.clock import local_now
from mailferry.config import service
from mailferry.config.alert_settings import AlertSettings
from mailferry.errors import Retry
from mailferry.events.collector import Result
from mailferry.monitor.alerts import channels, once
from mailferry.monitor.alerts.beside import Alerts
from mailferry.monitor.alerts.decide import QUIET, Memory, Message, remember
from mailferry.monitor.alerts.memory import FileStore, TableStore
from mailferry.monitor.alerts.turn import MEMORY, Pauses, turn
from mailferry.monitor.connected import Connected
from mailferry.monitor.facts import Need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings

TO = "admin@example.com"


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    with post_office() as found:
        yield found


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with web_server() as found:
        yield found


@pytest.fixture(autouse=True)
def _emptied(post: Post, web: Web) -> None:
    post.mails.clear()
    post.recipients.clear()
    web.received.clear()
    post.refusal, web.status, web.hangs, web.taken = "", 200, False, lambda: None


def message(*keys: str) -> Message:
    needs = (Need(key=key, kind="gap", subject=f"about {key}", reason="r", advice="a") for key in keys)
    return Message(new=tuple(needs), host="h")


def mail_of(url: str, **more: str) -> channels.Mail:
    return channels.Mail(AlertSettings.model_validate({"mail_to": TO, "smtp_url": url, **more}))


# --- a run by cron


def test_a_refused_file_is_a_mail_that_can_be_forwarded_with_an_address_as_the_only_setting(
    tmp_path: Path, database_settings: DatabaseSettings, post: Post, web: Web
) -> None:
    site = Site(tmp_path, database_settings)
    site.configure(
        ALERT_MAIL_TO=f"{TO},second@example.com",
        ALERT_SMTP_URL=post.url,
        ALERT_WEBHOOK=web.url("/hook"),
        ALERT_PING_URL=web.url("/ping"),
    )
    bad = workbook(HEADER, ("a1", "ok", 1), (None, "=HYPERLINK(1)", 2))
    site.maildir.deliver(mail("Track and Trace İstanbul", ("rows.xlsx", bad), ("broken.xls", b"a;b")))
    assert site.load()[0] == 1
    (only,) = post.mails
    assert post.recipients == [[TO, "second@example.com"]]
    body = only.get_body()
    assert body
    text = body.get_content()
    for line in (
        "Track and Trace İstanbul",
        "rows.xlsx: 2 rows read, 1 rejected",
        "broken.xls: not loaded",
        "job 1",
    ):
        assert line in text
    assert only["Subject"] == "Refused: Track and Trace İstanbul"
    assert only["Auto-Submitted"] == "auto-generated"
    (attached,) = only.iter_attachments()
    assert attached.get_filename() == "rows.xlsx.rejects.csv"
    table = (
        attached.get_content().encode() if isinstance(attached.get_content(), str) else attached.get_content()
    )
    assert b"row" in table
    (posted,) = web.json("/hook")
    assert [one["key"] for one in posted["new"]] == ["job:1"]
    assert (len(web.at("/ping/start")), len(web.at("/ping/fail")), web.at("/ping")) == (1, 1, [])

    # The next run has nothing new to say.
    assert site.load()[0] == 0
    assert (len(post.mails), len(web.at("/hook")), len(web.at("/ping"))) == (1, 1, 1)


def test_a_sender_who_may_not_change_rows_is_on_record_with_the_reason_and_announced_once(
    tmp_path: Path, database_settings: DatabaseSettings, post: Post
) -> None:
    site = Site(tmp_path, database_settings)
    site.configure(EMAIL_ALLOW_SENDERS="partner.example", ALERT_MAIL_TO=TO, ALERT_SMTP_URL=post.url)
    site.maildir.deliver(mail("Track and Trace", ("rows.xlsx", workbook(HEADER, ("a1", "ok", 1)))))
    for status in (1, 0):
        assert site.load()[0] == status
    ((state, error, refused),) = site.query("SELECT state, error, refused FROM mailferry.jobs")
    assert (state, refused) == ("failed", True)
    assert "EMAIL_ALLOW_SENDERS" in error
    assert site.query("SELECT count(*) FROM tracking_data") == [(0,)]
    (only,) = post.mails
    assert only["Subject"] == "Refused: Track and Trace"
    body = only.get_body()
    assert body
    assert "EMAIL_ALLOW_SENDERS" in body.get_content()


def test_mail_that_waits_by_a_limit_is_announced_once_by_cron(
    tmp_path: Path, database_settings: DatabaseSettings, post: Post
) -> None:
    site = Site(tmp_path, database_settings)
    site.configure(FILE_MAX_SENDER_MESSAGES=1, ALERT_MAIL_TO=TO, ALERT_SMTP_URL=post.url)
    for key in "ab":
        site.maildir.deliver(mail("Track and Trace", ("rows.xlsx", workbook(HEADER, (key, "ok", 1)))))
    for _ in range(2):
        assert site.load()[0] == 1
    assert site.query("SELECT count(*) FROM tracking_data") == [(1,)]
    (only,) = post.mails
    body = only.get_body()
    assert body
    assert "1 messages of sender@example.com wait in the mailbox until tomorrow" in body.get_content()


def test_an_event_feed_that_fails_by_cron_is_announced_once_and_its_recovery_once(
    tmp_path: Path, web: Web
) -> None:
    config = tmp_path / "uzmanposta.ini"
    config.write_text("[MailLogger:a]\napi_key = 9f8e7d6c5b4a3928\ndomain = example.com\n")
    config.chmod(0o600)
    found = service.read([config], {"ALERT_WEBHOOK": web.url("/hook")})
    beside = tmp_path / "positions" / "a.pos"
    for status in ("error", "error", "completed", "completed"):
        result = Result(section="a", status=status, error="401: the key" if status == "error" else "")
        once.collected(found, [result], beside, good=status == "completed")
        let_time_pass(beside.parent / MEMORY)
    said = [
        ([one["key"] for one in body["new"]], [one["key"] for one in body["over"]])
        for body in web.json("/hook")
    ]
    assert said == [(["feed:a:run"], []), ([], ["feed:a:run"])]


def let_time_pass(path: Path) -> None:
    """As if the last message were older than the quiet time after it."""
    store = FileStore(path)
    with store.held("webhook") as held:
        assert held
        memory, remembers = held
        if memory.sent_at:
            remembers(replace(memory, sent_at=memory.sent_at - QUIET))


# --- a service


@pytest.fixture
def connected() -> Iterator[Connected]:
    with Connected() as found:
        yield found


def configured(site: Site, **more: object) -> service.Configuration:
    site.configure(**more)
    return service.read([site.folder / "config.env"], {})


def test_an_unreachable_database_is_announced_from_this_host_and_its_return(
    tmp_path: Path, database_settings: DatabaseSettings, web: Web, connected: Connected
) -> None:
    site = Site(tmp_path, database_settings)
    good = configured(site, ALERT_WEBHOOK=web.url("/hook"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = free.getsockname()[1]
    database_away = good.database.model_copy(update={"host": "127.0.0.1", "port": nowhere})
    file, now = FileStore(tmp_path / MEMORY), local_now()
    for configuration in (
        replace(good, database=database_away),
        replace(good, database=database_away),
        good,
        good,
    ):
        turn(configuration, file, now, Pauses(), connected)
        now += QUIET
    said = [
        ([one["key"] for one in body["new"]], [one["key"] for one in body["over"]])
        for body in web.json("/hook")
    ]
    assert said == [(["database"], []), ([], ["database"])]


def test_a_message_that_is_refused_is_sent_when_it_is_taken_again_and_the_other_channel_has_it_once(
    tmp_path: Path, database_settings: DatabaseSettings, post: Post, web: Web, connected: Connected
) -> None:
    site = Site(tmp_path, database_settings)
    site.maildir.deliver(mail("Track and Trace", ("b.xls", b"a;b")))
    assert site.load()[0] == 1
    found = configured(site, ALERT_MAIL_TO=TO, ALERT_SMTP_URL=post.url, ALERT_WEBHOOK=web.url("/hook"))
    file, now = FileStore(tmp_path / MEMORY), local_now()
    post.refusal = "451 try again later"
    turn(found, file, now, Pauses(), connected)
    turn(found, file, now + QUIET, Pauses(), connected)
    assert (len(post.mails), len(web.at("/hook"))) == (0, 1)
    post.refusal = ""
    turn(found, file, now + 2 * QUIET, Pauses(), connected)
    turn(found, file, now + 3 * QUIET, Pauses(), connected)
    assert (len(post.mails), len(web.at("/hook"))) == (1, 1)


def test_a_run_that_is_killed_when_its_message_was_taken_loses_none_and_the_next_sends_it_again(
    tmp_path: Path, database_settings: DatabaseSettings, web: Web
) -> None:
    site = Site(tmp_path, database_settings)
    site.configure(ALERT_WEBHOOK=web.url("/hook"))
    site.maildir.deliver(mail("Track and Trace", ("b.xls", b"a;b")))

    def kill_when_taken(run: Forked) -> None:
        web.taken = run.kill

    def said() -> list[list[str]]:
        return [[need["key"] for need in body["new"]] for body in web.json("/hook")]

    assert site.start(before=kill_when_taken).wait() == KILLED
    web.taken = lambda: None
    assert said() == [["job:1"]]
    # It kept its turn, so that no other process sends at the same time; that ends after minutes.
    over = "UPDATE mailferry.alerts SET until = now() WHERE until > now() RETURNING channel"
    assert site.query(over) == [("webhook",)]
    assert site.load()[0] == 0
    assert said() == [["job:1"], ["job:1"]]


def test_two_hosts_do_not_both_send(database_settings: DatabaseSettings) -> None:
    with database.connect(database_settings) as pool:
        first, second = TableStore(pool), TableStore(pool)
        with first.held("mail") as held:
            assert held
            memory, remembers = held
            assert memory == Memory()
            after = remember(memory, message("a"), local_now())
            remembers(after)
            with database.transaction(pool) as conn:
                # As another process would.
                taken = conn.execute(
                    database.queries("alerts")["take"],
                    {"channel": "mail", "holder": "00000000-0000-0000-0000-000000000001"},
                ).fetchall()
            assert taken == []
        with second.held("mail") as again:
            assert again
            assert again[0] == after


def test_the_memory_in_a_file_survives_and_a_damaged_one_repeats_rather_than_loses(tmp_path: Path) -> None:
    path = tmp_path / MEMORY
    with FileStore(path).held("mail") as held:
        assert held
        held[1](remember(Memory(), message("a"), local_now()))
    assert list(FileStore(path).look("mail").announced) == ["a"]
    assert FileStore(path).look("webhook") == Memory()
    for damaged in (b"", b"[]", b'{"channels": {"mail": {"announced": 7}}}'):
        path.write_bytes(damaged)
        assert FileStore(path).look("mail") == Memory()


# --- servers that do not do what they should


def test_a_webhook_that_hangs_or_refuses_ends_in_time_with_its_host_and_without_its_address(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = channels.Webhook(web.url("/secret-path"), "json")
    web.status = 500
    with pytest.raises(Retry, match="answered 500") as refused:
        hook.deliver(message("a"), lambda _: None)
    web.status, web.hangs = 200, True
    monkeypatch.setattr(channels, "_REQUEST", 0.3)
    with pytest.raises(Retry, match="did not answer") as hung:
        hook.deliver(message("a"), lambda _: None)
    assert "secret-path" not in f"{refused.value} {hung.value}"


def test_a_mail_server_that_never_says_anything_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_MAIL", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        begun = time.monotonic()
        with pytest.raises(Retry, match="did not take it"):
            mail_of(f"smtp://127.0.0.1:{mute.getsockname()[1]}").deliver(message("a"), lambda _: None)
        assert time.monotonic() - begun < channels._ANSWER


def test_a_mail_server_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_MAIL", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def drip() -> None:
            connection, _ = slow.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"2")
                    time.sleep(0.05)

        dripping = threading.Thread(target=drip)
        dripping.start()
        with pytest.raises(Retry, match="did not take it"):
            mail_of(f"smtp://127.0.0.1:{slow.getsockname()[1]}").deliver(message("a"), lambda _: None)
        dripping.join()


def test_a_password_is_not_sent_without_tls_to_another_machine(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "is_local", lambda _: False)
    with pytest.raises(Retry, match="no STARTTLS"):
        mail_of(f"smtp://user:hunter2hunter2@127.0.0.1:{post.port}").deliver(message("a"), lambda _: None)
    assert not post.mails


def test_a_certificate_counts_where_there_is_a_password_and_mail_servers_own_encrypt_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "is_local", lambda _: False)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mail", "-days", "1"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with post_office(tls) as post:
        mail_of(f"smtp://127.0.0.1:{post.port}").deliver(message("a"), lambda _: None)
        assert len(post.mails) == 1
        with pytest.raises(Retry, match="certificate verify failed"):
            mail_of(f"smtp://user:hunter2hunter2@127.0.0.1:{post.port}").deliver(message("a"), lambda _: None)
        assert len(post.mails) == 1


def test_without_a_mail_server_this_machines_sendmail_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, taken = tmp_path / "sendmail", tmp_path / "taken"
    program.write_text(f"#!/bin/sh\ncat > {taken}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    monkeypatch.setattr(channels, "_LOCAL_PORT", closed)
    channels.Mail(AlertSettings(mail_to=TO)).deliver(message("a"), lambda _: None)
    assert f"To: {TO}" in taken.read_text()
    program.write_text("#!/bin/sh\necho no such user >&2; exit 67\n")
    with pytest.raises(Retry, match="status 67, no such user"):
        channels.Mail(AlertSettings(mail_to=TO)).deliver(message("a"), lambda _: None)


def tried(site: Site) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    command = ("alerts", "test", "--config", "config.env")
    return Forked(mailferry, *command, folder=site.folder, variables=variables).finished()


def test_a_test_message_goes_every_way_and_says_what_became_of_it(
    tmp_path: Path, database_settings: DatabaseSettings, post: Post, web: Web
) -> None:
    site = Site(tmp_path, database_settings)
    assert tried(site).returncode == 1
    site.configure(
        ALERT_MAIL_TO=TO,
        ALERT_SMTP_URL=post.url,
        ALERT_WEBHOOK=web.url("/hook"),
        ALERT_PING_URL=web.url("/ping"),
    )
    good = tried(site)
    assert (good.returncode, len(post.mails), len(web.at("/hook")), len(web.at("/ping"))) == (0, 1, 1, 1)
    web.status = 404
    bad = tried(site)
    assert bad.returncode == 1
    assert "mail: taken by admin@example.com" in bad.stdout
    assert "webhook: FAILED: 127.0.0.1 answered 404" in bad.stdout


def test_a_ping_keeps_the_query_of_its_address(web: Web) -> None:
    channels.ping(web.url("/uuid?rid=1"), "fail", "why")
    assert web.received == [("/uuid/fail?rid=1", b"why")]


def test_beside_a_service_word_goes_out_by_itself_and_a_hanging_webhook_holds_up_nothing_else(
    tmp_path: Path, database_settings: DatabaseSettings, post: Post, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_REQUEST", 60)
    site = Site(tmp_path, database_settings)
    site.maildir.deliver(mail("Track and Trace", ("b.xls", b"a;b")))
    assert site.load()[0] == 1
    web.hangs = True
    found = configured(site, ALERT_MAIL_TO=TO, ALERT_SMTP_URL=post.url, ALERT_WEBHOOK=web.url("/hook"))
    beside = Alerts()
    begun = time.monotonic()
    beside.take(found)
    taken = time.monotonic() - begun
    try:
        wait_for("the mail", lambda: post.mails)
    finally:
        begun = time.monotonic()
        beside.stop()
        stopped = time.monotonic() - begun
        web.free()
    assert max(taken, stopped) < channels._REQUEST / 2
    assert beside._thread
    beside._thread.join()
    assert post.mails[0]["Subject"] == "Refused: Track and Trace"
