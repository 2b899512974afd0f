"""A watcher is stopped, judged by its health, and replaced when it hangs or has died."""

from __future__ import annotations

import contextlib
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from fixtures_dovecot import Account, without_starttls
from fixtures_watch import NEVER, Calls, gone, is_state
from support_imap import OAUTH, Tokens, listening, through
from support_link import Link
from support_wait import wait_for

from mailferry.config.mailbox import MailboxKind, MailboxSettings
from mailferry.mailbox.source import watch_imap
from mailferry.mailbox.source.open import watcher
from mailferry.mailbox.source.watch import Health, State
from mailferry.mailbox.source.watch_imap import ImapWatcher
from mailferry.mailbox.source.watch_maildir import MaildirWatcher

if TYPE_CHECKING:
    from pathlib import Path

# --- stopping


def _port(listener: socket.socket) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": int(listener.getsockname()[1])}


def test_stopping_interrupts_connecting(start: Any) -> None:
    with listening(0) as listener, contextlib.ExitStack() as stack:
        # a full queue: further connections get no answer
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        watched = start(**_port(listener), **NEVER)
        wait_for("its connecting", lambda: watched._turn._handle is not None)
        watched.stop(timeout=30)
        gone(watched)


@pytest.mark.parametrize("ssl", [True, False], ids=["TLS handshake", "greeting"])
def test_stopping_interrupts_the_wait_for_a_server_that_says_nothing(start: Any, ssl: bool) -> None:
    with listening() as listener:
        watched = start(**_port(listener), **NEVER, ssl=ssl)
        opened, _ = listener.accept()
        with opened:
            if ssl:
                assert opened.recv(1)
            watched.stop(timeout=30)
            gone(watched)
            while opened.recv(65536):
                pass


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_stopping_interrupts_idle_and_leaves_no_connection(
    account: Account, start: Any, calls: Calls, tls: str
) -> None:
    changes = {} if tls == "implicit" else {"ssl": False, "port": account.dovecot.imap}
    before = len(psutil.Process().net_connections())
    watched = start(**changes, **NEVER)
    calls.reach(1)
    connection = watched._turn._handle
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    watched.stop(timeout=30)
    gone(watched)
    assert connection.fileno() == -1
    assert len(psutil.Process().net_connections()) == before


def test_stopping_interrupts_the_pause_between_two_tries_and_it_can_start_again(
    account: Account, start: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_imap, "NO_IDLE_PAUSE", 3600)
    with Link(account.dovecot.imap, lambda piece: without_starttls(piece).replace(b" IDLE", b"")) as proxy:
        watched = start(**through(proxy))
        is_state(watched, State.POLLING)
        wait_for("its pause", lambda: watched._busy_since is None)
        watched.stop(timeout=30)
        gone(watched)
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
        state=State.UNREACHABLE, since=made, made=made, patience=900, last_good=made + timedelta(seconds=500)
    )
    assert not health.unhealthy(made + timedelta(seconds=1400))
    assert health.unhealthy(made + timedelta(seconds=1401))


def test_a_watcher_that_hangs_where_nothing_can_interrupt_it_is_replaced(
    account: Account, start: Any, calls: Calls
) -> None:
    hanging, go_on, now = threading.Event(), threading.Event(), [0.0]
    token = f"late-{account.user}"
    account.dovecot.tokens[token] = account.user

    class Hangs(Tokens):
        def token(self) -> str:
            if not hanging.is_set():
                hanging.set()
                go_on.wait(60)
            return super().token()

    watched = start(tokens=Hangs(token), auth="xoauth2", oauth=OAUTH, clock=lambda: now[0])
    try:
        assert hanging.wait(60)
        assert not watched.tend()
        before = watched._turn
        now[0] += 901
        assert watched.tend()
        assert not watched.tend()
        calls.reach(1)
        is_state(watched, State.WATCHING)
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
    with listening() as listener:
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
    is_state(watched, State.WATCHING)
    now[0] += 800
    assert not watched.tend()

    refused = start(ImapWatcher(account.settings(password="wrong"), calls, clock=lambda: now[0]))
    wait_for("its pause", lambda: refused._busy_since is None)
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


def test_the_kind_of_mailbox_decides_how_it_is_watched(
    account: Account, tmp_path: Path, calls: Calls
) -> None:
    assert isinstance(watcher(account.settings(), calls), ImapWatcher)
    assert isinstance(
        watcher(MailboxSettings(kind=MailboxKind.MAILDIR, path=tmp_path), calls), MaildirWatcher
    )
