"""A seeded population of provider events: the same seed makes the same events, in whatever order they are asked for.

Events are made when they are asked for, second by second, from (seed, feed, second), so weeks of time or a
million events take no memory. Nothing here reads a clock or a socket.

    feed = Feed(api_key="key", domain="example.com", category="mail", type="incominglog")
    population = Population({feed: Traits(rate=2, repeats=0.01)}, seed=7)
    for event in population.events(feed, 1_700_000_000, 1_700_000_300):
        print(event.time, event.value)
"""

from __future__ import annotations

import heapq
import math
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from mailferry.testing import records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: The types a feed of each category may have; authentication has none.
TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mail": ("incominglog", "outgoinglog"),
        "quarantine": ("quarantine", "hold"),
        "authentication": ("",),
    }
)
_SHARES = ("late", "changing", "missing_details", "big_integers", "hostile_text")
_KINDS = ("nulls", "not_objects", "no_time", "no_queue_id", "own_time", "repeats", "twins")
_CACHED_EVENTS = 50_000
_DIGEST = struct.Struct("<8I")
_UNIT = 2.0**-32


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What one section of a collector reads. Raises ValueError for a category or type that the API does not have."""

    api_key: str = field(repr=False)
    #: "" asks for all domains of the key, as a section without `domain` does; no population has it as its own.
    domain: str
    #: "mail", "quarantine" or "authentication".
    category: str
    #: As the API's parameter `type`; "" for authentication.
    type: str

    def __post_init__(self) -> None:
        if self.type not in TYPES.get(self.category, ()):
            raise ValueError(
                f"no feed of category {self.category!r} and type {self.type!r}; there are {dict(TYPES)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """How the events of a feed are. Every share lies between 0 and 1; ValueError otherwise.

    The shares from `nulls` to `twins` exclude each other, so their sum may not be over 1. One that a category
    cannot have (`repeats` without a queue id) is an ordinary event there.
    """

    #: Mean number of events per second, Poisson distributed.
    rate: float = 1.0
    #: First second with events and the first without any more, Unix seconds; None goes on for ever.
    start: int = 0
    end: int | None = None
    #: Unix second -> exactly this many events in it, in place of what `rate` makes. More than a page: saturated.
    bursts: Mapping[int, int] = field(default_factory=dict)

    #: Events that become visible only 1 to `late_by` seconds after their own time.
    late: float = 0.0
    late_by: int = 60

    #: Objects that say `"state": "pending"` for so many seconds after their own time, then `"state": "done"`.
    changing: float = 0.0
    changing_for: int = 120

    #: Records that are `null`. They cannot be distinguished, so no collector can count them over overlapping ranges.
    nulls: float = 0.0
    #: Records that are strings, numbers or arrays; each is unique.
    not_objects: float = 0.0
    #: Objects that say nothing about their time.
    no_time: float = 0.0
    #: Mail without `queue_id`, which therefore has no detail.
    no_queue_id: float = 0.0
    #: Mail whose recipients are empty or have no time: the record's own `time` or `timestamp` counts.
    own_time: float = 0.0
    #: Mail that is another delivery attempt: the queue id of an earlier second again, with a later time.
    repeats: float = 0.0
    #: Authentication that is equal, byte by byte, to the event before it in the same second; both are events.
    twins: float = 0.0

    #: Objects with an integer of 20 digits, which fits no 64 bits.
    big_integers: float = 0.0
    #: Objects with an escaped NUL and half a surrogate pair: JSON that strict parsers and databases refuse.
    hostile_text: float = 0.0
    #: Mail whose detail is 404 for ever.
    missing_details: float = 0.0
    #: About how many bytes a detail has beyond its list record.
    detail_bytes: int = 2000

    def __post_init__(self) -> None:
        for name in (*_SHARES, *_KINDS):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)!r}")
        if sum(getattr(self, name) for name in _KINDS) > 1 + 1e-9:
            raise ValueError(f"the shares {', '.join(_KINDS)} exclude each other: their sum is over 1")
        if not 0 <= self.rate <= 1_000_000:
            raise ValueError(f"rate is events per second, 0 to 1,000,000, not {self.rate!r}")
        if self.late_by < 1:
            raise ValueError(f"late_by is a whole number of seconds from 1 on, not {self.late_by!r}")
        if any(count < 0 for count in self.bursts.values()):
            raise ValueError("bursts map a Unix second to a number of events from 0 on")


# Made by the million; a NamedTuple is several times cheaper to make than a frozen dataclass.
class Event(NamedTuple):
    """One event as the provider holds it."""

    feed: Feed
    #: The Unix second that it lies in, by which lists find it, and its number among that second's events.
    second: int
    number: int
    #: The second as the record says it; None where it does not.
    time: int | None
    #: None where the record has none.
    queue_id: str | None
    #: Unix time from which lists and details show it.
    visible_from: float
    #: Its JSON in a list.
    record: bytes
    #: What its detail has beyond the record (`,"logs":...}`); None where it has no detail.
    more: bytes | None
    #: Its JSON until Unix time `changes_at`; None where it never was another.
    earlier: bytes | None = None
    changes_at: float = 0.0

    @property
    def detail(self) -> bytes | None:
        """The JSON of its detail: the record and more."""
        return self.detail_at(math.inf)

    def record_at(self, now: float) -> bytes:
        """Its JSON in a list at Unix time `now`."""
        return self.earlier if self.earlier is not None and now < self.changes_at else self.record

    def detail_at(self, now: float) -> bytes | None:
        """The JSON of its detail at Unix time `now`."""
        return None if self.more is None else self.record_at(now)[:-1] + self.more

    @property
    def value(self) -> bytes:
        """The JSON that a collector must have written: the detail where there is one, else the list record."""
        return self.record if self.more is None else self.record[:-1] + self.more


class Population:
    """All events of some feeds. A pure function of its arguments, apart from a small cache; one thread at a time."""

    def __init__(self, feeds: Mapping[Feed, Traits], *, seed: int = 1) -> None:
        """Raise ValueError for a feed without a domain, which could not be distinguished from the question for all."""
        if any(not feed.domain for feed in feeds):
            raise ValueError("a feed of a population needs a domain")
        self.seed = seed
        self.feeds: Mapping[Feed, Traits] = MappingProxyType(dict(feeds))
        cache = _Cache()
        self._streams = {feed: _Stream(feed, traits, seed, cache) for feed, traits in feeds.items()}
        self._mail: dict[str, list[_Stream]] = {}
        for feed, stream in self._streams.items():
            if feed.category == "mail":
                self._mail.setdefault(feed.api_key, []).append(stream)

    def events(self, feed: Feed, start: int, end: int) -> Iterator[Event]:
        """Return the events of seconds `start` (inclusive) to `end` (exclusive) in time order, visible yet or not.

        A feed with domain "" is all feeds of its key, category and type. KeyError for one that is not there.
        """
        parts = self.matching(feed)
        if not parts:
            raise KeyError(feed)
        streams = [self._streams[part].events(start, end) for part in parts]
        return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda event: event.second)

    def matching(self, feed: Feed) -> list[Feed]:
        """Return the population's own feeds that a question for this feed is about."""
        if feed.domain:
            return [feed] if feed in self._streams else []
        wanted = (feed.api_key, feed.category, feed.type)
        return [own for own in self._streams if (own.api_key, own.category, own.type) == wanted]

    def page(self, feeds: Sequence[Feed], start: int, end: int, *, now: float, cap: int) -> list[Event]:
        """Return at most `cap` events of seconds `start` (inclusive) to `end` (exclusive) visible at `now`, newest first."""
        pages = [self._streams[feed].newest(start, end, now, cap) for feed in feeds]
        if len(pages) == 1:
            return pages[0]
        merged = heapq.merge(*pages, key=lambda event: event.second, reverse=True)
        return [event for _, event in zip(range(cap), merged, strict=False)]

    def find(self, api_key: str, queue_id: str, time: int) -> Event | None:
        """Return the mail event with this queue id and time, visible yet or not."""
        for stream in self._mail.get(api_key, ()):
            if (event := stream.second(time).by_queue_id.get(queue_id)) is not None and event.time == time:
                return event
        return None


class _Second(NamedTuple):
    events: tuple[Event, ...]
    by_queue_id: dict[str, Event]


class _Cache:
    """The seconds used last, up to so many events, shared by the feeds of a population."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[tuple[Feed, int], _Second] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[Feed, int]) -> _Second | None:
        found = self._seconds.get(key)
        if found is not None:
            self._seconds.move_to_end(key)
        return found

    def put(self, key: tuple[Feed, int], second: _Second) -> None:
        self._seconds[key] = second
        self._size += 1 + len(second.events)
        while self._size > _CACHED_EVENTS and len(self._seconds) > 1:
            _, gone = self._seconds.popitem(last=False)
            self._size -= 1 + len(gone.events)


class _Stream:
    """The events of one feed."""

    def __init__(self, feed: Feed, traits: Traits, seed: int, cache: _Cache) -> None:
        self._feed = feed
        self._traits = traits
        self._cache = cache
        name = "\0".join((str(seed), feed.api_key, feed.domain, feed.category, feed.type))
        self._hash = blake2b(name.encode(), digest_size=_DIGEST.size)
        # Arrivals are drawn a block at a time: some 200 events each, so that empty hours cost next to nothing.
        self._span = max(1, min(86_400, int(200 / traits.rate))) if traits.rate else 86_400
        self._blocks: OrderedDict[int, dict[int, int]] = OrderedDict()
        self._bursts: dict[int, list[int]] = {}
        for second in traits.bursts:
            self._bursts.setdefault(second // self._span, []).append(second)
        self._limits = _limits(traits, feed.category)
        self._more = records.more_for_details(Random(self._draw("details", 0)[0]), traits.detail_bytes)
        self._make = records.MAKERS[feed.category]

    def events(self, start: int, end: int) -> Iterator[Event]:
        """Return the events of [start, end) in time order."""
        start, end = self._clamp(start, end)
        for block in range(start // self._span, -(-end // self._span)):
            for second in self._block(block):
                if start <= second < end:
                    yield from self.second(second).events

    def newest(self, start: int, end: int, now: float, cap: int) -> list[Event]:
        """Return at most `cap` events of [start, end) that are visible at `now`, newest first."""
        start, end = self._clamp(start, min(end, int(now) + 1))
        found: list[Event] = []
        for block in range(-(-end // self._span) - 1, start // self._span - 1, -1):
            for second in reversed(self._block(block)):
                if start <= second < end:
                    found.extend(e for e in reversed(self.second(second).events) if e.visible_from <= now)
            if len(found) >= cap:
                break
        return found[:cap]

    def second(self, second: int) -> _Second:
        """Return the events of one second."""
        key = (self._feed, second)
        if (found := self._cache.get(key)) is None:
            count = self._block(second // self._span).get(second, 0)
            events = tuple(self._events(second, count))
            found = _Second(events, {event.queue_id: event for event in events if event.queue_id})
            self._cache.put(key, found)
        return found

    def _clamp(self, start: int, end: int) -> tuple[int, int]:
        last = self._traits.end
        return max(start, self._traits.start), end if last is None else min(end, last)

    def _block(self, block: int) -> dict[int, int]:
        """Return the seconds of a block that have events, ascending, with how many; arrivals at exponential distances."""
        if (found := self._blocks.get(block)) is not None:
            return found
        first, last = block * self._span, (block + 1) * self._span
        low, high = self._clamp(first, last)
        counts: dict[int, int] = {}
        if self._traits.rate and low < high:
            gap = Random(self._draw("block", block)[0]).expovariate
            moment = first + gap(self._traits.rate)
            while moment < high:
                if moment >= low:
                    counts[int(moment)] = counts.get(int(moment), 0) + 1
                moment += gap(self._traits.rate)
        for second in self._bursts.get(block, ()):
            counts[second] = self._traits.bursts[second] if low <= second < high else 0
        found = {second: counts[second] for second in sorted(counts) if counts[second]}
        self._blocks[block] = found
        if len(self._blocks) > 1000:
            self._blocks.popitem(last=False)
        return found

    def _events(self, second: int, count: int) -> Iterator[Event]:
        traits = self._traits
        before: tuple[str, tuple[int, ...]] | None = None
        for number in range(count):
            draw = self._draw(second, number)
            # `kind` and `base` say what the record holds; `draw` alone when it is visible and what its detail is.
            kind, base = self._kind(draw[0] * _UNIT), draw
            if kind == "repeats":
                base = self._earlier(second, number) or draw
            elif kind == "twins" and before is not None:
                kind, base = before
            before = kind, base
            record, queue_id, time = self._make(kind, self._feed.domain, second, base)
            if record.endswith(b"}"):
                if base[1] * _UNIT < traits.big_integers:
                    record = records.with_big_integer(record, base)
                if base[2] * _UNIT < traits.hostile_text:
                    record = records.with_hostile_text(record)
            earlier = None
            if record.endswith(b"}") and base[7] * _UNIT < traits.changing:
                earlier, record = (
                    b'%b,"state":"%b"}' % (record[:-1], state) for state in (b"pending", b"done")
                )
            # A copy of the right size: what orjson returns holds on to its 4 KB buffer.
            record = b"%b" % record
            more = None
            if queue_id is not None and time is not None and draw[3] * _UNIT >= traits.missing_details:
                more = self._more[draw[4] % len(self._more)]
            late = draw[6] * _UNIT < traits.late
            delay = 1 + draw[7] % traits.late_by if late else number / count
            visible, changes = second + delay, second + traits.changing_for
            yield Event(self._feed, second, number, time, queue_id, visible, record, more, earlier, changes)

    def _kind(self, share: float) -> str:
        for limit, kind in self._limits:
            if share < limit:
                return kind
        return ""

    def _earlier(self, second: int, number: int) -> tuple[int, ...] | None:
        """Return the draw of the event of this number in a second of the minute before, if there is one.

        The same number keeps (queue id, time) unique: no two events of a second look back to the same one.
        """
        for earlier in range(second - 1, second - 61, -1):
            if self._block(earlier // self._span).get(earlier, 0) > number:
                return self._draw(earlier, number)
        return None

    def _draw(self, place: int | str, number: int) -> tuple[int, ...]:
        """Return eight random integers of 32 bits, the same ones every time."""
        hasher = self._hash.copy()
        hasher.update(f"{place}/{number}".encode())
        return _DIGEST.unpack(hasher.digest())


def _limits(traits: Traits, category: str) -> list[tuple[float, str]]:
    """Return the cumulated shares of the kinds of record, with the ones that the category cannot have left out."""
    only = {"no_queue_id": "mail", "own_time": "mail", "repeats": "mail", "twins": "authentication"}
    limits, total = [], 0.0
    for kind in _KINDS:
        if only.get(kind, category) == category and (share := getattr(traits, kind)):
            total += share
            limits.append((total, kind))
    return limits
