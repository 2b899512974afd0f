"""What is sent to systemd's socket."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from mailferry.service.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket with a path as systemd makes it; short, whatever the test's folder is called."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("notify")
        listening.settimeout(10)
        yield listening


def said(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def test_ready_comes_with_a_status_of_one_line(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "notify"})
    assert not notifier.was_ready
    notifier.ready("all\nis  well")
    assert said(manager) == ["READY=1", "STATUS=all is well"]
    assert notifier.was_ready


def test_a_status_is_sent_once_until_it_changes(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "notify"})
    for text in ("one", "one", "two"):
        notifier.status(text)
    notifier.alive()
    assert [said(manager), said(manager), said(manager)] == [["STATUS=one"], ["STATUS=two"], ["WATCHDOG=1"]]


def test_a_reload_bears_the_time_that_systemd_compares(manager: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": "notify"}).reloading()
    first, second = said(manager)
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


def test_an_abstract_socket_is_found() -> None:
    name = f"mailferry-test-{os.getpid()}-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).stopping("bye")
        assert said(listening) == ["STOPPING=1", "STATUS=bye"]


def test_without_a_listener_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        notifier = Notifier(environ)
        notifier.ready("well")
        notifier.waiting(60, "for the database")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_where_this_process_is_watched(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environ).watchdog == seconds
