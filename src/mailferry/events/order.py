"""Which events an answer holds, in what order, and which of them were seen before. Values in, values out."""

from __future__ import annotations

import math
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from mailferry.events import record as records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


#: Records that are compared to find what changes with every answer.
_COMPARED = 20


class Identity(NamedTuple):
    """By what the events of a feed are recognised."""

    #: Fields that name an event, instead of all else; for records that have one of them.
    fields: tuple[str, ...] = ()
    #: Fields that say nothing about an event, as they change with every answer.
    ignored: frozenset[str] = frozenset()


DEFAULT = Identity()


class Entry(NamedTuple):
    """One event of one answer."""

    #: Unix seconds; None where the record does not say, or says what cannot be.
    time: int | None
    #: Identity: the same event has the same key in every answer that it stands in.
    key: str
    record: Any
    #: What the key of an event whose record may change is made of; empty where the key is made of all the record says.
    base: bytes = b""
    #: A digest of the record, where that may change while the key stays.
    state: str = ""


def entries(
    answer: Iterable[Any],
    identity: Identity = DEFAULT,
    *,
    between: tuple[float, float] = (-math.inf, math.inf),
) -> list[Entry]:
    """The events of one list answer, in its order; see `identified`. A time that is not `between` these is none."""
    first, last = between
    return [
        entry if entry.time is None or first <= entry.time <= last else entry._replace(time=None)
        for entry in identified(answer, identity)
    ]


def identified(answer: Iterable[Any], identity: Identity = DEFAULT) -> Iterator[Entry]:
    """The events of one answer, one after the other.

    The key is made of the configured fields, else of queue id and time, else of the record's canonical JSON. k records
    of one answer that have the same are k events, and the n-th has the same key in every answer that holds all of them.
    """
    counts: dict[bytes, int] = {}
    for record in answer:
        time = records.event_time(record)
        base, changes = _base(record, time, identity)
        count = counts[base] = counts.get(base, 0) + 1
        state = _digest(_content(record, identity), 6) if changes else ""
        yield Entry(time, _nth(base, count), record, base if changes else b"", state)


def _base(record: Any, time: int | None, identity: Identity) -> tuple[bytes, bool]:
    """What the key is made of, and whether the rest of the record may change."""
    if identity.fields and isinstance(record, dict) and any(name in record for name in identity.fields):
        return records.canonical([record.get(name) for name in identity.fields]), True
    queue_id = records.queue_id(record)
    if queue_id is not None and time is not None:
        return _address(queue_id, time), True
    return _content(record, identity), False


def _content(record: Any, identity: Identity) -> bytes:
    if identity.ignored and isinstance(record, dict):
        record = {name: value for name, value in record.items() if name not in identity.ignored}
    return records.canonical(record)


def _nth(base: bytes, number: int) -> str:
    return _digest(base if number == 1 else base + b"\0%d" % number)


def group(entry: Entry | Placed) -> str:
    """The first key of those that share what this one is made of; "" where the record cannot change while the key stays."""
    return _nth(entry.base, 1) if entry.base else ""


def matched(answer: Sequence[Entry], seen: Seen) -> Sequence[Entry]:
    """The same events, each under the key by which it was seen before.

    Of records with the same queue id and time some may be missing in an answer, or stand in another order: those whose
    content was seen keep its key, the other records take the remaining keys.
    """
    odd = {
        entry.base
        for entry in answer
        if entry.base and seen.states.get(entry.key, entry.state) != entry.state
    }
    if not odd:
        return answer
    groups: dict[bytes, list[int]] = {}
    for at, entry in enumerate(answer):
        if entry.base in odd:
            groups.setdefault(entry.base, []).append(at)
    found = list(answer)
    for base, places in groups.items():
        keys = [_nth(base, number) for number in range(1, len(places) + 1)]
        while (key := _nth(base, len(keys) + 1)) in seen:
            keys.append(key)
        rest = []
        for at in places:
            state = answer[at].state
            same = next((key for key in keys if seen.states.get(key) == state), None)
            if same is None:
                rest.append(at)
                continue
            keys.remove(same)
            found[at] = answer[at]._replace(key=same)
        for at in rest:
            found[at] = answer[at]._replace(key=keys.pop(0))
    return found


def volatile(one: Sequence[Entry], other: Sequence[Entry]) -> list[str]:
    """Fields whose value is another in two answers to the same question, while all else of the record is the same."""
    names: set[str] = set()
    others = [entry.record for entry in other if isinstance(entry.record, dict)]
    for entry in one[:_COMPARED]:
        record = entry.record
        if isinstance(record, dict) and record not in others:
            for name in record:
                rest = {key: value for key, value in record.items() if key != name}
                if any(
                    name in twin and rest == {key: value for key, value in twin.items() if key != name}
                    for twin in others
                ):
                    names.add(name)
    return sorted(names)


def addressed(queue_id: str, time: int) -> str:
    """The key of the event that the provider keeps under this queue id and time."""
    return _nth(_address(queue_id, time), 1)


def _address(queue_id: str, time: int) -> bytes:
    return f"{queue_id}\0{time}".encode("utf-8", "surrogatepass")


def _digest(base: bytes, size: int = 12) -> str:
    # 96 bits: among a billion keys, one chance in 10^11 that two events share theirs.
    return urlsafe_b64encode(blake2b(base, digest_size=size).digest()).decode()


def newest_first(answer: Sequence[Entry], start: int, end: int) -> bool:
    """Whether the answer is in the documented order and within what was asked, so that its tail can be trusted."""
    above = end
    for entry in answer:
        if entry.time is None or not start <= entry.time <= above:
            return False
        above = entry.time
    return True


class Placed(NamedTuple):
    """An event with the time it is filed under: its own, or a neighbour's where it has none."""

    time: int
    key: str
    record: Any
    state: str = ""
    #: Whether the time is its own.
    timed: bool = True
    #: As of `Entry`.
    base: bytes = b""


def oldest_first(answer: Sequence[Entry], start: int) -> list[Placed]:
    """Strict time order; within a second the provider's own order, oldest first.

    What has no time is filed by its older neighbour, the oldest by its younger one, all of that kind by `start`.
    """
    last = next((entry.time for entry in reversed(answer) if entry.time is not None), start)
    placed: list[Placed] = []
    for entry in reversed(answer):
        if entry.time is not None:
            last = entry.time
        timed = entry.time is not None
        placed.append(Placed(last, entry.key, entry.record, entry.state, timed, entry.base))
    placed.sort(key=lambda entry: entry.time)
    return placed


class Seen:
    """Identities of events that need not be taken again, each with the end of the last range that listed it.

    Ends are Unix seconds. A key is forgotten by the range that listed it, not by the event's own time: the provider may file an event
    under another time than the one it shows.
    """

    def __init__(self, ends: dict[str, int] | None = None, states: dict[str, str] | None = None) -> None:
        self.ends = ends if ends is not None else {}
        #: Digests of the records as they were last seen, of those that may change.
        self.states = states if states is not None else {}

    def __contains__(self, key: object) -> bool:
        return key in self.ends

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ends)

    def copy(self) -> Seen:
        """The same, to be changed apart."""
        return Seen(dict(self.ends), dict(self.states))

    def add(self, key: str, end: int, state: str = "") -> None:
        """Note that `key` was listed by a range up to `end`, and its record as it was then."""
        if self.ends.get(key, -1) < end:
            self.ends[key] = end
        if state:
            self.states[key] = state

    def changed(self, key: str, state: str) -> bool:
        """Whether the record of `key` is known, and was another."""
        return bool(state) and self.states.get(key, state) != state

    def forget_before(self, time: int) -> None:
        """Drop what no later range can list again."""
        self.ends = {key: end for key, end in self.ends.items() if end >= time}
        self.states = {key: state for key, state in self.states.items() if key in self.ends}
