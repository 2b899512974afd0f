"""The manifest of sealed files: one JSON line a file, each with the hash of the line before.

A stranger checks it without mailferry: `sha256sum` of each file, and of each line (without its newline) for `previous` of the
next. It is tamper-evident: who changes, removes, renames or adds a sealed file, or a line, is found out; who can write the
folder can make a new chain, which only a time stamp, or a `head` noted elsewhere, distinguishes from the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from mailferry import disk
from mailferry.errors import Stop
from mailferry.events import record as records
from mailferry.events import stored
from mailferry.events.coverage import Coverage
from mailferry.events.folder import files_of, is_late

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed

#: Seconds without a change before a file of late events is closed, as more may follow in it.
LATE_QUIET = 86_400
#: `previous` of the first line.
NOTHING = "0" * 64
_PIECE = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a file holds when it is sealed."""

    file: str
    #: Of the file's bytes, hex.
    sha256: str
    bytes: int
    lines: int
    #: Unix seconds of the first and last event; None where no line has a time.
    first: int | None
    last: int | None
    #: Spans of that time as `coverage.Span`: when listed, how many events.
    coverage: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the manifest: a file was sealed, or a sealed file was deleted for a `reason`."""

    number: int
    file: str
    sha256: str
    #: Unix seconds.
    at: int
    reason: str = ""
    #: As of `Contents`.
    bytes: int = 0
    first: int | None = None
    deleted: bool = False


@dataclass(kw_only=True)
class Manifest:
    """What is sealed, as its file says; see the module."""

    path: Path
    #: Entries of the files that are sealed and not deleted, by name.
    sealed: dict[str, Entry] = field(default_factory=dict)
    #: SHA-256 of the last line, hex; `NOTHING` before the first.
    head: str = NOTHING
    count: int = 0

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Read it; a torn last line, of a write that was cut off, is dropped.

        Raises:
            Stop: a line was changed, removed or put in: nothing may be sealed on top of that.
            Retry: the disk refuses.
        """
        manifest = cls(path=path)
        if not path.exists():
            return manifest
        with disk.explained("read", path):
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                disk.rewrite(path, len(whole), b"")
        for line, fault in walk(whole, manifest):
            if fault:
                raise Stop(
                    f"{path}, line {line}: {fault}. Nothing is sealed until that is explained: see `mailferry verify --seals`; to begin"
                    " a new manifest, move this one away"
                )
        return manifest

    def add(self, contents: Contents, at: int) -> Entry:
        """Seal a file; durable at the return. Raises Retry."""
        return self._append({**asdict(contents), "sealed_at": at})

    def remove(self, file: str, reason: str, at: int) -> None:
        """Put on record that a sealed file is going to be deleted. Raises Retry."""
        self._append({"file": file, "sha256": self.sealed[file].sha256, "deleted_at": at, "reason": reason})

    def _append(self, values: dict[str, Any]) -> Entry:
        line = orjson.dumps({"number": self.count + 1, **values, "previous": self.head})
        with disk.explained("append to", self.path):
            disk.append(self.path, line + b"\n")
        return self.take(line)

    def take(self, line: bytes) -> Entry:
        """Go on by one line, which is known to follow the last one."""
        entry = _entry(orjson.loads(line))
        if entry.deleted:
            self.sealed.pop(entry.file, None)
        else:
            self.sealed[entry.file] = entry
        self.count = entry.number
        self.head = hashlib.sha256(line).hexdigest()
        return entry


def _entry(values: dict[str, Any]) -> Entry:
    """Raises KeyError, TypeError: it is no entry."""
    deleted = "deleted_at" in values
    return Entry(
        number=values["number"],
        file=values["file"],
        sha256=values["sha256"],
        at=values["deleted_at" if deleted else "sealed_at"],
        reason=values.get("reason", ""),
        bytes=values.get("bytes", 0),
        first=values.get("first"),
        deleted=deleted,
    )


def sealed_names(path: Path) -> set[str]:
    """The files that are sealed by any line of a manifest that can be read, even where its chain is broken.

    Whatever the manifest says now, a sealed file is not appended to. Raises Retry.
    """
    names: set[str] = set()
    with disk.explained("read", path):
        data = path.read_bytes() if path.exists() else b""
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = _entry(orjson.loads(line))
            (names.discard if entry.deleted else names.add)(entry.file)
    return names


def walk(data: bytes, manifest: Manifest) -> Iterator[tuple[int, str]]:
    """Take the lines into `manifest`; each line's number in the file, and what is wrong with it, or "". Ends at the first fault."""
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            values = orjson.loads(line)
            follows = values["number"] == manifest.count + 1 and values["previous"] == manifest.head
            fault = (
                ""
                if follows
                else "it does not follow the line before it: a line was changed, removed or put in"
            )
            if follows:
                manifest.take(line)
        except (ValueError, KeyError, TypeError):
            fault = "it is no entry of a manifest: it was changed"
        yield number, fault
        if fault:
            return


def contents_of(path: Path, coverage: Coverage) -> Contents:
    """What is in a file, compressed or not. Raises Retry."""
    lines = 0
    times = []
    for line in stored.open_lines(path):
        lines += 1
        try:
            time = records.event_time(records.decode(line))
        except ValueError:
            continue  # a line that is no JSON is sealed as it is
        if time is not None:
            times.append(time)
    first, last = (min(times), max(times)) if times else (None, None)
    covered = coverage.within(first, last + 1) if first is not None and last is not None else ()
    return Contents(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        lines=lines,
        first=first,
        last=last,
        coverage=[asdict(span) for span in covered],
    )


def sha256_of(path: Path) -> str:
    """Of the file's bytes, hex. Raises Retry."""
    digest = hashlib.sha256()
    with disk.explained("read", path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class SealFault:
    """Something that a manifest and its files disagree about."""

    #: "changed", "removed", "renamed", "added", "manifest" or "time stamp".
    kind: str
    file: str
    what: str
    #: Of a renamed one: its name now.
    other: str = ""


def check(feed: EventFeed) -> tuple[Manifest, list[SealFault]]:
    """Compare a feed's manifest with its files; nothing is changed, and no provider is asked. Needs no lock.

    Raises:
        Retry: the disk refuses.
    """
    path = feed.manifest_file
    manifest = Manifest(path=path)
    with disk.explained("read", path):
        data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    faults = []
    if whole != data:
        what = "its last line is torn: a write was cut off, which the next run repairs"
        faults.append(SealFault(kind="manifest", file=path.name, what=what))
    for number, fault in walk(whole, manifest):
        if fault:
            faults.append(SealFault(kind="manifest", file=path.name, what=f"line {number}: {fault}"))
    with disk.explained("read", feed.folder):
        found = files_of(feed.folder, feed.fill(feed.log_file_name_format)) if feed.folder.exists() else []
    there = {one.path.name: one.path for one in found}
    faults += _of_sealed(manifest, there)
    explained = {fault.file for fault in faults} | {fault.other for fault in faults}
    for name, file in there.items():
        if name not in manifest.sealed and name not in explained and _left_out(manifest, file):
            what = "it is older than sealed files and has no entry: it was added, or the manifest was cut"
            faults.append(SealFault(kind="added", file=name, what=what))
    return manifest, faults


def _of_sealed(manifest: Manifest, there: Mapping[str, Path]) -> Iterator[SealFault]:
    for name, entry in manifest.sealed.items():
        if name in there:
            if sha256_of(there[name]) != entry.sha256:
                what = f"its bytes are not those that entry {entry.number} sealed"
                yield SealFault(kind="changed", file=name, what=what)
            continue
        others = [
            file
            for file in manifest.path.parent.iterdir()
            if file.name not in manifest.sealed and file.is_file()
        ]
        same = (
            file.name
            for file in others
            if file.stat().st_size == entry.bytes and sha256_of(file) == entry.sha256
        )
        if moved := next(same, ""):
            yield SealFault(kind="renamed", file=name, other=moved, what=f"it is called {moved} now")
        else:
            yield SealFault(kind="removed", file=name, what=f"entry {entry.number} sealed it, and it is gone")


def _left_out(manifest: Manifest, file: Path) -> bool:
    """Whether a file without an entry would have one by now: files are sealed in the order of their hours."""
    if not manifest.sealed:
        return False
    if is_late(file.name):
        return file.stat().st_mtime < max(entry.at for entry in manifest.sealed.values()) - LATE_QUIET
    sealed = [
        entry.first
        for name, entry in manifest.sealed.items()
        if entry.first is not None and not is_late(name)
    ]
    first = contents_of(file, Coverage()).first
    return bool(sealed) and (first is None or first < max(sealed))
