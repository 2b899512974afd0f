"""Which events an answer holds, in what order, and which of them were seen before. Values in, values out."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from mailferry.events import record as records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Entry(NamedTuple):
    """One event of one answer."""

    #: Unix seconds; None where the record does not tell.
    time: int | None
    #: Identity: the same event has the same key in every answer that it stands in.
    key: str
    record: Any


def entries(answer: Iterable[Any], *, keyed: bool) -> list[Entry]:
    """The events of one list answer, in its order; see `identified`."""
    return list(identified(answer, keyed=keyed))


def identified(answer: Iterable[Any], *, keyed: bool) -> Iterator[Entry]:
    """The events of one answer, one after the other.

    The key is made of queue id and time, else of the record's canonical JSON. `keyed` says that queue id and time
    address an event at the provider (mail, by its detail): then the same key twice is the same event. Otherwise k
    equal records in one answer are k events, and the n-th has the same key in every answer that holds all of them.
    """
    counts: dict[str, int] = {}
    for record in answer:
        time = records.event_time(record)
        queue_id = records.queue_id(record)
        if queue_id is not None and time is not None:
            base, addressed = _address(queue_id, time), keyed
        else:
            base, addressed = records.canonical(record), False
        key = _digest(base)
        if not addressed:
            count = counts[key] = counts.get(key, 0) + 1
            if count > 1:
                key = _digest(base + b"\0%d" % count)
        yield Entry(time, key, record)


def addressed(queue_id: str, time: int) -> str:
    """The key of the event that the provider keeps under this queue id and time."""
    return _digest(_address(queue_id, time))


def _address(queue_id: str, time: int) -> bytes:
    return f"{queue_id}\0{time}".encode("utf-8", "surrogatepass")


def _digest(base: bytes) -> str:
    # 96 bits: among a billion keys, one chance in 10^11 that two events share theirs.
    return urlsafe_b64encode(blake2b(base, digest_size=12).digest()).decode()


def newest_first(answer: Sequence[Entry], start: int, end: int) -> bool:
    """Whether the answer is in the documented order and within what was asked, so that its tail can be trusted."""
    above = end
    for entry in answer:
        if entry.time is None or not start <= entry.time <= above:
            return False
        above = entry.time
    return True


class Placed(NamedTuple):
    """An event with the time it is filed under: its own, or its older neighbour's where it has none."""

    time: int
    key: str
    record: Any


def oldest_first(answer: Sequence[Entry], start: int) -> list[Placed]:
    """Strict time order; within a second the provider's own order, oldest first."""
    last = start
    placed: list[Placed] = []
    for entry in reversed(answer):
        if entry.time is not None:
            last = entry.time
        placed.append(Placed(last, entry.key, entry.record))
    placed.sort(key=_by_time)
    return placed


def _by_time(entry: Placed) -> int:
    return entry.time


class Seen:
    """Identities of events that need not be taken again, each with the end of the last range that listed it.

    Ends are Unix seconds. A key is forgotten by the range that listed it, not by the event's own time: the provider may file an event
    under another time than the one it shows.
    """

    def __init__(self, ends: dict[str, int] | None = None) -> None:
        self.ends = ends if ends is not None else {}

    def __contains__(self, key: object) -> bool:
        return key in self.ends

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ends)

    def add(self, key: str, end: int) -> None:
        """Note that `key` was listed by a range up to `end`."""
        if self.ends.get(key, -1) < end:
            self.ends[key] = end

    def forget_before(self, time: int) -> None:
        """Drop what no later range can list again."""
        self.ends = {key: end for key, end in self.ends.items() if end >= time}
