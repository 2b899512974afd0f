"""What every test of the installation needs: locked wheels, versions of the program, a machine."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest
from machine import ROOT, fresh
from release import LOCKS, RELEASE, SOURCES, Site, Versions, copy, download

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that every version of one session is of the same sources, whoever works on them meanwhile."""
    return copy((*RELEASE, *SOURCES), ROOT, tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def wheels(sources: Path) -> Path:
    """The locked wheels of others, downloaded once for these locks."""
    digest = hashlib.sha256(b"".join((sources / lock).read_bytes() for lock in LOCKS)).hexdigest()[:12]
    folder = ROOT / f".cache/install/wheels-{digest}"
    if not folder.exists():
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        download(new, sources)
        new.rename(folder)
    return folder


@pytest.fixture(scope="session")
def versions(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(sources, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, sources: Path, wheels: Path) -> Iterator[Site]:
    """One a module: its tests are one machine's story, told in order. The module says which KIND."""
    with fresh(request.module.KIND) as machine:
        yield Site(machine, sources, wheels)
