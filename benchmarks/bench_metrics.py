"""The metrics of a thousand feeds, from what is known to the text of a scrape."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FEEDS = 1000
#: Milliseconds of CPU.
MOST = 50


def metrics(folder: Path) -> Iterator[Figure]:  # noqa: ARG001 - nothing is written
    from mailferry.clock import local_now  # noqa: PLC0415 - the parent of what is measured stays small
    from mailferry.monitor.facts import FeedStatus, Status  # noqa: PLC0415
    from mailferry.monitor.metrics import render  # noqa: PLC0415

    now = local_now()
    feeds = [
        FeedStatus(
            name=f"example.com-feed-{number}",
            kind="events",
            schedule="5m",
            events=number * 1000,
            lag_seconds=number,
            last_good=now,
        )
        for number in range(FEEDS)
    ]
    status = Status(at=now, host="collector", feeds=feeds)
    taken = []
    for _ in range(20):
        begun = time.process_time()
        render(status)
        taken.append(time.process_time() - begun)
    yield Figure(
        name=f"metrics of {FEEDS:,} feeds",
        value=1000 * min(taken),
        limit=MOST,
        unit="ms of CPU",
        against="what it may take",
        at_most=1,
    )


BENCHMARKS = {"metrics": metrics}
