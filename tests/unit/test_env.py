"""`config.env` and the environment: names and defaults of the older service, and every fault reported at once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailferry.config import env, service
from mailferry.config.env import UNNEEDED
from mailferry.config.mailbox import Auth, MailboxKind, MarkBy
from mailferry.errors import ConfigError
from mailferry.secrets import mask

if TYPE_CHECKING:
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.service import Configuration

MAIL = "EMAIL_USERNAME=processing@example.com\nEMAIL_PASSWORD=app-secret\n"


def read(folder: Path, text: str, **environ: str) -> Configuration:
    path = folder / "config.env"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return service.read([path], environ)


def only(found: Configuration) -> MailboxFeed:
    (feed,) = found.mailboxes
    return feed


def alone(environ: dict[str, str]) -> MailboxFeed:
    """The feed of variables of the environment, without any file."""
    return only(service.read([None], environ))


def feed(folder: Path, text: str = "", **environ: str) -> MailboxFeed:
    return only(read(folder, MAIL + text, **environ))


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    found = feed(tmp_path, "DB_NAME=trackandtrace\nDB_USERNAME=trackandtrace\n")
    mail, data = found.mailbox, found.database
    assert (mail.host, mail.port, mail.ssl, mail.folder) == ("imap.gmail.com", 993, True, "INBOX")
    assert (mail.subject_filter, mail.mark, mail.auth) == ("Track and Trace", MarkBy.SEEN, Auth.PASSWORD)
    assert (data.host, data.port, data.name, data.user) == (
        "localhost",
        5432,
        "trackandtrace",
        "trackandtrace",
    )
    assert data.temp_schema == "temp_processing"
    assert (found.target_table, found.unique_key) == ("tracking_data", "hawb")
    assert found.base_dir == Path("/var/lib/trackandtrace")
    assert (found.schedule_hours, found.retention_days, found.max_rejected, found.sheet) == (1, 30, 0.5, "")
    settings = read(tmp_path, MAIL).service
    assert (settings.max_concurrent_jobs, settings.log_level) == (1, "INFO")


def test_the_contracts_example_is_understood(tmp_path: Path) -> None:
    text = (
        "# Email Configuration\nEMAIL_HOST=imap.gmail.com\nEMAIL_PORT=993\nEMAIL_USERNAME=processing@example.com\n"
        "EMAIL_PASSWORD=app-secret\nEMAIL_SUBJECT_FILTER=Track and Trace Data\n\nDB_HOST=localhost\nDB_PORT=5432\n"
        "DB_NAME=trackandtrace\nDB_USERNAME=trackandtrace\nDB_PASSWORD=secure-password\nDB_UNIQUE_KEY=hawb\n\n"
        "SCHEDULE_INTERVAL_HOURS=1\nFILE_RETENTION_DAYS=30\nLOG_LEVEL=INFO\n"
    )
    found = only(read(tmp_path, text))
    assert found.mailbox.subject_filter == "Track and Trace Data"
    assert found.database.password.get_secret_value() == "secure-password"


def test_without_any_database_the_private_one_is_meant(tmp_path: Path) -> None:
    found = feed(tmp_path, "DB_TARGET_TABLE=t\nAPP_BASE_DIR=data\n")
    assert found.database.private
    assert found.database.data_dir == tmp_path / "data"


def test_a_url_stands_alone(tmp_path: Path) -> None:
    found = feed(tmp_path, "DB_URL=postgresql://me:s%40cret1@db.example.com/x\n")
    assert not found.database.private
    assert mask("s@cret1 and s%40cret1") == "**** and ****"
    (fault,) = faults(tmp_path, MAIL + "DB_URL=postgresql://db.example.com/x\nDB_NAME=y\n")
    assert "line 4: DB_NAME" in fault


def test_the_environment_wins_over_the_file_and_its_other_variables_are_no_concern(tmp_path: Path) -> None:
    found = feed(tmp_path, "DB_TARGET_TABLE=a\n", DB_TARGET_TABLE="b", DB_UNIQUE_KEYS="x", EMAIL_FODLER="y")
    assert found.target_table == "b"
    given = {"EMAIL_USERNAME": "me@example.com", "EMAIL_PASSWORD": "app-secret"}
    assert alone(given).mailbox.username == "me@example.com"


def test_settings_that_older_services_were_tuned_by_are_taken_or_warned_of(tmp_path: Path) -> None:
    assert feed(tmp_path, "DB_POOL_SIZE=10\n").database.pool_max == 10
    (fault,) = faults(tmp_path, MAIL + "DB_POOL_SIZE=2\n")
    assert "line 3: DB_POOL_SIZE=2: must be greater than or equal to 3" in fault
    warned = read(tmp_path, MAIL + "BATCH_SIZE=1000\nDB_BATCH_SIZE=500\nCHUNK_SIZE=x\n").warnings
    assert [warning.partition(", ")[2].split()[2] for warning in warned] == [*UNNEEDED][:3]
    assert warned[1].endswith("DB_BATCH_SIZE is not needed any more: " + UNNEEDED["DB_BATCH_SIZE"])


@pytest.mark.parametrize(
    "name", ["APP_NAME", "APP_HOST", "MAILFERRY_HOST", "DB_TARGET_TABLE", "EMAIL_FOLDER"]
)
def test_a_name_that_no_database_or_server_takes_is_a_fault(tmp_path: Path, name: str) -> None:
    assert any(
        f"{name}: holds a control character" in fault for fault in faults(tmp_path, MAIL, **{name: "a\0b"})
    )


@pytest.mark.parametrize("name", ["APP_BASE_DIR", "APP_HOST", "EMAIL_SUBJECT_FILTER", "EMAIL_PASSWORD_FILE"])
def test_bytes_of_the_environment_that_are_not_utf_8_are_a_fault(tmp_path: Path, name: str) -> None:
    (fault,) = faults(tmp_path, MAIL, **{name: os.fsdecode(b"\xff")})
    assert re.match(rf"(environment: )?{name}.*(UTF-8|unicode)", fault)


def test_the_port_follows_the_kind_of_encryption(tmp_path: Path) -> None:
    assert feed(tmp_path, "EMAIL_USE_SSL=false").mailbox.port == 143
    assert feed(tmp_path, "EMAIL_USE_SSL=false\nEMAIL_PORT=1143").mailbox.port == 1143


def test_a_maildir_needs_no_account(tmp_path: Path) -> None:
    found = only(read(tmp_path, "EMAIL_MAILDIR=mail\nEMAIL_FOLDER=Reports\n"))
    assert (found.mailbox.kind, found.mailbox.path) == (MailboxKind.MAILDIR, tmp_path / "mail")
    assert found.name == f"{tmp_path}/mail/Reports to tracking_data"


def test_an_empty_subject_filter_means_all_and_other_empty_values_the_default(tmp_path: Path) -> None:
    found = feed(tmp_path, "EMAIL_SUBJECT_FILTER=\nEMAIL_FOLDER=\nDB_HOST=\n")
    assert (found.mailbox.subject_filter, found.mailbox.folder) == ("", "INBOX")
    assert found.database.private


def test_values_are_taken_as_they_stand_quotes_and_dollars_among_them(tmp_path: Path) -> None:
    text = (
        "EMAIL_USERNAME=me@example.com\nexport EMAIL_PASSWORD='p a$$ ${HOME} #1'\nEMAIL_SENDER_FILTER=a # b\n"
    )
    found = only(read(tmp_path, text)).mailbox
    assert found.password is not None
    assert found.password.get_secret_value() == "p a$$ ${HOME} #1"
    assert found.sender_filter == "a"


def test_debug_sets_the_level_of_the_log(tmp_path: Path) -> None:
    assert read(tmp_path, f"{MAIL}DEBUG=true\nLOG_LEVEL=warn").service.log_level == "DEBUG"
    assert read(tmp_path, f"{MAIL}LOG_LEVEL=warn").service.log_level == "WARNING"


def test_oauth_takes_the_place_of_the_password(tmp_path: Path) -> None:
    text = (
        "EMAIL_USERNAME=me@example.com\nEMAIL_OAUTH_PROVIDER=Microsoft\nEMAIL_OAUTH_CLIENT_ID=id\n"
        "EMAIL_OAUTH_CLIENT_SECRET=very-secret\nEMAIL_OAUTH_TENANT=example.com\n"
    )
    found = only(read(tmp_path, text)).mailbox
    assert (found.auth, found.oauth and found.oauth.tenant) == (Auth.XOAUTH2, "example.com")


def test_all_faults_are_reported_at_once_each_with_its_place(tmp_path: Path) -> None:
    text = (
        "EMAIL_PASWORD=x\nEMAIL_PORT=99999\nEMAIL_USE_SSL=maybe\nDB_NAME=x\nFILE_MAX_REJECTED=2\n\n"
        "LOG_LEVEL=LOUD\nEMAIL_MARK=later\nSCHEDULE_INTERVAL_HOUR=2\n???\n"
    )
    found = faults(tmp_path, text, FILE_RETENTION_DAYS="-1")
    wanted = [
        r"config.env, line 1: EMAIL_PASWORD: unknown variable; did you mean EMAIL_PASSWORD\?",
        r"config.env, line 2: EMAIL_PORT=99999: .*65535",
        r"config.env, line 3: EMAIL_USE_SSL=maybe: must be true or false",
        r"config.env, line 5: FILE_MAX_REJECTED=2: .*1",
        r"config.env, line 7: LOG_LEVEL=LOUD: .*DEBUG",
        r"config.env, line 8: EMAIL_MARK=later: .*'seen'",
        r"config.env, line 9: SCHEDULE_INTERVAL_HOUR: .*SCHEDULE_INTERVAL_HOURS\?",
        r"config.env, line 10: cannot be understood",
        r"environment: FILE_RETENTION_DAYS=-1: .*0",
        r"config.env: EMAIL_USERNAME is missing",
        r"config.env: EMAIL_PASSWORD is missing",
        r"config.env: DB_USERNAME is missing",
    ]
    assert [pattern for pattern in wanted if not any(re.match(pattern, fault) for fault in found)] == []
    assert len(found) == len(wanted)


@pytest.mark.parametrize("value", ["your-app-password", "your_password", "changeme", "<password>"])
def test_the_examples_placeholders_count_as_missing(tmp_path: Path, value: str) -> None:
    (fault,) = faults(tmp_path, f"EMAIL_USERNAME=me@example.com\nEMAIL_PASSWORD={value}\n")
    assert fault == "config.env, line 2: EMAIL_PASSWORD: still the example's value; fill in your own"


def test_the_example_file_names_every_variable_and_shows_the_defaults(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.env.example").read_text("utf-8")
    assert not {name for name in env.NAMES if not re.search(rf"^#?{name}=", example, re.MULTILINE)}
    found = faults(tmp_path, example)
    assert {fault.split(": ")[1] for fault in found} == {"EMAIL_USERNAME", "EMAIL_PASSWORD", "DB_PASSWORD"}


def test_secrets_are_neither_in_faults_nor_in_what_is_printed_of_a_feed(tmp_path: Path) -> None:
    found = faults(
        tmp_path, "EMAIL_USERNAME=me\nEMAIL_PASSWORD='top\nsecret-1'\nDB_URL=mysql://u:hidden-2@h/x\n"
    )
    assert len(found) == 2
    assert "secret-1" not in str(found)
    assert "hidden-2" not in str(found)
    shown = repr(feed(tmp_path, "DB_URL=postgresql://u:hidden-3@h/x\n"))
    assert "app-secret" not in shown
    assert "hidden-3" not in shown
    assert mask("the password is app-secret") == "the password is ****"


def test_a_file_with_secrets_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_text(MAIL, "utf-8")
    path.chmod(0o644)
    (warning,) = service.read([path], {}).warnings
    assert "chmod 640" in warning


def test_a_missing_file_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        service.read([tmp_path / "none.env"], {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EMAIL_SUBJECT_FILTER", "Your shipment"),
        ("EMAIL_SENDER_FILTER", "your-partner.example.com"),
        ("EMAIL_ATTACHMENT_FILTER", "***"),
        ("EMAIL_PASSWORD", "  blanks around it "),
        ("EMAIL_PASSWORD", "your mother's maiden name"),
    ],
)
def test_honest_values_are_taken_as_they_are(variable: str, value: str) -> None:
    given = {"EMAIL_USERNAME": "u@example.com", "EMAIL_PASSWORD": "s3cret-s3cret", variable: value}
    mailbox = alone(given).mailbox
    password = mailbox.password.get_secret_value() if mailbox.password else ""
    assert value in {mailbox.subject_filter, mailbox.sender_filter, mailbox.name_filter, password}


@pytest.mark.parametrize(
    "value", ["your-app-password", "your_password", "changeme", "<password>", "xxxxxxxx"]
)
def test_a_password_of_an_example_is_none(value: str) -> None:
    with pytest.raises(ConfigError, match="EMAIL_PASSWORD: still the example's value"):
        alone({"EMAIL_USERNAME": "u@example.com", "EMAIL_PASSWORD": value})


def test_a_foreign_debug_in_the_environment_is_not_ours() -> None:
    given = {"EMAIL_USERNAME": "u@example.com", "EMAIL_PASSWORD": "s3cret-s3cret", "DEBUG": "app:*"}
    assert service.read([None], given).service.log_level == "INFO"


def test_a_path_with_a_variable_in_it_is_a_fault() -> None:
    given = {
        "EMAIL_USERNAME": "u@example.com",
        "EMAIL_PASSWORD": "s3cret-s3cret",
        "APP_BASE_DIR": "${HOME}/x",
    }
    with pytest.raises(ConfigError, match="variables are not expanded"):
        alone(given)


def test_messages_name_a_setting_as_its_user_wrote_it(tmp_path: Path) -> None:
    mailbox = feed(tmp_path).mailbox
    assert mailbox.spelled("ca_file") == "EMAIL_CA_FILE"
    assert mailbox.spelled("connect_timeout") == "connect_timeout"  # there is no variable of it
    (tmp_path / "mailferry.toml").write_text(f'[mailbox.x]\nmaildir = "{tmp_path}"\n', "utf-8")
    (other,) = service.read([tmp_path / "mailferry.toml"], {}).mailboxes
    assert (other.mailbox.spelled("ca_file"), other.mailbox.spelled("path")) == ("ca_file", "maildir")
