"""Who may open the status page is decided by the configuration, and a careless one is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mailferry.config import service, toml_write
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.page_settings import PageSettings

KEY = "0123456789abcdef"
FEED = f'[events.out]\napi_key = "{KEY}"\ndomain = "example.com"\n'
INI = f"[MailLogger:example]\napi_key = {KEY}\ndomain = example.com\n"
TOKEN = "f00dfeedf00dfeedf00d"


def page(
    folder: Path, text: str = "", environ: dict[str, str] | None = None, name: str = "mailferry.toml"
) -> PageSettings:
    path = folder / name
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return service.read([path], environ or {}).page


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        page(folder, FEED + text)
    (only,) = caught.value.faults
    return only


def test_without_a_word_about_it_the_page_is_for_this_machine_alone(tmp_path: Path) -> None:
    found = page(tmp_path, FEED)
    assert found.address == ("127.0.0.1", 8417)
    assert found.open_to_all


def test_an_empty_address_switches_the_page_off_and_no_option_is_needed(tmp_path: Path) -> None:
    assert page(tmp_path, f'{FEED}[page]\nlisten = ""\n').listen == ""
    assert page(tmp_path, INI, {"PAGE_LISTEN": ""}, name="uzmanposta.ini").listen == ""


@pytest.mark.parametrize("listen", ["0.0.0.0:8417", "[::]:8417", "192.0.2.7:80", "status.example.com:80"])
def test_an_address_that_other_machines_reach_needs_a_sign_in(tmp_path: Path, listen: str) -> None:
    said = fault(tmp_path, f'[page]\nlisten = "{listen}"\n')
    assert re.search(r"listen.*other machines can reach.*`?token`?", said)
    signed = page(tmp_path, f'{FEED}[page]\nlisten = "{listen}"\ntoken = "{TOKEN}"\n')
    assert not signed.open_to_all
    proxied = page(tmp_path, f'{FEED}[page]\nlisten = "{listen}"\nproxy_header = "Remote-User"\n')
    assert not proxied.open_to_all


@pytest.mark.parametrize(
    "listen",
    ["8417", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "http://127.0.0.1:1", "a@b:1", "::1:80", "x:1/y"],
)
def test_what_is_no_address_is_refused_with_the_right_form(tmp_path: Path, listen: str) -> None:
    assert "as 127.0.0.1:8417 or [::1]:8417" in fault(tmp_path, f'[page]\nlisten = "{listen}"\n')


def test_a_token_that_could_be_guessed_is_refused_and_not_shown(tmp_path: Path) -> None:
    said = fault(tmp_path, '[page]\ntoken = "hunter2"\n')
    assert "at least 16 characters" in said
    assert "hunter2" not in said


def test_a_proxy_that_is_no_address_is_refused(tmp_path: Path) -> None:
    assert "proxies" in fault(tmp_path, '[page]\nproxies = "10.0.0.1, proxy.example.com"\n')


def test_variables_set_the_page_beside_older_files(tmp_path: Path) -> None:
    found = page(tmp_path, INI, {"PAGE_LISTEN": "0.0.0.0:80", "PAGE_TOKEN": TOKEN}, name="uzmanposta.ini")
    assert found.address == ("0.0.0.0", 80)
    assert found.token
    assert found.token.get_secret_value() == TOKEN


def test_the_token_is_never_shown_with_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mailferry.toml"
    path.write_text(f'{FEED}[page]\ntoken = "{TOKEN}"\nhosts = "status.example.com"\n', "utf-8")
    path.chmod(0o600)
    found = service.read([path], {})
    shown = toml_write.as_toml(found, toml_write.Style.WHOLE) + str(toml_write.as_plain(found))
    assert TOKEN not in shown
    assert 'hosts = "status.example.com"' in shown
    again = tmp_path / "again.toml"
    again.write_text(toml_write.as_toml(found, toml_write.Style.WITH_SECRETS), "utf-8")
    again.chmod(0o600)
    assert service.read([again], {}).page == found.page
