"""Event feeds: `mailferry collect` against the stand-in provider, each in a process of its own."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from harness import MAILFERRY, Figure, collect, run, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Cost, Simulated

MAIL = "mail/incominglog"
PAGE = 1000
LIMIT = Path(__file__).with_name("limit_details.py")


def span(seconds: int) -> dict[str, int]:
    """So many seconds that ended some minutes ago, so that all of their events are visible."""
    end = int(time.time()) - 600
    return {"start": end - seconds, "end": end}


# --- details per CPU second


def details(folder: Path) -> Iterator[Figure]:
    """As fast as they come, 8 at once: three rounds of limit and collector in turn, of which the middle one counts."""
    with simulate([MAIL], rate=1, **span(20_000)) as provider:
        urls = _detail_urls(provider, folder)
        rounds: list[tuple[float, float]] = []
        for number in range(3):
            limit, fetched = _limit(provider, urls, 8)
            cost, result = collect(provider.configure(folder / str(number), max_parallel_details=8))
            assert result["total"]["total_logs_processed"] == fetched
            rounds.append((fetched / cost.cpu, fetched / limit.cpu))
    ours, bare = sorted(rounds, key=lambda pair: pair[0] / pair[1])[1]
    yield Figure(
        name="details, 2 KB, 8 at once",
        value=ours,
        limit=bare,
        unit="events/CPU s",
        against="bare aiohttp loop, same URLs",
        at_least=0.65,
    )


def _detail_urls(provider: Simulated, folder: Path) -> Path:
    """A file with the URL of every detail of the first feed, in order of time."""
    feed = provider.announced["feeds"][0]
    path = folder / "urls"
    with path.open("w") as file:
        for event in provider.truth(feed, provider.announced["start"], provider.announced["end"]):
            queue_id = quote(event["value"]["queue_id"], safe="")
            file.write(f"{feed['list_url']}/{queue_id}?time={event['time']}\n")
    return path


def _limit(provider: Simulated, urls: Path, concurrency: int) -> tuple[Cost, int]:
    """What a bare aiohttp loop takes for these URLs, and how many they are."""
    out = urls.with_name("limit")
    out.unlink(missing_ok=True)
    cost = run(
        [sys.executable, LIMIT, urls, out, provider.announced["feeds"][0]["api_key"], str(concurrency)]
    )
    with out.open("rb") as file:
        return cost, sum(1 for _ in file)


# --- latency


def latency(folder: Path) -> Iterator[Figure]:
    """50 ms an answer: a fixed two in flight, `auto` where 32 are taken, and `auto` where 8 are."""
    with simulate([MAIL], rate=0.25, latency=0.05, **span(6000)) as provider:
        limit, fetched = _limit(provider, _detail_urls(provider, folder), 2)
        cost, result = collect(provider.configure(folder / "two", max_parallel_details=2))
    allowed = fetched / limit.wall
    yield Figure(
        name="details at 50 ms, two in flight",
        value=result["total"]["total_logs_processed"] / cost.wall,
        limit=allowed,
        unit="events/s",
        against="bare loop, two in flight",
        at_least=0.95,
    )
    with simulate([MAIL], rate=1, latency=0.05, max_concurrent=32, **span(10_000)) as provider:
        cost, result = collect(provider.configure(folder / "auto32", max_parallel_details="auto"))
    yield Figure(
        name="details at 50 ms, auto, provider takes 32",
        value=result["total"]["total_logs_processed"] / cost.wall,
        limit=allowed,
        unit="events/s",
        against="bare loop, two in flight",
        at_least=10,
    )
    with simulate([MAIL], rate=1, latency=0.05, max_concurrent=8, **span(5000)) as provider:
        collect(provider.configure(folder / "auto8", max_parallel_details="auto"))
        stats = provider.stats()
    yield Figure(
        name="429 at 50 ms, auto, provider takes 8",
        value=stats["throttled"],
        limit=sum(stats["requests"].values()),
        unit="requests",
        against="all requests",
        at_most=0.01,
    )


# --- requests


def missing(folder: Path) -> Iterator[Figure]:
    """One detail in a hundred is not there: what that adds to the time of a run, 50 ms an answer, 8 in flight."""
    walls = []
    for share in (0, 0.01):
        with simulate([MAIL], rate=1, latency=0.05, missing_details=share, **span(4000)) as provider:
            cost, result = collect(provider.configure(folder / str(share), max_parallel_details=8))
        metrics = result["total"]
        assert (metrics["details_missing"] > 20) == bool(share)
        walls.append(cost.wall / metrics["total_logs_processed"])
    yield Figure(
        name="one detail in a hundred missing",
        value=walls[1] * 1000,
        limit=walls[0] * 1000,
        unit="ms/event",
        against="the same with all details",
        at_most=1.2,
    )


def requests(folder: Path) -> Iterator[Figure]:
    """Two runs on end, the second with its look-back: lists near the fewest, no detail twice."""
    with simulate([MAIL], rate=0.2, start=int(time.time()) - 20_000) as provider:
        yield _lists("list requests, sparse", *_asked(provider, folder / "sparse"))
        fetched = provider.stats()["details"]
    yield Figure(
        name="details in two runs",
        value=fetched["answered"],
        limit=fetched["distinct"],
        unit="requests",
        against="each once",
        at_most=1,
    )
    asked = fewest = 0
    for rate in (5, 10, 20, 40):  # near a whole number of pages a window, and far from it
        with simulate(["authentication"], rate=rate, start=int(time.time()) - 3000) as provider:
            more, fewest_more = _asked(provider, folder / f"dense{rate}")
        asked, fewest = asked + more, fewest + fewest_more
    yield _lists("list requests, dense (5 to 40 events/s)", asked, fewest)


def _lists(name: str, asked: int, fewest: int) -> Figure:
    against = "one a window, or a page per 1,000"
    return Figure(name=name, value=asked, limit=fewest, unit="requests", against=against, at_most=1.05)


def _asked(provider: Simulated, folder: Path) -> tuple[int, int]:
    """How many lists two runs ask for, and how many they need at least."""
    config = provider.configure(folder, max_parallel_details=8)
    fewest = 0
    for _ in range(2):
        before = len(provider.stats()["lists"])
        collect(config)
        lists = provider.stats()["lists"][before:]
        fewest += _fewest(
            provider, min(one["starttime"] for one in lists), max(one["endtime"] for one in lists)
        )
    return len(provider.stats()["lists"]), fewest


def _fewest(provider: Simulated, begin: int, end: int) -> int:
    """The fewest lists that show all of [begin, end) in windows of 300 seconds."""
    feed = provider.announced["feeds"][0]
    counts = Counter((event["time"] - begin) // 300 for event in provider.truth(feed, begin, end))
    return sum(max(1, math.ceil(counts[window] / PAGE)) for window in range(math.ceil((end - begin) / 300)))


# --- a million events


def million(folder: Path) -> Iterator[Figure]:
    """Authentication, 20 events a second: what a million cost, and whether one of a million costs more than one of 100,000."""
    costs = {}
    for count in (100_000, 1_000_000):
        with simulate(["authentication"], rate=20, **span(count // 20)) as provider:
            cost, result = collect(provider.configure(folder / str(count), verbose=False))
        costs[count] = cost, result["total"]["total_logs_processed"]
    (small, few), (large, many) = costs.values()
    yield Figure(
        name="a million events, memory",
        value=large.peak_mb,
        limit=150,
        unit="MB",
        against="150 MB resident at most",
        at_most=1,
    )
    for what in ("cpu", "wall"):
        yield Figure(
            name=f"a million events, {what} time",
            value=getattr(large, what) / many * 1e6,
            limit=getattr(small, what) / few * 1e6,
            unit="us/event",
            against="the same of 100,000",
            at_most=1.3,
        )


# --- nothing to do


def idle(folder: Path) -> Iterator[Figure]:
    """50 sections with nothing new: what a run from cron costs all day long, beside a bare loop that asks for the same 50 lists."""
    domains = [f"d{number}.example.com" for number in range(50)]
    with simulate(["authentication"], domains, rate=0) as provider:
        config = provider.configure(folder / "idle")
        collect(config, "--parallel")
        now = int(time.time())
        urls = folder / "lists"
        feed = provider.announced["feeds"][0]
        question = f"{feed['list_url']}?domain={feed['domain']}&starttime={now - 300}&endtime={now}\n"
        urls.write_text(50 * question)
        rounds = [(collect(config, "--parallel")[0].cpu, _limit(provider, urls, 5)[0].cpu) for _ in range(5)]
    ours, bare = (statistics.median(costs) for costs in zip(*rounds, strict=True))
    yield Figure(
        name="50 sections, nothing new",
        value=ours,
        limit=bare,
        unit="CPU s",
        against="bare aiohttp loop, 50 lists",
        at_most=4,
    )


def startup(folder: Path) -> Iterator[Figure]:
    """The commands that a person waits for; the median of nine."""
    with simulate([MAIL, "authentication"], rate=0) as provider:
        config = provider.configure(folder / "startup")
    for name, arguments, at_most in (
        ("--help", ["--help"], 2.5),
        ("collect --list", ["collect", "--list", "--config", config], 5),
    ):
        costs = [
            (run([*MAILFERRY, *arguments]), run([sys.executable, "-c", "import asyncio"])) for _ in range(9)
        ]
        for what in ("wall", "cpu"):
            ours, bare = (statistics.median(getattr(pair[n], what) for pair in costs) for n in (0, 1))
            yield Figure(
                name=f"{name}, {what}",
                value=ours,
                limit=bare,
                unit="s",
                against="python -c 'import asyncio'",
                at_most=at_most,
            )


BENCHMARKS = {
    "details": details,
    "latency": latency,
    "missing": missing,
    "requests": requests,
    "million": million,
    "idle": idle,
    "startup": startup,
}
