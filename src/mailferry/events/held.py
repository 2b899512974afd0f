"""What a destination holds of some time, and how a listed event differs from that. Values only.

A held record is the detail of an event, which says all that its list record says and more. So of held records the hash of
each single value is kept, a few hundred bytes an event, and a list record differs where one of its own is not among them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

from mailferry.events import order, stored
from mailferry.events import record as records

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from mailferry.events.order import Placed
    from mailferry.events.stored import Found

#: Values nested deeper than this are compared as a whole.
_DEEPEST = 20


class Held:
    """The events of some time, as files or a table have them."""

    def __init__(self, found: Iterable[Found] = ()) -> None:
        #: Identities, and those that an event of a line may have been listed by.
        self.keys: set[str] = set()
        #: The number of events of each second (Unix time).
        self.times: Counter[int] = Counter()
        #: Events without a time of their own: they may belong to another second.
        self.untimed = 0
        #: By the first identity of those that share queue id and time, or what else their identity is made of.
        self._values: dict[str, list[array[int]]] = {}
        for one in found:
            self._add(one)

    def _add(self, one: Found) -> None:
        groups = {one.key, *stored.other_keys(one.record)}
        self.keys |= groups
        if one.group:
            values = _hashes(one.record)
            for group in groups | {one.group}:
                self._values.setdefault(group, []).append(values)
        if one.time is not None:
            self.times[one.time] += 1
        self.untimed += not one.timed

    def differing(self, event: Placed, record: Any, ignored: Collection[str] = ()) -> list[str]:
        """Fields of this record of an event that none of its held ones has with this value; none where none is held."""
        least: list[str] = []
        keys = {event.key, order.group(event)}
        held = [values for key in keys for values in self._values.get(key, ())]
        for values in held:
            names = _differing(record, set(values), ignored)
            if not names:
                return []
            least = least or names
        return least


def differing(listed: Any, held: Any, ignored: Collection[str] = ()) -> list[str]:
    """The fields of a list record that the held record does not have, or has with another value; it may have more."""
    return _differing(listed, set(_hashes(held)), ignored)


def _differing(record: Any, values: set[int], ignored: Collection[str] = ()) -> list[str]:
    if not isinstance(record, dict):
        return [] if values.issuperset(_hashes(record)) else ["the whole record"]
    return [
        name
        for name, value in record.items()
        if name not in ignored and any(hash(leaf) not in values for leaf in _leaves(value, (name,)))
    ]


def _hashes(record: Any) -> array[int]:
    return array("q", map(hash, _leaves(record, ())))


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[Any, ...]]:
    """Each single value with its place. Lists may go on, objects may have more: a container is there, of whatever length."""
    if isinstance(value, dict | list) and len(path) >= _DEEPEST:
        yield path, records.canonical(value)
    elif isinstance(value, dict):
        yield path, dict
        for name, one in value.items():
            yield from _leaves(one, (*path, name))
    elif isinstance(value, list):
        yield path, list
        for at, one in enumerate(value):
            yield from _leaves(one, (*path, at))
    else:
        yield path, value
