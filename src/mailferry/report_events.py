"""The results of `verify`, `backfill` and `gaps`, for people and as JSON; see docs/reference/json.md."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mailferry.events.hours import FAULTS, HOUR
from mailferry.report_json import dumped
from mailferry.secrets import mask

if TYPE_CHECKING:
    from mailferry.events.backfill import Filled
    from mailferry.events.hours import Hour
    from mailferry.events.verify import Verified
    from mailferry.events.windows import Gap


def verified_status(result: Verified | str) -> int:
    """0 complete, 4 incomplete or wrong, 1 could not be checked."""
    if isinstance(result, str):
        return 1
    if not result.hours.clean:
        return 4
    return 1 if result.unchecked else 0


def verified_json(done: dict[str, Verified | str], code: int) -> str:
    """Every hour of every feed."""
    return dumped(exit_status=code, feeds=[_verified(name, result) for name, result in done.items()])


def _verified(name: str, result: Verified | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"feed": name, "complete": None, "error": result}
    hours = [
        {**asdict(hour), "start": _time(hour.start), "examples": [mask(one) for one in hour.examples]}
        for hour in result.hours
    ]
    return {
        "feed": name,
        "complete": {0: True, 4: False}.get(verified_status(result)),
        "error": None,
        "offline": result.offline,
        "from": _time(result.hours.start),
        "to": _time(result.hours.end),
        "repaired": result.repaired,
        "total": result.hours.total(),
        "hours": hours,
    }


def verified_text(done: dict[str, Verified | str]) -> str:
    """A line a feed, then a line for every hour with which something is wrong."""
    lines = []
    for name, result in done.items():
        if isinstance(result, str):
            lines.append(f"{name}: could not be checked: {result}")
            continue
        total = result.hours.total()
        verdict = {0: "complete", 4: "NOT complete", 1: "could not be checked"}[verified_status(result)]
        span = f"{_shown(result.hours.start)} to {_shown(result.hours.end)}"
        counts = f"{total['held']:,} held" + ("" if result.offline else f", {total['listed']:,} listed")
        lines.append(f"{name}: {verdict}, {span}: {counts}")
        if result.offline:
            lines.append("  checked without the provider: what it has beyond that is not known")
        if result.repaired:
            lines.append(f"  repaired: {result.repaired:,} events written")
        for hour in result.hours:
            lines += _hour_lines(hour)
        gone = [hour for hour in result.hours if hour.listed is None]
        if result.never_listed:
            lines.append(
                f"  {result.never_listed} hours could not be checked: the provider was not asked for them yet"
            )
        if gone and not result.offline:
            lines.append(f"  {len(gone)} hours could not be checked: the provider no longer has them")
    return _text(lines)


def _hour_lines(hour: Hour) -> list[str]:
    found = [
        f"{getattr(hour, what):,} {what.replace('_', ' ')}"
        for what in (*FAULTS, "without_detail")
        if getattr(hour, what)
    ]
    if not found:
        return []
    head = f"  {_shown(hour.start)} to {_shown(hour.start + HOUR)}: {', '.join(found)}"
    return [head, *(f"    {example}" for example in hour.examples)]


def filled_status(result: Filled | str) -> int:
    """0 done, 4 with a gap, 1 failed or stopped."""
    if isinstance(result, str) or result.stopped:
        return 1
    return 4 if result.new_gaps else 0


def filled_json(done: dict[str, Filled | str], code: int, seconds: float, *, dry: bool) -> str:
    """What was listed and written."""
    feeds = [
        {"feed": name, "error": result}
        if isinstance(result, str)
        else {
            "feed": name,
            "error": None,
            "from": _time(result.start),
            "to": _time(result.end),
            "reached": _time(result.reached),
            "listed": result.listed,
            "written": result.written,
            "new_gaps": result.new_gaps,
            "stopped": result.stopped,
        }
        for name, result in done.items()
    ]
    return dumped(exit_status=code, dry_run=dry, seconds=round(seconds, 3), feeds=feeds)


def filled_text(done: dict[str, Filled | str], seconds: float, *, dry: bool) -> str:
    """A line a feed."""
    lines = []
    for name, result in done.items():
        if isinstance(result, str):
            lines.append(f"{name}: failed: {result}")
            continue
        verb = "would be written" if dry else "written"
        state = "stopped; the same command goes on" if result.stopped else "done"
        rate = f", {result.listed / max(seconds, 0.001):,.0f} events/s"
        lines.append(
            f"{name}: {state}, {_shown(result.start)} to {_shown(result.reached)}: {result.listed:,} listed, "
            f"{result.written:,} {verb}{rate}"
        )
        if result.new_gaps:
            lines.append(f"  {result.new_gaps} new gaps on record: mailferry gaps list")
    return _text(lines)


def gaps_status(result: list[Gap] | str) -> int:
    """0 none is open, 4 some are, 1 the feed could not be asked."""
    if isinstance(result, str):
        return 1
    return 4 if any(gap.open for gap in result) else 0


def gaps_json(done: dict[str, list[Gap] | str], code: int) -> str:
    """Every gap with both ends."""
    found = []
    errors = {}
    for name, result in done.items():
        if isinstance(result, str):
            errors[name] = result
            continue
        for gap in result:
            times = {
                key: _time(value) if value else None
                for key, value in (("found_at", gap.found_at), ("closed_at", gap.closed_at))
            }
            found.append(
                {"feed": name, **asdict(gap), "start": _time(gap.start), "end": _time(gap.end), **times}
            )
    return dumped(exit_status=code, gaps=found, errors=errors)


def gaps_text(done: dict[str, list[Gap] | str]) -> str:
    """A line a gap."""
    lines = []
    for name, result in done.items():
        if isinstance(result, str):
            lines.append(f"{name}: {result}")
            continue
        for gap in result:
            found = f", found {_shown(gap.found_at)}" if gap.found_at else ""
            closed = f" {_shown(gap.closed_at)}: {gap.reason}" if gap.closed_at else ""
            lines.append(
                f"{name}: {gap.kind}, {_shown(gap.start)} to {_shown(gap.end)}{found}; {gap.state}{closed}"
            )
    return _text(lines) or "no open gaps"


def _text(lines: list[str]) -> str:
    return "\n".join(map(mask, lines))


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="seconds")


def _shown(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
