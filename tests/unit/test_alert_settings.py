"""Alerts are set up by one address; what cannot work is refused, and no secret is shown."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from mailferry.config import service, toml_write
from mailferry.config.alert_settings import smtp_server
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.alert_settings import AlertSettings

FEED = '[events.out]\napi_key = "0123456789abcdef"\ndomain = "example.com"\n'
INI = "[MailLogger:example]\napi_key = 0123456789abcdef\ndomain = example.com\n"
SMTP = "smtp://user:s3cret-s3cret@mail.example.com:2525"


def alerts(
    folder: Path, text: str, environ: dict[str, str] | None = None, name: str = "mailferry.toml"
) -> AlertSettings:
    path = folder / name
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return service.read([path], environ or {}).alerts


def test_without_a_word_nothing_is_sent(tmp_path: Path) -> None:
    assert not alerts(tmp_path, FEED).any


def test_an_address_is_enough_in_every_format(tmp_path: Path) -> None:
    of_toml = alerts(tmp_path, f'{FEED}[alerts]\nmail_to = "a@example.com, b@example.com"\n')
    of_ini = alerts(tmp_path, INI, {"ALERT_MAIL_TO": "a@example.com b@example.com"}, "uzmanposta.ini")
    of_env = alerts(
        tmp_path,
        "EMAIL_MAILDIR=m\nALERT_MAIL_TO=a@example.com;b@example.com\n",
        name="config.env",
    )
    for found in (of_toml, of_ini, of_env):
        assert found.any
        assert found.recipients == ["a@example.com", "b@example.com"]
        assert found.repeats == timedelta(hours=24)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mail_to", "admin"),
        ("mail_to", "a@example.com, @example.com"),
        ("mail_from", "a@example.com\\r\\nBcc: x@example.com"),
        ("smtp_url", "mail.example.com:25"),
        ("smtp_url", "http://mail.example.com"),
        ("webhook", "ftp://example.com/"),
        ("webhook", "https://"),
        ("ping_url", "hc-ping.com/uuid"),
        ("webhook_format", "discord"),
        ("repeat_after", "0 8 * * *"),
        ("repeat_after", "soon"),
    ],
)
def test_what_cannot_work_is_refused_and_named(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        alerts(tmp_path, f'{FEED}[alerts]\n{option} = "{value}"\n')
    (only,) = caught.value.faults
    assert option in only


def test_repeating_can_be_switched_off(tmp_path: Path) -> None:
    assert alerts(tmp_path, f'{FEED}[alerts]\nrepeat_after = "0"\n').repeats is None


@pytest.mark.parametrize(
    ("url", "port", "implicit"),
    [
        ("smtp://mail.example.com", 25, False),
        ("smtp://u:p@mail.example.com", 587, False),
        ("smtps://u:p@mail.example.com", 465, True),
        ("smtp://mail.example.com:2525", 2525, False),
    ],
)
def test_the_port_goes_by_how_mail_is_handed_over(url: str, port: int, *, implicit: bool) -> None:
    found = smtp_server(SecretStr(url))
    assert (found.host, found.port, found.implicit) == ("mail.example.com", port, implicit)


def test_a_password_is_written_with_percent_codes(tmp_path: Path) -> None:
    assert smtp_server(SecretStr("smtps://a%40b:p%2Fw@h")).password == "p/w"


def test_addresses_that_hold_secrets_are_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "mailferry.toml"
    hook, ping = "https://hooks.example.com/T0KEN-T0KEN", "https://hc.example.com/UU1D-UU1D"
    path.write_text(
        f'{FEED}[alerts]\nsmtp_url = "{SMTP}"\nwebhook = "{hook}"\nping_url = "{ping}"\n', "utf-8"
    )
    path.chmod(0o600)
    found = service.read([path], {})
    shown = (
        toml_write.as_toml(found, toml_write.Style.WHOLE)
        + str(toml_write.as_plain(found))
        + repr(found.alerts)
    )
    assert not [secret for secret in ("s3cret", "T0KEN", "UU1D") if secret in shown]
    again = tmp_path / "again.toml"
    again.write_text(toml_write.as_toml(found, toml_write.Style.WITH_SECRETS), "utf-8")
    again.chmod(0o600)
    assert service.read([again], {}).alerts == found.alerts


def test_a_fault_in_a_secret_does_not_show_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        alerts(tmp_path, f'{FEED}[alerts]\nsmtp_url = "imap://user:s3cret-s3cret@h"\n')
    assert "s3cret" not in str(caught.value)
