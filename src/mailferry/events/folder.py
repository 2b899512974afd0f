"""A folder of files whose names follow one format."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from mailferry.config.event_feed import names_of


class Found(NamedTuple):
    """A file of a folder."""

    #: Unix seconds of its last change.
    modified: float
    path: Path


def files_of(folder: Path, name_format: str) -> list[Found]:
    """The files in `folder` that `name_format` (strftime) could have named, the oldest first."""
    matching = names_of(name_format)
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # Another program may delete it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if matching.fullmatch(entry.name) and entry.is_file():
                    found.append(Found(entry.stat().st_mtime, Path(entry.path)))
    return sorted(found)
