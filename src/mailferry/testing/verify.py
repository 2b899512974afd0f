"""Compare what a collector wrote with the truth: nothing lost, nothing twice, nothing foreign, in order.

result = compare(provider.truth(feed, start, end), read_lines(sorted(folder.glob("*.log"))))
assert result.clean(late=0), result
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_EXAMPLES = 5


class Expected(Protocol):
    """What compare has to know of an event; `population.Event` is one."""

    @property
    def time(self) -> int | None:
        """Unix seconds, None where the record does not say."""

    @property
    def value(self) -> bytes:
        """The JSON that must have been written."""


class Truth(NamedTuple):
    """An expected event as the provider's /_truth answers it."""

    time: int | None
    value: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What became of the events. A count that should be 0 has up to five examples, cut to 300 characters."""

    #: Events that should be there.
    total: int
    #: Events of them that no line holds.
    lost: int
    #: Lines more of an event than there are events equal to it.
    twice: int
    #: Lines that are no event at all: changed, of another feed, cut, or no JSON.
    foreign: int
    #: Lines whose event is older than one on a line before.
    out_of_order: int
    examples: tuple[str, ...] = ()

    def clean(self, *, late: int = 0) -> bool:
        """Say whether all is well, where `late` lines may stand behind younger ones: those reported as late."""
        return not (self.lost or self.twice or self.foreign) and self.out_of_order <= late


def compare(truth: Iterable[Expected], lines: Iterable[bytes]) -> Comparison:
    """Compare lines, in the order written, with the events of one feed.

    Two JSON texts are equal when their values are: order of keys, spaces and escapes do not matter, every digit of
    a number does. Events without a time may stand anywhere. Takes some 100 bytes of memory per event.
    """
    events: dict[bytes, _Entry] = {}
    total = 0
    for event in truth:
        total += 1
        events.setdefault(_digest(event.value), _Entry(event.time)).left += 1
    twice = foreign = out_of_order = 0
    newest: int | None = None
    examples = _Examples()
    for line in lines:
        try:
            found = events.get(_digest(line))
        except ValueError:
            found = None
        if found is None:
            foreign += 1
            examples.add("foreign", line)
            continue
        if found.left:
            found.left -= 1
        else:
            twice += 1
            examples.add("twice", line)
        if found.time is None:
            continue
        if newest is not None and found.time < newest:
            out_of_order += 1
            examples.add("out of order", line)
        newest = found.time if newest is None else max(newest, found.time)
    lost = 0
    for entry in events.values():
        if entry.left:
            lost += entry.left
            examples.add("lost", b"%d of time %a" % (entry.left, entry.time))
    return Comparison(
        total=total,
        lost=lost,
        twice=twice,
        foreign=foreign,
        out_of_order=out_of_order,
        examples=examples.texts(),
    )


def read_lines(files: Iterable[Path]) -> Iterator[bytes]:
    """Return the lines of the files one after the other, without their ends; a torn last line is a line too."""
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                yield line.rstrip(b"\n")


def read_truth(lines: Iterable[bytes]) -> Iterator[Truth]:
    """Read the JSON lines that the provider's /_truth answers."""
    for line in lines:
        entry = json.loads(line)
        yield Truth(entry["time"], json.dumps(entry["value"]).encode())


def _digest(text: bytes) -> bytes:
    """Return a digest of the value of a JSON text. ValueError where it is none."""
    # The standard library's parser keeps integers of any length; faster ones make floats of long ones.
    value = json.loads(text)
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()


class _Entry:
    """Equal events: when, and how many of them are still without a line."""

    __slots__ = ("left", "time")

    def __init__(self, time: int | None) -> None:
        self.time = time
        self.left = 0


class _Examples:
    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    def add(self, what: str, line: bytes) -> None:
        texts = self._texts.setdefault(what, [])
        if len(texts) < _EXAMPLES:
            texts.append(f"{what}: {line[:300].decode(errors='replace')}")

    def texts(self) -> tuple[str, ...]:
        return tuple(text for texts in self._texts.values() for text in texts)
