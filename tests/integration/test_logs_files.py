"""The five log files and standard error, as processes write them and others rotate them."""

from __future__ import annotations

import getpass
import grp
import gzip
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_events import INCOMING, KEY
from support_fork import Forked, mailferry
from support_mail import Maildir, mail, workbook
from support_service import Table, events, feed_row, head, hosts, mailbox, toml
from support_wait import PATIENCE, wait_for

from mailferry import logs
from mailferry.testing.population import Population, Traits
from mailferry.testing.provider import serve

if TYPE_CHECKING:
    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings

ROOT = Path(__file__).parents[2]
ALL = {logs.MAIN, logs.EMAIL, logs.DATABASE, logs.FILES, logs.ERRORS}
#: Logs numbered lines from 1 on until a file appears, and says how many.
WRITER = """
import pathlib, sys
from mailferry import logs
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
logs.set_up(folder=folder)
number = 0
while not (folder / "enough").exists():
    number += 1
    logs.of("mailferry.mailbox.intake", logs.EMAIL).error("%s %d %s", name, number, "x" * (number % 300))
print(number)
"""
#: The disk ends after 4,000 bytes a file, and later does not.
FULL = """
import pathlib, resource, sys
from mailferry import logs
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
logs.set_up(folder=pathlib.Path(sys.argv[1]))
log = logs.of("mailferry.mailbox.intake", logs.EMAIL)
for number in range(60):
    log.error("line %d", number)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.error("the first again")
log.info("the second again")
"""
TROUBLE = """
import threading
from mailferry import logs
logs.set_up(style={style!r})
log = logs.of("mailferry.x")
log.info("all is well")
log.warning("take care")
thread = threading.Thread(target=lambda: 1 / 0, name="thread 1")
thread.start()
thread.join()
raise ValueError("end" + chr(10) + "of it")
"""


def script(code: str, *arguments: object, **how: Any) -> subprocess.Popen[str]:
    """A process that runs it."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **how}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **given)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def messages(path: Path) -> list[str]:
    return [line["message"] for line in lines(path)]


def test_each_line_stands_in_the_files_of_its_topics(tmp_path: Path, fresh_logs: None) -> None:
    folder = tmp_path / "not" / "there yet"
    logs.set_up(folder=folder)
    topics = {
        "mailbox.intake": (logs.EMAIL,),
        "mailbox.load": (logs.FILES,),
        "mailbox.load.table": (logs.FILES, logs.DATABASE),
        "mailbox.loading": (),
        "events": (),
    }
    for name, some in topics.items():
        logs.of(f"mailferry.{name}", *some).info(name)
    logs.of("mailferry.service.service").about(logs.DATABASE).error("database away")
    logging.getLogger("psycopg.pool").warning("psycopg")
    assert messages(folder / logs.MAIN) == [
        *("mailbox.intake", "mailbox.load", "mailbox.load.table", "mailbox.loading", "events"),
        *("database away", "psycopg"),
    ]
    assert messages(folder / logs.EMAIL) == ["mailbox.intake"]
    assert messages(folder / logs.FILES) == ["mailbox.load", "mailbox.load.table"]
    assert messages(folder / logs.DATABASE) == ["mailbox.load.table", "database away", "psycopg"]
    assert messages(folder / logs.ERRORS) == ["database away"]
    assert {path.name: path.stat().st_mode & 0o027 for path in folder.iterdir()} == dict.fromkeys(ALL, 0)


def test_another_setting_up_goes_on_in_another_folder(tmp_path: Path, fresh_logs: None) -> None:
    log = logging.getLogger("mailferry")
    for number, folder in enumerate((tmp_path / "a", None, tmp_path / "b")):
        logs.set_up(folder=folder)
        log.info("%d", number)
    assert messages(tmp_path / "a" / logs.MAIN) == ["0"]
    assert messages(tmp_path / "b" / logs.MAIN) == ["2"]


def test_logrotate_under_load_loses_no_line_of_several_processes(tmp_path: Path) -> None:
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("logrotate is not installed: apt-get install logrotate")
    folder = tmp_path / "logs"
    folder.mkdir()
    rules = (ROOT / "deployment" / "trackandtrace.logrotate").read_text()
    owner = f"su {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"
    rules = rules.replace("/var/log/trackandtrace", str(folder)).replace(
        "su trackandtrace trackandtrace", owner
    )
    config = tmp_path / "rules"
    config.write_text(rules)
    config.chmod(0o644)
    names = ("one", "two", "three")
    said = tmp_path / "said"
    with said.open("ab") as errors:
        writers = {name: script(WRITER, folder, name, stderr=errors) for name in names}

    def all_wrote() -> bool:
        main = folder / logs.ERRORS
        text = main.read_text("utf-8") if main.exists() else ""
        return all(f'"message": "{name} ' in text for name in names)

    try:
        for _ in range(5):
            wait_for("lines of all in the new file", all_wrote)
            subprocess.run([program, "-s", tmp_path / "state", "-f", config], check=True, timeout=PATIENCE)
        wait_for("lines of all in the last file", all_wrote)
        (folder / "enough").touch()
        written = {name: int(writer.communicate(timeout=PATIENCE)[0]) for name, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.kill()
    assert all(" ERROR " in line and "mailferry" not in line for line in said.read_text("utf-8").splitlines())
    for file in (logs.MAIN, logs.EMAIL, logs.ERRORS):
        kept = list(folder.glob(f"{file}*"))
        assert len(kept) == 6
        found: dict[str, list[int]] = {name: [] for name in names}
        for path in kept:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for line in data.decode().splitlines():
                name, number, rest = json.loads(line)["message"].split(" ")
                assert len(rest) == int(number) % 300
                found[name].append(int(number))
        assert {name: sorted(numbers) for name, numbers in found.items()} == {
            name: list(range(1, count + 1)) for name, count in written.items()
        }


def test_a_full_disk_is_reported_once_and_then_how_many_lines_are_missing(tmp_path: Path) -> None:
    process = script(FULL, tmp_path)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    # On standard error is everything, and a word about the files that is in none of them.
    assert error.count(": lines will be missing") == 1
    assert error.count(" ERROR line ") == 60
    text = (tmp_path / logs.ERRORS).read_text("utf-8").splitlines()
    whole = [line for line in text if line.endswith("}")]
    assert len(text) == len(whole) + 1  # the line that was cut off
    found = [json.loads(line)["message"] for line in whole]
    written = sum(message.startswith("line ") for message in found)
    assert found[:written] == [f"line {number}" for number in range(written)]
    assert found[written:] == ["the first again"]
    last = messages_of_whole(tmp_path / logs.MAIN)[-5:]
    assert "the second again" in last
    missing = {path.name: 60 - count_of_lines(path) for path in tmp_path.iterdir()}
    again = [message for message in last if "is written again" in message]
    assert [
        f"{tmp_path / logs.MAIN} is written again; {missing[logs.MAIN]} lines are missing in it"
    ] == again[:1]


def messages_of_whole(path: Path) -> list[str]:
    text = path.read_text("utf-8").splitlines()
    return [json.loads(line)["message"] for line in text if line.endswith("}")]


def count_of_lines(path: Path) -> int:
    return sum(message.startswith("line ") for message in messages_of_whole(path))


def test_a_folder_that_cannot_be_is_reported_once_and_the_work_goes_on(
    tmp_path: Path, fresh_logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    logs.set_up(folder=tmp_path / "file" / "logs")
    for number in range(3):
        logs.of("mailferry.mailbox.intake", logs.EMAIL).error("line %d", number)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "line " in line and "ERROR line" in line] == [
        line for line in said if "cannot write" not in line
    ]
    assert len([line for line in said if "cannot write" in line]) == 1


def test_a_link_in_the_folder_leads_nowhere(
    tmp_path: Path, fresh_logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / logs.MAIN).symlink_to(other)
    logs.set_up(folder=tmp_path / "logs")
    logging.getLogger("mailferry").error("a line")
    assert other.read_text() == "precious"
    assert messages(tmp_path / "logs" / logs.ERRORS) == ["a line"]
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["auto", "text"])
def test_the_journal_gets_each_line_with_its_priority(tmp_path: Path, style: str) -> None:
    stream = tmp_path / "stream"
    with stream.open("wb") as opened:
        status = os.fstat(opened.fileno())
        variables = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        process = script(TROUBLE.format(style=style), stdout=subprocess.DEVNULL, stderr=opened, env=variables)
        assert process.wait(timeout=PATIENCE) == 1
    text = stream.read_text("utf-8").splitlines()
    if style == "auto":
        assert [line[:3] for line in text] == ["<6>", "<4>", "<3>", "<2>"]
        found = [json.loads(line[3:]) for line in text]
        assert [line["level"] for line in found] == ["INFO", "WARNING", "ERROR", "CRITICAL"]
        assert "ZeroDivisionError" in found[2]["traceback"]
        assert found[3]["traceback"].endswith("ValueError: end\nof it")
        return
    assert {line[:3] for line in text} == {"<6>", "<4>", "<3>", "<2>"}
    assert text[-2:] == ["<2>    ValueError: end", "<2>    of it"]


def test_a_fault_of_the_configuration_is_an_error_in_the_journal(tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    with stream.open("wb") as opened:
        status = os.fstat(opened.fileno())
        variables = {"PATH": os.environ["PATH"], "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        done = subprocess.run(
            [sys.executable, "-m", "mailferry", "start", "--config", tmp_path / "mailferry.toml"],
            stderr=opened,
            env=variables,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 2
    assert stream.read_text().startswith(f"<3>{tmp_path}/mailferry.toml: cannot be read")


def test_load_tells_its_job_in_the_files(tmp_path: Path, database_settings: DatabaseSettings) -> None:
    box = Maildir(tmp_path / "Maildir")
    secret = "pass-of-the-database"
    (tmp_path / "config.env").write_text(
        f"EMAIL_MAILDIR=Maildir\nDB_CREATE_TABLE=true\nAPP_BASE_DIR=app\nAPP_NAME=parcels\nDB_HOST={database_settings.host}\n"
        f"DB_NAME={database_settings.name}\nDB_USERNAME={database_settings.user}\nDB_PASSWORD={secret}\nLOG_DIR=logs\n"
    )
    box.deliver(mail("Track and Trace", ("a\u202e.xlsx", workbook(("HAWB", "Status"), ("1", "a")))))
    box.deliver(mail("Track and Trace \x1b[2K", ("b.xls", b"a;b")))
    done = run(tmp_path, "load")
    assert done.returncode == 1, done.stderr
    folder = tmp_path / "logs"
    whole = [line for path in folder.iterdir() for line in path.read_text("utf-8").splitlines()]
    assert all(line.isprintable() and secret not in line for line in whole)
    main = lines(folder / logs.MAIN)
    assert len({line["run"] for line in main}) == 1
    assert {line["feed"] for line in main} == {"parcels"}
    assert {line["job"] for line in lines(folder / logs.FILES)} >= {1, 2}
    assert any("2 messages found" in message for message in messages(folder / logs.EMAIL))
    (loaded,) = [line for line in lines(folder / logs.DATABASE) if "loaded into" in line["message"]]
    assert loaded["job"] == 1
    assert loaded in lines(folder / logs.FILES)
    (rejected,) = lines(folder / logs.ERRORS)
    assert rejected["feed"] == "parcels"
    assert rejected["message"].startswith("job 2: b.xls rejected: ")
    assert f"run={main[0]['run']} feed=parcels job=1" in done.stderr


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **variables}
    return Forked(mailferry, *arguments, folder=folder, variables=own).finished(PATIENCE)


def test_collect_takes_its_settings_from_the_environment_and_stumbles_over_none(tmp_path: Path) -> None:
    start = int(time.time()) - 30
    with serve(Population({INCOMING: Traits(rate=1, start=start, detail_bytes=10)})) as provider:
        config = tmp_path / "uzmanposta.ini"
        config.write_text(
            f"[DEFAULT]\napi_key = {KEY}\nurl = {provider.list_url('mail')}\nstart_time = {start}\n"
            f"[MailLogger:in]\ndomain = {INCOMING.domain}\ntype = {INCOMING.type}\n"
        )
        config.chmod(0o600)
        done = run(tmp_path, "collect", LOG_DIR="logs", LOG_FORMAT="json", LOG_LEVEL="loud")
    assert done.returncode == 0, done.stderr
    warning, *rest = done.stderr.splitlines()
    assert warning.startswith("warning: environment: LOG_LEVEL=loud: ")
    assert [json.loads(line) for line in rest] == lines(tmp_path / "logs" / logs.MAIN)
    assert {line["feed"] for line in lines(tmp_path / "logs" / logs.MAIN)} == {"in"}


def test_the_service_puts_run_feed_task_and_job_on_its_lines(
    tmp_path: Path, account: Account, new_database: Any
) -> None:
    settings = new_database(template=False)
    table = Table(settings, "alpha")
    start = int(time.time()) - 30
    with (
        serve(Population({INCOMING: Traits(rate=1, start=start, detail_bytes=10)})) as provider,
        hosts(tmp_path, settings, "a") as (host,),
    ):
        tables = head(host, settings, log_dir="logs", log_level="INFO")
        tables |= mailbox("alpha", account, target_table=table.name, subject_filter=table.subject)
        tables |= events("in", INCOMING, provider.list_url("mail"), start_time=start)
        configure(host.config, tables)
        account.deliver(table.message())
        host.start(LOG_FORMAT="json")
        wait_for(lambda: f"the load\n{host.log()}", table.done)
        wait_for("runs of the feed", lambda: (feed_row(settings, "in").get("run") or 0) > 1)
        tables["service"]["log_dir"] = "other"
        configure(host.config, tables)
        host.signal(signal.SIGHUP)
        other = host.folder / "other" / logs.MAIN
        wait_for("the new configuration", lambda: other.exists() and "ready: " in other.read_text("utf-8"))
        assert host.end() == 0
        main = lines(host.folder / "logs" / logs.MAIN)
        # Threads log side by side: each output has the lines of one in order, but not those of two.
        shown = [json.loads(line) for line in host.log().splitlines()]
        assert sorted(shown, key=json.dumps) == sorted(main + lines(other), key=json.dumps)
    assert len({line["run"] for line in main + lines(other)}) == 1
    collected = [line for line in main if line["logger"] == "mailferry.events"]
    assert collected
    assert {(line["feed"], len(line["task"])) for line in collected} == {("in", 8)}
    email = lines(host.folder / "logs" / logs.EMAIL)
    assert {line["feed"] for line in email} == {"alpha"}
    (loaded,) = [line for line in main if "loaded into" in line["message"]]
    assert (loaded["feed"], loaded["job"], loaded["table"], len(loaded["task"])) == ("alpha", 1, "alpha", 8)


def configure(path: Path, tables: dict[str, dict[str, object]]) -> None:
    path.write_text(toml(tables))
    path.chmod(0o600)
