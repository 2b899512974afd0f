"""What every test of the installation needs: locked wheels, versions of the program, a machine."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest
from machine import RELEASES, ROOT, fresh, python_version
from release import LOCKS, RELEASE, SOURCES, Site, Versions, copy, download

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that every version of one session is of the same sources, whatever changes in them meanwhile."""
    return copy((*RELEASE, *SOURCES), ROOT, tmp_path_factory.mktemp("sources"))


def wheels(sources: Path, python: str) -> Path:
    """The locked wheels of others for this Python, downloaded once for these locks."""
    digest = hashlib.sha256(b"".join((sources / lock).read_bytes() for lock in LOCKS)).hexdigest()[:12]
    folder = ROOT / f".cache/install/wheels-{python}-{digest}"
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        download(new, sources, python=python)
        new.rename(folder)
    return folder


@pytest.fixture(scope="session")
def versions(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(sources, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module", params=RELEASES)
def site(request: pytest.FixtureRequest, sources: Path) -> Iterator[Site]:
    """One a module and release: its tests are one machine's story, in order. The module says which KIND."""
    release = request.param
    with fresh(release, request.module.KIND) as machine:
        yield Site(machine, sources, wheels(sources, python_version(release)))
