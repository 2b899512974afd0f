"""Files and folders as mailferry makes them: no planted link is followed, and none is writable for others."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support_events import SIGN_INS, START, a_site

from mailferry import disk
from mailferry.testing.population import Traits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support_events import Site

FEW = Traits(rate=0.05, start=START, end=START + 600)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_planted_temporary_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "state", tmp_path / "victim"
    victim.write_bytes(b"precious")
    victim.chmod(0o666)
    path.with_name(".state.tmp").symlink_to(victim)
    disk.replace_file(path, b"new")
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", b"precious")
    assert not path.is_symlink()
    # Nor does a link in the file's own place say who may read the new one.
    path.unlink()
    path.symlink_to(victim)
    disk.replace_file(path, b"newer")
    assert (path.read_bytes(), victim.read_bytes()) == (b"newer", b"precious")
    assert stat.S_IMODE(path.lstat().st_mode) & 0o022 == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda path: disk.append(path, b"line\n"),
        lambda path: disk.rewrite(path, 0, b"line\n"),
        lambda path: open(path, "ab", opener=disk.opener).close(),
    ],
    ids=["append", "rewrite", "opener"],
)
def test_nothing_but_a_plain_file_is_written_to(tmp_path: Path, write: Callable[[Path], None]) -> None:
    victim, link, dangling, pipe = (tmp_path / name for name in ("victim", "link", "dangling", "pipe"))
    victim.write_bytes(b"precious")
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "made")
    os.mkfifo(pipe)
    for path, code in ((link, errno.ELOOP), (dangling, errno.ELOOP), (pipe, errno.ENXIO)):
        with pytest.raises(OSError, match=path.name) as failed:
            write(path)
        assert failed.value.errno == code
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "made").exists()


def test_with_a_reader_at_its_other_end_a_pipe_is_refused_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="no plain file"):
            disk.append(pipe, b"line\n")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def planted(site: Site) -> dict[str, Path]:
    """Each name that a run writes to."""
    data, position = site.data_folder(SIGN_INS), site.position_file(SIGN_INS)
    lock = site.folder / "locks" / f"{position.stem}.lock"
    return {
        "data file": data / "example.com_auth_2025-06-15_15.log",
        "log": data / "messages.log",
        "heartbeat": data / f".{position.stem}_heartbeat.json.tmp",
        "checkpoint": position.with_name(f".{position.name}.tmp"),
        "lock": lock,
        "mark of a back-fill": lock.with_name(f"{lock.name}.backfill"),
        "compressed": data / ".example.com_auth_2025-06-15_15.log.gz.tmp",
        "manifest": data / f"{position.stem}.seals",
    }


@pytest.mark.parametrize(
    "name",
    [
        "data file",
        "log",
        "heartbeat",
        "checkpoint",
        "lock",
        "mark of a back-fill",
        "compressed",
        "manifest",
    ],
)
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_link_that_was_planted_leads_no_run_elsewhere(tmp_path: Path, name: str, there: bool) -> None:
    with a_site(tmp_path, {SIGN_INS: FEW}) as site:
        site.configure(
            audit="off", compress="gzip", seal="true", message_log_file_name="messages.log", look_back=0
        )
        victim = tmp_path / "victim"
        if there:
            victim.write_bytes(b"precious")
        place = planted(site)[name]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(victim)
        statuses = [site.collect().status]
        site.clock.now += 4 * 3600
        for path in site.data_files(SIGN_INS):
            os.utime(path, (START, START), follow_symlinks=False)
        statuses.append(site.collect().status)
        if there:
            assert victim.read_bytes() == b"precious"
        assert victim.exists() == there
        assert len(statuses) == 2
        # What a person reads says it, and when the link is gone the next run goes on.
        place.unlink(missing_ok=True)
        assert site.collect().status == 0
        assert site.position_file(SIGN_INS).exists()


def test_what_a_run_makes_is_not_writable_for_others_whatever_the_umask(tmp_path: Path) -> None:
    with a_site(tmp_path / "site", {SIGN_INS: FEW}) as site:
        site.configure(audit="off", compress="gzip", seal="true", look_back=0)
        with umask(0):
            assert site.collect().status == 0
            site.clock.now += 4 * 3600
            for path in site.data_files(SIGN_INS):
                os.utime(path, (START, START))
            assert site.collect().status == 0
        made = [path for path in site.folder.rglob("*") if path != site.config]
        assert len(made) > 8
        assert not [path for path in made if path.stat().st_mode & 0o022]


def test_a_folder_has_its_mode_and_those_above_it_are_not_writable_for_others(tmp_path: Path) -> None:
    with umask(0):
        disk.make_folder(tmp_path / "a" / "b" / "c", 0o700)
    modes = [stat.S_IMODE((tmp_path / place).stat().st_mode) for place in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]


def test_a_stricter_umask_is_kept(tmp_path: Path) -> None:
    with umask(0o077):
        disk.make_folder(tmp_path / "a" / "b")
        disk.append(tmp_path / "a" / "b" / "file", b"x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "file").stat().st_mode) == 0o600
