"""`mailferry load`, `explain`, `check`, `jobs`, and the older service's command line, as processes."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_fork import Forked, mailferry, run_module
from support_mail import Maildir, mail, workbook
from support_wait import wait_for

from mailferry.commands import mailbox
from mailferry.config import env
from mailferry.errors import Stop
from mailferry.mailbox.folders import Folders

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Connection

HEADER = ("HAWB", "Status")
SECRET = "pass-of-the-database"


class Installed:
    """A config.env in a folder of its own, with a Maildir and a database."""

    def __init__(self, folder: Path, database: DatabaseSettings) -> None:
        self.folder = folder
        self.maildir = Maildir(folder / "Maildir")
        self.config = folder / "config.env"
        self.config.write_text(
            f"EMAIL_MAILDIR=Maildir\nAPP_BASE_DIR=app\nDB_CREATE_TABLE=true\nDB_HOST={database.host}\nDB_NAME={database.name}\n"
            f"DB_USERNAME={database.user}\nDB_PASSWORD={SECRET}\n"
        )
        self.config.chmod(0o600)
        self.variables = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def start(self, *arguments: str, module: str = "mailferry", log: Path | None = None) -> Forked:
        return Forked(run_module, module, *arguments, folder=self.folder, variables=self.variables, log=log)

    def run(self, *arguments: str, module: str = "mailferry") -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        done = self.start(*arguments, module=module).finished()
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments: str, module: str = "mailferry", status: int = 0) -> Any:
        code, out, error = self.run(*arguments, "--json", module=module)
        assert code == status, error
        answer = json.loads(out)
        assert answer["version"] == 1
        return answer

    def send(self, *rows: tuple[object, ...], subject: str = "Track and Trace") -> None:
        self.maildir.deliver(mail(subject, ("data.xlsx", workbook(HEADER, *rows))))


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Installed:
    return Installed(tmp_path, database_settings)


def test_load_prints_what_it_came_to_for_people_and_for_programs(here: Installed) -> None:
    here.send(("1", "a"), ("2", "b"))
    status, out, error = here.run("load")
    assert status == 0
    assert "2 read, 2 inserted" in out
    assert "moved to" in error
    here.send(("1", "z"))
    here.maildir.deliver(mail("Track and Trace", ("b.xls", b"a;b")))
    answer = here.json("load", status=1)
    assert (answer["exit_status"], answer["status"], answer["arrived"]) == (1, "done", 2)
    assert answer["rows"] == {
        "read": 1, "inserted": 0, "updated": 1, "unchanged": 0, "superseded": 0, "rejected": 0
    }  # fmt: skip
    assert [job["state"] for job in answer["jobs"]] == ["completed", "failed"]
    assert answer["jobs"][1]["files"][0]["error"]


def test_jobs_are_listed_shown_cancelled_and_retried(here: Installed) -> None:
    here.send(("1", "a"), (None, "b"))
    here.maildir.deliver(mail("Track and Trace Ü", ("b.xls", b"a;b")))
    here.run("load")
    found = here.json("jobs", "list")["jobs"]
    assert [(job["id"], job["state"]) for job in found] == [(2, "failed"), (1, "completed")]
    assert [
        job["id"] for job in here.json("jobs", "list", "--state", "failed", "--text", "TRACE Ü")["jobs"]
    ] == [2]
    shown = here.json("jobs", "show", "1")
    assert shown["rejected_rows"]["1"][0]["reason"]
    status, out, _ = here.run("jobs", "show", "1")
    assert status == 0
    assert "row 3" in out
    again = ("jobs", "retry", "--state", "failed", "--since", "2020-01-31")
    assert [job["state"] for job in here.json(*again, "--dry-run")["jobs"]] == ["failed"]
    assert [job["state"] for job in here.json(*again)["jobs"]] == ["pending"]
    assert here.run("jobs", "retry")[0] == 2
    assert here.json("jobs", "retry", "2")["job"]["state"] == "pending"
    assert here.json("jobs", "cancel", "2")["job"]["state"] == "cancelled"
    status, _, error = here.run("jobs", "cancel", "2")
    assert (status, "is cancelled" in error) == (1, True)
    status, _, error = here.run("jobs", "show", "99")
    assert (status, "no job 99" in error) == (1, True)


def test_jobs_are_looked_for_by_text_that_is_no_utf_8(here: Installed) -> None:
    assert (
        here.json("jobs", "list", "--text", os.fsdecode(b"\xff"), "--feed", os.fsdecode(b"\xfe"))["jobs"]
        == []
    )


def test_away_from_the_configuration_the_systems_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in env.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(env, "SYSTEM_FILE", tmp_path / "system.env")
    (tmp_path / "system.env").write_text("EMAIL_MAILDIR=mail\nAPP_NAME=of-the-system\n")
    assert mailbox.read(Path("config.env")).name == "of-the-system"
    (tmp_path / "config.env").write_text("EMAIL_MAILDIR=mail\nAPP_NAME=of-this-folder\n")
    assert mailbox.read(Path("config.env")).name == "of-this-folder"


def test_explain_says_why_each_message_and_part_is_taken_or_not_and_changes_nothing(here: Installed) -> None:
    here.send(("1", "a"))
    here.run("load")
    here.send(("2", "b"))
    here.send(("3", "c"), subject="Something else")
    here.maildir.deliver(mail("Track and Trace", ("b.xls", b"a;b")))
    before = here.maildir.flags()
    found = here.json("explain")["messages"]
    assert here.maildir.flags() == before
    assert [message["verdict"] for message in found] == ["taken", "skipped", "taken", "skipped"]
    assert [part["verdict"] for part in found[0]["parts"]] == ["skipped", "rejected"]
    assert "subject" in found[1]["reason"]
    assert [part["verdict"] for part in found[2]["parts"]] == ["skipped", "taken"]
    assert "marked already" in found[3]["reason"]
    status, out, _ = here.run("explain", "--limit", "1")
    assert status == 0
    assert "rejected" in out


def test_check_tries_every_part_and_leaves_nothing_behind(here: Installed) -> None:
    answer = here.json("check")
    assert [(check["name"], check["ok"]) for check in answer["checks"]] == [
        ("configuration", True),
        ("folders", True),
        ("database", True),
        ("mailbox", True),
        ("sandbox", True),
    ]
    assert "all layers of its sandbox" in answer["checks"][4]["text"]
    assert "will be made" in answer["checks"][2]["text"]
    here.send(("1", "a"))
    here.run("load")
    status, out, _ = here.run("test-config", module="trackandtrace.main_service")
    assert status == 0
    assert "has 5 columns, key hawb" in out


def test_check_says_of_each_part_that_fails_what_to_do(here: Installed) -> None:
    good = here.config.read_text()
    here.config.write_text(good.replace("DB_NAME=t", "DB_NAME=missing_").replace("=Maildir", "=nowhere"))
    answer = here.json("check", status=1)
    assert [check["ok"] for check in answer["checks"]] == [True, True, False, False, True]
    assert "Create the database" in answer["checks"][2]["text"]
    assert "no Maildir" in answer["checks"][3]["text"]
    (here.folder / "file").touch()
    here.config.write_text(good.replace("APP_BASE_DIR=app", "APP_BASE_DIR=file"))
    assert "APP_BASE_DIR" in here.json("check", status=1)["checks"][1]["text"]
    here.config.write_text(
        "EMAIL_HOST=127.0.0.1\nEMAIL_PORT=1\nEMAIL_USERNAME=a\nEMAIL_PASSWORD=b\nAPP_BASE_DIR=app\n"
        "DB_HOST=127.0.0.1\nDB_PORT=1\nDB_NAME=x\nDB_USERNAME=x\n"
    )
    here.json("check", status=3)
    here.config.write_text("EMAIL_HOTS=x\n")
    assert "EMAIL_HOST" in here.json("check", status=2)["checks"][0]["text"]
    status, out, error = here.run("load")
    assert (status, out) == (2, "")
    assert "EMAIL_HOTS: unknown variable" in error


def test_the_older_commands_run_once_and_tell_the_statistics(here: Installed) -> None:
    here.send(("1", "a"), ("2", "b"))
    module = "trackandtrace.main_service"
    status, out, _ = here.run("run-once", module=module)
    assert (status, "2 inserted" in out) == (0, True)
    [feed] = here.json("status", module=module)["feeds"]
    counted = feed["statistics"]
    assert (feed["kind"], counted["states"]) == ("mailbox", {"completed": 1})
    assert (counted["today"]["completed"], counted["today"]["inserted"], counted["week"]["rows_read"]) == (
        1,
        2,
        2,
    )
    status, out, _ = here.run("status", "--config", str(here.config), module=module)
    assert (status, "1 completed" in out) == (0, True)
    assert here.run("nonsense", module=module)[0] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_loads_at_once_waits_for_its_next_turn_and_ends_on_a_signal(
    here: Installed, number: int
) -> None:
    here.send(("1", "a"))
    log = here.folder / "log"
    log.touch()
    process = here.start(module="trackandtrace.main_service", log=log)
    wait_for(log.read_text, lambda: "marked as completed" in log.read_text())
    process.send_signal(number)
    assert process.wait(10) == 0
    assert "ended" in log.read_text()
    assert here.maildir.flags() == {"1.test.host": "S"}


@pytest.fixture
def held_up(here: Installed, db: Connection, connect: Callable[[], Connection]) -> Forked:
    """A `load` of three messages that waits within the first, for a row that `db` has locked."""
    db.execute("CREATE TABLE tracking_data (hawb text PRIMARY KEY, status text)")
    db.execute("INSERT INTO tracking_data VALUES ('0', 'old')")
    db.commit()
    db.execute("SELECT 1 FROM tracking_data FOR UPDATE")
    for number in range(3):
        here.send((str(number), "a"))
    process = here.start("load")
    watcher = connect()
    watcher.autocommit = True
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
    )
    while process.poll() is None and not watcher.execute(waiting.encode()).fetchone():
        watcher.execute("SELECT pg_sleep(0.02)")
    return process


def test_load_finishes_the_step_it_is_at_when_a_signal_comes(
    here: Installed, held_up: Forked, db: Connection
) -> None:
    held_up.send_signal(signal.SIGTERM)
    db.rollback()
    done = held_up.finished(30)
    assert done.returncode == 128 + signal.SIGTERM
    assert "stopped" in done.stdout
    states = [job["state"] for job in here.json("jobs", "list")["jobs"]]
    assert states == ["pending", "pending", "completed"]
    assert here.json("load")["exit_status"] == 0
    assert set(here.maildir.flags().values()) == {"S"}


def test_load_breaks_off_a_step_that_does_not_end_and_the_next_run_does_it(
    here: Installed, held_up: Forked, db: Connection
) -> None:
    held_up.send_signal(signal.SIGTERM)
    done = held_up.finished(30)
    assert done.returncode == 128 + signal.SIGTERM
    assert "broken off" in done.stderr
    assert {(job["state"], job["attempts"]) for job in here.json("jobs", "list")["jobs"]} == {("pending", 0)}
    db.rollback()
    assert here.json("load")["exit_status"] == 0
    assert db.execute("SELECT count(*) FROM tracking_data WHERE status = 'a'").fetchone() == (3,)


def test_a_job_whose_files_came_in_an_archive_is_previewed_out_of_it(here: Installed) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("good.xlsx", workbook(HEADER, ("1", "a")))
        archive.writestr("bad.xlsx", workbook(HEADER, (None, "b")))
    here.maildir.deliver(mail("Track and Trace", ("all.zip", made.getvalue())))
    assert here.run("load")[0] == 1
    seen = here.json("preview", "1", status=1)["previews"]
    assert [(one["file"], one["loads"]) for one in seen] == [("good.xlsx", True), ("bad.xlsx", False)]


@pytest.mark.parametrize("owned", ["app", "app/failed", "logs"])
def test_root_writes_nothing_below_a_folder_of_another_user(
    here: Installed,
    fresh_logs: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    owned: str,
) -> None:
    folder = here.folder / owned
    folder.mkdir(parents=True)
    refused = folder
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:  # the folders of this user are another's to root, the outer ones too
        refused = here.folder / owned.partition("/")[0]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if owned == "logs":
        here.config.write_text(f"{here.config.read_text()}LOG_DIR=logs\n")
    assert mailbox.run_check(here.config, as_json=False) in (1, 2)
    assert f"{refused} belongs to user " in capfd.readouterr().out
    with pytest.raises(Stop, match="belongs to user"):
        Folders(base=mailbox.read(here.config).base_dir).prepare()
    assert not list(folder.iterdir())


def test_without_a_database_configured_the_private_one_is_used(tmp_path: Path, server_folder: Path) -> None:
    folder = server_folder / "private-load"
    folder.mkdir(mode=0o755)
    maildir = Maildir(tmp_path / "Maildir")
    maildir.deliver(mail("Track and Trace", ("d.xlsx", workbook(HEADER, ("1", "a")))))
    variables = {
        "PATH": os.environ["PATH"],
        "EMAIL_MAILDIR": "Maildir",
        "APP_BASE_DIR": str(folder / "app"),
        "DB_CREATE_TABLE": "true",
    }
    done = Forked(mailferry, "load", "--json", folder=tmp_path, variables=variables).finished()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["inserted"] == 1
    assert not (folder / "app" / "postgres" / "data" / "postmaster.pid").exists()


def test_the_commands_take_one_feed_of_a_toml_file(here: Installed) -> None:
    converted = here.run("config", "convert", "--config", "config.env")
    assert converted[0] == 0
    text = converted[1]
    name = here.json("check")["checks"][0]["text"].removeprefix("feed ")
    second = (
        f'\n[mailbox.second]\nmaildir = "{here.maildir.root}"\ntarget_table = "other"\nbase_dir = "second"\n'
        "create_table = true\n"
    )
    (here.folder / "mailferry.toml").write_text(text + second)
    here.send(("1", "a"))
    several = here.run("load", "--config", "mailferry.toml")
    assert several[0] == 2
    assert f"choose one by --feed: {name}, second" in several[2]
    answer = here.json("load", "--config", "mailferry.toml", "--feed", "second")
    assert (answer["feed"], answer["rows"]["inserted"]) == ("second", 1)
    jobs = here.json("jobs", "list", "--config", "mailferry.toml", "--feed", "second")["jobs"]
    assert [job["target"] for job in jobs] == ["other"]
    assert here.json("jobs", "list", "--config", "mailferry.toml", "--feed", name)["jobs"] == []


def test_status_asks_for_a_person_until_every_refused_job_is_acknowledged(here: Installed) -> None:
    for _ in range(2):
        here.maildir.deliver(mail("Track and Trace", ("b.xls", b"a;b")))
    assert here.run("load")[0] == 1
    assert here.run("load")[0] == 0
    config = ("--config", "config.env")
    status, out, _ = here.run("status", *config)
    assert (status, "2 jobs need a person" in out) == (1, True)
    assert here.run("jobs", "acknowledge")[0] == 2
    assert [job["id"] for job in here.json("jobs", "acknowledge", "1")["jobs"]] == [1]
    assert here.run("jobs", "acknowledge", "1")[0] == 1
    assert [job["id"] for job in here.json("jobs", "list", "--state", "refused")["jobs"]] == [2]
    assert here.json("status", *config, status=1)["feeds"][0]["statistics"]["refused"] == 1
    status, out, _ = here.run("jobs", "acknowledge", "--all")
    assert (status, out) == (0, "job 2: acknowledged\n")
    assert here.run("status", *config)[0] == 0
