"""What a run leaves on the disk: folders, names, hours, retention, heartbeat; and that no key is in any of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
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
    command,
    finished,
    ran,
    section,
    suffix,
)

from mailferry import disk
from mailferry.config import event_feeds
from mailferry.events import heartbeat, run
from mailferry.events.reader import Reader
from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN = Traits(rate=0.1, start=START, end=START + 600, detail_bytes=100)
HOUR = 3600


# --- names


def test_the_folder_tree_of_the_contract_whatever_the_working_directory(tmp_path: Path) -> None:
    recent = Traits(rate=0.1, start=RECENT, end=RECENT + 300, detail_bytes=100)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with a_site(tmp_path / "site", dict.fromkeys(ALL_FEEDS, recent), now=time.time()) as site:
        site.configure()
        arguments = ("collect", "--config", os.path.relpath(site.config, elsewhere), "--all", "--parallel")
        done = ran(*arguments, folder=elsewhere)
        assert done.returncode == 0, done.stderr
        assert list(elsewhere.iterdir()) == []
        for feed in ALL_FEEDS:
            site.assert_exactly_once(feed)
        hour = datetime.fromtimestamp(RECENT, UTC).strftime("%Y-%m-%d_%H")
        found = {str(path.relative_to(site.folder)) for path in site.folder.rglob("*") if path.is_file()}
        kept = {name for name in found if "/messages_" not in name and "/errors_" not in name}
        tree = "output/example.com"
        assert kept == {
            "uzmanposta.ini",
            *(f"positions/{suffix(feed)}.pos" for feed in ALL_FEEDS),
            *(f"locks/{suffix(feed)}.lock" for feed in ALL_FEEDS),
            f"{tree}/mail/outgoinglog/example.com_outgoinglog_{hour}.log",
            f"{tree}/mail/incominglog/example.com_incominglog_{hour}.log",
            f"{tree}/quarantine/example.com_quarantine_{hour}.log",
            f"{tree}/quarantine/hold/example.com_hold_{hour}.log",
            f"{tree}/authentication/example.com_auth_{hour}.log",
            f"{tree}/mail/outgoinglog/{suffix(OUTGOING)}_heartbeat.json",
            f"{tree}/mail/incominglog/{suffix(INCOMING)}_heartbeat.json",
            f"{tree}/quarantine/{suffix(QUARANTINE)}_heartbeat.json",
            f"{tree}/quarantine/hold/{suffix(HOLD)}_heartbeat.json",
            f"{tree}/authentication/{suffix(SIGN_INS)}_heartbeat.json",
        }
        assert {name for name in found if name.startswith(f"{tree}/mail/outgoinglog/messages_")}


def test_placeholders_in_names_and_paths(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}) as site:
        site.configure(
            log_directory="./logs",
            log_file_name_format="{section}-{category}-{type}-{domain}-%Y%m%d.jsonl",
            position_file="state/{section}.pos",
            lock_file_path="state/{id}.lock",
            heartbeat_file="beats/{section}.json",
        )
        assert site.collect().status == 0
        feeds = event_feeds.read(site.config).choose(None, every=True)
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        day = "20250615"
        for feed, kind in zip(feeds, ("mail/outgoinglog", "authentication"), strict=True):
            kept = feed.section, feed.category, feed.type, feed.domain
            assert f"logs/example.com/{kind}/{'-'.join(kept)}-{day}.jsonl" in found
            assert {
                f"state/{feed.section}.pos",
                f"state/{feed.id}.lock",
                f"beats/{feed.section}.json",
            } <= found


def names(site: Any, feed: Any) -> list[str]:
    return [path.name.removeprefix("example.com_") for path in site.data_files(feed)]


def test_files_bear_the_hour_of_the_event_in_the_time_zone_of_the_section(tmp_path: Path) -> None:
    traits = Traits(rate=0.01, start=START, end=START + 2 * HOUR, bursts={START: 1, START + HOUR: 1})
    with a_site(tmp_path, {SIGN_INS: traits}) as site:
        site.configure(timezone="Europe/Istanbul")
        assert site.collect().status == 0
        assert names(site, SIGN_INS) == ["auth_2025-06-15_18.log", "auth_2025-06-15_19.log"]
        site.assert_exactly_once(SIGN_INS)
        first, second = site.data_files(SIGN_INS)
        edge = START + HOUR
        for path, low, high in ((first, START, edge), (second, edge, edge + HOUR)):
            for line in path.read_bytes().splitlines():
                record = json.loads(line)
                assert low <= (record.get("time") or record["timestamp"]) < high


def test_files_may_bear_the_hour_of_collection_instead(tmp_path: Path) -> None:
    traits = Traits(rate=0.01, start=START, end=START + 2 * HOUR)
    with a_site(tmp_path, {SIGN_INS: traits}, now=START + 7 * HOUR) as site:
        site.configure(file_time="collected")
        assert site.collect().status == 0
        assert names(site, SIGN_INS) == ["auth_2025-06-15_22.log"]
        site.assert_exactly_once(SIGN_INS)


# --- retention


def test_of_message_and_error_logs_the_newest_are_kept(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: Traits(rate=0.02, start=START, end=START + 6 * HOUR)}) as site:
        for number in range(5):
            site.clock.now = START + (number + 1) * HOUR
            site.configure(message_log_retention_count=3, detail_retries=0)
            good = site.config.read_text()
            site.config.write_text(good.replace(KEY, "f" * 32))  # something for the error log
            assert site.collect().status == 1
            site.config.write_text(good)
            assert site.collect().status == 0
        found = sorted(path.name for path in site.data_folder(OUTGOING).iterdir())
        hours = [datetime.fromtimestamp(START + (n + 1) * HOUR).strftime("%Y-%m-%d_%H") for n in range(5)]  # noqa: DTZ006 - their names are in the machine's time
        assert [name for name in found if name.startswith("messages_")] == [
            f"messages_{h}.log" for h in hours[2:]
        ]
        assert [name for name in found if name.startswith("errors_")] == [
            f"errors_{h}.log" for h in hours[3:]
        ]
        site.assert_exactly_once(OUTGOING)


def test_data_files_are_kept_unless_days_are_given(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}) as site:
        site.configure()
        assert site.collect().status == 0
        old, young = site.data_files(OUTGOING)[0], site.data_files(SIGN_INS)[0]
        other = old.with_name("notes_2020-01-01_00.log")
        other.write_text("another program's\n")
        os.utime(old, (START, START))
        os.utime(other, (START, START))
        site.clock.now = START + 3 * 86_400
        site.configure(log_retention_days=3, split_interval=7200)
        os.utime(young, (START + 1, START + 1))
        assert site.collect().status == 0
        assert old.exists()
        site.configure(log_retention_days=2, split_interval=7200)
        os.utime(young, (START + 86_401, START + 86_401))
        assert site.collect().status == 0
        assert not old.exists()
        assert young.exists()
        assert other.exists()
        # What is gone is not fetched again.
        assert site.lines(OUTGOING) == []


# --- heartbeat


def test_a_heartbeat_says_whether_the_section_is_alive_and_how_far_it_got(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN}, now=START + 1230) as site:
        site.configure()
        assert site.collect().status == 0
        beat = site.heartbeat(OUTGOING)
        assert beat["status"] == "completed"
        assert beat["section"] == suffix(OUTGOING)
        assert beat["pid"] == os.getpid()
        assert beat["host"] == socket.gethostname()
        assert beat["last_heartbeat"] == "2025-06-15T15:20:30+00:00"
        assert beat["position"] == START + 1200
        assert beat["position_time"] == "2025-06-15T15:20:00+00:00"
        assert beat["lag_seconds"] == 30
        assert (beat["gaps"], beat["late_events"], beat["error"]) == (0, 0, None)
        metrics = beat["metrics"]
        lines = len(site.lines(OUTGOING))
        assert metrics["total_logs_processed"] == lines
        assert metrics["api_requests"] == metrics["list_requests"] + metrics["detail_requests"]
        assert metrics["detail_requests"] == lines
        assert (metrics["success_rate"], metrics["error_rate"]) == (100, 0)
        low, mean, high = (metrics[f"{name}_response_seconds"] for name in ("min", "avg", "max"))
        assert 0 < low <= mean <= high
        assert metrics["logs_per_second"] > 0
        assert metrics["bytes_written"] == sum(path.stat().st_size for path in site.data_files(OUTGOING))


def test_a_heartbeat_is_whole_at_every_moment_and_refreshed_while_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)
    seen: list[dict[str, Any]] = []
    done = threading.Event()
    with a_site(tmp_path, {OUTGOING: PLAIN}, Settings(latency=0.01)) as site:
        site.configure()
        path = site.data_folder(OUTGOING) / f"{suffix(OUTGOING)}_heartbeat.json"

        def read() -> None:
            while not done.is_set():
                if path.exists():
                    seen.append(json.loads(path.read_bytes()))

        with_reader = threading.Thread(target=read)
        with_reader.start()
        try:
            assert site.collect().status == 0
        finally:
            done.set()
            with_reader.join()
        running = [beat["metrics"]["api_requests"] for beat in seen if beat["status"] == "running"]
        assert len(set(running)) > 3
        assert running == sorted(running)
        assert site.heartbeat(OUTGOING)["status"] == "completed"


def test_feeds_can_be_collected_outside_of_the_main_thread(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: PLAIN}) as site:
        site.configure()
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(site.collect().status))
        thread.start()
        thread.join()
        assert statuses == [0]
        site.assert_exactly_once(SIGN_INS)


# --- keys


def assert_nowhere(secret: str, folder: Path, *texts: str) -> None:
    """Not in any file but the configuration, nor in what was printed."""
    for text in texts:
        assert secret not in text
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".ini"]
    assert files
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
        assert secret not in path.name


@pytest.fixture
def echo() -> Iterator[str]:
    """A provider that repeats the request in every answer, as a proxy's error pages do."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = int(self.path.split("/")[1])
            key = self.headers["Authorization"]
            body = json.dumps({"status": status, "code": status, "message": f"no\n{key} {key}"}).encode()
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1/{key}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 500])
def test_an_answer_that_repeats_the_key_brings_it_nowhere(tmp_path: Path, echo: str, status: int) -> None:
    config = tmp_path / "uzmanposta.ini"
    options = {"list_retries": 1, "list_sleep_time": 0, "start_time": RECENT}
    config.write_text(section(OUTGOING, f"{echo}/{status}/api", **options))
    for more in ([], ["--json"]):
        done = ran("collect", "--config", config, *more, PYTHONASYNCIODEBUG="1")
        assert done.returncode == 1
        assert_nowhere(KEY, tmp_path, done.stdout, done.stderr)
        assert "****" in done.stdout + done.stderr
    errors = next((tmp_path / "output/example.com/mail/outgoinglog").glob("errors_*.log")).read_text()
    assert all(json.loads(line)["api_key"] == f"{KEY[:4]}****" for line in errors.splitlines())


def test_a_defect_is_logged_with_its_traceback_and_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(f"defect near Bearer {KEY}")

    with a_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}) as site:
        site.configure()
        monkeypatch.setattr(Reader, "_pass_on", broken)
        ended = site.collect()
        assert ended.status == 1
        text = " ".join(line["error"] for line in site.errors(OUTGOING))
        assert "Traceback" in text
        assert "RuntimeError: defect near Bearer 9f8e****" in text
        assert "unexpected RuntimeError" in ended.of(OUTGOING).error
        out = capsys.readouterr()
        assert_nowhere(KEY, tmp_path, out.out, out.err)
        monkeypatch.undo()
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)


def test_no_key_is_in_anything_that_a_run_with_every_trouble_writes(tmp_path: Path) -> None:
    recent = Traits(rate=0.3, start=RECENT, end=RECENT + 300, missing_details=0.1, detail_bytes=100)
    settings = Settings(
        list_troubles=Troubles.spread(0.4, details=False), detail_troubles=Troubles.spread(0.4, details=True)
    )
    with a_site(tmp_path, {OUTGOING: recent, SIGN_INS: recent}, settings, now=time.time()) as site:
        site.configure(detail_retries=3)
        done = finished(command("collect", "--config", site.config, "--all", "--json"), PYTHONDEVMODE="1")
        assert done.returncode == 0
        assert "Warning" not in done.stderr
        assert_nowhere(KEY, tmp_path, done.stdout, done.stderr)
        line = site.errors(OUTGOING)[0]
        assert set(line) >= {"time", "error", "api_key", "domain", "type", "request", "duration_ms"}
        site.assert_exactly_once(OUTGOING)
        listed = ran("collect", "--config", site.config, "--list", "--json")
        assert KEY not in listed.stdout + listed.stderr


# --- the disk on Windows


def hold(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Another program holds the file for so many tries."""
    from pathlib import Path

    tried: list[str] = []
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        tried.append(self.name)
        if len(tried) <= times:
            raise PermissionError(13, "Access is denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    return tried


def test_replacing_a_file_that_another_program_holds_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_held_by_another", lambda: True)
    tried = hold(monkeypatch, 4)
    path = tmp_path / "a.pos"
    path.write_bytes(b"old")
    pauses: list[float] = []
    disk.replace_file(path, b"new", pause=pauses.append)
    assert path.read_bytes() == b"new"
    assert len(tried) == 5
    assert pauses == list(disk.REPLACE_PAUSES[:4])


def test_replacing_a_file_that_stays_held_gives_up_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_held_by_another", lambda: True)
    tried = hold(monkeypatch, 1000)
    path = tmp_path / "a.pos"
    path.write_bytes(b"old")
    with pytest.raises(PermissionError):
        disk.replace_file(path, b"new", pause=lambda _: None)
    assert path.read_bytes() == b"old"
    assert len(tried) == len(disk.REPLACE_PAUSES) + 1


def test_a_lack_of_permission_elsewhere_is_no_reason_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_held_by_another", lambda: False)
    tried = hold(monkeypatch, 1000)
    with pytest.raises(PermissionError):
        disk.replace_file(tmp_path / "a.pos", b"new", pause=lambda _: None)
    assert len(tried) == 1


def test_a_run_whose_checkpoint_is_held_now_and_then_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_held_by_another", lambda: True)
    monkeypatch.setattr(disk, "REPLACE_PAUSES", (0.0, 0.0, 0.0))
    hold(monkeypatch, 2)
    with a_site(tmp_path, {OUTGOING: PLAIN}) as site:
        site.configure()
        assert site.collect().status == 0
        site.assert_exactly_once(OUTGOING)


def test_a_run_of_nothing_new_changes_no_data_file(tmp_path: Path) -> None:
    with a_site(tmp_path, {OUTGOING: PLAIN}) as site:
        site.configure()
        site.collect()
        before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in site.data_files(OUTGOING)]
        ended = collect(site.config, Clock(site.clock.now))
        assert ended.of(OUTGOING).files == []
        assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in site.data_files(OUTGOING)] == before
        assert run.exit_status(list(ended.results.values())) == 0
