"""Which message is due: needs now, what was announced before, and the time in; a message and the new memory out. Pure.

The memory is kept for each channel by itself, and changes only when a message was delivered: what a channel did not
take is due again, with whatever has come meanwhile. A process that is killed between sending and remembering sends
a second time, and loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mailferry.monitor.facts import Need

#: After a message, the next one waits so long: a thousand feeds that fail one after the other are a few messages.
QUIET = timedelta(minutes=4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Announced:
    """A need that a channel has sent."""

    key: str
    kind: str
    subject: str
    #: When it was sent last.
    at: datetime
    feed: str = ""
    #: The only host that can see whether it is over; "" for any.
    host: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What a channel has sent."""

    announced: dict[str, Announced] = field(default_factory=dict)
    #: When it last took a message.
    sent_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """For a file, or a row."""
        keys = ("kind", "subject", "feed", "host")
        return {
            "sent_at": self.sent_at.isoformat() if self.sent_at else None,
            "announced": {
                one.key: {"at": one.at.isoformat(), **{name: getattr(one, name) for name in keys}}
                for one in self.announced.values()
            },
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Memory:
        """The reverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` made.
        """
        announced = {
            str(key): Announced(
                key=str(key),
                at=_aware(one["at"]),
                **{name: str(one[name]) for name in ("kind", "subject", "feed", "host")},
            )
            for key, one in state["announced"].items()
        }
        sent_at = state["sent_at"]
        return cls(announced=announced, sent_at=_aware(sent_at) if sent_at else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What one message says. A need is new, or still there after `repeat_after`."""

    new: tuple[Need, ...] = ()
    still: tuple[Need, ...] = ()
    over: tuple[Announced, ...] = ()
    host: str = ""

    def __bool__(self) -> bool:
        return bool(self.new or self.still or self.over)


def decide(
    needs: Iterable[Need],
    memory: Memory,
    now: datetime,
    *,
    repeat_after: timedelta | None,
    judged: Callable[[Announced], bool] = lambda _: True,
    host: str = "",
) -> Message:
    """The message that is due; an empty one is none. All that is due is in one.

    `judged`: whether the needs would hold this one if it were still there. `repeat_after`: None for never.
    """
    if memory.sent_at and memory.sent_at <= now < memory.sent_at + QUIET:
        return Message()
    there = {need.key: need for need in needs}
    new, still = [], []
    for key, need in there.items():
        before = memory.announced.get(key)
        if before is None or before.kind != need.kind:
            new.append(need)
        elif repeat_after is not None and now >= before.at + repeat_after:
            still.append(need)
    over = [one for key, one in memory.announced.items() if key not in there and judged(one)]
    return Message(new=tuple(new), still=tuple(still), over=tuple(over), host=host)


def remember(memory: Memory, message: Message, now: datetime) -> Memory:
    """The memory of a channel that took the message."""
    gone = {one.key for one in message.over}
    announced = {key: one for key, one in memory.announced.items() if key not in gone}
    for need in (*message.new, *message.still):
        announced[need.key] = Announced(
            key=need.key,
            kind=need.kind,
            subject=need.subject,
            at=now,
            feed=need.feed,
            host=message.host if need.local else "",
        )
    return replace(memory, announced=announced, sent_at=now)


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment
