"""Secrets: from a credential, a file, the environment or the configuration file, in this order, and never shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailferry.config import secret, service, toml
from mailferry.config.build import build
from mailferry.errors import ConfigError
from mailferry.secrets import mask

if TYPE_CHECKING:
    from pathlib import Path

NAME = "MAILFERRY_EVENTS_A_B_API_KEY"


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_the_name_of_a_secret_is_made_of_where_it_stands() -> None:
    assert secret.name_of("events", "a-b", "api_key") == NAME
    assert secret.name_of("mailbox", "x@example.com", "oauth", "client_secret") == (
        "MAILFERRY_MAILBOX_X_EXAMPLE_COM_OAUTH_CLIENT_SECRET"
    )


def test_each_place_goes_before_the_next(tmp_path: Path) -> None:
    write(tmp_path / "credentials" / NAME, "from-credential\n")
    write(tmp_path / "named", "from-environments-file\n")
    write(tmp_path / "option", "from-options-file\r\n")
    places = {
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        f"{NAME}_FILE": "named",
        "option": "option",
        NAME: "from-environment",
    }
    found = []
    while places:
        environ = {name: value for name, value in places.items() if name != "option"}
        one = secret.find(NAME, environ, folder=tmp_path, file=places.get("option", ""))
        assert one is not None
        found.append(one.value)
        places.pop(next(iter(places)))
    assert found == ["from-credential", "from-environments-file", "from-options-file", "from-environment"]
    assert secret.find(NAME, {}, folder=tmp_path) is None
    assert (
        mask(f"so it is {found[0]}, {found[1]}, {found[2]}, {found[3]}") == "so it is ****, ****, ****, ****"
    )


@pytest.mark.parametrize(
    ("content", "value"),
    [("x y \n", "x y "), ("x\n\n", "x\n"), ("x", "x"), ("\ufeffschlüssel\n", "schlüssel"), ("x\r\n", "x")],
)
def test_of_a_file_only_the_last_line_end_is_dropped(tmp_path: Path, content: str, value: str) -> None:
    write(tmp_path / "file", content)
    found = secret.find("X", {}, folder=tmp_path, file="file")
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    ("content", "fault"),
    [("", "is empty"), ("\n", "is empty"), (b"\xff\xfe", "not UTF-8"), ("x" * 70_000, "larger")],
)
def test_a_file_that_holds_no_secret_is_a_fault_and_no_reason_to_look_further(
    tmp_path: Path, content: str | bytes, fault: str
) -> None:
    write(tmp_path / "file", content)
    with pytest.raises(ConfigError, match=fault):
        secret.find("X", {"X": "from-environment"}, folder=tmp_path, file="file")
    with pytest.raises(ConfigError, match="No such file"):
        secret.find("X", {"X_FILE": "none", "X": "from-environment"}, folder=tmp_path)


def test_a_file_that_every_user_can_read_is_warned_of(tmp_path: Path) -> None:
    write(tmp_path / "open", "top-secret", 0o644)
    found = secret.find("X", {}, folder=tmp_path, file="open")
    assert found is not None
    assert "chmod 640" in found.warning
    assert "top-secret" not in found.warning + found.place


def test_a_password_of_config_env_comes_from_all_these_places(tmp_path: Path) -> None:
    write(tmp_path / "credentials" / "EMAIL_PASSWORD", "from-credential\n")
    write(tmp_path / "named", "from-file\n")
    text = "EMAIL_USERNAME=me@example.com\nEMAIL_PASSWORD=from-config\n"
    path = write(tmp_path / "config.env", text)

    def password(**environ: str) -> str:
        found = service.read([path], environ).mailboxes[0].mailbox.password
        return found.get_secret_value() if found else ""

    assert password() == "from-config"
    assert password(EMAIL_PASSWORD="from-environment") == "from-environment"
    assert password(EMAIL_PASSWORD="from-environment", EMAIL_PASSWORD_FILE="named") == "from-file"
    credentials = str(tmp_path / "credentials")
    assert password(CREDENTIALS_DIRECTORY=credentials, EMAIL_PASSWORD_FILE="named") == "from-credential"
    write(path, text + "EMAIL_PASSWORD_FILE=named\n")
    assert password(EMAIL_PASSWORD="from-environment") == "from-file"


def test_a_missing_file_of_config_env_is_one_fault_that_names_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config.env", "EMAIL_USERNAME=me@example.com\nEMAIL_PASSWORD_FILE=none\nDB_URL_FILE=none\n"
    )
    with pytest.raises(ConfigError) as caught:
        service.read([path], {})
    faults = caught.value.faults
    assert [fault.split(": ")[0] for fault in faults] == [f"{path}, line 2", f"{path}, line 3"]
    assert all("No such file" in fault for fault in faults)


def test_a_feeds_own_secret_from_wherever_goes_before_the_one_that_all_share(tmp_path: Path) -> None:
    write(tmp_path / "own", "own-0123456789\n")
    path = write(
        tmp_path / "mailferry.toml",
        '[defaults.events]\napi_key = "shared-in-the-file"\n[events.a-b]\n[events.other]\napi_key_file = "own"\n',
    )

    def keys(**environ: str) -> list[str]:
        part = build(toml.read(path), environ)
        assert not part.faults
        return [feed.api_key.get_secret_value() for _, feed in part.events]

    assert keys() == ["shared-in-the-file", "own-0123456789"]
    assert keys(MAILFERRY_EVENTS_API_KEY="shared-outside") == ["shared-outside", "own-0123456789"]
    assert keys(**{NAME: "own-of-a-b", "MAILFERRY_EVENTS_API_KEY": "shared-outside"}) == [
        "own-of-a-b",
        "own-0123456789",
    ]
