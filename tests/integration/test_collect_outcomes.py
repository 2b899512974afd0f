"""How a run ends: gaps on record, refused keys, nothing reached, a section that another run has, bad checkpoints."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from support_events import (
    ALL_FEEDS,
    HOLD,
    INCOMING,
    KEY,
    OUTGOING,
    QUARANTINE,
    RECENT,
    SIGN_INS,
    START,
    Clock,
    a_site,
    collect,
    forked,
    ran,
    section,
    suffix,
)

from mailferry.events.order import Seen
from mailferry.testing.population import Feed, Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400
PLAIN = Traits(rate=0.2, start=START, end=START + 600, detail_bytes=100)


# --- gaps


@pytest.mark.parametrize("inclusive", [True, False], ids=["inclusive", "exclusive"])
def test_a_second_fuller_than_a_page_is_a_gap_on_record_once_and_what_came_is_kept(
    tmp_path: Path, inclusive: bool
) -> None:
    full = START + 100
    traits = Traits(
        rate=0.1, start=START, end=START + 600, bursts={full: 40, full + 1: 5, full - 1: 5}, detail_bytes=50
    )
    settings = Settings(page_cap=15, endtime_inclusive=inclusive)
    with a_site(tmp_path, {OUTGOING: traits, SIGN_INS: traits}, settings, now=START + 630) as site:
        site.configure(max_records_per_page=15, look_back=600)
        ended = site.collect()
        assert ended.status == 4
        for feed in (OUTGOING, SIGN_INS):
            assert ended.of(feed).new_gaps == 1
            found = site.compared(feed)
            assert (found.lost, found.twice, found.foreign, found.out_of_order) == (25, 0, 0, 0)
            times = [
                (json.loads(line).get("recipients") or [json.loads(line)])[0].get("time")
                or json.loads(line).get("timestamp")
                for line in site.lines(feed)
            ]
            assert times.count(full) == 15
            beat = site.heartbeat(feed)
            assert (beat["gaps"], beat["open_gaps"]) == (1, 1)
            assert beat["status"] == "completed"
            assert beat["last_gaps"] == [
                {
                    "kind": "saturated",
                    "start": "2025-06-15T15:01:40+00:00",
                    "end": "2025-06-15T15:01:41+00:00",
                }
            ]
            gaps = [line["error"] for line in site.errors(feed) if "gap from" in line["error"]]
            assert len(gaps) == 1
            assert "15 records" in gaps[0]
        # The look-back finds the same second again; it is no new gap.
        site.clock.now = START + 660
        assert site.collect().status == 0
        assert site.heartbeat(OUTGOING)["gaps"] == 1
        site.clock.now = START + 1200
        assert site.collect().status == 0
        assert site.compared(OUTGOING).lost == 25


def test_quarantine_past_its_seven_days_is_a_gap_with_both_ends(tmp_path: Path) -> None:
    now = START + 10 * DAY
    traits = Traits(rate=0.0005, start=START, end=now)
    with a_site(tmp_path, {QUARANTINE: traits, HOLD: traits, SIGN_INS: traits}, now=now) as site:
        site.configure(split_interval=3600)
        ended = site.collect()
        assert ended.status == 4
        for feed in (QUARANTINE, HOLD):
            assert ended.of(feed).new_gaps >= 1
            beat = site.heartbeat(feed)
            gaps = beat["last_gaps"]
            assert {gap["kind"] for gap in gaps} == {"expired"}
            assert gaps[0]["start"] == "2025-06-15T15:00:00+00:00"
            assert gaps[-1]["end"] == "2025-06-18T15:00:00+00:00"
            logged = [line["error"] for line in site.errors(feed)]
            assert any("2025-06-15 15:00:00 UTC to 2025-06-18 15:00:00 UTC" in text for text in logged)
            reached = [
                json.loads(event.value) for event in site.provider.truth(feed, now - 7 * DAY, now - 30)
            ]
            assert reached
            assert [json.loads(line) for line in site.lines(feed)] == reached
        # Authentication has no such limit.
        site.assert_exactly_once(SIGN_INS)
        assert not [status for (_, status) in site.provider.stats.requests if status == 406]
        again = site.collect()
        assert again.status == 0
        assert again.of(QUARANTINE).metrics.events == 0


# --- refusals


def test_a_refused_key_stops_its_section_alone_and_the_message_says_what_to_check(tmp_path: Path) -> None:
    other_key = "b0b1b2b3b4b5b6b7b8b9"
    stranger = Feed(api_key=other_key, domain="example.org", category="mail", type="incominglog")
    with a_site(tmp_path, {OUTGOING: PLAIN, stranger: PLAIN}) as site:
        unknown = Feed(
            api_key="0000aaaabbbbccccdddd", domain="x.example.com", category="mail", type="outgoinglog"
        )
        foreign = Feed(api_key=other_key, domain="example.com", category="mail", type="incominglog")
        site.feeds = [unknown, foreign, OUTGOING]
        site.configure()
        ended = site.collect()
        assert ended.status == 1
        for feed, status in ((unknown, "401"), (foreign, "403")):
            result = ended.of(feed)
            assert result.status == "error"
            for words in (status, suffix(feed), "check that the key", feed.domain):
                assert words in result.error
            assert feed.api_key not in result.error
            assert site.heartbeat(feed)["status"] == "error"
            assert status in site.heartbeat(feed)["error"]
            assert site.lines(feed) == []
        # Final: asked once, not hammered.
        assert site.provider.stats.requests["mail", 401] == 1
        assert site.provider.stats.requests["mail", 403] == 1
        site.assert_exactly_once(OUTGOING)


def test_a_key_that_is_refused_in_the_middle_of_a_run_loses_nothing(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN}, now=START + 330) as site:
        site.configure()
        assert site.collect().status == 0
        good = site.config.read_text()
        site.config.write_text(good.replace(KEY, "f" * 32))
        site.clock.now = START + 900
        assert site.collect().status == 1
        site.config.write_text(good)
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)


def test_nothing_reached_at_all_is_exit_3_and_one_section_reached_is_exit_1(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: no other program can take the port
        nowhere = f"http://127.0.0.1:{held.getsockname()[1]}/api/v2/logs/mail"
        config = tmp_path / "uzmanposta.ini"
        head = f"[DEFAULT]\nlist_retries = 1\nlist_sleep_time = 0\nstart_time = {START}\n"
        config.write_text(head + section(OUTGOING, nowhere) + section(INCOMING, nowhere))
        ended = collect(config, Clock(START + 600))
        assert ended.status == 3
        for feed in (OUTGOING, INCOMING):
            assert "cannot connect to 127.0.0.1" in ended.of(feed).error
        with a_site(tmp_path, {SIGN_INS: PLAIN}) as site:
            reached = section(SIGN_INS, site.provider.list_url("authentication"))
            config.write_text(head + section(OUTGOING, nowhere) + reached)
            assert site.collect().status == 1
            site.assert_exactly_once(SIGN_INS)


# --- locked


def test_a_section_that_another_process_collects_is_skipped_with_a_message_and_exit_0(tmp_path: Path) -> None:
    recent = Traits(rate=0.2, start=RECENT, end=RECENT + 600, detail_bytes=100)
    with a_site(tmp_path, {OUTGOING: recent, SIGN_INS: recent}, now=time.time()) as site:
        site.configure()
        lock = tmp_path / "locks" / f"{suffix(OUTGOING)}.lock"
        lock.parent.mkdir()
        with FileLock(lock):
            done = ran("collect", "--config", site.config, "--all", "--json")
            assert done.returncode == 0
            assert "another process is collecting this section; skipped" in done.stderr
            listed = {one["section"]: one["status"] for one in json.loads(done.stdout)["sections"]}
            assert listed == {suffix(OUTGOING): "skipped", suffix(SIGN_INS): "completed"}
            assert not [call for call in site.provider.stats.lists if call.question.feed.category == "mail"]
        done = ran("collect", "--config", site.config, "--section", suffix(OUTGOING))
        assert done.returncode == 0
        site.assert_exactly_once(OUTGOING)


def test_two_runs_at_once_write_every_event_once(tmp_path: Path) -> None:
    with a_site(tmp_path, dict.fromkeys(ALL_FEEDS, PLAIN), Settings(latency=0.01)) as site:
        site.configure()
        both = [forked(site), forked(site)]
        ended = [one.finished() for one in both]
        assert [one.returncode for one in ended] == [0, 0], ended
        assert "skipped" in ended[0].stderr + ended[1].stderr
        for feed in ALL_FEEDS:
            site.assert_exactly_once(feed)
        details = site.provider.stats.details
        assert max(details.values()) == 1


# --- checkpoints


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"garbage\n",
        b"-5\n",
        b'1750000000\n{"version":1',
        b"1750000000\n[]\n",
        b"\x00\xff\x00",
        b"nan\n{}",
    ],
    ids=["empty", "newline", "garbage", "negative", "cut", "no_object", "binary", "nan"],
)
def test_a_damaged_checkpoint_is_reported_and_left_byte_by_byte(tmp_path: Path, content: bytes) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}) as site:
        site.configure()
        path = site.position_file(OUTGOING)
        path.parent.mkdir()
        path.write_bytes(content)
        ended = site.collect()
        assert ended.status == 1
        error = ended.of(OUTGOING).error
        assert str(path) in error
        assert "damaged" in error
        assert "put back a copy" in error
        assert path.read_bytes() == content
        assert site.lines(OUTGOING) == []
        site.assert_exactly_once(SIGN_INS)
        path.unlink()
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)


def test_a_checkpoint_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}) as site:
        site.configure()
        path = site.position_file(SIGN_INS)
        path.parent.mkdir()
        content = b'%d\n{"version":99,"new":"things"}\n' % START
        path.write_bytes(content)
        ended = site.collect()
        assert ended.status == 1
        assert "newer mailferry" in ended.of(SIGN_INS).error
        assert path.read_bytes() == content


@pytest.mark.parametrize("whole", [True, False], ids=["own", "inherited"])
def test_a_position_in_the_future_changes_nothing_and_goes_on_when_the_clock_is_right(
    tmp_path: Path, whole: bool
) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}, now=START + 630) as site:
        site.configure()
        path = site.position_file(SIGN_INS)
        if whole:
            assert site.collect().status == 0
        else:
            path.parent.mkdir()
            path.write_bytes(b"%d" % START)
        before = path.read_bytes(), site.lines(SIGN_INS)
        site.clock.now = START - DAY
        ended = site.collect()
        assert ended.status == 1
        assert "lies in the future" in ended.of(SIGN_INS).error
        assert (path.read_bytes(), site.lines(SIGN_INS)) == before
        assert site.heartbeat(SIGN_INS)["status"] == "error"
        site.clock.now = START + 1200
        assert site.collect().status == 0
        site.assert_exactly_once(SIGN_INS)


def test_a_start_time_in_the_future_is_reported_and_writes_no_checkpoint(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}) as site:
        for wrong in (START + DAY, START * 1000):
            site.configure(start_time=wrong)
            ended = site.collect()
            assert ended.status == 1
            assert f"start_time = {wrong} lies in the future" in ended.of(SIGN_INS).error
            assert not site.position_file(SIGN_INS).exists()
        site.configure()
        assert site.collect().status == 0
        site.assert_exactly_once(SIGN_INS)


def test_a_checkpoint_that_cannot_be_replaced_is_reported_and_nothing_is_lost_or_twice(
    tmp_path: Path,
) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}, now=START + 330) as site:
        site.configure()
        assert site.collect().status == 0
        path = site.position_file(OUTGOING)
        # A folder stands where the new file is written: this hinders root, too.
        in_the_way = path.with_name(f".{path.name}.tmp")
        in_the_way.mkdir()
        before = path.read_bytes()
        site.clock.now = START + 1200
        ended = site.collect()
        assert ended.status == 1
        assert f"cannot write the checkpoint {path}" in ended.of(OUTGOING).error
        assert path.read_bytes() == before
        assert site.heartbeat(OUTGOING)["position"] == START + 300
        site.assert_exactly_once(SIGN_INS)
        in_the_way.rmdir()
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)


def test_a_checkpoint_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}) as site:
        site.configure()
        path = site.position_file(SIGN_INS)
        path.mkdir(parents=True)
        ended = site.collect()
        assert ended.status == 1
        assert f"cannot read the checkpoint {path}" in ended.of(SIGN_INS).error
        path.rmdir()
        assert site.collect().status == 0
        site.assert_exactly_once(SIGN_INS)


# --- taken over from the older script


@pytest.mark.parametrize("ending", [b"", b"\n"], ids=["bare", "newline"])
@pytest.mark.parametrize("feed", [OUTGOING, SIGN_INS], ids=lambda feed: feed.category)
def test_the_older_scripts_position_and_files_are_taken_over(
    tmp_path: Path, feed: Feed, ending: bytes
) -> None:
    traits = Traits(
        rate=0.5, start=START, end=START + 1800, bursts={START + 900: 12}, repeats=0.1, detail_bytes=50
    )
    with a_site(tmp_path, {feed: traits}) as site:
        site.configure()
        position = START + 900
        older = list(site.provider.truth(feed, START, position + 1))[:-6]  # it ended within a second
        folder = site.data_folder(feed)
        folder.mkdir(parents=True)
        hour = folder / f"example.com_{feed.type or 'auth'}_2025-06-15_15.log"
        # As Python's json module writes: other spaces than ours.
        hour.write_text("".join(json.dumps(json.loads(event.value)) + "\n" for event in older))
        path = site.position_file(feed)
        path.parent.mkdir()
        path.write_bytes(b"%d" % position + ending)
        before = hour.read_bytes()
        ended = site.collect()
        assert ended.status == 0
        site.assert_exactly_once(feed)
        assert hour.read_bytes().startswith(before)
        assert min(call.question.starttime for call in site.provider.stats.lists) == position - 300
        assert path.read_bytes().startswith(b"%d\n{" % (int(site.clock.now) - 30))
        assert site.collect().of(feed).metrics.events == 0


def test_what_the_older_script_missed_and_left_torn_is_written_after_it(tmp_path: Path) -> None:
    traits = Traits(rate=0.5, start=START, end=START + 900, detail_bytes=50)
    with a_site(tmp_path, {OUTGOING: traits}) as site:
        site.configure()
        older = list(site.provider.truth(OUTGOING, START, START + 600))
        missed = older[-20]
        torn, kept = older[-1], [event for event in older[:-1] if event is not missed]
        folder = site.data_folder(OUTGOING)
        folder.mkdir(parents=True)
        hour = folder / "example.com_outgoinglog_2025-06-15_15.log"
        hour.write_bytes(b"".join(event.value + b"\n" for event in kept) + torn.value[:40])
        path = site.position_file(OUTGOING)
        path.parent.mkdir()
        path.write_bytes(b"%d\n" % (START + 600))
        ended = site.collect()
        assert ended.status == 0
        found = site.compared(OUTGOING)
        # The torn line is not ours: it is ended, and its event written whole.
        assert (found.lost, found.twice, found.foreign) == (0, 0, 1)
        assert found.out_of_order <= ended.of(OUTGOING).metrics.late
        assert torn.value[:40] in site.lines(OUTGOING)


def test_an_older_position_without_files_goes_back_no_further_than_the_look_back(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}) as site:
        site.configure(look_back=100)
        path = site.position_file(SIGN_INS)
        path.parent.mkdir()
        path.write_bytes(b"%d" % (START + 300))
        assert site.collect().status == 0
        written = [json.loads(line) for line in site.lines(SIGN_INS)]
        truth = site.provider.truth(SIGN_INS, START + 200, START + 600)
        assert written == [json.loads(event.value) for event in truth]


def test_the_first_line_of_a_checkpoint_is_what_the_older_script_reads(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}, now=START + 330) as site:
        site.configure()
        assert site.collect().status == 0
        first, second = site.position_file(SIGN_INS).read_text().splitlines()
        assert int(first) == START + 300
        state = json.loads(second)
        assert state["version"] == 1
        assert len(Seen(state["seen"])) == len(site.lines(SIGN_INS))
