"""A disk that is full, faulty or not ours: the run says so and fails, nothing is lost, the next run repairs."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, SIGN_INS, START, a_site, finished, forked, one_run, runner
from support_fork import Forked, environment, injected

from mailferry.testing.population import Traits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support_events import Site

TRAITS = Traits(rate=0.05, start=START + 3000, end=START + 4800, repeats=0.1, twins=0.2, detail_bytes=300)


def what(site: Site, name: str) -> Path:
    """A file or folder that a run writes, by a short name."""
    position, data = site.position_file(OUTGOING), site.data_folder(OUTGOING)
    return {
        "data": data / "example.com_outgoinglog_2025-06-15_15.log",
        "checkpoint": position.with_name(f".{position.name}.tmp"),
        "data folder": data,
        "checkpoint folder": position.parent,
    }[name]


def assert_repaired_by_the_next_run(site: Site) -> None:
    ended = site.collect()
    assert ended.status == 0, ended
    site.assert_exactly_once(OUTGOING)


@pytest.mark.parametrize("first", [1, 2, 4])
@pytest.mark.parametrize("name", ["data", "checkpoint", "data folder", "checkpoint folder"])
def test_a_sync_that_fails_from_some_moment_on(tmp_path: Path, name: str, first: int) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure()
        path, log = what(site, name), tmp_path / "strace.log"
        trace = injected("fsync", f"error=EIO:when={first}+", log, paths=[path])
        ended = forked(site, commit_events=5, trace=trace).finished()
        if name == "data folder" and first > 1:
            # New names: two hours, two syncs at most.
            assert ended.returncode in {0, 1}
        else:
            assert ended.returncode == 1, ended.stderr
            assert "kernel log" in ended.stderr
            assert "Nothing is lost" in ended.stderr
        assert_repaired_by_the_next_run(site)


def test_events_wait_at_the_provider_while_the_disk_is_nearly_full(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure(min_free=1 << 60)
        ended = site.collect()
        assert ended.status == 1, ended
        assert "have to stay free (min_free)" in str(ended)
        assert list(site.data_folder(OUTGOING).glob("*_outgoinglog_*")) == []
        site.configure(min_free=0)
        assert_repaired_by_the_next_run(site)


@pytest.mark.parametrize("name", ["data", "checkpoint"])
@pytest.mark.parametrize("first", [1, 3])
def test_no_space_from_some_write_on(tmp_path: Path, name: str, first: int) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure()
        path, log = what(site, name), tmp_path / "strace.log"
        trace = injected("write", f"error=ENOSPC:when={first}+", log, paths=[path])
        ended = forked(site, commit_events=5, trace=trace).finished()
        assert ended.returncode == 1, ended.stderr
        assert "free space on that disk" in ended.stderr
        # Later runs on the full disk change nothing, and lose nothing.
        lines = site.lines(OUTGOING)
        assert forked(site, commit_events=5, trace=trace).finished().returncode == 1
        assert site.lines(OUTGOING)[: len(lines)] == lines
        assert_repaired_by_the_next_run(site)


def one_run_with_files_up_to(size: int, config: Path, now: float, commit_events: int) -> None:
    """The kernel writes up to this limit and refuses the rest: a line torn in the middle."""
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    one_run(config, now, commit_events)


@contextlib.contextmanager
def opened(pipe: Path) -> Iterator[int]:
    """To read what has been written by now: a pipe has no limit of its size."""
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    yield reading
    os.close(reading)


@pytest.mark.parametrize("size", [1, 700, 5_000, 20_000])
def test_a_write_of_which_only_a_part_fits(tmp_path: Path, size: int) -> None:
    said = tmp_path / "said"
    os.mkfifo(said)
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site, opened(said) as reading:
        site.configure()
        for _ in range(3):
            process = Forked(one_run_with_files_up_to, size, site.config, site.clock.now, 5, log=said)
            assert process.wait() == 1
            assert b"cannot" in os.read(reading, 1 << 16)
        assert all(path.stat().st_size <= size for path in site.data_files(OUTGOING))
        assert_repaired_by_the_next_run(site)


@pytest.mark.parametrize(
    ("options", "advice"),
    [({"min_free": 0}, "free space on that disk"), ({}, "have to stay free (min_free): free space there")],
    ids=["to the last byte", "to the floor"],
)
def test_a_small_disk_that_fills_up_and_is_enlarged(
    tmp_path: Path, options: dict[str, object], advice: str
) -> None:
    traits = Traits(rate=0.2, start=START, end=START + 1800, detail_bytes=2000)
    disk = tmp_path / "output"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no permission to mount; the tests with injected ENOSPC and limited size stand in")
    try:
        with a_site(tmp_path, {OUTGOING: traits}) as site:
            site.configure(**options)
            for _ in range(2):
                ended = forked(site, commit_events=50).finished()
                assert ended.returncode == 1
                assert advice in ended.stderr
            assert site.assert_beginning(OUTGOING) > 0
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            assert_repaired_by_the_next_run(site)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["data folder", "checkpoint folder"])
def test_a_folder_that_may_not_be_written(tmp_path: Path, name: str) -> None:
    # Root may write anywhere but for this capability.
    as_others = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    with a_site(tmp_path, {OUTGOING: TRAITS}, now=START + 3900) as site:
        site.configure()
        assert site.collect().status == 0
        site.clock.now = START + 6000
        before = site.lines(OUTGOING)
        folder = what(site, name)
        folder.chmod(0o500)
        try:
            ended = finished([*as_others, *runner(site)])
        finally:
            folder.chmod(0o700)
        assert ended.returncode != 0
        assert str(folder) in ended.stderr
        assert site.lines(OUTGOING) == before
        assert_repaired_by_the_next_run(site)


def test_a_data_file_that_cannot_be_written_stops_its_section_alone(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS, SIGN_INS: TRAITS}) as site:
        site.configure()
        in_the_way = what(site, "data")
        in_the_way.mkdir(parents=True)
        ended = site.collect()
        assert ended.status == 1
        assert str(in_the_way) in ended.of(OUTGOING).error
        site.assert_exactly_once(SIGN_INS)
        in_the_way.rmdir()
        assert_repaired_by_the_next_run(site)


def test_logs_and_heartbeat_that_cannot_be_written_stop_no_data(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure(message_log_file_name="messages.log", error_log_file_name="errors.log")
        folder = site.data_folder(OUTGOING)
        for name in ("messages.log", "errors.log", ".example.com-outgoinglog_heartbeat.json.tmp"):
            (folder / name).mkdir(parents=True)
        ended = forked(site).finished()
        assert ended.returncode == 0
        assert "cannot write" in ended.stderr
        site.assert_exactly_once(OUTGOING)


def test_output_that_is_not_read_loses_no_data(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: TRAITS}) as site:
        site.configure()
        reader, writer = os.pipe()
        os.close(reader)
        try:
            process = subprocess.Popen(
                [sys.executable, *runner(site)[1:]], env=environment(), stdout=writer, stderr=writer
            )
            process.wait(100)
        finally:
            os.close(writer)
        site.assert_exactly_once(OUTGOING)
