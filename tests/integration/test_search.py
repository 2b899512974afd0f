"""Which messages are looked at, how often, and what becomes of those that cannot be decided."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support_database import Queried
from support_imap import FaultyFolder, Served, through
from support_mail import HEADER, Maildir, feed_of, mail, workbook

from mailferry.config.mailbox import MailboxSettings
from mailferry.mailbox import health, run_once
from mailferry.mailbox.explain import explain
from mailferry.mailbox.ledger import strangers
from mailferry.mailbox.source.imap import ImapMailbox
from mailferry.mailbox.source.maildir import MaildirMailbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.run_result import Run

pytestmark = pytest.mark.usefixtures("closed_mailboxes")


class Site(Queried):
    """A folder on a faulty server, a feed of it and its database."""

    def __init__(self, base: Path, settings: DatabaseSettings, folder: FaultyFolder, server: Any) -> None:
        self.folder, self.settings = folder, settings
        self._base, self._server = base, server

    def feed(self, **changes: Any) -> MailboxFeed:
        values = {"username": "alice", "password": "secret", **through(self._server), **changes}
        feed = feed_of(self._base / "app", self._base, self.settings)
        return feed.model_copy(update={"mailbox": MailboxSettings(**values)})

    def run(self, **changes: Any) -> Run:
        self.folder.lines.clear()
        return run_once.run(self.feed(**changes))

    @property
    def headers_fetched(self) -> int:
        return sum(line.split()[3].count(b",") + 1 for line in self.folder.lines if b"HEADER.FIELDS" in line)


def _wanted(key: str, subject: str = "Track and Trace") -> bytes:
    return mail(subject, ("a.xlsx", workbook(HEADER, (key, "out", 1))))


@pytest.fixture
def site(tmp_path: Path, database_settings: DatabaseSettings) -> Iterator[Site]:
    folder = FaultyFolder()
    with folder.serve() as server:
        yield Site(tmp_path, database_settings, folder, server)


@pytest.mark.slow(15)
def test_headers_of_strangers_are_fetched_once(site: Site) -> None:
    site.folder.messages += [Served(raw=mail(f"Minutes {number}")) for number in range(600)]
    site.folder.messages.append(Served(raw=_wanted("1")))
    assert site.run().arrived == 1
    assert site.headers_fetched == 601
    site.folder.messages.append(Served(raw=_wanted("2")))
    assert site.run().arrived == 1
    assert site.headers_fetched == 1


def test_a_changed_filter_has_every_message_looked_at_again(site: Site) -> None:
    site.folder.messages += [Served(raw=_wanted("1", "Minutes")), Served(raw=_wanted("2"))]
    assert site.run().arrived == 1
    assert site.run(subject_filter="minutes").arrived == 1
    assert site.query("SELECT count(*) FROM mailferry.strangers") == [(0,)]


def test_a_message_set_unread_again_is_looked_at_again(site: Site) -> None:
    stranger = Served(raw=mail("Minutes"))
    site.folder.messages.append(stranger)
    site.run()
    assert site.query("SELECT uid FROM mailferry.strangers") == [("1",)]
    stranger.seen = True
    site.run()
    assert site.query("SELECT uid FROM mailferry.strangers") == []
    stranger.seen = False
    site.run()
    assert site.headers_fetched == 1


def test_of_a_search_that_was_cut_off_nothing_wanted_is_forgotten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailferry.mailbox.search._BATCH", 2)
    site.folder.messages += [Served(raw=raw) for raw in (_wanted("1"), mail("Minutes"), _wanted("2"))]
    add = strangers.add
    cut: list[Any] = []

    def failing(*arguments: Any) -> None:
        add(*arguments)
        if not cut:
            cut.append(arguments)
            raise KeyboardInterrupt

    monkeypatch.setattr(strangers, "add", failing)
    with pytest.raises(KeyboardInterrupt):
        site.run()
    run = site.run()
    assert (run.arrived, run.exit_status) == (2, 0)


def test_a_message_whose_headers_cannot_be_read_is_open_and_holds_up_no_other(site: Site) -> None:
    site.folder.messages += [
        Served(raw=_wanted("1")),
        Served(raw=_wanted("2"), refused=(b"HEADER",)),
        Served(raw=_wanted("3")),
    ]
    run = site.run()
    assert (run.arrived, run.exit_status) == (2, 1)
    (trouble,) = run.troubles
    assert re.search(r"headers of message 2 .* cannot be read: the server refused its header", trouble)
    site.folder.messages[1].refused = ()
    assert (site.run().arrived, site.headers_fetched) == (1, 1)
    assert site.query("SELECT hawb FROM tracking_data ORDER BY hawb") == [("1",), ("2",), ("3",)]


def test_explain_check_and_load_agree(site: Site) -> None:
    site.folder.messages += [
        Served(raw=_wanted("1", "\U0001f4e6 Track and Trace \u015fube")),
        Served(raw=_wanted("2", "Minutes")),
        Served(
            raw=_wanted("3").replace(b"Sender <sender@example.com>", b'"sender@example.com" <x@example.net>')
        ),
    ]
    filters = {"sender_filter": "sender@example.com"}
    assert "1 messages match" in list(health.checks(site.feed(**filters)))[3].text
    found = {
        message.uid: (message.verdict, message.reason) for message in explain(site.feed(**filters), limit=9)
    }
    assert found == {
        "1": ("taken", ""),
        "2": ("skipped", "the subject does not contain 'Track and Trace'"),
        "3": ("skipped", "the sender's address does not match 'sender@example.com'"),
    }
    assert site.run(**filters).arrived == 1


@pytest.mark.parametrize("subject", [b"\xdeube Sevkiyat", b"=?windows-1254?Q?=DEube?= Sevkiyat"])
def test_a_turkish_filter_matches_raw_bytes_of_windows_1254(
    tmp_path: Path, account: Account, subject: bytes
) -> None:
    head = b"From: Depo <depo@example.com>\r\nSubject: " + subject
    wanted = head + b"\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nx\r\n"
    other = wanted.replace(b"ube", b"irket")
    maildir = Maildir(tmp_path / "Maildir")
    for message in (wanted, other):
        account.deliver(message)
        maildir.deliver(message)
    filters = {"subject_filter": "Şube sevkİyat", "sender_filter": ""}
    remote = ImapMailbox(account.settings(**filters))
    local = MaildirMailbox(MailboxSettings(kind="maildir", path=maildir.root, **filters))
    for mailbox in (remote, local):
        (ref,) = mailbox.find()
        summary = mailbox.summary(ref)
        assert summary
        assert summary.subject == "Şube Sevkiyat"
        mailbox.close()
