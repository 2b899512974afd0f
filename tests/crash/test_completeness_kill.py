"""kill -9 in the middle of an audit, a back-fill and a repair: nothing lost, nothing twice, and the next run goes on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, RECENT, SIGN_INS, START, a_site, forked, suffix
from support_fork import KILLED, Forked, injected, mailferry

from mailferry.events import checkpoint
from mailferry.testing.population import Feed, Traits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from support_events import Site

HOUR = 3600
#: What is killed: the n-th such call that touches the data or the checkpoint.
CALLS = [
    ("write", 1),
    ("fsync", 1),
    ("rename", 1),
    ("write", 2),
    ("fsync", 2),
    ("fsync", 3),
    ("write", 3),
    ("rename", 2),
]
FEEDS = [OUTGOING, SIGN_INS]


def paths(site: Site, feed: Feed) -> Sequence[Path]:
    position, data = site.position_file(feed), site.data_folder(feed)
    return [
        position,
        position.with_name(f".{position.name}.tmp"),
        position.parent,
        data,
        *site.data_files(feed),
    ]


def start(*arguments: object, trace: Sequence[str] = ()) -> Forked:
    """`mailferry ...`, with strace attached where there are options for it."""
    return Forked(mailferry, *map(str, arguments), trace=["-f", *trace] if trace else ())


def killed_at_each_call(
    site: Site, feed: Feed, begin: Callable[..., Forked], spoil: Callable[[], None] = lambda: None
) -> int:
    """Begin it again and again, and kill it each time; then let it end. Returns how often it was killed."""
    kills = 0
    for call, number in CALLS:
        spoil()
        trace = injected(
            call, f"signal=KILL:when={number}", site.folder / "strace.log", paths=paths(site, feed)
        )
        ended = begin(trace=trace).finished()
        assert ended.returncode in {KILLED, 0}, ended.stderr
        kills += ended.returncode == KILLED
    ended = begin().finished()
    assert ended.returncode == 0, ended.stderr
    return kills


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.category)
def test_kills_in_a_back_fill(tmp_path: Path, feed: Feed) -> None:
    traits = Traits(rate=0.02, start=RECENT, end=RECENT + 2 * HOUR, detail_bytes=100)
    with a_site(tmp_path, {feed: traits}) as site:
        site.configure(start_time=RECENT + 5000)
        site.collect()
        position = site.position_file(feed).read_text().splitlines()[0]
        before = len(site.lines(feed))
        asked = ["--from", RECENT, "--to", RECENT + 2 * HOUR, "--config", site.config]
        assert killed_at_each_call(site, feed, partial(start, "backfill", suffix(feed), *asked)) >= 4
        assert site.position_file(feed).read_text().splitlines()[0] == position
        # What the back-fill adds to the hour that the feed began in stands behind what was there.
        assert site.compared(feed).clean(late=len(site.lines(feed)) - before)
        assert start("verify", suffix(feed), *asked, "--offline").finished().returncode == 0


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.category)
def test_kills_in_a_repair(tmp_path: Path, feed: Feed) -> None:
    traits = Traits(rate=0.02, start=RECENT, end=RECENT + 2 * HOUR, detail_bytes=100)
    with a_site(tmp_path, {feed: traits}) as site:
        site.configure()
        site.collect()
        lines = len(site.lines(feed))

        def spoil() -> None:
            path = site.data_files(feed)[0]
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-9]))

        asked = ["--from", RECENT, "--to", RECENT + 3 * HOUR, "--config", site.config]
        assert (
            killed_at_each_call(site, feed, partial(start, "verify", suffix(feed), "--repair", *asked), spoil)
            >= 4
        )
        assert site.compared(feed).clean(late=lines)
        assert start("verify", suffix(feed), *asked, "--offline").finished().returncode == 0


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.category)
def test_kills_in_an_audit(tmp_path: Path, feed: Feed) -> None:
    traits = Traits(rate=0.03, start=START, end=START + 2 * HOUR, late=0.4, late_by=1500, detail_bytes=100)
    with a_site(tmp_path, {feed: traits}, now=START) as site:
        site.configure(audit="1h", split_interval=900)
        for _ in range(5):
            site.clock.now += 1800
            assert site.collect().status == 0
        lost = site.compared(feed, end=START + 2 * HOUR).lost
        assert lost > 0
        site.clock.now = START + 5 * HOUR
        assert killed_at_each_call(site, feed, partial(forked, site, commit_events=5)) >= 4
        found = checkpoint.load(site.position_file(feed))
        assert found
        late = found.progress.late
        site.assert_exactly_once(feed, late=late + lost)
        assert found.progress.coverage.held(START, START + 2 * HOUR) == len(site.lines(feed))
