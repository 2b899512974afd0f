"""A real IMAP server (Dovecot), and a proxy in front of it for the troubles of networks and of other servers."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import support_memory
from fixtures_dovecot import OTHER_PASSWORD, PASSWORD, make_certificates, without_starttls
from support_imap import DONE, HELLO, OAUTH, ScriptedImap, Tokens, through
from support_link import Link

from mailferry.errors import Retry, Stop
from mailferry.mailbox.mime.headers import header_block
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.transfer_encoding import decoded
from mailferry.mailbox.mime.tree import Part, leaves
from mailferry.mailbox.source.imap import ImapMailbox
from mailferry.mailbox.source.imap_connection import is_loopback
from mailferry.mailbox.source.imap_meter import MAX_LITERAL
from mailferry.mailbox.source.message import MessageRef, Outcome, Verdict
from mailferry.mailbox.storing import store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures_dovecot import Account

MAILS = sorted((Path(__file__).parent.parent / "data" / "mails").glob("*.eml"))


def _subject(text: str) -> bytes:
    return f"Subject: {text}\r\n\r\nhello\r\n".encode()


@pytest.fixture
def open_mailbox(account: Account) -> Iterator[Any]:
    opened: list[ImapMailbox] = []

    def make(tokens: Any = None, **changes: Any) -> ImapMailbox:
        opened.append(ImapMailbox(account.settings(**changes), tokens=tokens))
        return opened[-1]

    yield make
    for mailbox in opened:
        mailbox.close()


# --- connecting and signing in


def test_tls_and_starttls_lead_into_the_mailbox(account: Account, open_mailbox: Any) -> None:
    account.deliver(HELLO)
    assert len(open_mailbox().find()) == 1
    assert len(open_mailbox(ssl=False, port=account.dovecot.imap).find()) == 1


def test_what_arrived_after_a_connection_opened_its_folder_has_not_gone(
    account: Account, open_mailbox: Any
) -> None:
    first, second = open_mailbox(), open_mailbox()
    assert second.find() == []
    account.deliver(HELLO)
    (ref,) = first.find()  # on another host, whose jobs the second takes over
    assert second.summary(ref) is not None


def test_without_encryption_only_loopback_is_spoken_to(account: Account, open_mailbox: Any) -> None:
    account.deliver(HELLO)
    with Link(account.dovecot.imap, without_starttls) as proxy:
        assert len(open_mailbox(**through(proxy)).find()) == 1
    assert [is_loopback(address) for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")] == [
        True
    ] * 4
    assert not any(is_loopback(address) for address in ("192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "x"))


def test_a_certificate_that_no_authority_confirms_stops(
    account: Account, open_mailbox: Any, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    for changes in ({}, {"ssl": False, "port": account.dovecot.imap}):
        with pytest.raises(Stop, match="certificate is not trusted"):
            open_mailbox(ca_file=tmp_path / "ca.pem", **changes)
    with pytest.raises(Stop, match=r"ca_file .* cannot be used"):
        open_mailbox(ca_file=tmp_path / "absent.pem")


def test_tls_on_a_port_without_it_stops_with_what_to_check(account: Account, open_mailbox: Any) -> None:
    with pytest.raises(Stop, match="is this the port for TLS"):
        open_mailbox(port=account.dovecot.imap)


def test_a_refused_password_stops_without_showing_it(
    open_mailbox: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for password in ("wrong-but-secret", "yanlis-ş-ama-gizli"):
        with pytest.raises(Stop, match=r"refused the sign-in.*app password") as caught:
            open_mailbox(password=password)
        assert password not in "".join(
            (str(caught.value), repr(caught.value), caplog.text, *capfd.readouterr())
        )


def test_a_password_beyond_ascii_signs_in(
    account: Account, open_mailbox: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    account.deliver(HELLO)
    assert len(open_mailbox(password=OTHER_PASSWORD).find()) == 1
    assert len(open_mailbox(password=PASSWORD).find()) == 1
    assert not {OTHER_PASSWORD, PASSWORD} & set(re.split(r"[\s'\"\\]+", caplog.text))


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
def test_oauth_signs_in_with_a_token_and_renews_one_that_is_refused(
    account: Account, open_mailbox: Any, auth: str
) -> None:
    account.deliver(HELLO)
    account.dovecot.tokens[f"good-{account.user}"] = account.user
    tokens = Tokens("revoked", f"good-{account.user}")
    assert len(open_mailbox(tokens=tokens, auth=auth, oauth=OAUTH).find()) == 1


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
def test_a_refused_token_stops_without_showing_it(
    open_mailbox: Any, auth: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Stop, match=r"refused the sign-in.*IMAP.AccessAsUser.All") as caught:
        open_mailbox(tokens=Tokens("bad-secret-token"), auth=auth, oauth=OAUTH)
    assert "bad-secret-token" not in str(caught.value) + caplog.text


def test_a_host_that_is_unreachable_is_a_passing_fault(open_mailbox: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Retry, match="refused"):
        open_mailbox(port=port)
    with pytest.raises(Retry, match="host name is not known"):
        open_mailbox(host="no-such-host.invalid")


def test_a_missing_folder_stops_and_names_those_that_exist(open_mailbox: Any) -> None:
    with pytest.raises(Stop, match=r"'Loads' of .* cannot be opened; folders there: .*INBOX"):
        open_mailbox(folder="Loads")


# --- finding


def test_unread_messages_that_match_are_found_oldest_first(account: Account, open_mailbox: Any) -> None:
    account.deliver(_subject("TRACK and trace, newer"), received=datetime(2026, 2, 2, tzinfo=UTC))
    account.deliver(_subject("track AND trace, older"), received=datetime(2026, 1, 1, tzinfo=UTC))
    account.deliver(_subject("Track and Trace, read"), flags=[b"\\Seen"])
    account.deliver(_subject("Track and Trace, deleted"), flags=[b"\\Deleted"])
    account.deliver(_subject("Something else"))
    mailbox = open_mailbox()
    found = mailbox.find()
    assert [ref.uid for ref in found] == ["2", "1"]
    assert {(ref.account, ref.folder) for ref in found} == {(f"{account.user}@localhost", "INBOX")}
    summary = mailbox.summary(found[0])
    assert summary.subject == "track AND trace, older"
    assert summary.received == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_folder_too_large_for_one_answer_is_searched_in_ranges(
    account: Account, open_mailbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailferry.mailbox.source.imap._SEARCH_RANGE", 2)
    account.deliver(HELLO, HELLO, _subject("other"), HELLO, HELLO)
    assert [ref.uid for ref in open_mailbox().find()] == ["1", "2", "4", "5"]


_IRSALIYE = (
    b"Subject: =?utf-8?B?xLByc2FsaXllIMWedWJhdA==?=\r\n\r\nx\r\n",
    b"Subject: =?iso-8859-9?Q?=DDrsaliye_=DEubat?=\r\n\r\nx\r\n",
    b"Subject: Fatura\r\n\r\nx\r\n",
)


def test_subjects_beyond_ascii_are_searched_for(account: Account, open_mailbox: Any) -> None:
    account.deliver(*_IRSALIYE)
    assert [ref.uid for ref in open_mailbox(subject_filter="İrsaliye Şubat").find()] == ["1", "2"]


@pytest.mark.parametrize("text", ['a "quoted" (odd) {5} 100% \\ [x]*', "(ALL)", "NOT", '"', "{3}"])
def test_a_filter_is_text_whatever_is_in_it(account: Account, open_mailbox: Any, text: str) -> None:
    account.deliver(_subject(f"about {text} this"), _subject("other"))
    assert [ref.uid for ref in open_mailbox(subject_filter=text).find()] == ["1"]


def test_the_sender_filter_narrows_the_search(account: Account, open_mailbox: Any) -> None:
    account.deliver(HELLO, HELLO.replace(b"depot", b"shop"))
    assert [ref.uid for ref in open_mailbox(sender_filter="SHOP@example.com").find()] == ["2"]


def test_a_poll_of_10000_messages_reads_only_the_20_that_match(account: Account, open_mailbox: Any) -> None:
    for number in range(10_000):
        account.put(f"{number}.r.host", HELLO, seen=True)
    for number in range(20):
        account.put(f"{number}.u.host", HELLO + b"z" * 5000)
    with Link(account.dovecot.imap, without_starttls) as proxy:
        mailbox = open_mailbox(**through(proxy))
        before = proxy.bytes
        assert len(mailbox.find()) == 20
        assert proxy.bytes - before < 20 * 300 + 2000


# --- describing and fetching


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_the_server_and_the_message_itself_tell_the_same(
    account: Account, open_mailbox: Any, path: Path
) -> None:
    message = path.read_bytes().replace(b"\n", b"\r\n")
    account.deliver(message)
    mailbox = open_mailbox(subject_filter="")
    (ref,) = mailbox.find()
    summary = mailbox.summary(ref)
    expected = list(leaves(from_message(message)))
    assert [(p.section, p.mime, p.disposition) for p in summary.parts] == [
        (p.section, p.mime, p.disposition) for p, _ in expected
    ]
    for part, (own, _) in zip(summary.parts, expected, strict=True):
        # Dovecot 2.4 decodes RFC 2231 itself, and cuts a name at a NUL.
        cut = part.name and own.name and own.name.startswith(part.name) and b"%00" in message
        assert part.name == own.name or cut
    for part, (_, node) in zip(summary.parts, expected, strict=True):
        assert node.span
        content = b"".join(mailbox.fetch(ref, part))
        assert content == b"".join(decoded([message[slice(*node.span)]], node.encoding)), part
    assert mailbox.raw_header(ref) == message[: header_block(message)[1]]
    assert account.flags() == {1: set()}


def test_a_message_that_vanished_has_no_summary(account: Account, open_mailbox: Any) -> None:
    account.deliver(HELLO)
    mailbox = open_mailbox()
    (ref,) = mailbox.find()
    (part,) = mailbox.summary(ref).parts
    with account.client() as client:
        client.select_folder("INBOX")
        client.delete_messages([1])
        client.expunge()
    assert mailbox.summary(ref) is None
    with pytest.raises(Retry, match="was deleted"):
        list(mailbox.fetch(ref, part))
    mailbox.mark(ref, Outcome.COMPLETED)


def test_a_message_that_vanishes_while_it_is_fetched_is_never_taken_for_a_shorter_file(
    account: Account, open_mailbox: Any, tmp_path: Path
) -> None:
    account.deliver(_large(2_000_000))
    mailbox = open_mailbox()
    (ref,) = mailbox.find()
    pieces = mailbox.fetch(ref, mailbox.summary(ref).parts[1])
    next(pieces)
    with account.client() as client:
        client.select_folder("INBOX")
        client.delete_messages([1])
        client.expunge()
    with pytest.raises(Retry, match="was deleted"):
        list(pieces)


def test_a_changed_uidvalidity_shows_in_refs_and_old_ones_reach_no_other_message(
    account: Account, open_mailbox: Any
) -> None:
    with account.client() as client:
        client.create_folder("Yükler")
    account.deliver(HELLO, folder="Yükler")
    mailbox = open_mailbox(folder="Yükler")
    (old,) = mailbox.find()
    (part,) = mailbox.summary(old).parts
    mailbox.close()
    with account.client() as client:
        client.delete_folder("Yükler")
        client.create_folder("Yükler")
    account.deliver(HELLO, folder="Yükler")
    (new,) = mailbox.find()
    assert (new.uid, new.folder) == (old.uid, old.folder)
    assert new.uidvalidity != old.uidvalidity
    assert mailbox.summary(old) is None
    with pytest.raises(Retry, match="was deleted"):
        list(mailbox.fetch(old, part))
    with pytest.raises(Retry, match="UIDVALIDITY changed"):
        mailbox.mark(old, Outcome.COMPLETED)
    assert account.flags("Yükler") == {1: set()}


# --- marking


@pytest.mark.parametrize(
    ("changes", "outcome", "flags"),
    [
        ({}, Outcome.COMPLETED, {"\\Seen"}),
        ({}, Outcome.FAILED, set()),
        ({"mark": "keyword"}, Outcome.COMPLETED, {"MailferryDone"}),
        ({"mark": "keyword", "mark_failed": "Bad"}, Outcome.FAILED, {"Bad"}),
        ({"mark": "leave"}, Outcome.COMPLETED, set()),
    ],
)
def test_a_message_is_marked_by_flags(
    account: Account, open_mailbox: Any, changes: dict[str, Any], outcome: Outcome, flags: set[str]
) -> None:
    account.deliver(HELLO, HELLO)
    mailbox = open_mailbox(**changes)
    first = mailbox.find()[0]
    mailbox.mark(first, outcome)
    mailbox.mark(first, outcome)
    assert account.flags() == {1: flags, 2: set()}
    assert [ref.uid for ref in mailbox.find()] == (["2"] if flags else ["1", "2"])


@pytest.mark.parametrize("missing", [b"", b" MOVE"])
def test_a_message_is_moved_with_and_without_the_move_command(
    account: Account, open_mailbox: Any, missing: bytes
) -> None:
    account.deliver(HELLO, HELLO)
    account.deliver(_subject("deleted by a person, not yet expunged"), flags=[b"\\Deleted"])

    def answer(piece: bytes) -> bytes:
        return without_starttls(piece).replace(missing, b"")

    with Link(account.dovecot.imap, answer) as proxy:
        mailbox = open_mailbox(**through(proxy), mark="move", mark_failed="Kötü")
        first, second = mailbox.find()
        mailbox.mark(first, Outcome.COMPLETED)
        mailbox.mark(second, Outcome.FAILED)
        mailbox.mark(second, Outcome.FAILED)
    assert list(account.flags()) == [3]
    assert len(account.flags("Processed")) == len(account.flags("Kötü")) == 1


@pytest.mark.parametrize("mark", ["seen", "keyword"])
def test_a_folder_whose_flags_cannot_be_set_stops_before_anything_is_read(
    account: Account, open_mailbox: Any, mark: str
) -> None:
    def answer(piece: bytes) -> bytes:
        return re.sub(rb"PERMANENTFLAGS \(.*?\)", b"PERMANENTFLAGS ()", without_starttls(piece))

    with Link(account.dovecot.imap, answer) as proxy, pytest.raises(Stop, match="set mark ="):
        open_mailbox(**through(proxy), mark=mark)


# --- troubles on the way


def _large(size: int) -> bytes:
    """A message whose second part holds `size` bytes that begin like a zip archive."""
    import base64

    body = base64.encodebytes(b"PK\x03\x04" + b"\xa5" * size)
    return (
        b'Subject: Track and Trace\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
        b'--b\r\n\r\nhello\r\n--b\r\nContent-Type: application/octet-stream; name="large.xlsx"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\n" + body.replace(b"\n", b"\r\n") + b"--b--\r\n"
    )


class _CutAfter:
    """Cuts the connection once so many bytes have come since it was armed, the given number of times."""

    def __init__(self, size: int, times: int) -> None:
        self.left, self.size, self.times, self.armed = size, size, times, False

    def __call__(self, piece: bytes) -> bytes | None:
        self.left -= len(piece) if self.armed else 0
        if self.left < 0 and self.times:
            self.times -= 1
            self.left = self.size
            return None
        return without_starttls(piece)


def test_a_connection_lost_in_the_middle_of_a_part_is_made_again_and_the_fetch_goes_on(
    account: Account, open_mailbox: Any
) -> None:
    account.deliver(_large(2_000_000))
    cut = _CutAfter(700_000, times=1)
    with Link(account.dovecot.imap, cut) as proxy:
        mailbox = open_mailbox(**through(proxy))
        (ref,) = mailbox.find()
        part = mailbox.summary(ref).parts[1]
        cut.armed = True
        assert b"".join(mailbox.fetch(ref, part)) == b"PK\x03\x04" + b"\xa5" * 2_000_000
        assert proxy.connections == 2
    assert account.flags() == {1: set()}


def test_a_connection_lost_again_and_again_is_a_passing_fault_and_leaves_no_file(
    account: Account, open_mailbox: Any, tmp_path: Path
) -> None:
    account.deliver(_large(2_000_000))
    cut = _CutAfter(400_000, times=9)
    with Link(account.dovecot.imap, cut) as proxy:
        mailbox = open_mailbox(**through(proxy))
        (ref,) = mailbox.find()
        part = mailbox.summary(ref).parts[1]
        cut.armed = True
        with pytest.raises(Retry, match="connection was lost"):
            store(mailbox, ref, part, tmp_path, account.settings())
    assert not list(tmp_path.iterdir())


def test_a_connection_lost_between_two_calls_is_made_again(account: Account, open_mailbox: Any) -> None:
    account.deliver(HELLO)
    cut = _CutAfter(0, times=1)
    with Link(account.dovecot.imap, cut) as proxy:
        mailbox = open_mailbox(**through(proxy))
        (ref,) = mailbox.find()
        cut.armed = True
        mailbox.mark(ref, Outcome.COMPLETED)
    assert account.flags() == {1: {"\\Seen"}}


def test_a_server_that_answers_nothing_any_more_is_a_passing_fault(
    account: Account, open_mailbox: Any
) -> None:
    silent = threading.Event()
    with Link(
        account.dovecot.imap, lambda piece: b"" if silent.is_set() else without_starttls(piece)
    ) as proxy:
        mailbox = open_mailbox(**through(proxy), read_timeout=0.5, connect_timeout=0.5)
        silent.set()
        with pytest.raises(Retry, match="no answer in time"):
            mailbox.find()


def _server(announced: int | None = None, structure: bytes = b"NIL") -> ScriptedImap:
    """A server that never runs out of one part, or announces an absurd size."""

    def fetch(line: bytes) -> bytes:
        if b"BODYSTRUCTURE" in line:
            described = b"BODY[HEADER]<0> {0}\r\n BODYSTRUCTURE " + structure
            return b"* 1 FETCH (UID 1 RFC822.SIZE 9 %b)\r\n" % described + DONE
        if found := re.search(rb"BODY.PEEK\[2\]<(\d+)\.(\d+)>", line):
            size = announced or int(found[2])
            body = (b"PK\x03\x04" + b"x" * int(found[2]))[: int(found[2])]
            return b"* 1 FETCH (UID 1 BODY[2]<%b> {%d}\r\n%b)\r\n" % (found[1], size, body) + DONE
        return DONE

    return ScriptedImap({b"UID": fetch})


_REF = MessageRef(account="a", folder="INBOX", uidvalidity=7, uid="1")
_ENDLESS = Part(section="2", mime="application/octet-stream", encoding="", name="", disposition="", size=10)


def test_a_part_that_never_ends_is_stopped_by_the_size_cap(
    open_mailbox: Any, account: Account, tmp_path: Path
) -> None:
    with _server() as server:
        mailbox = open_mailbox(**through(server))
        settings = account.settings(max_file_bytes=3_000_000)
        stored = store(mailbox, _REF, _ENDLESS, tmp_path, settings)
        mailbox.close()
    assert [one.reason.partition(",")[0] for one in stored if one.verdict is Verdict.REJECTED] == [
        "larger than 2.9 MB"
    ]
    assert not list(tmp_path.iterdir())


def test_an_absurd_size_is_refused_before_it_is_read(open_mailbox: Any) -> None:
    with _server(announced=MAX_LITERAL * 1000) as server:
        mailbox = open_mailbox(**through(server))
        with pytest.raises(Retry, match=f"announced {MAX_LITERAL * 1000} bytes"):
            list(mailbox.fetch(_REF, _ENDLESS))
        mailbox.close()


def test_a_message_without_a_date_is_described_all_the_same(open_mailbox: Any) -> None:
    with _server(structure=b'("text" "plain" NIL NIL NIL "7bit" 3 1)') as server:
        mailbox = open_mailbox(**through(server))
        assert mailbox.summary(_REF).received == datetime.fromtimestamp(0, UTC)
        mailbox.close()


def test_a_message_of_100_mb_is_fetched_in_bounded_memory(account: Account) -> None:
    account.put("1.l.host", _large(75 * 1024 * 1024).replace(b"\r\n", b"\n"))
    program = textwrap.dedent("""
        import sys
        from mailferry.config.mailbox import MailboxSettings
        from mailferry.mailbox.source.imap import ImapMailbox
        from support_memory import peak
        host, port, user, password, ca = sys.argv[1:]
        mailbox = ImapMailbox(MailboxSettings(host=host, port=port, username=user, password=password, ca_file=ca))
        (ref,) = mailbox.find()
        before = peak()
        size = sum(map(len, mailbox.fetch(ref, mailbox.summary(ref).parts[1])))
        print(size, peak() - before)
        mailbox.close()
    """)
    arguments = [
        "localhost",
        str(account.dovecot.imaps),
        account.user,
        PASSWORD,
        str(account.dovecot.ca_file),
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        cwd=Path(support_memory.__file__).parent,
    )
    size, grown_kib = map(int, done.stdout.split())
    assert size == 75 * 1024 * 1024 + 4
    assert grown_kib < 30 * 1024
