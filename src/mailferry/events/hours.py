"""What a verification found, hour by hour. Values only; all times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUR = 3600
#: What is wrong with an hour is shown by so many examples.
EXAMPLES = 5
#: Kinds of what can be wrong, in the order in which they are shown.
FAULTS = ("missing", "unexpected", "twice", "out_of_order", "torn", "differing")


@dataclass(kw_only=True, slots=True)
class Hour:
    """What was found of one hour."""

    #: Unix seconds, a full hour.
    start: int
    #: Events that the provider listed now; None: it was not asked, or no longer has that time.
    listed: int | None = None
    #: Lines or rows.
    held: int = 0
    #: Events that should be there and are not.
    missing: int = 0
    #: Lines of events that the provider does not have; without it, lines more than were written.
    unexpected: int = 0
    #: Lines more of an event than there are of it.
    twice: int = 0
    #: Lines behind a younger one, beyond those that were written late; or in the file of another hour.
    out_of_order: int = 0
    #: Lines that are no JSON, or have no end.
    torn: int = 0
    #: Lines whose event the provider shows with other values.
    differing: int = 0
    #: Events that are there without their detail, which the provider did not have: no fault, their list record stands in.
    without_detail: int = 0
    #: The first few, each with where and what.
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong with it."""
        return not any(getattr(self, fault) for fault in FAULTS)

    def note(self, fault: str, example: str) -> None:
        """Count one fault."""
        setattr(self, fault, getattr(self, fault) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{fault.replace('_', ' ')}: {example}")


class Hours:
    """The hours from `start` to `end`, Unix seconds; what lies outside is not counted."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self._hours = {hour: Hour(start=hour) for hour in range(start // HOUR * HOUR, end, HOUR)}

    def __iter__(self) -> Iterator[Hour]:
        return iter(self._hours.values())

    def of(self, time: int) -> Hour | None:
        """The hour of a moment, or None."""
        return self._hours[time // HOUR * HOUR] if self.start <= time < self.end else None

    def replace(self, others: Hours) -> None:
        """Take what a later look found of some of them."""
        self._hours.update(others._hours)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong in any of them."""
        return all(hour.clean for hour in self)

    def total(self) -> dict[str, int]:
        """The sum of each count; `listed` of the hours that were listed."""
        names = [one.name for one in fields(Hour) if one.name not in {"start", "examples"}]
        return {name: sum(getattr(hour, name) or 0 for hour in self) for name in names}
