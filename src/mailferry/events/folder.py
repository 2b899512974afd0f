"""A folder of files whose names follow one format; a closed hour's may be compressed, and have a file of late events beside it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from mailferry.config.event_feed import names_of

#: What a compressed file's name ends in, by the setting `compress`.
ENDINGS = {"gzip": ".gz", "zstd": ".zst"}
_LATE = re.compile(r"_late\d*(?=(\.[^.]*)?$)")


class Found(NamedTuple):
    """A file of a folder."""

    #: Unix seconds of its last change.
    modified: float
    path: Path


def plain(name: str) -> str:
    """The name without a compression's ending."""
    return name.removesuffix(".gz").removesuffix(".zst")


def hour_name(name: str) -> str:
    """The name of the hour's own file, as the format makes it."""
    return _LATE.sub("", plain(name))


def is_late(name: str) -> bool:
    """Whether it is a file of late events."""
    return hour_name(name) != plain(name)


def late_name(name: str, number: int) -> str:
    """The name of an hour's file of late events; `number` counts from 1."""
    path = Path(name)
    return f"{path.stem}_late{number if number > 1 else ''}{path.suffix}"


def files_of(folder: Path, name_format: str) -> list[Found]:
    """The files in `folder` of hours that `name_format` (strftime) could have named, the oldest first."""
    matching = names_of(name_format)
    found: dict[str, Found] = {}
    with os.scandir(folder) as entries:
        # A file comes before its compressed form: where both are there, compressing was cut off, and the file counts.
        for entry in sorted(entries, key=lambda entry: entry.name):
            # A file that another program deletes meanwhile is gone.
            with contextlib.suppress(FileNotFoundError):
                if matching.fullmatch(hour_name(entry.name)) and entry.is_file(follow_symlinks=False):
                    found.setdefault(plain(entry.name), Found(entry.stat().st_mtime, Path(entry.path)))
    return sorted(found.values())


def files_of_hour(folder: Path, name: str) -> list[Path]:
    """What there is of one hour, by its file's name: the file or its compressed form, then those of late events."""
    found = []
    number = 0
    while path := _there(folder, late_name(name, number) if number else name) or (
        None if number else folder / name
    ):
        number += 1
        if path.is_file():
            found.append(path)
    return found


def _there(folder: Path, name: str) -> Path | None:
    return next(
        (path for ending in ("", *ENDINGS.values()) if (path := folder / f"{name}{ending}").is_file()), None
    )
