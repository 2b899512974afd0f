"""kill -9 at every call that writes, syncs or renames, and at random moments: nothing lost, nothing twice, in order.

More than a hundred kills in all. Each killed run goes on where the one before was killed, so recovery itself is
killed as well; whatever a log shipper has read between two runs stays in the files.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest
from support_events import (
    OUTGOING,
    QUARANTINE,
    SIGN_INS,
    START,
    a_site,
    forked,
)
from support_fork import KILLED, injected
from support_wait import wait_for

from mailferry.events import checkpoint
from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support_events import Site
    from support_fork import Forked

#: Three hours, so that one commit extends several files.
TRAITS = Traits(
    rate=0.03,
    start=START + 2700,
    end=START + 8100,
    bursts={START + 3599: 8, START + 3600: 8},
    repeats=0.1,
    twins=0.2,
    no_time=0.02,
    no_queue_id=0.02,
    detail_bytes=300,
)
#: What is killed, in turns: the n-th call of a name. The numbers reach over recovery and a commit of two files.
CALLS = [
    ("write", 2),
    ("fsync", 5),
    ("rename", 1),
    ("fsync", 1),
    ("write", 4),
    ("fsync", 3),
    ("write", 1),
    ("fsync", 4),
    ("rename", 2),
    ("fsync", 6),
    ("write", 3),
    ("fsync", 2),
    ("fsync", 8),
    ("rename", 3),
    ("write", 5),
]
FEEDS = [OUTGOING, QUARANTINE, SIGN_INS]


class Shipper:
    """Reads the files between runs, as a log shipper does: what it has read must stay."""

    def __init__(self, site: Site, feed: Feed) -> None:
        self._site = site
        self._feed = feed
        self._read: dict[Path, bytes] = {}

    def read(self) -> None:
        for path, before in self._read.items():
            assert path.read_bytes().startswith(before), f"{path.name} lost what was in it"
        for path in self._site.data_files(self._feed):
            data = path.read_bytes()
            self._read[path] = data[: data.rfind(b"\n") + 1]


def start_again(site: Site) -> None:
    for name in ("output", "positions", "locks"):
        shutil.rmtree(site.folder / name, ignore_errors=True)


def committing_paths(site: Site, feed: Feed) -> Sequence[Path]:
    """Everything that a checkpoint says something about, and the checkpoint itself."""
    position, data = site.position_file(feed), site.data_folder(feed)
    hours = [data / f"example.com_{feed.type or 'auth'}_2025-06-15_{hour}.log" for hour in (15, 16, 17)]
    return [position, position.with_name(f".{position.name}.tmp"), position.parent, data, *hours]


def killed_in(log: Path) -> str:
    """The call that a kill hit, as "fsync data", from strace's log."""
    text = log.read_text(errors="replace")
    last = [line for line in text.splitlines() if re.match(r"\d+ +\w+\(", line)][-1]
    call = re.match(r"\d+ +(\w+)\(", last)
    assert call
    kinds = (("_15.log", "data"), ("_16.log", "data"), ("_17.log", "data"), (".pos", "checkpoint"))
    where = next((kind for end, kind in kinds if end in last), "folder")
    return f"{call[1]} {where}"


def left_to_repair(site: Site, feed: Feed) -> bool:
    """Whether a write was announced and begun."""
    found = checkpoint.load(site.position_file(feed))
    if found is None or found.intent is None:
        return False
    folder = site.data_folder(feed)
    return any(
        (folder / name).exists() and (folder / name).stat().st_size > announced.offset
        for name, announced in found.intent.files.items()
    )


@pytest.mark.slow(20)
@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.category)
def test_kill_at_each_call_that_changes_the_data_or_its_checkpoint(tmp_path: Path, feed: Feed) -> None:
    kills = 0
    hit: set[str] = set()
    log = tmp_path / "strace.log"
    with a_site(tmp_path, {feed: TRAITS}, Settings(page_cap=20)) as site:
        site.configure(max_records_per_page=20, split_interval=1200)
        shipper = Shipper(site, feed)
        turns = itertools.cycle(CALLS)
        while kills < 26:
            # Now and then where recovery has something to do: it is killed there, too.
            repairing = kills % 3 == 2 and left_to_repair(site, feed)
            call, number = ("ftruncate", 1) if repairing else next(turns)
            fault = f"signal=KILL:when={number}"
            ended = forked(
                site, trace=injected(call, fault, log, paths=committing_paths(site, feed))
            ).finished()
            if ended.returncode == 0:  # all is collected: again from the beginning
                site.assert_exactly_once(feed)
                start_again(site)
                shipper = Shipper(site, feed)
                continue
            assert ended.returncode == KILLED, ended.stderr
            kills += 1
            hit.add(killed_in(log))
            shipper.read()
        assert site.collect().status == 0
        shipper.read()
        site.assert_exactly_once(feed)
        assert hit == {
            "write checkpoint",
            "fsync checkpoint",
            "rename checkpoint",
            "fsync folder",
            "write data",
            "fsync data",
            "ftruncate data",
        }


def test_kill_at_each_call_of_a_run_whatever_it_writes(tmp_path: Path) -> None:
    log = tmp_path / "strace.log"
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure()
        shipper = Shipper(site, OUTGOING)
        kills = 0
        # Logs and heartbeat included: the start, and what comes after the last commit.
        for call, number in [
            ("write", 1),
            ("write", 2),
            ("write", 3),
            ("rename", 1),
            ("write", 4),
            ("rename", 2),
        ]:
            for _ in range(2):
                ended = forked(site, trace=injected(call, f"signal=KILL:when={number}", log)).finished()
                assert ended.returncode in {KILLED, 0}
                kills += ended.returncode == KILLED
                shipper.read()
        assert kills >= 10
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)
        assert site.heartbeat(OUTGOING)["status"] == "completed"


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_at_random_moments(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    feeds = {OUTGOING: TRAITS, SIGN_INS: TRAITS}
    kills = 0
    with a_site(tmp_path, feeds, Settings(page_cap=10, latency=0.002)) as site:
        site.configure(max_records_per_page=10, max_parallel_details=8)
        shippers = [Shipper(site, feed) for feed in feeds]

        def answered() -> int:
            return sum(dict(site.provider.stats.requests).values())

        def come(process: Forked, moment: int) -> bool:
            return process.poll() is not None or answered() >= moment

        while kills < 8:
            moment = answered() + draw.randrange(1, 120)
            with forked(site, commit_events=15) as process:
                wait_for("its moment", partial(come, process, moment), every=0.001)
                process.kill()
                killed = process.wait() == KILLED
            if not killed:  # it was through before its moment came
                start_again(site)
                shippers = [Shipper(site, feed) for feed in feeds]
                continue
            kills += 1
            for shipper in shippers:
                shipper.read()
        assert site.collect().status == 0
        for feed in feeds:
            site.assert_exactly_once(feed)


def killed_before_the_sync_of_the_data(site: Site, feed: Feed, log: Path) -> tuple[Path, int]:
    """A run that announced a write and made it, no more. Returns the file, and its length before that write."""
    hour = committing_paths(site, feed)[-2]
    trace = injected("fsync", "signal=KILL:when=1", log, paths=[hour])
    assert forked(site, commit_events=5000, trace=trace).finished().returncode == KILLED
    found = checkpoint.load(site.position_file(feed))
    assert found is not None
    assert found.intent is not None
    return hour, found.intent.files[hour.name].offset


@pytest.mark.parametrize("feed", [OUTGOING, SIGN_INS], ids=lambda feed: feed.category)
@pytest.mark.parametrize("filling", [b"", b"\0"], ids=["short", "zeros"])
def test_a_power_cut_that_leaves_any_part_of_a_write(tmp_path: Path, feed: Feed, filling: bytes) -> None:
    # The hour before belongs to the same write and is on the disk as a whole.
    with a_site(tmp_path, {feed: TRAITS}) as site:
        site.configure()
        hour, offset = killed_before_the_sync_of_the_data(site, feed, tmp_path / "strace.log")
        whole = hour.read_bytes()
        kept = {path: path.read_bytes() for path in [*site.data_files(feed), site.position_file(feed)]}
        first = whole.index(b"\n", offset)
        for cut in [
            offset,
            offset + 1,
            first - 1,
            first,
            first + 1,
            (offset + len(whole)) // 2,
            len(whole) - 1,
        ]:
            start_again(site)
            for path, data in kept.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            hour.write_bytes(whole[:cut] + filling * (len(whole) - cut))
            ended = site.collect()
            assert ended.status == 0
            assert ended.of(feed).metrics.adopted > 0
            site.assert_exactly_once(feed)
            assert b"\0" not in hour.read_bytes()


def test_lines_found_written_are_kept_and_no_detail_of_them_is_fetched_again(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure()
        hour, offset = killed_before_the_sync_of_the_data(site, OUTGOING, tmp_path / "strace.log")
        written = hour.read_bytes()[offset:].count(b"\n")
        adopted = sum(path.read_bytes().count(b"\n") for path in site.data_files(OUTGOING))
        before = site.provider.stats.details.total()
        ended = site.collect()
        assert written > 0
        assert ended.of(OUTGOING).metrics.adopted == adopted
        # Only what lies in the hour that had not been written yet.
        again = site.provider.stats.details.total() - before
        assert again == ended.of(OUTGOING).metrics.details
        assert again < before
        site.assert_exactly_once(OUTGOING)


def test_a_kill_while_changes_are_appended_loses_none_and_writes_none_twice(tmp_path: Path) -> None:
    changing = Traits(rate=0.2, start=START, end=START + 300, changing=0.6, detail_bytes=100)
    with a_site(tmp_path, {OUTGOING: changing}, now=START + 330) as site:
        site.configure(look_back=600, audit="off", changes="append")
        assert site.collect().status == 0
        before = site.lines(OUTGOING)
        pending = sum(b'"pending"' in line for line in before)
        assert pending > 5
        site.clock.now = START + 430
        killed = 0
        for call, number in CALLS:
            log = tmp_path / "strace"
            fault = f"signal=KILL:when={number}"
            trace = injected(call, fault, log, paths=committing_paths(site, OUTGOING))
            done = forked(site, commit_events=3, trace=trace).finished()
            killed += done.returncode == KILLED
        assert killed > 3
        assert site.collect().status == 0
        lines = site.lines(OUTGOING)
        assert lines[: len(before)] == before
        more = [json.loads(line) for line in lines[len(before) :]]
        assert [record["state"] for record in more] == ["done"] * pending
        assert len({record["queue_id"] for record in more}) == pending
        assert site.heartbeat(OUTGOING)["counts"]["changed"] == pending
