"""When a feed runs: every so long, or at the times of a cron expression. Pure: no clock, no state, no zone of its own.

Feeds are spread by their key, so that a thousand of one schedule do not all begin in the same second, and every host
comes to the same times without asking another.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMS = "write seconds (300), 90s, 5m, 1.5h, 1d, or five cron fields such as */5 * * * *"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHORTEST = timedelta(seconds=1)
_LONGEST = timedelta(days=366)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: A cron time is moved by at most this, and by at most a tenth of the way to the following one.
_JITTER = timedelta(seconds=60)
#: croniter's own addition to cron: random or hashed fields. Our spreading does that better.
_HASHED = re.compile(r"(^|[\s,])[hr](\W|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Times at which a feed is due."""

    #: As it was written.
    text: str
    #: None where `text` is a cron expression.
    interval: timedelta | None

    @staticmethod
    def parse(text: str) -> Schedule:
        """Seconds ("300"), a number with s, m, h or d ("1.5h"), or a cron expression of five fields.

        Raises:
            ValueError: it is none of these, never fires, or is shorter than a second or longer than 366 days.
        """
        return _parse(text.strip())

    @staticmethod
    def every(interval: timedelta) -> Schedule:
        """Every so long, at least a second."""
        interval = max(interval, _SHORTEST)
        return Schedule(text=f"{interval.total_seconds():g}s", interval=interval)

    def next(self, after: datetime, key: str) -> datetime:
        """The first time strictly after `after` at which the feed `key` is due, in `after`'s zone.

        An interval counts slots of the wall clock, shifted by a phase that comes from the key. Cron fields are read in
        `after`'s zone: a time that the change to summer time leaves out fires right after it, and one that comes twice
        in autumn fires once, or both times where the hour field begins with `*`. Plus a delay that depends on
        key and time.

        Raises:
            ValueError: `after` has no zone.
        """
        if after.utcoffset() is None:
            raise ValueError(f"{after} has no time zone")
        if self.interval is None:
            return _next_of_cron(self.text, after, key)
        phase = _share(key) * self.interval
        slots = (after - _EPOCH - phase) // self.interval + 1
        return (_EPOCH + phase + slots * self.interval).astimezone(after.tzinfo)


def _checked(text: str) -> str:
    return Schedule.parse(text).text


#: A setting that holds a schedule; a bad one is refused where the model is made.
ScheduleText = Annotated[str, AfterValidator(_checked)]
#: The same, where none ("") is possible.
OptionalScheduleText = Annotated[str, AfterValidator(lambda text: _checked(text) if text.strip() else "")]


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Schedule:
    if len(text) > 200:
        raise ValueError(f"is {len(text)} characters long; {FORMS}")
    simple = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([smhd]?)", text, re.ASCII | re.IGNORECASE)
    if simple is None:
        return _parse_cron(text)
    seconds = Decimal(simple[1]) * _UNITS[simple[2].lower()]
    if not _SHORTEST.total_seconds() <= seconds <= _LONGEST.total_seconds():
        raise ValueError(f"{text!r} must be from 1 second to 366 days; {FORMS}")
    return Schedule(text=text, interval=timedelta(microseconds=int(seconds * 1_000_000)))


def _parse_cron(text: str) -> Schedule:
    fields = text.split()
    if len(fields) != 5:
        number = f", and has {len(fields)} fields instead of five" if len(fields) > 1 else ""
        raise ValueError(f"{text!r} is no schedule{number}; {FORMS}")
    if _HASHED.search(text):
        raise ValueError(
            f"{text!r} has a random field; feeds are spread by themselves, write plain cron fields"
        )

    # It comes without types, which mypy reports once a module.
    from croniter import (  # type: ignore[import-untyped]
        CroniterBadDateError,
        CroniterError,
        croniter,
    )

    text = " ".join(fields)
    try:
        croniter(text, datetime(2026, 1, 1, tzinfo=UTC), ret_type=datetime).get_next()
    except CroniterBadDateError:
        raise ValueError(f"{text!r} never fires: no such day comes in any year") from None
    except (CroniterError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{text!r} is no cron expression ({_reason(error)}); {FORMS}") from None
    return Schedule(text=text, interval=None)


def _reason(error: Exception) -> str:
    """What croniter says, without the expression, which the message has anyway."""
    return re.sub(r"^\[[^\]]*\] ?(is )?", "", str(error)).removesuffix(".") or "cannot be understood"


def _next_of_cron(text: str, after: datetime, key: str) -> datetime:
    """A time before `after` whose delay reaches beyond it counts, so the search begins where no delay reaches from."""
    # Back in UTC: on the wall there may be no such minute.
    start = (after.astimezone(UTC) - _JITTER).astimezone(after.tzinfo)
    times = _cron_times(text, start)
    this = next(times)
    for following in times:
        delay = _share(f"{key} {this.timestamp():.0f}") * min(_JITTER, (following - this) / 10)
        due = this + delay
        if due > after:
            return due.astimezone(after.tzinfo)
        this = following
    raise AssertionError("a schedule that has fired once fires again")


def _cron_times(text: str, start: datetime) -> Iterator[datetime]:
    """The cron times after `start`, read in its zone, given in UTC."""
    from croniter import croniter

    wildcard = text.split()[1].startswith("*")
    found = croniter(text, start, ret_type=datetime)
    while True:
        time: datetime = found.get_next()
        # `fold` marks the second coming of an hour: work that belongs to an hour of the day is done once.
        if wildcard or not time.fold:
            yield time.astimezone(UTC)


def _share(text: str) -> float:
    """A number from 0 to just under 1, evenly spread, the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
