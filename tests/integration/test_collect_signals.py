"""SIGTERM and Ctrl-C in the middle of a run: what is fetched is written, and the next run goes on exactly there."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from support_events import INCOMING, OUTGOING, RECENT, SIGN_INS, a_site, suffix
from support_fork import Forked, mailferry
from support_wait import wait_for

from mailferry.events import checkpoint
from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Throttling, Troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support_events import Site

    from mailferry.testing.population import Event, Feed

TRAITS = Traits(rate=0.5, start=RECENT, end=RECENT + 600, detail_bytes=100)


def truth(site: Site, feed: Feed) -> Iterator[Event]:
    return site.provider.truth(feed, RECENT, RECENT + 600)


def interrupted(site: Site, number: int, when: Callable[[], bool]) -> tuple[int, str, str]:
    """A run that gets a signal as soon as `when` says; its exit status and output."""
    arguments = (
        "collect",
        "--config",
        str(site.config),
        "--all",
        "--parallel",
        "--max-workers",
        "2",
        "--json",
    )
    with Forked(mailferry, *arguments) as process:
        wait_for("the moment of the signal", lambda: when() or process.poll() is not None, every=0.001)
        assert process.poll() is None, "ended before the signal"
        process.send_signal(number)
        done = process.finished(60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_leaves_a_beginning_and_the_next_run_completes_it(
    tmp_path: Path, number: int
) -> None:
    feeds = dict.fromkeys((OUTGOING, INCOMING, SIGN_INS), TRAITS)
    with a_site(tmp_path, feeds, Settings(latency=0.04), now=time.time()) as site:
        site.configure()
        status, out, err = interrupted(
            site, number, lambda: dict(site.provider.stats.requests).get(("detail", 200), 0) >= 100
        )
        assert status == -number
        assert "writing what is there, then stopping" in err
        assert "Traceback" not in err
        printed = {one["section"]: one for one in json.loads(out)["sections"]}
        written = site.assert_beginning(OUTGOING) + site.assert_beginning(INCOMING)
        # What is under way when the signal comes gets two seconds; that is not all there is.
        assert 90 <= written < sum(1 for feed in (OUTGOING, INCOMING) for _ in truth(site, feed))
        for feed in (OUTGOING, INCOMING):
            assert printed[suffix(feed)]["status"] == "stopped"
            assert site.heartbeat(feed)["status"] == "stopped"
            found = checkpoint.load(site.position_file(feed))
            assert found is not None
            assert found.intent is None
            assert found.progress.events == len(site.lines(feed))
            with FileLock(tmp_path / "locks" / f"{suffix(feed)}.lock", timeout=0):
                pass
        # The third one waited for a worker: it says that it did not run.
        assert printed[suffix(SIGN_INS)]["status"] == "stopped"
        assert site.lines(SIGN_INS) == []
        assert site.collect().status == 0
        for feed in feeds:
            site.assert_exactly_once(feed)


@pytest.mark.parametrize(
    "troubles",
    [{"list_troubles": Troubles(hang=1)}, {"detail_troubles": Troubles(hang=1)}],
    ids=["list", "detail"],
)
def test_a_signal_ends_a_run_that_waits_for_an_answer(tmp_path: Path, troubles: dict[str, Troubles]) -> None:
    settings = Settings(**troubles, max_failures_per_url=1)  # type: ignore[arg-type] # only troubles are given
    with a_site(tmp_path, {OUTGOING: TRAITS}, settings, now=time.time()) as site:
        site.configure(split_interval=3600)
        status, _, err = interrupted(site, signal.SIGTERM, lambda: site.provider.stats.troubles.total() > 0)
        assert status == -signal.SIGTERM
        assert "Traceback" not in err
        site.configure(split_interval=3600, list_timeout=1, detail_timeout=1, max_parallel_details=256)
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)


def test_a_signal_while_throttled_ends_the_pause(tmp_path: Path) -> None:
    throttling = Throttling(max_per_second=1, pause=600)
    with a_site(tmp_path, {OUTGOING: TRAITS}, Settings(throttling=throttling), now=time.time()) as site:
        site.configure()
        status, _, err = interrupted(site, signal.SIGTERM, lambda: site.provider.stats.throttled > 0)
        assert status == -signal.SIGTERM
        assert "Traceback" not in err
    with a_site(tmp_path, {OUTGOING: TRAITS}, now=time.time()) as site:
        site.configure()
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)
