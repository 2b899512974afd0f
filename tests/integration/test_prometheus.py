"""A real Prometheus scrapes the metrics: promtool finds nothing to better, and every query of dashboard and rules has an answer."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_wait import wait_for

from mailferry.clock import local_now
from mailferry.mailbox.ledger.jobs import JobState, Statistics, Tally
from mailferry.monitor.facts import Disk, FeedStatus, Need, Status
from mailferry.monitor.metrics import CONTENT_TYPE, render

if TYPE_CHECKING:
    from collections.abc import Iterator

MONITORING = Path(__file__).parents[2] / "deployment/monitoring"


def troubled() -> Status:
    """With something of every kind, so that every query finds what it looks for."""
    now = local_now()
    tally = Tally(**dict.fromkeys(Tally.__dataclass_fields__, 0))
    mailbox = FeedStatus(name="tracking", kind="mailbox", schedule="1h", last_good=now - timedelta(days=1))
    mailbox.statistics = Statistics(today=tally, week=tally, refused=3, states={JobState.FAILED: 3})
    events = FeedStatus(
        name="outgoing",
        kind="events",
        schedule="5m",
        events=1000,
        late=3,
        lag_seconds=7200,
        last_good=now,
        open_gaps=1,
        gap_kinds={"saturated": 1},
    )
    seconds = {"0.5": 3.0, "10": 1.0, "sum": 8.0}
    status = Status(
        at=now,
        host="collector",
        feeds=[events, mailbox],
        workers=[{"host": "collector", "alive": False}],
        totals={"rows": {"inserted": 5.0}, **dict.fromkeys(("job_seconds", "collect_seconds"), seconds)},
        disks=[Disk(path="/data", free=1, total=1 << 30)],
    )
    status.needs = [Need(key="a", kind="gap", subject="", reason="", advice="")]
    return status


class Metrics(http.server.BaseHTTPRequestHandler):
    """Serves the metrics of a status, each time with a few more events."""

    status: Status

    def do_GET(self) -> None:
        self.status.feeds[0].events += 10
        body = render(self.status)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **values: str) -> Any:
        data = urllib.parse.urlencode(values).encode() if values else None
        with urllib.request.urlopen(f"{self._url}/{path}", data, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, text: str) -> list[Any]:
        return list(self.ask("query", query=text)["result"])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    Metrics.status = troubled()
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    serving = threading.Thread(target=served.serve_forever, args=(0.05,))
    serving.start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms", "evaluation_interval": "300ms"},
        "rule_files": [str(MONITORING / "rules.yml")],
        "scrape_configs": [
            {"job_name": "mailferry", "static_configs": [{"targets": [f"127.0.0.1:{served.server_port}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            found = Prometheus(port)

            def scraped() -> bool:
                with contextlib.suppress(OSError):
                    # Two scrapes: a rate needs them.
                    return bool(found.query("rate(mailferry_events_total[1m]) > 0"))
                return False

            wait_for("two scrapes", scraped)
            yield found
        finally:
            process.terminate()
            served.shutdown()
            serving.join()
            served.server_close()


def test_promtool_finds_nothing_to_better_in_the_metrics_and_the_rules() -> None:
    for command, data in (
        (["check", "metrics"], render(troubled())),
        (["check", "rules", str(MONITORING / "rules.yml")], b""),
    ):
        done = subprocess.run(["promtool", *command], input=data, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), done


def test_every_query_of_the_dashboard_has_an_answer(prometheus: Prometheus) -> None:
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 15
    empty = [text for text in queries if not prometheus.query(text.replace("$__rate_interval", "1m"))]
    assert not empty


def test_every_alert_has_a_sound_rule_that_what_it_is_for_sets_off(prometheus: Prometheus) -> None:
    def rules() -> list[Any] | None:
        found = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] == "ok" for rule in found) else None

    found = wait_for("the rules to be evaluated", rules)
    names = {rule["name"]: rule["query"] for rule in found}
    # What is gone, or cannot be asked, is not seen here.
    silent = {name for name, text in names.items() if not prometheus.query(text)}
    assert silent == {"MailferryGone", "MailferryDatabaseDown"}
    known = re.findall(r"^# TYPE (\w+)", render(troubled()).decode(), re.MULTILINE)
    assert all(any(name in text for name in known) for text in names.values())


def test_a_database_that_cannot_be_asked_sets_off_its_alert() -> None:
    down = replace(troubled(), database_error="connection refused")
    assert "\nmailferry_database_up 0.0\n" in render(down).decode()
