"""What it costs to know that nothing is missing: audits of quiet feeds, and checking files without the provider."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import TYPE_CHECKING

import orjson
from harness import Figure, run, simulate

from mailferry.config import event_feeds
from mailferry.events import run as events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86_400
FEEDS = 50
LINES = 1_000_000
#: As long as a list record of mail with one recipient.
_RECORD = {
    "queue_id": "",
    "message_id": "<20260131120000.4bX000000@mail.example.com>",
    "sender": "alice@example.com",
    "subject": "Quarterly report and minutes of the meeting",
    "size": 12345,
    "recipients": [
        {"email": "bob@example.org", "time": 0, "status": "sent", "response": "250 2.0.0 Ok: queued"}
    ],
}
#: Checks one file in a process of its own, and prints CPU seconds and peak KB.
_CHECK = """
import resource, sys, time
from pathlib import Path
from mailferry.events.check import Lines
from mailferry.events.coverage import Coverage
from mailferry.events.hours import Hours
path, start, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
hours = Hours(start, start + 3600)
lines = Lines(hours, Coverage().listed(start, start + 3600, start + 7200, ()).wrote(start, count))
begun = time.process_time()
lines.file(path, lambda _: True, keyed=True)
lines.count()
assert hours.clean and hours.total()["held"] == count
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def audit(folder: Path) -> Iterator[Figure]:
    """A day of quiet feeds, audited in one run beside one that has nothing to audit."""
    now = int(time.time())
    then = now - 31 * 3600
    domains = [f"d{number}.example.com" for number in range(FEEDS)]
    with simulate(["authentication"], domains, rate=0.001, start=then - DAY, end=then) as provider:
        wide = {"split_interval": 14 * DAY, "max_time_gap": 14 * DAY, "verbose": False}
        config = provider.configure(folder / "audit", **wide, audit="24h")
        _collect(config, then)
        text = config.read_text()
        config.write_text(text.replace("audit = 24h", "audit = off"))
        idle = [_collect(config, now + second) for second in range(3)]
        before = len(provider.stats()["lists"])
        config.write_text(text)
        bare = statistics.median(idle)
        cost = _collect(config, now + 4) - bare
        lists = len(provider.stats()["lists"]) - before - FEEDS
    yield Figure(
        name=f"audit of a quiet day, {FEEDS} feeds",
        value=cost,
        limit=bare,
        unit="CPU s",
        against="a run of these feeds with nothing to do",
        at_most=2,
    )
    yield Figure(
        name="list requests of that audit",
        value=lists,
        limit=FEEDS,
        unit="requests",
        against="one a feed",
        at_most=2,
    )


def _collect(config: Path, now: int) -> float:
    """One run of all feeds at that time; its CPU seconds."""
    feeds = event_feeds.read(config).choose(None, every=True)
    events.prepare(feeds, config)
    begun = time.process_time()
    results, _ = asyncio.run(events.collect(feeds, workers=5, clock=lambda: now))
    assert all(result.status == "completed" for result in results), results
    return time.process_time() - begun


def verify(folder: Path) -> Iterator[Figure]:
    """A million lines of one hour, checked without the provider."""
    start = 1_749_996_000
    path = folder / "hour.log"
    with path.open("wb") as file:
        for number in range(LINES):
            at = start + number * 3600 // LINES
            recipient = {**_RECORD["recipients"][0], "time": at}  # type: ignore[index]
            record = {**_RECORD, "queue_id": f"4bX{number:09d}", "recipients": [recipient]}
            file.write(orjson.dumps(record) + b"\n")
    done = run([sys.executable, "-c", _CHECK, str(path), str(start), str(LINES)])
    seconds, kilobytes = map(float, done.output.split())
    yield Figure(
        name="lines verified offline",
        value=LINES / seconds,
        limit=150_000,
        unit="lines/CPU s",
        against="150,000 a second and core",
        at_least=1,
    )
    yield Figure(
        name="a million lines verified, memory",
        value=kilobytes / 1024,
        limit=100,
        unit="MB",
        against="100 MB resident at most",
        at_most=1,
    )


BENCHMARKS = {"audit": audit, "verify": verify}
