"""The `.pos` file: how far a feed got, and what a write under way was going to be.

Two lines. The first is the position alone, an integer in Unix seconds, as older tools wrote and read it; the second
is one JSON object with the rest. A file of one integer, left by the older script, is taken over.

A write is announced before it is made: the checkpoint names the files, the length at which each is extended, and
length, checksum and identity of every line. After a crash the next run compares: lines that are there count as
written, whatever a log shipper has read of them in between; a torn rest is cut; all others are fetched again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from mailferry import disk
from mailferry.errors import Stop
from mailferry.events.order import Seen
from mailferry.events.progress import Progress
from mailferry.events.record import LAST_SECOND

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1


@dataclass(kw_only=True)
class Announced:
    """One file of a write under way."""

    #: The file's length in bytes before the write.
    offset: int
    #: (length in bytes with the newline, CRC-32, identity) of each line, in order.
    lines: list[tuple[int, int, str]]


@dataclass(kw_only=True)
class Intent:
    """A write under way, by file name within the feed's folder."""

    #: End of the last range that listed these lines, for `Seen`.
    end: int
    files: dict[str, Announced] = field(default_factory=dict)
    #: The time (Unix seconds) of each of its events that lies in time which was covered before, by identity.
    late: dict[str, int] = field(default_factory=dict)
    #: Digests of the records, of those that may change; and the time of events that were written before, and have changed.
    states: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    #: Those whose list record stands in for the detail, with their time.
    stand_ins: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        files = {name: [announced.offset, announced.lines] for name, announced in self.files.items()}
        more = {
            "late": self.late,
            "states": self.states,
            "changed": self.changed,
            "stand_ins": self.stand_ins,
        }
        return {"end": self.end, "files": files, **more}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Intent:
        files = {
            str(name): Announced(offset=int(offset), lines=[(int(a), int(b), str(c)) for a, b, c in lines])
            for name, (offset, lines) in state["files"].items()
        }
        late = {str(key): int(time) for key, time in state.get("late", {}).items()}
        return cls(
            end=int(state["end"]),
            files=files,
            late=late,
            states=dict(state.get("states", {})),
            changed={str(key): int(time) for key, time in state.get("changed", {}).items()},
            stand_ins={str(key): int(time) for key, time in state.get("stand_ins", {}).items()},
        )


@dataclass(kw_only=True)
class Checkpoint:
    """What a `.pos` file says."""

    progress: Progress
    intent: Intent | None = None
    #: An integer alone, or a position that a person has set back: what the data files hold already is not known yet.
    inherited: bool = False


def load(path: Path) -> Checkpoint | None:
    """Read the checkpoint; None where there is none yet.

    Raises:
        Stop: it is empty, damaged or from a newer version. The file stays as it is.
        Retry: it cannot be read.
    """
    with disk.explained("read the checkpoint", path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    first, _, second = data.partition(b"\n")
    try:
        position = int(first)
        if not 0 <= position < LAST_SECOND:
            raise ValueError("no time")
        if not second.strip():
            return Checkpoint(progress=Progress(position=position, floor=0, seen=Seen()), inherited=True)
        state = orjson.loads(second)
        if state["version"] <= VERSION:
            intent = state.get("intent")
            progress = Progress.from_json(position, state)
            return Checkpoint(
                progress=progress,
                intent=None if intent is None else Intent.from_json(intent),
                inherited=position < progress.floor,
            )
    except (ValueError, KeyError, TypeError, AttributeError):
        shown = json.dumps(data[:40].decode("utf-8", "replace"))
        raise Stop(
            f"the checkpoint {path} is damaged (it begins with {shown}) and was left as it is; put back a copy, or write "
            "the Unix time from which to collect into it, or move it away to go on where the data files end"
        ) from None
    raise Stop(
        f"the checkpoint {path} was written by a newer mailferry (format {state['version']}); upgrade this one"
    )


def save(path: Path, progress: Progress, intent: Intent | None = None) -> None:
    """Replace the checkpoint, durably.

    Raises:
        Retry: it cannot be written; the old one is still there.
    """
    state = {"version": VERSION, **progress.to_json()}
    if intent:
        state["intent"] = intent.to_json()
    with disk.explained("write the checkpoint", path):
        disk.replace_file(path, b"%d\n%s\n" % (progress.position, orjson.dumps(state)))
