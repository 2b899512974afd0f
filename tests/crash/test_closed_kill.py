"""kill -9 at each step of compressing and sealing: nothing lost, nothing twice, and the next run goes on."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING

import pytest
from support_events import SIGN_INS, START, a_site, forked
from support_fork import KILLED, injected
from typer.testing import CliRunner

from mailferry.cli import app
from mailferry.events.folder import files_of, plain
from mailferry.testing.population import Traits

if TYPE_CHECKING:
    from pathlib import Path

    from support_events import Site

HOUR = 3600
NAME = "example.com_auth_%Y-%m-%d_%H.log"
#: Each file is compressed (write, fsync, rename, unlink) and sealed (write, fsync); a run may be killed at any of them.
CALLS = [(call, number) for number in range(1, 7) for call in ("write", "fsync", "rename", "unlink")]


def files(site: Site) -> list[Path]:
    return [found.path for found in files_of(site.data_folder(SIGN_INS), NAME)]


def contents(site: Site) -> dict[str, bytes]:
    return {
        plain(path.name): gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in files(site)
    }


@pytest.mark.slow(20)
def test_kills_while_hours_are_closed(tmp_path: Path) -> None:
    traits = Traits(rate=0.02, start=START, end=START + 4 * HOUR, detail_bytes=100)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 5 * HOUR) as site:
        site.configure(audit="off")
        assert site.collect().status == 0
        before = contents(site)
        assert len(before) == 4
        for path in files(site):
            os.utime(path, (site.clock.now, site.clock.now))
        site.configure(audit="off", compress="gzip", seal="true")
        site.clock.now += 4 * HOUR
        folder = site.data_folder(SIGN_INS)
        manifest = folder / f"{site.position_file(SIGN_INS).stem}.seals"
        names = [name for path in before for name in (path, f"{path}.gz", f".{path}.gz.tmp")]
        touched = [manifest, folder, *(folder / name for name in names)]
        kills = 0
        for call, number in CALLS:
            trace = injected(call, f"signal=KILL:when={number}", tmp_path / "strace.log", paths=touched)
            ended = forked(site, trace=trace).finished()
            assert ended.returncode in {KILLED, 0}, ended.stderr
            kills += ended.returncode == KILLED
            assert contents(site) == before
        assert kills >= 8
        ended = forked(site).finished()
        assert ended.returncode == 0, ended.stderr
        assert contents(site) == before
        assert {path.suffix for path in files(site)} == {".gz"}
        assert not list(folder.glob(".*.tmp"))
        entries = [json.loads(line)["file"] for line in manifest.read_bytes().splitlines()]
        assert sorted(entries) == sorted(path.name for path in files(site)), "each is sealed once"
        asked = CliRunner().invoke(app, ["verify", "--seals", "--config", str(site.config)])
        assert asked.exit_code == 0, asked.stdout
