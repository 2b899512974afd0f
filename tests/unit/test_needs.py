"""What needs a person, from what is known of feeds, jobs, disks and workers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailferry.events.windows import Gap
from mailferry.mailbox.ledger.jobs import Refusal
from mailferry.monitor.facts import Disk, FeedStatus, Need, Status
from mailferry.monitor.needs import is_low, needs, summary

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
GIB = 1 << 30


def feed(name: str = "outgoing", kind: str = "events", **known: Any) -> FeedStatus:
    return FeedStatus(name=name, kind=kind, schedule="5m", **known)


def status(*feeds: FeedStatus, **known: Any) -> Status:
    return Status(at=NOW, host="collector", feeds=list(feeds), **known)


def refusal(number: int, error: str = "b.xls: no table in it", rows: int = 0) -> Refusal:
    return Refusal(
        id=number,
        feed="tracking",
        subject="Track and Trace",
        sender="a@example.com",
        error=error,
        rejected_rows=rows,
        finished_at=NOW,
    )


def only(status: Status) -> Need:
    [need] = needs(status)
    return need


def test_nothing_is_needed_where_all_is_well() -> None:
    well = feed(state="completed", ended="completed", last_good=NOW, gaps=3, late=7)
    disks = [Disk(path="/data", free=50 * GIB, total=100 * GIB)]
    assert needs(status(feed(), well, disks=disks)) == []


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_run_that_the_service_repeats_within_seconds_needs_no_person(failures: int) -> None:
    assert needs(status(feed(ended="failed", run_error="time-out", failures=failures))) == []


@pytest.mark.parametrize(
    ("known", "kind", "reason"),
    [
        ({"ended": "failed", "failures": 4, "run_error": "time-out"}, "failing", "time-out"),
        ({"ended": "cut off", "run_error": "its worker has ended"}, "failing", "its worker has ended"),
        ({"ended": "blocked", "run_error": "401: the key"}, "blocked", "401: the key"),
        ({"overdue": True, "next_run": NOW, "host": "h1"}, "silent", "no worker of host h1 runs it"),
        ({"silent": True, "last_good": NOW}, "silent", "no run has succeeded since"),
    ],
)
def test_how_its_runs_go_is_one_need_of_a_feed_under_one_key(
    known: dict[str, Any], kind: str, reason: str
) -> None:
    need = only(status(feed(**known)))
    assert (need.key, need.kind, need.feed) == ("feed:outgoing:run", kind, "outgoing")
    assert reason in need.reason
    assert need.advice


def test_every_open_gap_is_a_need_of_its_own_and_their_number_stands_with_the_feed() -> None:
    gaps = [Gap(kind="saturated", start=100, end=101), Gap(kind="expired", start=100, end=900, found_at=1000)]
    found = needs(status(feed(gap_list=gaps, local=True)))
    assert [need.key for need in found] == ["gap:outgoing:100:saturated", "gap:outgoing:100:expired"]
    assert [need.since for need in found] == [None, datetime.fromtimestamp(1000, UTC)]
    assert all(need.local for need in found)
    assert summary(found) == "2 open gaps: mailferry gaps list outgoing"


def test_a_gap_that_grows_is_the_same_need() -> None:
    before, after = (only(status(feed(gap_list=[Gap(kind="expired", start=5, end=end)]))) for end in (9, 99))
    assert before.key == after.key
    assert before.reason != after.reason


def test_a_refused_file_and_rejected_rows_need_a_person_each_in_their_way() -> None:
    refused, rows = needs(status(refusals=[refusal(12), refusal(13, error="", rows=1234)]))
    assert (refused.key, refused.kind, refused.job_id, refused.feed) == ("job:12", "job", 12, "tracking")
    assert "no table in it" in refused.reason
    assert "Track and Trace" in refused.subject
    assert "a@example.com" in refused.subject
    assert (rows.kind, rows.reason) == ("rows", "1,234 rows were rejected")
    assert "jobs show 12" in refused.advice


def test_refused_jobs_that_are_not_listed_are_counted() -> None:
    assert "7 more" in only(status(more_refusals=7)).subject


def test_each_trouble_of_a_feed_is_a_need() -> None:
    troubled = feed(behind="9.0 days behind", missing=3, checkpoint_error="it is damaged", position=NOW)
    found = needs(status(troubled))
    assert {need.kind for need in found} == {"behind", "missing", "blocked"}
    assert len({need.key for need in found}) == 3
    assert "9.0 days behind" in summary(found)


@pytest.mark.parametrize(
    ("free", "total", "low"),
    [(GIB - 1, 100 * GIB, True), (GIB, 100 * GIB, False), (4, 100, True), (5, 100, False)],
)
def test_a_disk_is_low_by_its_share_and_in_bytes(free: int, total: int, low: bool) -> None:
    assert is_low(Disk(path="/data", free=free, total=total)) is low


def test_a_disk_is_low_well_before_feeds_wait_for_room() -> None:
    disk = Disk(path="/data", free=3 * GIB, total=100 * GIB, floor=2 * GIB)
    assert is_low(disk)
    assert "when 2,048 MB are left" in only(status(disks=[disk])).advice
    assert not is_low(dataclasses.replace(disk, free=4 * GIB))


def test_a_low_disk_and_an_unreachable_database_are_of_this_host_alone() -> None:
    found = needs(status(disks=[Disk(path="/data", free=0, total=GIB)], database_error="connection refused"))
    assert [(need.kind, need.local) for need in found] == [("database", True), ("disk", True)]
    assert "collector" in found[1].key


def worker(host: str, *, alive: bool, error: str = "") -> dict[str, Any]:
    return {"host": host, "alive": alive, "heartbeat_at": NOW - timedelta(hours=1), "reload_error": error}


def test_a_host_without_a_living_worker_needs_a_person_a_second_worker_that_was_killed_does_not() -> None:
    workers = [worker("h1", alive=False), worker("h1", alive=True), worker("h2", alive=False)]
    need = only(status(workers=workers))
    assert (need.key, need.kind, need.since) == ("workers:h2", "workers", NOW - timedelta(hours=1))


def test_a_refused_configuration_is_shown_until_a_good_one_is_taken() -> None:
    need = only(status(workers=[worker("h1", alive=True, error="uzmanposta.ini: no api_key")]))
    assert (need.kind, need.reason) == ("configuration", "uzmanposta.ini: no api_key")


def test_all_keys_differ() -> None:
    gaps = [Gap(kind="expired", start=n, end=n + 1) for n in range(3)]
    names = ("a", "b")
    feeds = [feed(name, behind="far", missing=1, gap_list=gaps, ended="blocked") for name in names]
    found = needs(status(*feeds, refusals=[refusal(n) for n in range(5)], more_refusals=1))
    assert len(found) == len({need.key for need in found}) == 2 * 6 + 6
