"""The service's configuration: several files as one, one database, one space of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from mailferry.cli import app
from mailferry.config import service
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from mailferry.config.service import Configuration

KEY = "0123456789abcdef"
INI = f"[MailLogger:example]\napi_key = {KEY}\ndomain = example.com\n"
MAIL = "EMAIL_USERNAME=me@example.com\nEMAIL_PASSWORD=app-secret\n"
OWN = "DB_HOST=db.example.com\nDB_NAME=x\nDB_USERNAME=me\n"
TOML_MAILBOX = (
    '[mailbox.{}.imap]\nhost = "imap.gmail.com"\nusername = "me@example.com"\npassword = "app-secret"\n'
)


def write(folder: Path, files: dict[str, str]) -> list[Path]:
    paths = [folder / name.replace("_", ".") for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text, "utf-8")
        path.chmod(0o600)
    return paths


def read(folder: Path, environ: dict[str, str] | None = None, **files: str) -> Configuration:
    return service.read(write(folder, files), environ or {})


def faults(folder: Path, environ: dict[str, str] | None = None, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, environ, **files)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


def test_the_usual_pair_of_older_files_makes_one_configuration(tmp_path: Path) -> None:
    text = f"{MAIL}{OWN}APP_BASE_DIR=data\nMAX_CONCURRENT_JOBS=3\nLOG_LEVEL=debug\nAPP_NAME=tracking\n"
    found = read(tmp_path, uzmanposta_ini=INI, config_env=text)
    assert ([feed.section for feed in found.events], [feed.name for feed in found.mailboxes]) == (
        ["example"],
        ["tracking"],
    )
    assert (found.service.max_concurrent_jobs, found.service.log_level) == (3, "DEBUG")
    assert found.service.data_dir == found.database.data_dir == tmp_path / "data"
    assert found.database.host == "db.example.com"
    assert found.mailboxes[0].database == found.database
    assert found.paths == (tmp_path / "uzmanposta.ini", tmp_path / "config.env")


def test_an_ini_file_alone_takes_its_own_database_or_the_environments_or_the_private_one(
    tmp_path: Path,
) -> None:
    assert read(tmp_path, uzmanposta_ini=INI).database.data_dir == tmp_path
    environ = {"DB_NAME": "x", "DB_USERNAME": "me"}
    assert read(tmp_path, environ, uzmanposta_ini=INI).database.host == "localhost"
    url = "[DEFAULT]\ndatabase_url = postgresql://me:s3cret-1@db.example.com/x\n"
    found = read(tmp_path, environ, uzmanposta_ini=url + INI).database.url
    assert found is not None
    assert found.get_secret_value().endswith("@db.example.com/x")
    (fault,) = faults(tmp_path, {"DB_NAME": "x"}, uzmanposta_ini=INI)
    assert fault.startswith("environment (no file was read): DB_USERNAME is missing")


def test_a_file_of_variables_without_any_mailbox_only_adds_its_settings(tmp_path: Path) -> None:
    found = read(tmp_path, uzmanposta_ini=INI, config_env=OWN + "MAX_CONCURRENT_FEEDS=7\n")
    assert (found.mailboxes, found.database.name, found.service.max_concurrent_feeds) == ((), "x", 7)
    assert found.service.data_dir == tmp_path
    (fault,) = faults(tmp_path, uzmanposta_ini=INI, config_env="FILE_MAX_REJECTED=2\n")
    assert fault.startswith("config.env, line 1: FILE_MAX_REJECTED=2")


def test_a_mailferry_toml_does_not_listen_to_the_older_files_variables(tmp_path: Path) -> None:
    environ = {"DB_NAME": "other", "EMAIL_USERNAME": "other", "MAILFERRY_HOST": "mail7"}
    found = read(tmp_path, environ, mailferry_toml=TOML_MAILBOX.format("a"))
    assert found.database.private
    assert found.mailboxes[0].mailbox.username == "me@example.com"
    assert found.service.host == "mail7"
    url = {"MAILFERRY_DATABASE_URL": "postgresql://me:s3cret-2@db.example.com/x"}
    assert not read(tmp_path, url, mailferry_toml=TOML_MAILBOX.format("a")).database.private


def test_one_database_may_be_named_twice_but_not_two(tmp_path: Path) -> None:
    toml = '[database]\nurl = "postgresql://me:s3cret-3@db.example.com:5432/x"\n'
    found = read(tmp_path, mailferry_toml=toml, config_env=MAIL + OWN)
    assert found.mailboxes[0].database.url is not None
    (fault,) = faults(tmp_path, mailferry_toml=toml.replace("/x", "/y"), config_env=MAIL + OWN)
    assert fault.startswith("config.env: names another database than mailferry.toml: a service has one")


def test_what_two_files_say_of_the_service_must_agree(tmp_path: Path) -> None:
    toml = "[service]\nmax_concurrent_jobs = 2\n"
    assert (
        read(
            tmp_path, mailferry_toml=toml, config_env=MAIL + "MAX_CONCURRENT_JOBS=2\n"
        ).service.max_concurrent_jobs
        == 2
    )
    (fault,) = faults(tmp_path, mailferry_toml=toml, config_env=MAIL + "MAX_CONCURRENT_JOBS=3\n")
    assert fault == "config.env: max_concurrent_jobs is 3 here, but 2 in mailferry.toml; keep one"


def test_two_feeds_of_one_name_are_refused_whatever_their_kind(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, uzmanposta_ini=INI, mailferry_toml=TOML_MAILBOX.format("example"))
    assert fault == (
        "mailferry.toml: [mailbox.example]: [MailLogger:example] of uzmanposta.ini is called 'example' as well; "
        "give one of the two feeds another name"
    )


def test_two_feeds_of_one_file_are_refused_across_files(tmp_path: Path) -> None:
    toml = f'[events.other]\napi_key = "{KEY}"\ndomain = "example.com"\nlog_directory = "output"\n'
    first, *_ = faults(tmp_path, uzmanposta_ini=INI, mailferry_toml=toml)
    assert first.startswith(
        "mailferry.toml: [events.other] log_file_name_format: writes the same file as [MailLogger:example]"
    )


def test_two_feeds_of_one_mailbox_folder_and_table_or_of_one_folder_on_disk_are_refused(
    tmp_path: Path,
) -> None:
    two = TOML_MAILBOX.format("a") + TOML_MAILBOX.format("b")
    (fault,) = faults(tmp_path, mailferry_toml=two)
    assert "[mailbox.b]: loads folder INBOX of me@example.com@imap.gmail.com into tracking_data" in fault
    assert len(read(tmp_path, mailferry_toml=two + '[mailbox.b]\nfolder = "Other"\n').mailboxes) == 2
    one_folder = two + '[mailbox.b]\nfolder = "Other"\n[defaults.mailbox]\nbase_dir = "data"\n'
    (fault,) = faults(tmp_path, mailferry_toml=one_folder)
    assert "[mailbox.b]: base_dir: " in fault


def test_the_faults_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        uzmanposta_ini=INI + "schedule = 0 0 31 2 *\nlook_back = x\n",
        config_env=MAIL + "APP_SCHEDULE=often\n",
        mailferry_toml="[service]\nlog_level = 5\n",
    )
    assert len(found) == 4
    reported = "\n".join(found)
    for part in (
        "uzmanposta.ini: [MailLogger:example] schedule: '0 0 31 2 *' never fires",
        "uzmanposta.ini: [MailLogger:example] look_back",
        "config.env, line 3: APP_SCHEDULE: 'often' is no schedule",
        "mailferry.toml: [service] log_level = 5",
    ):
        assert part in reported


def test_a_feed_runs_by_its_schedule_and_a_mailbox_without_one_by_the_hours(tmp_path: Path) -> None:
    found = read(tmp_path, uzmanposta_ini=INI, config_env=MAIL + "SCHEDULE_INTERVAL_HOURS=0.5\n")
    assert found.events[0].due.text == "5m"
    interval = found.mailboxes[0].due.interval
    assert interval is not None
    assert interval.total_seconds() == 1800
    chosen = read(tmp_path, config_env=MAIL + "APP_SCHEDULE='*/5 * * * *'\n").mailboxes[0]
    assert chosen.due.text == "*/5 * * * *"


def test_without_files_the_nearest_place_that_has_any_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    system = (Path("etc-mailferry.toml"),)
    places = (*service.PLACES[:2], system)
    assert service.default_paths(places) == ()
    write(tmp_path, {"etc-mailferry_toml": ""})
    assert service.default_paths(places) == system
    write(tmp_path, {"config_env": MAIL, "uzmanposta_ini": INI})
    assert service.default_paths(places) == (Path("uzmanposta.ini"), Path("config.env"))
    assert len(service.read((), {}).paths) == 2
    write(tmp_path, {"mailferry_toml": INI})
    assert service.default_paths(places) == (Path("mailferry.toml"),)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["config", *arguments])
    if isinstance(result.exception, ConfigError):
        return 2, result.stdout, "\n".join(result.exception.faults)
    return result.exit_code, result.stdout, result.stderr


def test_the_commands_check_show_convert_and_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CREDENTIALS_DIRECTORY", "MAILFERRY_HOST"):
        monkeypatch.delenv(name, raising=False)
    ini, env = (str(path) for path in write(tmp_path, {"uzmanposta_ini": INI, "config_env": MAIL}))
    both = ("--config", ini, "--config", env)
    assert run("check", *both) == (0, "ok: 1 event feed, 1 mailbox feed\n", "")
    status, shown, _ = run("show", *both)
    assert status == 0
    assert shown.startswith(f"# From {ini}, {env}\n\n[service]\n")
    assert 'api_key = "********"' in shown
    assert "look_back = 300" in shown
    plain = json.loads(run("show", *both, "--json")[1])
    assert (plain["version"], plain["events"][0]["api_key"], plain["mailboxes"][0]["mailbox"]["ca_file"]) == (
        1,
        "********",
        None,
    )
    assert "app-secret" not in run("convert", *both)[1]
    assert 'password = "app-secret"' in run("convert", *both, "--with-secrets")[1]
    assert json.loads(run("schema")[1])["title"] == "mailferry.toml"


def test_check_tells_every_fault_and_ends_with_2(tmp_path: Path) -> None:
    (path,) = write(tmp_path, {"mailferry_toml": "[events.a]\n[servce]\n"})
    status, shown, reported = run("check", "--config", str(path))
    assert (status, shown, reported.count("\n")) == (2, "", 1)
    status, shown, _ = run("check", "--config", str(path), "--json")
    assert (status, len(json.loads(shown)["faults"]), json.loads(shown)["ok"]) == (2, 2, False)


def test_a_table_that_two_feeds_write_differently_is_warned_of(tmp_path: Path) -> None:
    feeds = "".join(
        f'[mailbox.{name}]\nmaildir = "{name}"\ntarget_table = "{table}"\n'
        for name, table in (("a", "t"), ("b", "public.T"), ("c", "t"), ("d", "other.t"))
    )
    (warning,) = read(tmp_path, mailferry_toml=feeds).warnings
    assert "[mailbox.b]: target_table: public.T may be the table that [mailbox.a]" in warning
