"""How far a feed got: what its destination keeps beside the data. Values only; all times are Unix seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mailferry.events.coverage import Coverage
from mailferry.events.order import Seen
from mailferry.events.windows import Gap

#: Events without their detail that are kept on record; the count of all goes on.
MISSING_KEPT = 1000
#: Changed events that files do not show, kept on record: one that is forgotten may be counted again.
NEWER_KEPT = 1000
#: Closed gaps kept on record, and gaps in all; the count goes on.
GAPS_KEPT = 100
OPEN_KEPT = 1000


def falls_behind(position: float, now: float, keeps: int) -> str:
    """A warning where the provider, which keeps events for `keeps` seconds (0: not known), may soon have lost what is open."""
    behind = now - position
    if not keeps or behind <= keeps / 2:
        return ""
    return (
        f"{behind / 86_400:.1f} days behind, and the provider keeps events for {keeps // 86_400} days only: what is not "
        "collected by then is lost"
    )


@dataclass(kw_only=True)
class Progress:
    """The watermark and all that is needed to go on from it exactly."""

    #: Every event before this second has been taken, as far as it was visible.
    position: int
    #: Never look back before this: where the feed began, or what `seen` no longer knows.
    floor: int
    #: Identities of what a later range may list again.
    seen: Seen = field(default_factory=Seen)
    gaps: list[Gap] = field(default_factory=list)
    gap_count: int = 0
    #: Events that became visible only after the position had passed them; written all the same.
    late: int = 0
    #: Events written since the feed began.
    events: int = 0
    #: What is odd about events since the feed began, by name: as `counts` of the heartbeat.
    counts: dict[str, int] = field(default_factory=dict)
    #: The newest events whose detail could not be fetched, with their time: the list record stands in for it.
    details_missing: dict[str, int] = field(default_factory=dict)
    #: Digests of the newest records of changed events, where files keep an older record.
    newer: dict[str, str] = field(default_factory=dict)
    #: Which time was listed when, and what of it was written.
    coverage: Coverage = field(default_factory=Coverage)

    def begin(self, look_back: int) -> int:
        """Where the next run starts to read: what was listed only in part is listed again."""
        spans = self.coverage.spans
        # Before the first whole range that is the floor; a position that a person has set has none.
        listed = spans[-1].end if spans else self.floor or self.position
        return max(self.floor, min(self.position, listed) - look_back)

    @property
    def open_gaps(self) -> list[Gap]:
        """Gaps that were neither filled nor acknowledged."""
        return [gap for gap in self.gaps if gap.open]

    @property
    def gap_kinds(self) -> dict[str, int]:
        """How many gaps of each kind were ever found; of older versions only those still on record are known."""
        kept = Counter(gap.kind for gap in self.gaps)
        return {kind: self.counts.get(f"{kind}_gaps", kept[kind]) for kind in ("saturated", "expired")}

    def add_gap(self, gap: Gap) -> bool:
        """Put a gap on record; False where it already was, as look-back finds it again."""
        if any(
            known.kind == gap.kind and known.start <= gap.start and gap.end <= known.end
            for known in self.gaps
        ):
            return False
        kinds = self.gap_kinds
        last = self.gaps[-1] if self.gaps else None
        if last and last.kind == gap.kind == "expired" and last.start <= gap.start <= last.end:
            self.gaps = [*self.gaps[:-1], replace(last, end=gap.end)]
        else:
            closed = [known for known in self.gaps if not known.open]
            forgotten = closed[: max(0, len(closed) - GAPS_KEPT)]
            self.gaps = [*(known for known in self.gaps if known not in forgotten), gap][-OPEN_KEPT:]
            self.gap_count += 1
            self.counts = {**self.counts, f"{gap.kind}_gaps": kinds.get(gap.kind, 0) + 1}
        return True

    def count(self, name: str, number: int = 1) -> None:
        """Count something odd."""
        self.counts = {**self.counts, name: self.counts.get(name, 0) + number}

    def misses_detail(self, key: str, time: int) -> None:
        """Put an event on record whose detail could not be fetched."""
        self.count("details_missing")
        kept = list({**self.details_missing, key: time}.items())[-MISSING_KEPT:]
        self.details_missing = dict(kept)

    def note_change(self, key: str, state: str) -> None:
        """Put on record that an event has changed and was not written again, so that it counts once."""
        self.newer = dict(list({**self.newer, key: state}.items())[-NEWER_KEPT:])

    def to_json(self) -> dict[str, Any]:
        """As the checkpoint's second line holds it (the position is the first line)."""
        return {
            "floor": self.floor,
            "late": self.late,
            "events": self.events,
            "gap_count": self.gap_count,
            "gaps": [asdict(gap) for gap in self.gaps],
            "seen": self.seen.ends,
            "states": self.seen.states,
            "counts": self.counts,
            "details_missing": self.details_missing,
            "newer": self.newer,
            "coverage": self.coverage.to_json(),
        }

    @classmethod
    def from_json(cls, position: int, state: dict[str, Any]) -> Progress:
        """The reverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` gave.
        """
        seen = state["seen"]
        if not isinstance(seen, dict) or not all(isinstance(end, int) for end in seen.values()):
            raise TypeError("seen")
        return cls(
            position=position,
            floor=int(state["floor"]),
            seen=Seen(seen, dict(state.get("states", {}))),
            counts={str(name): int(count) for name, count in state.get("counts", {}).items()},
            details_missing={str(key): int(time) for key, time in state.get("details_missing", {}).items()},
            newer={str(key): str(digest) for key, digest in state.get("newer", {}).items()},
            gaps=[Gap(**gap) for gap in state["gaps"]],
            gap_count=int(state["gap_count"]),
            late=int(state["late"]),
            events=int(state["events"]),
            coverage=Coverage.from_json(state.get("coverage")),
        )
