"""The page beside other work: a port that is taken, another configuration, the end; and `mailferry page` as a process."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from support_fork import Forked, mailferry
from support_page import configured, free_port, opened, past
from support_service import Host, head, hosts, toml
from support_wait import PATIENCE, wait_for

from mailferry.monitor.page.serving import Beside
from mailferry.monitor.reach import Reaches
from mailferry.monitor.status import look_without

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from mailferry.config.database import DatabaseSettings


def answers(url: str) -> bool:
    try:
        return opened(f"{url}/healthz")[0] == 200
    except OSError:
        return False


def test_a_port_that_is_taken_is_a_warning_and_a_new_configuration_brings_the_page_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = Beside()
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.INFO, "mailferry"):
        beside.take(configured(tmp_path, None, events=["out"], listen=f"127.0.0.1:{taken.getsockname()[1]}"))
        wait_for("the warning", lambda: "cannot be served" in caplog.text)
        assert "Address already in use. Set another address" in caplog.text
        first = configured(tmp_path, None, events=["out"])
        beside.take(first)
        wait_for("the page", functools.partial(answers, f"http://{first.page.listen}"))
        more = configured(tmp_path, None, events=["out", "in"], listen=first.page.listen)
        beside.take(more)
        wait_for("the new feed", lambda: "name=in" in opened(f"http://{first.page.listen}/")[1])
        beside.take(configured(tmp_path, None, events=["out"], listen=""))
        assert not answers(f"http://{first.page.listen}")
    beside.stop()


def test_the_command_serves_until_it_is_ended(tmp_path: Path) -> None:
    configuration = configured(tmp_path, None, events=["out"])
    past(configuration, "out", now=int(time.time()))
    url = f"http://{configuration.page.listen}"
    variables = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    process = Forked(mailferry, "page", folder=tmp_path, variables=variables, log=tmp_path / "log")
    try:
        wait_for((tmp_path / "log").read_text, lambda: answers(url) or process.poll() is not None)
        assert "behind" in opened(url)[1]
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()


def test_the_service_serves_its_page_and_a_reload_takes_it_elsewhere(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    def place(host: Host) -> str:
        listen = f"127.0.0.1:{free_port()}"
        feed: dict[str, object] = {
            "api_key": "0123456789abcdef",
            "domain": "example.com",
            "url": "http://127.0.0.1:9/",
        }
        tables: dict[str, dict[str, object]] = {
            **head(host, database_settings),
            "page": {"listen": listen},
            "events.out": feed,
        }
        host.config.write_text(toml(tables))
        host.config.chmod(0o600)
        return f"http://{listen}"

    with hosts(tmp_path, database_settings, "a") as (host,):
        first = place(host)
        host.start()
        wait_for(host.log, functools.partial(answers, first))
        assert '"workers": {"ok": true, "alive": 1}' in opened(f"{first}/readyz")[1]
        second = place(host)
        host.signal(signal.SIGHUP)
        wait_for(host.log, functools.partial(answers, second))
        assert not answers(first)
        assert host.end() == 0
        assert not answers(second)


def test_a_checkpoint_is_read_again_when_it_has_changed_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailferry.clock import local_now
    from mailferry.events import checkpoint

    configuration = configured(tmp_path, None, events=["out"])
    read = []
    load = checkpoint.load

    def note(path: Path) -> checkpoint.Checkpoint | None:
        read.append(path)
        return load(path)

    monkeypatch.setattr(checkpoint, "load", note)
    reaches = Reaches()

    def behind() -> int | None:
        return look_without(configuration, local_now(), "", reaches).feeds[0].lag_seconds

    assert behind() is None
    past(configuration, "out", now=int(time.time()), behind=500)
    read.clear()
    assert 500 <= (behind() or 0) < 560
    assert 500 <= (behind() or 0) < 560
    assert len(read) == 1
    past(configuration, "out", now=int(time.time()), behind=40)
    assert (behind() or 999) < 100
    assert len(read) == 2
