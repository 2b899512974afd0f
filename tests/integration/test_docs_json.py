"""The reference of JSON, and of the heartbeat, against what the commands print: every field, and no other."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_fork import Forked, mailferry
from support_load import Site
from support_wait import wait_for

from mailferry.events.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.config.database import DatabaseSettings

REFERENCE = Path(__file__).parents[2] / "docs/reference"
PAGE = (REFERENCE / "json.md").read_text("utf-8")
VARIABLES = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
METRICS = set(Metrics().to_json())


def fields(command: str, *objects: str) -> set[str]:
    """The fields of an object as its rows of the page name them; in brackets and links are values and words about them."""
    text = PAGE.partition(f"## `mailferry {command}`")[2].partition("\n## ")[0]
    found = set()
    for name in objects:
        row = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", text, re.MULTILINE)
        assert row, f"{command}: no row {name!r}"
        plain = re.sub(r"\([^()]*\)", "", re.sub(r"\[[^\]]*\]\([^)]*\)", "", row[1]))
        found |= set(re.findall(r"`(\w+)`", plain))
    return found


@pytest.fixture
def site(tmp_path: Path, database_settings: DatabaseSettings) -> Site:
    """A mailbox with a message that loads but for one row, and one that does not load."""
    made = Site(tmp_path, database_settings)
    made.send()
    made.send_broken()
    return made


@contextlib.contextmanager
def provider(folder: Path) -> Iterator[dict[str, Any]]:
    """`mailferry simulate` with its configuration in the folder; returns what it announced."""
    printed = folder / "provider.json"
    process = Forked(mailferry, "simulate", "--feed", "authentication", "--rate", "0.1", log=printed)
    with process:
        try:
            wait_for("the announcement", lambda: printed.exists() and printed.read_bytes().endswith(b"\n"))
            announced: dict[str, Any] = json.loads(printed.read_bytes())
            path = folder / "uzmanposta.ini"
            path.write_text(announced["ini"])
            path.chmod(0o600)
            yield announced
        finally:
            process.send_signal(signal.SIGTERM)


def asked(folder: Path, *arguments: str, status: int | None = 0) -> Any:
    """The answer of a command that ends with `status`, or with 0 or 1 where that is None."""
    done = Forked(mailferry, *arguments, folder=folder, variables=VARIABLES).finished()
    assert done.returncode in ({0, 1} if status is None else {status}), done.stderr
    return json.loads(done.stdout)


def assert_job(job: dict[str, Any], *more: str) -> None:
    assert job.keys() == fields("jobs", "a job") | set(more)
    assert job["ref"].keys() == fields("jobs", "`ref`")


def test_what_mailbox_commands_print_is_what_the_page_says(site: Site) -> None:
    explained = asked(site.folder, "explain", "--json")
    assert explained.keys() == fields("explain", "the whole")
    assert explained["messages"][0].keys() == fields("explain", "of `messages`")
    assert explained["messages"][0]["parts"][0].keys() == fields("explain", "of `parts`")

    checked = asked(site.folder, "check", "--json")
    assert checked.keys() == fields("check", "the whole")
    assert all(one.keys() == fields("check", "of `checks`") for one in checked["checks"])

    loaded = asked(site.folder, "load", "--json", status=1)
    assert loaded.keys() == fields("load", "the whole")
    assert loaded["rows"].keys() == fields("load", "`rows`")
    assert_job(loaded["jobs"][0], "files", "passed")

    listed = asked(site.folder, "jobs", "list", "--json")
    assert listed.keys() == fields("jobs", "`jobs list`")
    good, bad = sorted(listed["jobs"], key=lambda job: job["state"])
    assert (good["state"], bad["state"]) == ("completed", "failed")
    assert_job(good)

    shown = asked(site.folder, "jobs", "show", str(good["id"]), "--json")
    assert shown.keys() == fields("jobs", "`jobs show`")
    assert_job(shown["job"], "files", "passed")
    assert shown["job"]["files"][0].keys() == fields("jobs", "of `files`")
    assert shown["job"]["files"][0]["counts"].keys() == fields("jobs", "`counts`")
    assert shown["job"]["passed"][0].keys() == fields("jobs", "of `passed`")
    assert next(iter(shown["rejected_rows"].values()))[0].keys() == fields("jobs", "of `rejected_rows`")

    seen = asked(site.folder, "preview", str(good["id"]), "--json")
    assert seen.keys() == fields("preview", "the whole")
    assert seen["previews"][0].keys() == fields("preview", "of `previews`") - {
        "rejected_rows",
        "jobs",
        "show",
    }
    assert seen["previews"][0]["columns"][0].keys() == fields("preview", "of `columns`")
    proposed = asked(site.folder, "columns", shown["job"]["files"][0]["path"], "--json")
    assert proposed.keys() == fields("columns", "the whole")
    assert proposed["proposals"][0].keys() == fields("columns", "of `proposals`")

    many = asked(site.folder, "jobs", "retry", "--state", "rejected", "--dry-run", "--json")
    assert many.keys() == fields("jobs", "`jobs retry` of many")
    undone = asked(site.folder, "jobs", "undo", str(good["id"]), "--json")
    assert undone.keys() == fields("jobs", "`jobs undo`") - undone["rows"].keys()
    assert undone["rows"].keys() < fields("jobs", "`jobs undo`")

    for what in ("retry", "cancel"):
        changed = asked(site.folder, "jobs", what, str(bad["id"]), "--json")
        assert changed.keys() == fields("jobs", "`jobs retry`, `jobs cancel`")
        assert_job(changed["job"])


def test_what_event_commands_print_and_write_is_what_the_pages_say(tmp_path: Path) -> None:
    with provider(tmp_path) as announced:
        text = PAGE.partition("## `mailferry simulate`")[2]
        feeds, whole = re.search(r"each (.*?)\)", text, re.DOTALL), re.sub(r"\([^)]*\)", "", text)
        assert feeds
        assert announced.keys() == set(re.findall(r"`(\w+)`", whole))
        assert announced["feeds"][0].keys() == set(re.findall(r"`(\w+)`", feeds[1]))

        listed = asked(tmp_path, "collect", "--list", "--json")
        text = PAGE.partition("With `--list`:")[2].partition(";")[0]
        assert listed.keys() | listed["sections"][0].keys() == set(re.findall(r"`(\w+)`", text))

        collected = asked(tmp_path, "collect", "--json")
    assert collected.keys() == fields("collect", "the whole")
    assert collected["sections"][0].keys() == fields("collect", "of `sections`")
    assert collected["total"].keys() == collected["sections"][0]["metrics"].keys() == METRICS

    [path] = tmp_path.glob("output/**/*_heartbeat.json")
    heartbeat = json.loads(path.read_bytes())
    table = (REFERENCE / "files.md").read_text("utf-8").partition("## Heartbeat")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert heartbeat.keys() == {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert heartbeat["metrics"].keys() == METRICS


def test_what_the_commands_about_completeness_print_is_what_the_page_says(tmp_path: Path) -> None:
    with provider(tmp_path) as announced:
        asked(tmp_path, "collect", "--json")
        verified = asked(tmp_path, "verify", "--json")
        filled = asked(
            tmp_path,
            "backfill",
            "example.com-authentication",
            "--from",
            str(announced["start"]),
            "--dry-run",
            "--json",
        )
        gaps = asked(tmp_path, "gaps", "list", "--json")
    assert verified.keys() == fields("verify", "the whole")
    [feed] = verified["feeds"]
    assert feed.keys() == fields("verify", "of `feeds`")
    counts = fields("verify", "`total`, of `hours`")
    assert feed["total"].keys() == counts
    assert feed["hours"][0].keys() == counts | fields("verify", "of `hours`, too")
    assert filled.keys() == fields("backfill", "the whole")
    assert filled["feeds"][0].keys() == fields("backfill", "of `feeds`")
    assert gaps.keys() == fields("gaps", "the whole")


@pytest.mark.slow(15)
def test_what_the_services_commands_print_is_what_the_page_says(site: Site) -> None:
    files = ("--config", "config.env", "--config", "uzmanposta.ini")
    with (
        provider(site.folder),
        Forked(mailferry, "start", *files, folder=site.folder, variables=VARIABLES) as service,
    ):
        try:
            # The database costs less to ask than the command.
            done = (
                "SELECT count(*) FILTER (WHERE last_good_at IS NOT NULL),"
                " (SELECT count(*) FROM mailferry.jobs WHERE finished_at IS NOT NULL) FROM mailferry.feeds"
            )
            wait_for("both feeds' runs", lambda: site.query(done) == [(2, 2)])
            # A file that was refused needs a person.
            status = wait_for(
                "both feeds have run",
                lambda: (
                    (found := asked(site.folder, "status", "--json", *files, status=None))
                    and all(feed["last_good"] for feed in found["feeds"])
                    and found["feeds"][1]["statistics"]["today"]["completed"]
                    and found["feeds"][1]["statistics"]["refused"]
                    and found
                ),
            )
            reloaded = asked(site.folder, "reload", "--json", *files)
        finally:
            service.send_signal(signal.SIGTERM)
    assert status.keys() == fields("status", "the whole")
    assert (status["exit_status"], [feed["unhealthy"] for feed in status["feeds"]]) == (1, [False, True])
    assert status["needs"][0].keys() == fields("status", "of `needs`")
    assert status["refusals"][0].keys() == fields("status", "of `refusals`")
    assert status["disks"][0].keys() == fields("status", "of `disks`")
    kinds = ("of `feeds`", "event feeds", "mailbox feeds")
    assert all(feed.keys() == fields("status", *kinds) for feed in status["feeds"])
    statistics = status["feeds"][1]["statistics"]
    assert statistics.keys() == fields("status", "`statistics`")
    assert statistics["today"].keys() == statistics["week"].keys() == fields("status", "`today`, `week`")
    assert status["workers"][0].keys() == fields("status", "of `workers`")
    assert reloaded.keys() == fields("reload", "the whole")
    assert reloaded["workers"][0].keys() == fields("reload", "of `workers`")


def test_what_the_configurations_commands_print_is_what_the_page_says(tmp_path: Path) -> None:
    config = tmp_path / "uzmanposta.ini"
    config.write_text("[MailLogger:a]\napi_key = 9f8e7d6c5b4a\n")
    good = asked(tmp_path, "config", "check", "--json")
    assert good.keys() == fields("config", "`config check`")
    assert good["feeds"].keys() == fields("config", "`feeds`")
    shown = asked(tmp_path, "config", "show", "--json")
    assert shown.keys() == fields("config", "`config show`")
    assert "9f8e7d6c5b4a" not in json.dumps(shown)

    config.write_text("[MailLogger:a]\napi_kee = 9f8e7d6c5b4a\n")
    bad = asked(tmp_path, "config", "check", "--json", status=2)
    assert bad.keys() == fields("config", "`config check`") - {"files", "feeds"}
