"""Watching an IMAP mailbox: the real Dovecot, a link for the network's troubles, and a scripted server for other servers'."""

from __future__ import annotations

import contextlib
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from fixtures_dovecot import Account, own_dovecot, without_starttls
from fixtures_watch import Calls, is_state
from support_imap import DONE, HELLO, OAUTH, ScriptedImap, Tokens, through
from support_link import Link
from support_wait import wait_for

from mailferry.mailbox.source import watch, watch_imap
from mailferry.mailbox.source.watch import State
from mailferry.mailbox.source.watch_imap import ImapWatcher, _View

if TYPE_CHECKING:
    import subprocess

# --- news


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_a_mail_that_arrives_calls_and_each_later_one_too(
    account: Account, start: Any, calls: Calls, tls: str
) -> None:
    changes = {} if tls == "implicit" else {"ssl": False, "port": account.dovecot.imap}
    watched = start(**changes)
    calls.reach(1)
    for number in (2, 3, 4):
        account.deliver(HELLO)
        calls.reach(number)
    assert watched.health.state is State.WATCHING
    assert watched.health.error == ""
    assert account.flags() == {1: set(), 2: set(), 3: set()}


def test_deleted_messages_and_changed_flags_are_no_news(account: Account, start: Any, calls: Calls) -> None:
    account.deliver(HELLO, HELLO)
    seen = bytearray()

    def answer(piece: bytes) -> bytes:
        seen.extend(piece)
        return without_starttls(piece)

    with Link(account.dovecot.imap, answer) as proxy, account.client() as person:
        watched = start(**through(proxy))
        wait_for("IDLE", lambda: b"+ idling" in seen)
        person.select_folder("INBOX")
        person.add_flags([1], [b"\\Seen"])
        wait_for("the flags", lambda: b"FETCH" in seen)
        person.delete_messages([2])
        person.expunge()
        wait_for("the deletion", lambda: b"EXPUNGE" in seen)
        account.deliver(HELLO)
        calls.reach(2)
        watched.stop(timeout=30)
    assert calls.count == 2


def test_what_arrives_while_a_call_is_being_handled_makes_another(account: Account, start: Any) -> None:
    entered, go_on, calls = threading.Event(), threading.Event(), Calls()

    def handle() -> None:
        calls()
        if calls.count == 2:
            entered.set()
            go_on.wait(60)

    start(ImapWatcher(account.settings(), handle))
    calls.reach(1)
    account.deliver(HELLO)
    assert entered.wait(60)
    account.deliver(HELLO, HELLO)
    go_on.set()
    calls.reach(3)


def test_a_handler_that_fails_is_called_again(account: Account, start: Any) -> None:
    calls = Calls()

    def fails_once() -> None:
        calls()
        if calls.count == 1:
            raise OSError("no database")

    watched = start(ImapWatcher(account.settings(), fails_once))
    calls.reach(2)
    is_state(watched, State.WATCHING)


@pytest.mark.parametrize(
    ("lines", "news", "exists"),
    [
        ([b"* 3 EXISTS"], True, 3),
        ([b"* 3 exists"], True, 3),
        ([b"* 2 EXISTS", b"* 1 RECENT", b"* OK Still here", b"* 2 FETCH (FLAGS ())"], False, 2),
        ([b"* 1 EXPUNGE", b"* 1 EXISTS"], False, 1),
        ([b"* 1 EXPUNGE", b"* 2 EXISTS"], True, 2),
        ([b"* 1 EXPUNGE"] * 3, False, 0),
        ([b"* 1 EXISTS"], False, 1),
        ([b"* OK 9 EXISTS", b"", b"\xff\x00"], False, 2),
    ],
)
def test_news_is_what_makes_the_folder_longer(lines: list[bytes], news: bool, exists: int) -> None:
    view = _View(uidvalidity=1, uidnext=3, exists=2)
    heard = [view.hears(line) for line in lines]
    assert (any(heard), view.exists) == (news, exists)


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        ((1, 3, 2, 0), (1, 3, 2), False),
        ((1, 3, 2, 0), (1, 3, 1), False),
        ((1, 3, 2, 0), (1, 4, 2), True),
        ((1, 3, 3, 1), (1, 4, 3), False),
        ((1, 3, 3, 1), (1, 5, 4), True),
        ((1, 0, 2, 0), (1, 0, 3), True),
        ((1, 0, 2, 0), (1, 9, 2), False),
        ((1, 3, 2, 0), (2, 3, 2), True),
    ],
)
def test_the_probe_tells_what_the_server_did_not(
    before: tuple[int, int, int, int], after: tuple[int, int, int], news: bool
) -> None:
    old = _View(uidvalidity=before[0], uidnext=before[1], exists=before[2], announced=before[3])
    new = _View(uidvalidity=after[0], uidnext=after[1], exists=after[2])
    assert new.is_news_after(old) is news


# --- troubles on the way


def test_idle_is_renewed_and_news_still_comes(account: Account, start: Any, calls: Calls) -> None:
    seen = bytearray()

    def answer(piece: bytes) -> bytes:
        seen.extend(piece)
        return without_starttls(piece)

    with Link(account.dovecot.imap, answer) as proxy:
        watched = start(**through(proxy), renew=0.05)
        wait_for("IDLE three times again", lambda: seen.count(b"+ idling") > 3)
        account.deliver(HELLO)
        calls.reach(2)
        watched.stop(timeout=30)
        assert (proxy.connections, seen.count(b"UIDNEXT")) == (1, 1)


def test_a_server_that_tells_nothing_is_found_out_by_the_probe_and_left_for_a_new_connection(
    account: Account, start: Any, calls: Calls
) -> None:
    def deaf(piece: bytes) -> bytes:
        answer = without_starttls(piece)
        return answer if b"UIDNEXT" in answer else re.sub(rb"\* \d+ (EXISTS|RECENT)\r\n", b"", answer)

    with Link(account.dovecot.imap, deaf) as proxy:
        watched = start(**through(proxy), probe=0.2)
        calls.reach(1)
        for number in range(1, watch_imap.MOST_DEAF + 1):
            assert proxy.connections == 1
            account.deliver(HELLO)
            calls.reach(1 + number)
        wait_for("another connection", lambda: proxy.connections == 2)
        calls.reach(2 + watch_imap.MOST_DEAF)
        watched.stop(timeout=30)


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (lambda _piece: b"", "no answer in time"),
        (lambda _piece: None, "connection was lost"),
        (lambda piece: piece[:5] if b"EXISTS" in piece else b"", "no answer in time"),
    ],
    ids=["silent", "cut", "half a line"],
)
def test_a_connection_that_fails_is_made_again_and_calls(
    account: Account, start: Any, calls: Calls, trouble: Any, error: str
) -> None:
    armed = threading.Event()

    def answer(piece: bytes) -> bytes | None:
        return trouble(piece) if armed.is_set() else without_starttls(piece)

    with Link(account.dovecot.imap, answer) as proxy:
        watched = start(**through(proxy), probe=0.5, connect_timeout=1, read_timeout=1)
        calls.reach(1)
        armed.set()
        account.deliver(HELLO)
        is_state(watched, State.UNREACHABLE)
        assert error in watched.health.error
        armed.clear()
        calls.reach(2)
        is_state(watched, State.WATCHING)
        assert watched.health.error == ""
        watched.stop(timeout=30)


def _kill(server: subprocess.Popen[bytes]) -> None:
    """End a Dovecot without any order."""
    if server.poll() is not None:
        return
    children = psutil.Process(server.pid).children(recursive=True)
    # the master first, as it would replace the others
    server.kill()
    server.wait(timeout=30)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    assert not psutil.wait_procs(children, timeout=30)[1]


def test_a_server_that_is_killed_is_found_again_when_it_is_back(start: Any, calls: Calls) -> None:
    with own_dovecot() as dovecot, contextlib.ExitStack() as stack:
        account = Account(dovecot=dovecot, user="user@example.com")
        watched = start(ImapWatcher(account.settings(), calls))
        is_state(watched, State.UNREACHABLE)
        server = dovecot.start()
        stack.callback(_kill, server)
        calls.reach(1)
        _kill(server)
        is_state(watched, State.UNREACHABLE)
        stack.callback(_kill, dovecot.start())
        calls.reach(2)
        account.deliver(HELLO)
        calls.reach(3)
        watched.stop(timeout=30)


# --- signing in, folders


def test_a_token_that_ended_between_two_connections_is_renewed(
    account: Account, start: Any, calls: Calls
) -> None:
    old, new = f"old-{account.user}", f"new-{account.user}"
    account.dovecot.tokens[old] = account.user
    cut = threading.Event()

    def answer(piece: bytes) -> bytes | None:
        return None if cut.is_set() else without_starttls(piece)

    tokens = Tokens(old, new)
    with Link(account.dovecot.imap, answer) as proxy:
        watched = start(**through(proxy), tokens=tokens, auth="xoauth2", oauth=OAUTH)
        calls.reach(1)
        del account.dovecot.tokens[old]
        account.dovecot.tokens[new] = account.user
        cut.set()
        account.deliver(HELLO)
        is_state(watched, State.UNREACHABLE)
        cut.clear()
        calls.reach(2)
        assert tokens.tokens == [new]
        watched.stop(timeout=30)


def test_a_refused_sign_in_says_what_to_do_and_is_tried_again_slowly(
    account: Account, start: Any, calls: Calls
) -> None:
    with Link(account.dovecot.imap, without_starttls) as proxy:
        watched = start(**through(proxy), password="wrong-but-secret")
        is_state(watched, State.REFUSED)
        # now it pauses, for minutes
        wait_for("its pause", lambda: watched._busy_since is None)
        watched.stop(timeout=30)
        assert proxy.connections == 1
    assert "app password" in watched.health.error
    assert "wrong-but-secret" not in watched.health.error
    assert calls.count == 0


def test_once_the_sign_in_is_allowed_the_watching_begins(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "REFUSED_PAUSE", (0.05, 0.1))
    token = f"granted-{account.user}"
    watched = start(tokens=Tokens(token), auth="xoauth2", oauth=OAUTH)
    is_state(watched, State.REFUSED)
    account.dovecot.tokens[token] = account.user
    calls.reach(1)
    is_state(watched, State.WATCHING)


def test_a_folder_that_is_deleted_and_made_again_is_watched_again(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "REFUSED_PAUSE", (0.05, 0.1))
    with account.client() as person:
        person.create_folder("Yükler")
        watched = start(folder="Yükler", probe=0.2)
        calls.reach(1)
        person.delete_folder("Yükler")
        is_state(watched, State.REFUSED)
        assert "'Yükler'" in watched.health.error
        person.create_folder("Yükler")
    calls.reach(2)
    account.deliver(HELLO, folder="Yükler")
    calls.reach(3)


# --- servers of another kind


def _server(idle: bytes, *, done: bytes = DONE) -> ScriptedImap:
    """A server that does what is wanted when asked to go idle."""
    return ScriptedImap({b"IDLE": idle, b"DONE": done}, capabilities=b"IMAP4rev1 IDLE")


def test_nothing_is_asked_that_could_change_the_mailbox(start: Any, calls: Calls) -> None:
    with _server(b"* OK hello\r\n+ idling\r\n* OK Still here\r\n") as server:
        watched = start(**through(server), probe=0.05, renew=0.02)
        wait_for("two probes", lambda: server.said.count(b"EXAMINE") > 2)
        watched.stop(timeout=30)
    assert set(server.said) == {b"CAPABILITY", b"LOGIN", b"EXAMINE", b"IDLE", b"DONE"}
    assert (calls.count, server.connections) == (1, 1)


def test_news_announced_before_the_server_goes_idle_or_with_its_end_counts(start: Any, calls: Calls) -> None:
    with _server(b"* 2 EXISTS\r\n+ idling\r\n") as server:
        watched = start(**through(server))
        calls.reach(2)
        watched.stop(timeout=30)
    with _server(b"+ idling\r\n", done=b"* 3 EXISTS\r\n{tag} OK done\r\n") as server:
        watched = start(**through(server), renew=0.05)
        calls.reach(4)
        wait_for("IDLE three times again", lambda: server.said.count(b"IDLE") > 3)
        watched.stop(timeout=30)
    assert calls.count == 4


@pytest.mark.parametrize(
    ("idle", "error"),
    [
        (b"* BYE out of memory\r\n", "ended the connection (out of memory)"),
        (b"+ idling\r\n* BYE out of memory\r\n", "ended the connection (out of memory)"),
        (b"+ idling\r\n{tag} OK that was long enough\r\n", "ended IDLE by itself"),
        (b"+ idling\r\nwhat is this\r\n", "unexpected response"),
        (b"+ idling\r\n* " + b"9" * 5000 + b" EXISTS\r\n", "ValueError"),
        (b"{tag} NO [UNAVAILABLE] later\r\n", "does not go idle for now"),
    ],
    ids=["bye", "bye while idle", "ended", "nonsense", "absurd", "later"],
)
def test_what_a_server_says_out_of_place_makes_a_new_connection_after_a_pause(
    start: Any, idle: bytes, error: str
) -> None:
    with _server(idle) as server:
        watched = start(**through(server))
        wait_for(error, lambda: error in watched.health.error)
        assert watched.health.state is State.UNREACHABLE
        wait_for("another connection", lambda: server.connections == 2)
        watched.stop(timeout=30)


def test_a_server_without_idle_is_left_to_the_schedule_and_asked_again_later(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_idle = threading.Event()

    def answer(piece: bytes) -> bytes:
        return without_starttls(piece if has_idle.is_set() else piece.replace(b" IDLE", b""))

    monkeypatch.setattr(watch_imap, "NO_IDLE_PAUSE", 0.1)
    with Link(account.dovecot.imap, answer) as proxy:
        watched = start(**through(proxy))
        is_state(watched, State.POLLING)
        assert "schedule" in watched.health.error
        assert not watched.health.unhealthy(datetime.now(UTC) + timedelta(days=1))
        wait_for("another connection", lambda: proxy.connections > 2)
        assert calls.count == 0
        has_idle.set()
        calls.reach(1)
        is_state(watched, State.WATCHING)
        watched.stop(timeout=30)


def test_a_server_that_refuses_idle_is_left_to_the_schedule(start: Any) -> None:
    with _server(b"{tag} BAD not here\r\n") as server:
        watched = start(**through(server))
        is_state(watched, State.POLLING)
        assert "BAD not here" in watched.health.error
        # the connection is given up meanwhile
        wait_for("its pause", lambda: watched._busy_since is None)
        assert watched._turn._handle is None
        watched.stop(timeout=30)
        assert server.connections == 1
