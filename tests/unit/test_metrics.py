"""The metrics, from what is known; read back by the official parser."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mailferry import __version__
from mailferry.events.progress import GAPS_KEPT, Progress
from mailferry.events.windows import Gap
from mailferry.mailbox.ledger.jobs import JobState, Statistics, Tally
from mailferry.monitor.facts import Disk, FeedStatus, Need, Status
from mailferry.monitor.metrics import KINDS, render

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def feed(name: str, **known: Any) -> FeedStatus:
    return FeedStatus(name=name, kind="events", schedule="5m", **known)


def status(*feeds: FeedStatus, **known: Any) -> Status:
    return Status(at=NOW, host="collector", feeds=list(feeds), **known)


def samples(known: Status) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, then by the values of the labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(render(known).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_a_feed_says_how_far_it_got_and_what_it_counted() -> None:
    known = feed("outgoing", events=12_345, late=6, lag_seconds=30, last_good=NOW, open_gaps=1)
    known.gap_kinds = {"saturated": 2, "expired": 0}
    found = samples(status(known))
    assert found["mailferry_events_total"] == {("outgoing",): 12_345}
    assert found["mailferry_late_events_total"] == {("outgoing",): 6}
    assert found["mailferry_lag_seconds"] == {("outgoing",): 30}
    assert found["mailferry_last_success_timestamp_seconds"] == {("outgoing",): NOW.timestamp()}
    assert found["mailferry_gaps_total"] == {("outgoing", "saturated"): 2}
    assert found["mailferry_open_gaps"] == {("outgoing",): 1}
    assert found["mailferry_build_info"] == {(__version__,): 1}


def test_what_is_not_known_has_no_number() -> None:
    found = samples(status(feed("new"), database_error="connection refused"))
    assert found["mailferry_database_up"] == {(): 0}
    for name in ("events_total", "lag_seconds", "last_success_timestamp_seconds", "jobs", "rows_total"):
        assert f"mailferry_{name}" not in found


def test_names_with_quotes_newlines_and_right_to_left_marks_are_read_back_as_they_are() -> None:
    name = 'a"b\\c\nd\u202e<script>İ'
    assert samples(status(feed(name, lag_seconds=1)))["mailferry_lag_seconds"] == {(name,): 1}


def test_needs_are_counted_by_kind_and_those_that_are_not_there_are_zero() -> None:
    known = status()
    known.needs = [Need(key=str(n), kind="gap", subject="", reason="", advice="") for n in range(3)]
    found = samples(known)["mailferry_needs"]
    assert found.pop(("gap",)) == 3
    assert found == {(kind,): 0 for kind in KINDS if kind != "gap"}


def test_jobs_and_rows_of_all_mailboxes_are_summed() -> None:
    tally = Tally(**dict.fromkeys(Tally.__dataclass_fields__, 0))
    first, second = feed("a"), feed("b")
    first.statistics = Statistics(today=tally, week=tally, refused=1, states={JobState.FAILED: 2})
    second.statistics = Statistics(
        today=tally, week=tally, refused=2, states={JobState.FAILED: 3, JobState.COMPLETED: 7}
    )
    found = samples(status(first, second, totals={"rows": {"inserted": 10.0, "rejected": 1.0}}))
    assert found["mailferry_jobs"][("failed",)] == 5
    assert found["mailferry_jobs"][("completed",)] == 7
    assert found["mailferry_jobs"][("in_progress",)] == 0
    assert found["mailferry_refused_jobs"] == {(): 3}
    assert (found["mailferry_rows_total"][("inserted",)], found["mailferry_rows_total"][("read",)]) == (10, 0)


def test_durations_are_a_histogram_whose_buckets_grow() -> None:
    totals = {"job_seconds": {"0.5": 2.0, "30": 1.0, "+Inf": 1.0, "sum": 9000.25}}
    found = samples(status(totals=totals))
    buckets = found["mailferry_job_duration_seconds_bucket"]
    assert [buckets[(bound,)] for bound in ("0.1", "0.5", "10.0", "30.0", "7200.0", "+Inf")] == [
        0,
        2,
        2,
        3,
        3,
        4,
    ]
    assert found["mailferry_job_duration_seconds_count"] == {(): 4}
    assert found["mailferry_job_duration_seconds_sum"] == {(): 9000.25}
    assert found["mailferry_run_duration_seconds_count"] == {("events",): 0, ("mailbox",): 0}


def test_disks_and_workers_have_numbers() -> None:
    workers = [{"host": "h1", "alive": alive} for alive in (True, True, False)] + [
        {"host": "h2", "alive": False}
    ]
    found = samples(status(disks=[Disk(path="/data", free=5, total=9, floor=1)], workers=workers))
    assert found["mailferry_disk_free_bytes"] == {("/data",): 5}
    assert found["mailferry_disk_size_bytes"] == {("/data",): 9}
    assert found["mailferry_disk_floor_bytes"] == {("/data",): 1}
    assert found["mailferry_workers"] == {("h1",): 2, ("h2",): 0}


def test_gaps_by_kind_only_grow_whatever_is_closed_and_forgotten() -> None:
    progress = Progress(position=10**6, floor=0)
    before = 0
    for number in range(3 * GAPS_KEPT):
        progress.add_gap(Gap(kind="saturated", start=number, end=number + 1, state="filled"))
        assert progress.gap_kinds["saturated"] > before
        before = progress.gap_kinds["saturated"]
    # As an older version left them: without a count by kind.
    old = Progress(position=1, floor=0, gaps=[Gap(kind="expired", start=0, end=5)], gap_count=1)
    assert old.gap_kinds == {"saturated": 0, "expired": 1}
    old.add_gap(Gap(kind="expired", start=50, end=55))
    assert old.gap_kinds == {"saturated": 0, "expired": 2}
