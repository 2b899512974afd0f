"""Records that change after they were written, and fields that change with every answer."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support_events import (
    OUTGOING,
    QUARANTINE,
    RECENT,
    SIGN_INS,
    START,
    a_site,
    ran,
    suffix,
)
from support_table import a_table_site

from mailferry.events import order
from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from pathlib import Path

    from support_events import Site

    from mailferry.config.database import DatabaseSettings

CHANGING = Traits(rate=0.2, start=START, end=START + 300, changing=0.5, detail_bytes=50)
#: Before the last ones have changed, and after.
BEFORE, AFTER = START + 330, START + 430


def states(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["state"] for line in lines if b'"state"' in line]


@pytest.mark.parametrize("feed", [OUTGOING, QUARANTINE], ids=["mail", "by its fields"])
def test_a_change_is_counted_once_and_files_stay_as_they_are(tmp_path: Path, feed: Feed) -> None:
    with a_site(tmp_path, {feed: CHANGING}, now=BEFORE) as site:
        site.configure(look_back=600, audit="off", identity="" if feed == OUTGOING else "id")
        assert site.collect().status == 0
        before = site.lines(feed)
        pending = states(before).count("pending")
        assert pending > 3
        site.clock.now = AFTER
        ended = site.collect()
        assert ended.status == 0
        metrics = ended.of(feed).metrics
        assert (metrics.changed, metrics.events) == (pending, 0)
        assert site.lines(feed) == before
        assert site.heartbeat(feed)["counts"] == {"changed": pending}
        assert site.collect().of(feed).metrics.changed == 0


def test_changes_append_writes_one_more_line_for_each(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: CHANGING}, now=BEFORE) as site:
        site.configure(look_back=600, audit="off", changes="append")
        assert site.collect().status == 0
        before = site.lines(OUTGOING)
        pending = states(before).count("pending")
        site.clock.now = AFTER
        assert site.collect().status == 0
        lines = site.lines(OUTGOING)
        assert lines[: len(before)] == before
        assert states(lines[len(before) :]) == ["done"] * pending
        assert all(b'"logs"' in line for line in lines)
        for _ in range(2):
            assert site.collect().status == 0
        assert site.lines(OUTGOING) == lines


def test_a_change_updates_the_row_of_a_table(tmp_path: Path, database_settings: DatabaseSettings) -> None:
    with a_table_site(tmp_path, {OUTGOING: CHANGING}, database_settings, now=BEFORE) as site:
        site.configure(look_back=600, audit="off")
        assert site.collect().status == 0
        pending = states(site.lines(OUTGOING)).count("pending")
        assert pending > 3
        site.clock.now = AFTER
        assert site.collect().of(OUTGOING).metrics.changed == pending
        assert "pending" not in states(site.lines(OUTGOING))
        site.assert_exactly_once(OUTGOING)
        assert site.progress(OUTGOING)["counts"] == {"changed": pending}
        assert site.collect().of(OUTGOING).metrics.changed == 0


#: Changed half an hour after they were collected: the audit of that hour is the first to list them again.
SLOW = Traits(
    rate=0.05, start=RECENT, end=RECENT + 600, changing=0.5, changing_for=1800, detail_bytes=50, twins=0.1
)


def collected_and_audited(site: Site, feed: Feed, **options: object) -> int:
    """Collect before records change, then run after each of two audits is due; how many there are that change."""
    site.configure(audit="1h, 2h", **options)
    site.clock.now = RECENT + 700
    assert site.collect().status == 0
    pending = states(site.lines(feed)).count("pending")
    assert pending > 3
    found = []
    for hours in (3, 6):
        site.clock.now = RECENT + hours * 3600
        ended = site.collect().of(feed)
        assert ended.metrics.audited_seconds > 0
        found.append(ended.metrics.changed)
    assert found == [pending, 0], "counted once"
    return pending


def verify(site: Site, feed: Feed, *more: str) -> tuple[int, dict[str, Any]]:
    asked = [
        "verify",
        suffix(feed),
        "--from",
        RECENT,
        "--to",
        RECENT + 3600,
        "--config",
        site.config,
        "--json",
        *more,
    ]
    done = ran(*asked)
    return done.returncode, json.loads(done.stdout)["feeds"][0]


@pytest.mark.parametrize("feed", [OUTGOING, QUARANTINE], ids=["mail", "by its fields"])
def test_an_audit_finds_what_has_changed_long_after_the_look_back(tmp_path: Path, feed: Feed) -> None:
    identity = "" if feed == OUTGOING else "id"
    with a_site(tmp_path, {feed: SLOW}, now=RECENT) as site:
        pending = collected_and_audited(site, feed, identity=identity)
        assert site.heartbeat(feed)["counts"] == {"changed": pending}
        assert states(site.lines(feed)).count("pending") == pending, "files stay as they are"
        code, answer = verify(site, feed)
        assert (code, answer["total"]["differing"]) == (4, pending)
        assert max(site.provider.stats.details.values(), default=1) == 1


@pytest.mark.parametrize("feed", [OUTGOING, QUARANTINE], ids=["mail", "by its fields"])
def test_an_audit_appends_what_has_changed_and_verify_takes_the_lines_for_one_event(
    tmp_path: Path, feed: Feed
) -> None:
    identity = "" if feed == OUTGOING else "id"
    with a_site(tmp_path, {feed: SLOW}, now=RECENT) as site:
        pending = collected_and_audited(site, feed, identity=identity, changes="append")
        assert states(site.lines(feed)[-pending:]) == ["done"] * pending
        for more in ([], ["--offline"]):
            code, answer = verify(site, feed, *more)
            assert code == 0, answer
        # A line that was added or removed by hand is found all the same.
        path = site.data_files(feed)[0]
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines, lines[-1]]))
        assert verify(site, feed)[1]["total"]["twice"] == 1
        path.write_bytes(b"".join(lines[:-1]))
        assert verify(site, feed)[1]["total"]["differing"] == 1
        assert verify(site, feed, "--offline")[1]["total"]["missing"] == 1


def test_an_audit_updates_the_row_of_what_has_changed(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    with a_table_site(tmp_path, {OUTGOING: SLOW}, database_settings, now=RECENT) as site:
        pending = collected_and_audited(site, OUTGOING)
        assert "pending" not in states(site.lines(OUTGOING))
        assert site.progress(OUTGOING)["counts"] == {"changed": pending}
        site.assert_exactly_once(OUTGOING)
        asked = Counter(site.provider.stats.details.values())
        assert (asked[2], max(asked)) == (pending, 2), (
            "only of what has changed the detail is asked for again"
        )
        assert verify(site, OUTGOING)[0] == 0


def test_a_list_that_never_shows_what_the_detail_does_is_no_change(tmp_path: Path) -> None:
    def other(path: str, body: bytes) -> bytes:
        return body.replace(b'"subject":"', b'"subject":"[listed] ') if "starttime" in path else body

    steady = Traits(rate=0.05, start=RECENT, end=RECENT + 600, detail_bytes=50)
    with a_site(tmp_path, {OUTGOING: steady}, Settings(rewrite=other), now=RECENT + 700) as site:
        site.configure(audit="1h, 2h", changes="append")
        assert site.collect().status == 0
        before = site.lines(OUTGOING)
        site.clock.now = RECENT + 3 * 3600
        metrics = site.collect().of(OUTGOING).metrics
        assert metrics.audited_seconds > 0
        assert (metrics.changed, site.lines(OUTGOING)) == (0, before)


@pytest.mark.parametrize("changes", ["count", "append"])
def test_events_without_their_detail_are_shown_by_verify_and_completed_where_lines_may_be_added(
    tmp_path: Path, changes: str
) -> None:
    some = Traits(rate=0.05, start=RECENT, end=RECENT + 600, detail_bytes=50)
    settings = Settings(detail_troubles=Troubles(error_500=1.0), max_failures_per_url=1)
    with a_site(tmp_path, {OUTGOING: some}, settings, now=RECENT + 1000) as site:
        site.configure(audit="off", detail_retries=0, changes=changes)
        missing = site.collect().of(OUTGOING).metrics.stand_ins
        assert missing > 3
        code, answer = verify(site, OUTGOING)
        assert (code, answer["total"]["without_detail"]) == (0, missing)
        code, answer = verify(site, OUTGOING, "--repair")
        completed = missing if changes == "append" else 0
        assert (code, answer["repaired"]) == (0, completed), answer
        assert answer["total"]["without_detail"] == missing - completed
        assert sum(b'"logs"' in line for line in site.lines(OUTGOING)) == completed


def test_two_mails_of_one_queue_id_and_time_are_both_written(tmp_path: Path) -> None:
    def twins(path: str, body: bytes) -> bytes:
        if "starttime" not in path:
            return body
        records = json.loads(body)
        more = [
            {**record, "recipients": [*record["recipients"], {"email": "c@example.com"}]}
            for record in records
        ]
        return json.dumps([one for pair in zip(records, more, strict=True) for one in pair]).encode()

    plain = Traits(rate=0.1, start=START, end=START + 300, detail_bytes=50)
    with a_site(tmp_path, {OUTGOING: plain}, Settings(rewrite=twins)) as site:
        site.configure()
        for _ in range(2):
            assert site.collect().status == 0
            there = [json.loads(line)["queue_id"] for line in site.lines(OUTGOING)]
            truth = [event.queue_id for event in site.provider.truth(OUTGOING, START, START + 300)]
            assert there == [queue_id for queue_id in truth for _ in range(2)]


@pytest.mark.parametrize("feed", [OUTGOING, SIGN_INS], ids=["mail", "sign-ins"])
def test_a_field_that_changes_with_every_answer_is_named_and_can_be_ignored(
    tmp_path: Path, feed: Feed
) -> None:
    numbers = itertools.count()

    def signed(path: str, body: bytes) -> bytes:
        records = json.loads(body)
        for record in records if isinstance(records, list) else [records]:
            record["link"] = f"https://example.com/?sign={next(numbers)}"
        return json.dumps(records).encode()

    plain = Traits(rate=0.1, start=START, end=START + 300, detail_bytes=50)
    with a_site(tmp_path, {feed: plain}, Settings(rewrite=signed), now=START + 330) as site:
        site.configure(look_back=600, audit="off")
        assert site.collect().status == 0
        site.clock.now += 60
        ended = site.collect()
        said = [line["error"] for line in site.errors(feed)]
        assert sum("Set ignore_fields = link" in text for text in said) == 1
        assert ended.of(feed).metrics.changed == 0
    with a_site(tmp_path / "ignored", {feed: plain}, Settings(rewrite=signed), now=START + 330) as site:
        site.configure(look_back=600, audit="off", ignore_fields="link")
        for _ in range(3):
            ended = site.collect()
            assert ended.status == 0
            site.clock.now += 60
        assert ended.of(feed).metrics.changed == 0
        truth = list(site.provider.truth(feed, START, START + 300))
        assert len(site.lines(feed)) == len(truth)
        assert not [line for line in site.errors(feed) if "ignore_fields" in line["error"]]


def test_a_time_that_cannot_be_makes_no_file_of_its_own_and_is_counted(tmp_path: Path) -> None:
    def absurd(_path: str, body: bytes) -> bytes:
        records = json.loads(body)
        for record in records[::5]:
            record["time" if "time" in record else "timestamp"] = 4_102_444_800
        return json.dumps(records).encode()

    plain = Traits(rate=0.1, start=START, end=START + 300)
    with a_site(tmp_path, {SIGN_INS: plain}, Settings(rewrite=absurd), now=START + 330) as site:
        site.configure(look_back=0, audit="off")
        assert site.collect().status == 0
        assert [path.name for path in site.data_files(SIGN_INS)] == ["example.com_auth_2025-06-15_15.log"]
        truth = list(site.provider.truth(SIGN_INS, START, START + 300))
        assert len(site.lines(SIGN_INS)) == len(truth)
        assert site.heartbeat(SIGN_INS)["counts"]["without_time"] >= len(truth) // 5


def test_events_without_their_detail_are_on_record(tmp_path: Path) -> None:
    some = Traits(rate=0.1, start=START, end=START + 600, missing_details=0.3, detail_bytes=50)
    with a_site(tmp_path, {OUTGOING: some}) as site:
        site.configure()
        missing = site.collect().of(OUTGOING).metrics.stand_ins
        assert missing > 3
        state = json.loads(site.position_file(OUTGOING).read_text().split("\n")[1])
        assert len(state["details_missing"]) == missing
        written = order.entries([json.loads(line) for line in site.lines(OUTGOING)])
        without = {entry.key: entry.time for entry in written if "logs" not in entry.record}
        assert state["details_missing"] == without
        assert site.heartbeat(OUTGOING)["counts"] == {"details_missing": missing}
