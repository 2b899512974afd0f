r"""The command `mailferry simulate`: the stand-in provider as a process, with a configuration ready to use.

Once it listens, one line of JSON says where and what:

    {"version": 1, "url": "http://127.0.0.1:40123", "pid": 4711, "seed": 1, "start": ..., "end": ...,
     "feeds": [{"section", "api_key", "domain", "category", "type", "list_url"}, ...],
     "ini": "[MailLogger:example.com-incominglog]\n..."}

`end` is null where events go on with the clock; `ini` is the text of a configuration file with a section per feed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

from mailferry.errors import ConfigError
from mailferry.testing.population import Feed, Population, Traits
from mailferry.testing.provider import Provider, Settings
from mailferry.testing.troubles import RetryAfter, Throttling, Troubles

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What to stand in for. The fields are the command's options."""

    port: int = 0
    seed: int = 1
    #: Every domain has an API key of its own and the feeds named here, as `category/type`.
    domains: tuple[str, ...] = ("example.com",)
    feeds: tuple[str, ...] = (
        "mail/incominglog",
        "mail/outgoinglog",
        "quarantine/quarantine",
        "authentication",
    )
    #: Mean events per second of each feed.
    rate: float = 1.0
    #: First second with events, Unix seconds; None: an hour before the start.
    start: int | None = None
    #: First second without any more; None: they go on with the clock.
    end: int | None = None
    #: Share of events that show up late, by at most so many seconds.
    late: float = 0.0
    late_by: int = 60
    #: Share of events that are odd, spread evenly: other delivery attempts, equal twins, no queue id, no time, a time
    #: of their own, no objects, integers of 20 digits, hostile text.
    odd: float = 0.0
    #: Share of mail whose detail never comes.
    missing_details: float = 0.0
    #: Bytes that a detail has beyond its list record.
    detail_bytes: int = 2000
    #: Share of requests that go wrong, spread evenly over all troubles but the hang, which has its own.
    troubles: float = 0.0
    hangs: float = 0.0
    #: How often one URL goes wrong at most.
    max_failures_per_url: int = 2
    page_cap: int = 1000
    endtime_inclusive: bool = True
    #: Seconds that an answer takes.
    latency: float = 0.0
    #: Requests of one key at once and per second; None for any number.
    max_concurrent: int | None = None
    max_per_second: int | None = None
    retry_after: RetryAfter = RetryAfter.SECONDS


def run(simulation: Simulation, announce: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT and return the exit status 0; `announce` gets the line of JSON once it listens.

    Raises ConfigError for settings that cannot be, Stop for a port that is taken.
    """
    try:
        population, settings = _population(simulation), _settings(simulation)
    except ValueError as error:
        raise ConfigError([f"simulate: {error}"]) from error
    asyncio.run(_serve(Provider(population, settings), announce))
    return 0


async def _serve(provider: Provider, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: there Ctrl-C raises KeyboardInterrupt
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with provider:
        announce(_announcement(provider))
        await stop.wait()


def _population(simulation: Simulation) -> Population:
    start = int(time.time()) - 3600 if simulation.start is None else simulation.start
    if simulation.end is not None and simulation.end <= start:
        raise ValueError(f"the end, {simulation.end}, is not after the start, {start}")
    odd = simulation.odd / 8
    traits = Traits(
        rate=simulation.rate,
        start=start,
        end=simulation.end,
        late=simulation.late,
        late_by=simulation.late_by,
        missing_details=simulation.missing_details,
        detail_bytes=simulation.detail_bytes,
        repeats=odd,
        twins=odd,
        no_queue_id=odd,
        no_time=odd,
        own_time=odd,
        not_objects=odd,
        big_integers=odd,
        hostile_text=odd,
    )
    feeds = [
        Feed(api_key=_key(simulation.seed, domain), domain=domain, category=category, type=kind)
        for domain in simulation.domains
        for category, _, kind in (feed.partition("/") for feed in simulation.feeds)
    ]
    if not feeds:
        raise ValueError("at least one domain and one feed are needed")
    return Population(dict.fromkeys(feeds, traits), seed=simulation.seed)


def _settings(simulation: Simulation) -> Settings:
    troubles = [Troubles.spread(simulation.troubles, details=details) for details in (False, True)]
    lists, details = (replace(one, hang=simulation.hangs) for one in troubles)
    return Settings(
        port=simulation.port,
        page_cap=simulation.page_cap,
        endtime_inclusive=simulation.endtime_inclusive,
        latency=simulation.latency,
        throttling=Throttling(
            max_concurrent=simulation.max_concurrent,
            max_per_second=simulation.max_per_second,
            retry_after=simulation.retry_after,
        ),
        list_troubles=lists,
        detail_troubles=details,
        max_failures_per_url=simulation.max_failures_per_url,
    )


def _announcement(provider: Provider) -> str:
    feeds = [
        {
            "section": f"MailLogger:{feed.domain}-{feed.type or feed.category}",
            **asdict(feed),
            "list_url": provider.list_url(feed.category),
        }
        for feed in provider.population.feeds
    ]
    traits = next(iter(provider.population.feeds.values()))
    line = {
        "version": 1,
        "url": provider.url,
        "pid": os.getpid(),
        "seed": provider.population.seed,
        "start": traits.start,
        "end": traits.end,
        "feeds": feeds,
        "ini": "\n".join(_section(feed, traits.start) for feed in feeds),
    }
    return orjson.dumps(line).decode()


def _section(feed: dict[str, str], start: int) -> str:
    lines = [
        f"[{feed['section']}]",
        f"api_key = {feed['api_key']}",
        f"domain = {feed['domain']}",
        f"category = {feed['category']}",
        *([f"type = {feed['type']}"] if feed["type"] else []),
        f"url = {feed['list_url']}",
        f"start_time = {start}",
    ]
    return "\n".join(lines) + "\n"


def _key(seed: int, domain: str) -> str:
    """Return a domain's API key: a made-up one, and the same for the same seed."""
    return blake2b(f"{seed} {domain}".encode(), digest_size=16).hexdigest()
