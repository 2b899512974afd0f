"""What is known, as Prometheus reads it. Counters come from what is on record, so that they only grow, over restarts too."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from mailferry import __version__
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.monitor.facts import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

#: As https://prometheus.io/docs/instrumenting/exposition_formats/ has it.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds in seconds, as the database's function `count_seconds` has them.
BOUNDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
KINDS = (
    "job",
    "rows",
    "gap",
    "failing",
    "blocked",
    "behind",
    "silent",
    "missing",
    "disk",
    "workers",
    "configuration",
    "database",
)
_ROWS = ("read", "inserted", "updated", "unchanged", "superseded", "rejected")


def render(status: Status) -> bytes:
    """The text for a scrape, or for the textfile collector."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Known(status))
    return generate_latest(registry)


class _Known(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        return families(self._status)


def families(status: Status | None = None) -> Iterator[Metric]:
    """Each metric with its samples; without a status, all that there can be, and none of their numbers."""
    status = status or Status(at=datetime.now(UTC), host="", feeds=[])
    yield InfoMetricFamily("mailferry_build", "The version that answers.", {"version": __version__})
    yield GaugeMetricFamily(
        "mailferry_database_up", "Whether the database could be asked.", float(not status.database_error)
    )
    yield _by_kind(status)
    yield from _feeds(status)
    if not status.database_error:
        yield from _mail(status)
        yield _workers(status)
    for name, size, text in (
        ("free", "free", "Bytes that are free on a disk that is written to."),
        ("size", "total", "Bytes of a disk that is written to."),
        ("floor", "floor", "Bytes below which feeds that write there wait."),
    ):
        disks = GaugeMetricFamily(f"mailferry_disk_{name}_bytes", text, labels=["path"])
        for disk in status.disks:
            disks.add_metric([disk.path], getattr(disk, size))
        yield disks


def _by_kind(status: Status) -> Metric:
    needs = GaugeMetricFamily("mailferry_needs", "Things that a person has to look at.", labels=["kind"])
    found = Counter(need.kind for need in status.needs)
    for kind in KINDS:
        needs.add_metric([kind], found[kind])
    return needs


def _feeds(status: Status) -> Iterable[Metric]:
    """Of a thousand feeds each series counts: what most never have begins with its first."""
    events = CounterMetricFamily("mailferry_events", "Events written since the feed began.", labels=["feed"])
    late = CounterMetricFamily(
        "mailferry_late_events", "Events that became visible behind the position.", labels=["feed"]
    )
    gaps = CounterMetricFamily("mailferry_gaps", "Gaps found, by kind.", labels=["feed", "kind"])
    open_gaps = GaugeMetricFamily("mailferry_open_gaps", "Gaps that wait for a person.", labels=["feed"])
    lag = GaugeMetricFamily(
        "mailferry_lag_seconds", "How far the position is behind the clock.", labels=["feed"]
    )
    success = GaugeMetricFamily(
        "mailferry_last_success_timestamp_seconds", "When a run last succeeded.", labels=["feed"]
    )
    for feed in status.feeds:
        name = [feed.name]
        if feed.last_good:
            success.add_metric(name, feed.last_good.timestamp())
        if feed.lag_seconds is None:
            continue
        events.add_metric(name, feed.events)
        lag.add_metric(name, feed.lag_seconds)
        if feed.late:
            late.add_metric(name, feed.late)
        for kind, count in feed.gap_kinds.items():
            if count:
                gaps.add_metric([feed.name, kind], count)
        if feed.open_gaps:
            open_gaps.add_metric(name, feed.open_gaps)
    return events, late, gaps, open_gaps, lag, success


def _mail(status: Status) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("mailferry_jobs", "Jobs on record, by state.", labels=["state"])
    states: Counter[str] = Counter(dict.fromkeys(JobState, 0))
    refused = 0
    for feed in status.feeds:
        if feed.statistics:
            states.update(feed.statistics.states)
            refused += feed.statistics.refused
    for state, count in states.items():
        jobs.add_metric([str(state)], count)
    yield jobs
    yield GaugeMetricFamily("mailferry_refused_jobs", "Refused jobs that wait for a person.", refused)
    rows = CounterMetricFamily("mailferry_rows", "Rows of files, by what became of them.", labels=["result"])
    for result in _ROWS:
        rows.add_metric([result], status.totals.get("rows", {}).get(result, 0))
    yield rows
    yield _durations(status, "job", "From the start of a job's last attempt to its end.", {"job_seconds": []})
    yield _durations(
        status,
        "run",
        "Runs of feeds by the service: collecting events, polling a mailbox.",
        {"collect_seconds": ["events"], "poll_seconds": ["mailbox"]},
    )


def _durations(status: Status, name: str, text: str, series: dict[str, list[str]]) -> Metric:
    labels = ["kind"] if any(series.values()) else []
    family = HistogramMetricFamily(f"mailferry_{name}_duration_seconds", text, labels=labels)
    for metric, values in series.items():
        counted = status.totals.get(metric, {})
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        sums = itertools.accumulate(counted.get(bound, 0) for bound in bounds)
        # Written as the client writes the bounds of its own histograms.
        shown = [*map(str, BOUNDS), "+Inf"]
        family.add_metric(values, list(zip(shown, sums, strict=True)), counted.get("sum", 0))
    return family


def _workers(status: Status) -> Metric:
    alive = Counter({worker["host"]: 0 for worker in status.workers})
    alive.update(worker["host"] for worker in status.workers if worker["alive"])
    family = GaugeMetricFamily("mailferry_workers", "Workers that are alive, by host.", labels=["host"])
    for host, count in sorted(alive.items()):
        family.add_metric([host], count)
    return family
