"""Watching a mailbox: the real Dovecot, a proxy for the network's troubles, and a small server for other servers'."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest
from fixtures_dovecot import Account, Dovecot, Proxy, _configure, _wait_for, free_port, without_starttls

from mailferry.config.mailbox import MailboxKind, MailboxSettings
from mailferry.mailbox.source import watch, watch_imap
from mailferry.mailbox.source.watch import Health, State, Watcher, watcher
from mailferry.mailbox.source.watch_imap import ImapWatcher, _View
from mailferry.mailbox.source.watch_maildir import MaildirWatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELLO = b"Subject: Track and Trace\r\n\r\nhello\r\n"
_OAUTH = {"client_id": "c", "client_secret": "s", "token_endpoint": "https://id.example.com/"}
#: No wait ends by itself within a test: where one has to end, something must have interrupted it.
_NEVER = {"connect_timeout": 3600, "read_timeout": 3600}


def _until(condition: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


class Calls:
    """Stands for `on_news`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1

    def reach(self, count: int) -> None:
        _until(lambda: self.count >= count, f"{count} calls, {self.count} came")


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def start(account: Account, calls: Calls) -> Iterator[Any]:
    """Starts watchers of the account; at the end all must be gone with their threads."""
    started: list[Watcher] = []

    def make(made: Watcher | None = None, /, *, tokens: Any = None, **changes: Any) -> Any:
        options = {key: changes.pop(key) for key in ("renew", "probe", "patience", "clock") if key in changes}
        made = made or ImapWatcher(account.settings(**changes), calls, tokens=tokens, **options)
        started.append(made)
        made.start()
        return made

    yield make
    for one in started:
        one.stop(timeout=30)
        _gone(one)


def _gone(stopped: Watcher) -> None:
    assert not [thread for thread in stopped._threads if thread.is_alive()]


def _through(proxy: Any) -> dict[str, Any]:
    return {"port": proxy.port, "ssl": False, "host": "127.0.0.1"}


def _is(watched: Watcher, state: State) -> None:
    _until(lambda: watched.health.state is state, f"{state}, it is {watched.health}")


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

    with Proxy(account.dovecot.imap, answer) as proxy, account.client() as person:
        watched = start(**_through(proxy))
        _until(lambda: b"+ idling" in seen)
        person.select_folder("INBOX")
        person.add_flags([1], [b"\\Seen"])
        _until(lambda: b"FETCH" in seen)
        person.delete_messages([2])
        person.expunge()
        _until(lambda: b"EXPUNGE" in seen)
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
    _is(watched, State.WATCHING)


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
    told = [view.hears(line) for line in lines]
    assert (any(told), view.exists) == (news, exists)


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
    old = _View(uidvalidity=before[0], uidnext=before[1], exists=before[2], told=before[3])
    new = _View(uidvalidity=after[0], uidnext=after[1], exists=after[2])
    assert new.is_news_after(old) is news


# --- troubles on the way


def test_idle_is_renewed_and_news_still_comes(account: Account, start: Any, calls: Calls) -> None:
    seen = bytearray()

    def answer(piece: bytes) -> bytes:
        seen.extend(piece)
        return without_starttls(piece)

    with Proxy(account.dovecot.imap, answer) as proxy:
        watched = start(**_through(proxy), renew=0.05)
        _until(lambda: seen.count(b"+ idling") > 3)
        account.deliver(HELLO)
        calls.reach(2)
        watched.stop(timeout=30)
        assert (proxy.connections, seen.count(b"UIDNEXT")) == (1, 1)


def test_a_server_that_tells_nothing_is_found_out_by_the_probe_and_left_for_a_new_connection(
    account: Account, start: Any, calls: Calls
) -> None:
    def deaf(piece: bytes) -> bytes:
        told = without_starttls(piece)
        return told if b"UIDNEXT" in told else re.sub(rb"\* \d+ (EXISTS|RECENT)\r\n", b"", told)

    with Proxy(account.dovecot.imap, deaf) as proxy:
        watched = start(**_through(proxy), probe=0.2)
        calls.reach(1)
        for number in range(1, watch_imap.MOST_DEAF + 1):
            assert proxy.connections == 1
            account.deliver(HELLO)
            calls.reach(1 + number)
            assert watched.health.deaf == number
        _until(lambda: proxy.connections == 2)
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
def test_a_connection_that_fails_is_made_anew_and_calls(
    account: Account, start: Any, calls: Calls, trouble: Any, error: str
) -> None:
    armed = threading.Event()

    def answer(piece: bytes) -> bytes | None:
        return trouble(piece) if armed.is_set() else without_starttls(piece)

    with Proxy(account.dovecot.imap, answer) as proxy:
        watched = start(**_through(proxy), probe=0.5, connect_timeout=1, read_timeout=1)
        calls.reach(1)
        armed.set()
        account.deliver(HELLO)
        _is(watched, State.AWAY)
        assert error in watched.health.error
        armed.clear()
        calls.reach(2)
        _is(watched, State.WATCHING)
        assert watched.health.error == ""
        watched.stop(timeout=30)


@pytest.fixture
def own_dovecot(tmp_path: Path) -> Iterator[Any]:
    """A Dovecot for killing: its base, and functions to start it and to kill it."""
    base = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) / f"mf-watch-{os.getpid()}"
    base.mkdir(mode=0o755)
    program = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert program
    made = Dovecot(base=base, imap=free_port(), imaps=free_port())
    running: list[subprocess.Popen[bytes]] = []

    def run() -> None:
        running.append(subprocess.Popen([program, "-F", "-c", str(base / "dovecot.conf")]))
        _wait_for(made, running[-1])

    def kill() -> None:
        process = running.pop()
        children = psutil.Process(process.pid).children(recursive=True)
        # the master first, as it would replace the others
        process.kill()
        process.wait(timeout=30)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        assert not psutil.wait_procs(children, timeout=30)[1]

    try:
        _configure(made, introspection=1)
        yield made, run, kill
    finally:
        while running and running[-1].poll() is None:
            kill()
        shutil.rmtree(base)


def test_a_server_that_is_killed_is_found_again_when_it_is_back(
    own_dovecot: Any, start: Any, calls: Calls
) -> None:
    dovecot, run, kill = own_dovecot
    account = Account(dovecot=dovecot, user="user@example.com")
    watched = start(ImapWatcher(account.settings(), calls))
    _is(watched, State.AWAY)
    run()
    calls.reach(1)
    kill()
    _is(watched, State.AWAY)
    run()
    calls.reach(2)
    account.deliver(HELLO)
    calls.reach(3)


# --- signing in, folders


class _Tokens:
    """One token at a time; `forget` goes on to the next as long as there is one."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    def token(self) -> str:
        return self.tokens[0]

    def forget(self) -> None:
        self.tokens = self.tokens[1:] or self.tokens


def test_a_token_that_ended_between_two_connections_is_renewed(
    account: Account, start: Any, calls: Calls
) -> None:
    old, new = f"old-{account.user}", f"new-{account.user}"
    account.dovecot.tokens[old] = account.user
    cut = threading.Event()

    def answer(piece: bytes) -> bytes | None:
        return None if cut.is_set() else without_starttls(piece)

    tokens = _Tokens(old, new)
    with Proxy(account.dovecot.imap, answer) as proxy:
        watched = start(**_through(proxy), tokens=tokens, auth="xoauth2", oauth=_OAUTH)
        calls.reach(1)
        del account.dovecot.tokens[old]
        account.dovecot.tokens[new] = account.user
        cut.set()
        account.deliver(HELLO)
        _is(watched, State.AWAY)
        cut.clear()
        calls.reach(2)
        assert tokens.tokens == [new]
        watched.stop(timeout=30)


def test_a_refused_sign_in_says_what_to_do_and_is_tried_again_slowly(
    account: Account, start: Any, calls: Calls
) -> None:
    with Proxy(account.dovecot.imap, without_starttls) as proxy:
        watched = start(**_through(proxy), password="wrong-but-secret")
        _is(watched, State.REFUSED)
        # now it pauses, for minutes
        _until(lambda: watched._busy_since is None)
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
    watched = start(tokens=_Tokens(token), auth="xoauth2", oauth=_OAUTH)
    _is(watched, State.REFUSED)
    account.dovecot.tokens[token] = account.user
    calls.reach(1)
    _is(watched, State.WATCHING)


def test_a_folder_that_is_deleted_and_made_again_is_watched_again(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "REFUSED_PAUSE", (0.05, 0.1))
    with account.client() as person:
        person.create_folder("Yükler")
        watched = start(folder="Yükler", probe=0.2)
        calls.reach(1)
        person.delete_folder("Yükler")
        _is(watched, State.REFUSED)
        assert "'Yükler'" in watched.health.error
        person.create_folder("Yükler")
    calls.reach(2)
    account.deliver(HELLO, folder="Yükler")
    calls.reach(3)


# --- servers of another kind


class _Server:
    """An IMAP server that does what is wanted when asked to go idle; `{tag}` stands for the command's."""

    def __init__(self, idle: bytes, *, done: bytes = b"{tag} OK done\r\n") -> None:
        self._idle, self._done = idle, done
        self.said: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=30)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                opened, _ = self._listener.accept()
                self.connections += 1
                with opened, opened.makefile("rb") as lines, contextlib.suppress(OSError):
                    opened.sendall(b"* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n")
                    tag = b""
                    for line in lines:
                        word = line.split()[-1] if line == b"DONE\r\n" else line.split()[1]
                        tag = tag if word == b"DONE" else line.split()[0]
                        self.said.append(word)
                        opened.sendall(self._answer(word).replace(b"{tag}", tag))

    def _answer(self, word: bytes) -> bytes:
        if word == b"IDLE":
            return self._idle
        if word == b"DONE":
            return self._done
        untagged = {
            b"CAPABILITY": b"* CAPABILITY IMAP4rev1 IDLE\r\n",
            b"EXAMINE": b"* 1 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n",
        }
        return untagged.get(word, b"") + b"{tag} OK done\r\n"


def test_nothing_is_asked_that_could_change_the_mailbox(start: Any, calls: Calls) -> None:
    with _Server(b"* OK hello\r\n+ idling\r\n* OK Still here\r\n") as server:
        watched = start(**_through(server), probe=0.05, renew=0.02)
        _until(lambda: server.said.count(b"EXAMINE") > 2)
        watched.stop(timeout=30)
    assert set(server.said) == {b"CAPABILITY", b"LOGIN", b"EXAMINE", b"IDLE", b"DONE"}
    assert (calls.count, server.connections) == (1, 1)


def test_news_told_before_the_server_goes_idle_or_with_its_end_counts(start: Any, calls: Calls) -> None:
    with _Server(b"* 2 EXISTS\r\n+ idling\r\n") as server:
        watched = start(**_through(server))
        calls.reach(2)
        watched.stop(timeout=30)
    with _Server(b"+ idling\r\n", done=b"* 3 EXISTS\r\n{tag} OK done\r\n") as server:
        watched = start(**_through(server), renew=0.05)
        calls.reach(4)
        _until(lambda: server.said.count(b"IDLE") > 3)
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
    with _Server(idle) as server:
        watched = start(**_through(server))
        _until(lambda: error in watched.health.error, error)
        assert watched.health.state is State.AWAY
        _until(lambda: server.connections == 2)
        watched.stop(timeout=30)


def test_a_server_without_idle_is_left_to_the_schedule_and_asked_again_later(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_idle = threading.Event()

    def answer(piece: bytes) -> bytes:
        return without_starttls(piece if has_idle.is_set() else piece.replace(b" IDLE", b""))

    monkeypatch.setattr(watch_imap, "NO_IDLE_PAUSE", 0.1)
    with Proxy(account.dovecot.imap, answer) as proxy:
        watched = start(**_through(proxy))
        _is(watched, State.POLLING)
        assert "schedule" in watched.health.error
        assert not watched.health.unhealthy(datetime.now(UTC) + timedelta(days=1))
        _until(lambda: proxy.connections > 2)
        assert calls.count == 0
        has_idle.set()
        calls.reach(1)
        _is(watched, State.WATCHING)
        watched.stop(timeout=30)


def test_a_server_that_refuses_idle_is_left_to_the_schedule(start: Any) -> None:
    with _Server(b"{tag} BAD not here\r\n") as server:
        watched = start(**_through(server))
        _is(watched, State.POLLING)
        assert "BAD not here" in watched.health.error
        # the connection is given up meanwhile
        _until(lambda: watched._busy_since is None)
        assert watched._turn._handle is None
        watched.stop(timeout=30)
        assert server.connections == 1


# --- stopping


@contextlib.contextmanager
def _listening(backlog: int = 5) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        yield listener


def _port(listener: socket.socket) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": int(listener.getsockname()[1])}


def test_stopping_interrupts_connecting(start: Any) -> None:
    with _listening(0) as listener, contextlib.ExitStack() as stack:
        # a full queue: further connections get no answer
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        watched = start(**_port(listener), **_NEVER)
        _until(lambda: watched._turn._handle is not None)
        watched.stop(timeout=30)
        _gone(watched)


@pytest.mark.parametrize("ssl", [True, False], ids=["TLS handshake", "greeting"])
def test_stopping_interrupts_the_wait_for_a_server_that_says_nothing(start: Any, ssl: bool) -> None:
    with _listening() as listener:
        watched = start(**_port(listener), **_NEVER, ssl=ssl)
        opened, _ = listener.accept()
        with opened:
            if ssl:
                assert opened.recv(1)
            watched.stop(timeout=30)
            _gone(watched)
            while opened.recv(65536):
                pass


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_stopping_interrupts_idle_and_leaves_no_connection(
    account: Account, start: Any, calls: Calls, tls: str
) -> None:
    changes = {} if tls == "implicit" else {"ssl": False, "port": account.dovecot.imap}
    before = len(psutil.Process().net_connections())
    watched = start(**changes, **_NEVER)
    calls.reach(1)
    connection = watched._turn._handle
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    watched.stop(timeout=30)
    _gone(watched)
    assert connection.fileno() == -1
    assert len(psutil.Process().net_connections()) == before


def test_stopping_interrupts_the_pause_between_two_tries_and_it_can_start_again(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_imap, "NO_IDLE_PAUSE", 3600)
    with Proxy(account.dovecot.imap, lambda piece: without_starttls(piece).replace(b" IDLE", b"")) as proxy:
        watched = start(**_through(proxy))
        _is(watched, State.POLLING)
        _until(lambda: watched._busy_since is None)
        watched.stop(timeout=30)
        _gone(watched)
        proxy.answer = without_starttls
        watched.start()
        watched.start()
        calls.reach(1)
        assert len(watched._threads) == 1
        watched.stop(timeout=30)


# --- health


def test_health_is_judged_by_the_last_good_answer() -> None:
    made = datetime(2026, 11, 1, tzinfo=UTC)
    health = Health(state=State.STARTING, since=made, made=made, patience=900)
    assert not health.unhealthy(made + timedelta(seconds=900))
    assert health.unhealthy(made + timedelta(seconds=901))
    health = Health(
        state=State.AWAY, since=made, made=made, patience=900, last_good=made + timedelta(seconds=500)
    )
    assert not health.unhealthy(made + timedelta(seconds=1400))
    assert health.unhealthy(made + timedelta(seconds=1401))


def test_a_watcher_that_hangs_where_nothing_can_interrupt_it_is_replaced(
    account: Account, start: Any, calls: Calls
) -> None:
    hanging, go_on, now = threading.Event(), threading.Event(), [0.0]
    token = f"late-{account.user}"
    account.dovecot.tokens[token] = account.user

    class Hangs(_Tokens):
        def token(self) -> str:
            if not hanging.is_set():
                hanging.set()
                go_on.wait(60)
            return super().token()

    watched = start(tokens=Hangs(token), auth="xoauth2", oauth=_OAUTH, clock=lambda: now[0])
    try:
        assert hanging.wait(60)
        assert not watched.tend()
        before = watched._turn
        now[0] += 901
        assert watched.tend()
        assert not watched.tend()
        calls.reach(1)
        _is(watched, State.WATCHING)
        hung, _ = watched._threads
        assert hung.is_alive()
    finally:
        go_on.set()
    hung.join(timeout=60)
    assert not hung.is_alive()
    # whatever the replaced thread did at its end counts for nothing
    watched._news(before)
    assert (calls.count, watched.health.state) == (1, State.WATCHING)


def test_a_server_that_never_finishes_its_line_is_left_when_the_watcher_is_replaced(
    start: Any, calls: Calls
) -> None:
    now, over = [0.0], threading.Event()
    with _listening() as listener:
        watched = start(**_port(listener), ssl=False, clock=lambda: now[0])
        opened, _ = listener.accept()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                opened.sendall(b"* OK ")
                while not over.wait(0.01):
                    opened.sendall(b".")

        sender = threading.Thread(target=trickle)
        sender.start()
        (first,) = watched._threads
        now[0] += 901
        assert watched.tend()
        first.join(timeout=60)
        assert not first.is_alive()
        # the new one is at the same server
        again, _ = listener.accept()
        watched.stop(timeout=30)
        over.set()
        sender.join(timeout=60)
        opened.close()
        again.close()
    assert calls.count == 0


def test_one_that_pauses_or_watches_is_not_replaced_and_one_that_died_is(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    watched = start(clock=lambda: now[0])
    assert not ImapWatcher(account.settings(), calls).tend()
    calls.reach(1)
    _is(watched, State.WATCHING)
    now[0] += 800
    assert not watched.tend()

    refused = start(ImapWatcher(account.settings(password="wrong"), calls, clock=lambda: now[0]))
    _until(lambda: refused._busy_since is None)
    now[0] += 100_000
    assert not refused.tend()

    turns: list[Any] = []

    class Dies(ImapWatcher):
        def _run(self, turn: Any) -> None:
            turns.append(turn)
            if len(turns) > 1:
                super()._run(turn)

    died = start(Dies(account.settings(), calls))
    died._threads[0].join(timeout=60)
    assert died.tend()
    calls.reach(2)


def test_the_answer_that_comes_too_seldom_for_the_patience_is_refused_when_it_is_made(
    account: Account, calls: Calls
) -> None:
    with pytest.raises(ValueError, match="patience"):
        ImapWatcher(account.settings(), calls, patience=300, probe=300, renew=400)


# --- Maildir


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    return tmp_path / "Maildir"


def _maildir(root: Path, calls: Calls, every: float = 0.01, **changes: Any) -> MaildirWatcher:
    settings = MailboxSettings(kind=MailboxKind.MAILDIR, path=root, **changes)
    return MaildirWatcher(settings, calls, every=every)


def _has_looked_since(watched: Watcher, before: datetime | None) -> bool:
    return watched.health.last_good != before


def _looked(watched: Watcher) -> None:
    """Wait until it has looked once from beginning to end."""
    for _ in range(2):
        before = watched.health.last_good
        _until(partial(_has_looked_since, watched, before))


@pytest.mark.parametrize("folder", ["INBOX", "Yükler"])
def test_a_file_that_appears_in_a_maildir_calls(root: Path, start: Any, calls: Calls, folder: str) -> None:
    path = root if folder == "INBOX" else root / f".{folder}"
    for name in ("new", "cur"):
        (path / name).mkdir(parents=True, exist_ok=True)
    watched = start(_maildir(root, calls, folder=folder))
    calls.reach(1)
    for number, name in enumerate(("new/1.a", "new/2.a", "cur/3.a:2,S"), start=2):
        (path / name).write_bytes(HELLO)
        calls.reach(number)
    _looked(watched)
    assert (calls.count, watched.health.state) == (4, State.WATCHING)


def test_reading_flagging_and_deleting_in_a_maildir_are_no_news(root: Path, start: Any, calls: Calls) -> None:
    for name in ("1.a", "2.a"):
        (root / "new" / name).write_bytes(HELLO)
    watched = start(_maildir(root, calls))
    calls.reach(1)
    (root / "new/1.a").rename(root / "cur/1.a:2,")
    _looked(watched)
    (root / "cur/1.a:2,").rename(root / "cur/1.a:2,FS")
    _looked(watched)
    (root / "new/2.a").unlink()
    _looked(watched)
    assert calls.count == 1
    (root / "new/3.a").write_bytes(HELLO)
    calls.reach(2)
    _looked(watched)
    assert calls.count == 2


def test_a_second_file_within_one_tick_of_the_file_systems_clock_is_seen(
    root: Path, start: Any, calls: Calls
) -> None:
    watched = start(_maildir(root, calls))
    calls.reach(1)
    (root / "new/1.a").write_bytes(HELLO)
    calls.reach(2)
    _looked(watched)
    tick = (root / "new").stat().st_mtime_ns
    aside = root / "tmp/2.a"
    aside.write_bytes(HELLO)
    aside.rename(root / "new/2.a")
    os.utime(root / "new", ns=(tick, tick))
    calls.reach(3)


def test_a_maildir_that_goes_away_is_watched_again_when_it_is_back(
    root: Path, start: Any, calls: Calls
) -> None:
    watched = start(_maildir(root, calls))
    calls.reach(1)
    root.rename(root.parent / "elsewhere")
    _is(watched, State.AWAY)
    assert str(root) in watched.health.error
    (root.parent / "elsewhere").rename(root)
    calls.reach(2)
    (root / "new/1.a").write_bytes(HELLO)
    calls.reach(3)


def test_a_folder_name_that_cannot_be_one_is_told_in_the_health(root: Path, start: Any, calls: Calls) -> None:
    watched = start(_maildir(root, calls, folder="../other"))
    _is(watched, State.REFUSED)
    assert "cannot be the name of a Maildir folder" in watched.health.error


def test_the_kind_of_mailbox_decides_how_it_is_watched(account: Account, root: Path, calls: Calls) -> None:
    assert isinstance(watcher(account.settings(), calls), ImapWatcher)
    assert isinstance(watcher(MailboxSettings(kind=MailboxKind.MAILDIR, path=root), calls), MaildirWatcher)
