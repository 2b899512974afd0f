"""Hosts that take a connection and never answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from support_events import KEY, SIGN_INS, START, Clock, a_site, section

from mailferry.config import event_feeds
from mailferry.events import places, run
from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed

PLAIN = Traits(rate=0.1, start=START, end=START + 300)


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """Addresses of six hosts that accept no connection."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(6):
            listening = stack.enter_context(socket.socket())
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            ports.append(listening.getsockname()[1])
        yield [f"http://127.0.0.1:{port}/api/v2/logs/authentication" for port in ports]


def feeds_of(folder: Path, urls: list[str], last: Feed | None = None, **options: object) -> list[EventFeed]:
    """A section for each address, in their order; `last` is the feed of the last one."""
    named = [
        Feed(api_key=KEY, domain=f"d{number}.example.com", category="authentication", type="")
        for number in range(len(urls))
    ]
    named[-1] = last or named[-1]
    config = folder / "uzmanposta.ini"
    given = {"start_time": START, "timezone": "UTC", "list_timeout": 300, **options}
    head = "[DEFAULT]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())
    config.write_text(head + "".join(map(section, named, urls)))
    feeds = event_feeds.read(config).choose(None, every=True)
    run.prepare(feeds, config)
    return feeds


def test_five_hosts_that_hang_do_not_keep_the_sixth_waiting(
    tmp_path: Path, silent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "QUIET", 0.2)
    with a_site(tmp_path, {SIGN_INS: PLAIN}, now=START + 330) as site:
        feeds = feeds_of(tmp_path, [*silent[:5], site.provider.list_url("authentication")], SIGN_INS)

        async def play() -> None:
            running = asyncio.create_task(run.collect(feeds, workers=5, clock=Clock(START + 330)))
            while not running.done() and len(site.lines(SIGN_INS)) < 20:  # noqa: ASYNC110 - a file says nothing
                await asyncio.sleep(0.02)
            assert not running.done()
            os.kill(os.getpid(), signal.SIGTERM)
            results, stopped_by = await running
            assert stopped_by == signal.SIGTERM
            assert [result.status for result in results[:5]] == ["stopped"] * 5

        asyncio.run(asyncio.wait_for(play(), 60))


def test_sections_of_one_silent_host_wait_behind_one_and_end_with_it(
    tmp_path: Path, silent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "QUIET", 0.2)
    monkeypatch.setattr(places, "LONG", 0.5)
    feeds = feeds_of(tmp_path, [silent[0]] * 6, list_timeout=1, list_retries=1, list_sleep_time=0.1)
    results, _ = asyncio.run(asyncio.wait_for(run.collect(feeds, workers=1, clock=Clock(START + 330)), 60))
    assert run.exit_status(results) == run.Exit.UNREACHABLE
    assert "no answer in time, 2 times" in results[0].error
    assert [("not tried" in result.error) for result in results] == [False, *[True] * 5]
    assert all("no answer in time" in result.error for result in results)


def test_a_host_that_answers_again_lets_the_waiting_sections_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "QUIET", 0.2)
    names = [Feed(api_key=KEY, domain=f"{n}.example.com", category="authentication", type="") for n in "abcd"]
    settings = Settings(list_troubles=Troubles(hang=1), max_failures_per_url=1)
    with a_site(tmp_path, dict.fromkeys(names, PLAIN), settings, now=START + 330) as site:
        site.configure(list_timeout=1, list_retries=3)
        assert site.collect(workers=2).status == 0
        for feed in names:
            site.assert_exactly_once(feed)
