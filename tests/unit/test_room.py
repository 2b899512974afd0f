"""The floor of free disk space."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mailferry import disk
from mailferry.errors import Retry

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("total", "free", "min_free", "size", "room"),
    [
        (100 * GIB, 256 << 20, None, 0, True),
        (100 * GIB, (256 << 20) - 1, None, 0, False),
        (100 * GIB, 300 << 20, None, 50 << 20, False),
        (GIB, 22 << 20, None, 0, True),
        (GIB, 20 << 20, None, 0, False),
        (100 * GIB, 5 * GIB, 5 * GIB, 0, True),
        (100 * GIB, 5 * GIB, 5 * GIB, 1, False),
        (GIB, 0, 0, 1, True),
    ],
)
def test_what_would_go_below_the_floor_waits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    free: int,
    min_free: int | None,
    size: int,
    room: bool,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(total, total - free, free))
    if room:
        disk.require_room(tmp_path, min_free, size)
    else:
        with pytest.raises(Retry, match=r"free on the disk of .*min_free.*Nothing is lost"):
            disk.require_room(tmp_path, min_free, size)
