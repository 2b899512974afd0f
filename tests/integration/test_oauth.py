"""Access tokens from a real token endpoint of the test's own, over TLS."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
from fixtures_dovecot import make_certificates

from mailferry.config.mailbox import OAuthSettings
from mailferry.errors import Retry, Stop
from mailferry.mailbox.source.imap import ImapMailbox
from mailferry.mailbox.source.oauth import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures_dovecot import Account


class Endpoint:
    """What the token endpoint was asked, and what it answers: (status, JSON) by request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.asked: list[dict[str, str]] = []
        #: Where answers with a status of 3xx lead.
        self.location = ""
        self.answer: Any = lambda _form: (
            200,
            {"access_token": f"access-{len(self.asked)}", "expires_in": 3600},
        )

    def settings(self, **changes: Any) -> OAuthSettings:
        values = {
            "provider": "generic",
            "client_id": "app",
            "client_secret": "client-secret",
            "token_endpoint": self.url,
            "ca_file": self.folder / "ca.pem",
        }
        return OAuthSettings(**{**values, **changes})

    def tokens(self, clock: Any = time.time, **changes: Any) -> Tokens:
        return Tokens(self.settings(**changes), clock=clock)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    made = Endpoint(tmp_path)
    make_certificates(tmp_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = dict(urllib.parse.parse_qsl(content))
            made.asked.append(form)
            status, answer = made.answer(form)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            if made.location:
                self.send_header("Location", made.location)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not trust the certificate hangs up; nothing to print."""

    with Server(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        made.url = f"https://localhost:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def test_client_credentials_give_a_token_that_is_kept_until_shortly_before_its_end(
    endpoint: Endpoint,
) -> None:
    now = [1000.0]
    tokens = endpoint.tokens(clock=lambda: now[0], scope="imap.all")
    assert [tokens.token(), tokens.token()] == ["access-1", "access-1"]
    now[0] += 3200
    assert tokens.token() == "access-1"
    now[0] += 200
    assert tokens.token() == "access-2"
    tokens.forget()
    assert tokens.token() == "access-3"
    assert endpoint.asked[0]["grant_type"] == "client_credentials"
    assert (endpoint.asked[0]["client_id"], endpoint.asked[0]["scope"]) == ("app", "imap.all")


@pytest.mark.parametrize(
    ("provider", "scope"),
    [
        ("generic", None),
        ("google", "https://mail.google.com/"),
        ("microsoft", "https://outlook.office365.com/IMAP.AccessAsUser.All offline_access"),
    ],
)
def test_a_refresh_token_gives_an_access_token(
    endpoint: Endpoint, tmp_path: Path, provider: str, scope: str | None
) -> None:
    tokens = endpoint.tokens(provider=provider, refresh_token="first", token_file=tmp_path / "token")
    assert tokens.token() == "access-1"
    (asked,) = endpoint.asked
    assert (asked["grant_type"], asked["refresh_token"], asked.get("scope")) == (
        "refresh_token",
        "first",
        scope,
    )
    assert not (tmp_path / "token").exists()


def _rotate(endpoint: Endpoint) -> None:
    """Every refresh token is good once."""
    good = ["first"]

    def answer(form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if form["refresh_token"] != good[-1]:
            return 400, {"error": "invalid_grant", "error_description": f"used: {form['refresh_token']}"}
        good.append(f"rotated-{len(good)}")
        return 200, {"access_token": f"access-{len(good)}", "expires_in": 3600, "refresh_token": good[-1]}

    endpoint.answer = answer


@pytest.mark.parametrize("provider", ["generic", "google"])
def test_a_rotated_refresh_token_is_saved_for_this_user_only_and_used_by_the_next_process(
    endpoint: Endpoint, tmp_path: Path, provider: str
) -> None:
    _rotate(endpoint)
    file = tmp_path / "secrets" / "token.json"
    for number in (1, 2, 3):
        endpoint.tokens(provider=provider, refresh_token="first", token_file=file).token()
        assert json.loads(file.read_text())["refresh_token"] == f"rotated-{number}"
        assert file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in file.parent.iterdir()} <= {"token.json", "token.json.lock"}


def test_a_newly_configured_refresh_token_wins_over_the_saved_one(endpoint: Endpoint, tmp_path: Path) -> None:
    _rotate(endpoint)
    file = tmp_path / "token.json"
    endpoint.tokens(refresh_token="first", token_file=file).token()
    with pytest.raises(Stop, match="sign in again") as caught:
        endpoint.tokens(refresh_token="fresh-secret", token_file=file).token()
    assert endpoint.asked[-1]["refresh_token"] == "fresh-secret"
    assert "fresh-secret" not in str(caught.value)


def test_a_rotated_token_that_cannot_be_saved_stops_and_is_saved_once_it_can(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    _rotate(endpoint)
    file = tmp_path / "token.json"
    file.mkdir()
    tokens = endpoint.tokens(refresh_token="first", token_file=file)
    with pytest.raises(Stop, match="cannot be read"):
        tokens.token()
    file.rmdir()
    # a folder in its place appears between reading and writing
    endpoint_answer = endpoint.answer

    def answer(form: dict[str, str]) -> Any:
        file.mkdir()
        return endpoint_answer(form)

    endpoint.answer = answer
    with pytest.raises(Stop, match="cannot be saved"):
        tokens.token()
    endpoint.answer = endpoint_answer
    file.rmdir()
    assert tokens.token() == "access-3"
    assert json.loads(file.read_text())["refresh_token"] == "rotated-2"


def test_two_at_once_renew_one_after_the_other(endpoint: Endpoint, tmp_path: Path) -> None:
    _rotate(endpoint)
    got: list[str] = []

    def renew() -> None:
        got.append(endpoint.tokens(refresh_token="first", token_file=tmp_path / "token.json").token())

    threads = [threading.Thread(target=renew) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["access-2", "access-3", "access-4", "access-5"]


@pytest.mark.parametrize(
    ("status", "answer", "error", "text"),
    [
        (400, {"error": "invalid_grant"}, Stop, "sign in again and configure the new refresh_token"),
        (401, {"error": "invalid_client"}, Stop, "check client_id, client_secret"),
        (
            400,
            {"error": "invalid_scope", "error_description": "for client-secret"},
            Stop,
            "check client_id, scope",
        ),
        (400, {"error": "temporarily_unavailable"}, Retry, "for now"),
        (429, {"error": "throttled"}, Retry, "no token from"),
        (503, b"<html>busy</html>", Retry, "no token from"),
        (200, b"<html>a portal</html>", Retry, "no token from"),
    ],
)
def test_a_refusal_says_what_to_do_and_shows_no_secret(
    endpoint: Endpoint, status: int, answer: Any, error: type[Exception], text: str
) -> None:
    endpoint.answer = lambda _form: (status, answer)
    with pytest.raises(error, match=text) as caught:
        endpoint.tokens().token()
    assert "client-secret" not in str(caught.value)


def test_google_says_the_same_of_a_refused_refresh_token(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _form: (400, {"error": "invalid_grant", "error_description": "revoked: first"})
    with pytest.raises(Stop, match=r"sign in again.*revoked: \*\*\*"):
        endpoint.tokens(provider="google", refresh_token="first").token()


@pytest.mark.parametrize("provider", ["generic", "google"])
def test_an_endpoint_that_is_unreachable_passes_and_one_without_trust_stops(
    endpoint: Endpoint, tmp_path: Path, provider: str
) -> None:
    settings = endpoint.settings(provider=provider, refresh_token="first", token_file=tmp_path / "token")
    with pytest.raises(Stop, match="is not trusted"):
        Tokens(settings.model_copy(update={"ca_file": None})).token()
    away = settings.model_copy(update={"token_endpoint": "https://localhost:1/token"})
    with pytest.raises(Retry, match="no token from"):
        Tokens(away).token()


@pytest.mark.parametrize("provider", ["generic", "google"])
@pytest.mark.parametrize("status", [302, 307, 308])
def test_no_redirect_carries_a_secret_on(
    endpoint: Endpoint, tmp_path: Path, provider: str, status: int
) -> None:
    endpoint.answer = lambda _form: (status, {})
    endpoint.location = endpoint.url.replace("/token", "/elsewhere")
    with pytest.raises(Stop, match=r"secrets are not sent there; correct the token endpoint") as caught:
        endpoint.tokens(provider=provider, refresh_token="first", token_file=tmp_path / "token").token()
    assert len(endpoint.asked) == 1
    assert "first" not in str(caught.value)


def test_without_the_extra_the_message_says_what_to_install(endpoint: Endpoint) -> None:
    program = (
        "import sys; sys.modules['msal'] = None\n"
        "from mailferry.config.mailbox import OAuthSettings\n"
        "from mailferry.errors import Stop\n"
        "from mailferry.mailbox.source.oauth import Tokens\n"
        "try: Tokens(OAuthSettings(client_id='c', client_secret='s', token_endpoint=sys.argv[1])).token()\n"
        "except Stop as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, endpoint.url], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'mailferry[oauth]'" in done.stdout


def test_a_mailbox_signs_in_with_the_token_of_the_endpoint(
    endpoint: Endpoint, account: Account, tmp_path: Path
) -> None:
    account.deliver(b"Subject: Track and Trace\r\n\r\nx\r\n")
    endpoint.answer = lambda _form: (200, {"access_token": f"granted-{os.getpid()}", "expires_in": 3600})
    account.dovecot.tokens[f"granted-{os.getpid()}"] = account.user
    settings = account.settings(auth="xoauth2", password=None, oauth=endpoint.settings())
    with contextlib.closing(ImapMailbox(settings)) as mailbox:
        assert len(mailbox.find()) == 1
