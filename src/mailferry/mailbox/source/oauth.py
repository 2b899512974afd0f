"""Access tokens for IMAP (RFC 6749): from a refresh token or client credentials, kept until shortly before they expire.

Microsoft and generic endpoints are asked through msal's protocol layer, Google through google-auth.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mailferry.config.mailbox import Provider
from mailferry.disk import make_folder, replace_file
from mailferry.errors import Retry, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mailferry.config.mailbox import OAuthSettings

_GOOGLE_ENDPOINT = "https://oauth2.googleapis.com/token"
_GOOGLE_SCOPE = "https://mail.google.com/"
_MICROSOFT_ENDPOINT = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
#: Delegated (a person's refresh token) and application permission.
_MICROSOFT_DELEGATED = "https://outlook.office365.com/IMAP.AccessAsUser.All offline_access"
_MICROSOFT_APPLICATION = "https://outlook.office365.com/.default"

#: Seconds before its end at which a token is no longer used, and the life of one that states none.
_MARGIN = 300
_DEFAULT_LIFE = 600
#: Seconds for one answer of the endpoint, and for another process that is renewing the same token.
_TIMEOUT = 30
#: OAuth errors that pass by themselves (RFC 6749 4.1.2.1, RFC 8628 3.5).
_PASSING = frozenset(["temporarily_unavailable", "server_error", "slow_down"])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    access_token: str
    #: Seconds.
    life: float
    #: The refresh token to use from now on, or "" for the one that was used.
    refresh_token: str


class Tokens:
    """The access tokens of one account; one instance is to be kept, as it holds what was fetched. Threads may share it."""

    def __init__(self, settings: OAuthSettings, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds."""
        self._settings = settings
        self._clock = clock
        self._token = ""
        self._good_until = 0.0
        #: A renewed refresh token that could not be saved yet: there is no other copy.
        self._unsaved = ""
        self._lock = threading.Lock()

    def token(self) -> str:
        """An access token that is good for at least some minutes. Stop says what to do; Retry for the network."""
        with self._lock:
            return self._good_token()

    def _good_token(self) -> str:
        if self._token and self._clock() < self._good_until:
            return self._token
        if self._settings.refresh_token is None:
            answer = self._ask(partial(_client_credentials, self._settings))
        else:
            with self._locked():
                answer = self._renewed()
        self._token = answer.access_token
        # a token that lives less than the margin is still used for half its life
        self._good_until = self._clock() + max(answer.life - _MARGIN, answer.life / 2)
        return self._token

    def forget(self) -> None:
        """The token was refused: get another one next time."""
        self._token = ""

    def _renewed(self) -> _Answer:
        """Use the refresh token; a rotated one is on disk before the access token is used for anything."""
        refresh_token = self._refresh_token()
        if self._unsaved:
            self._save(refresh_token)
        answer = self._ask(partial(_refresh, self._settings, refresh_token))
        if answer.refresh_token and answer.refresh_token != refresh_token:
            self._unsaved = answer.refresh_token
            self._save(answer.refresh_token)
        return answer

    def _ask(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return ask()
        except ModuleNotFoundError as error:
            raise Stop(
                f"OAuth2 sign-in needs the package {error.name}; install it with: pip install 'mailferry[oauth]'"
            ) from None

    # --- the token file

    def _refresh_token(self) -> str:
        """The newest: not yet saved, from the file if it came from the configured one, or the configured one."""
        assert self._settings.refresh_token is not None
        configured = self._settings.refresh_token.get_secret_value()
        if self._unsaved:
            return self._unsaved
        file = self._settings.token_file
        if file is None:
            return configured
        try:
            saved = json.loads(file.read_bytes())
            if saved["from"] == _digest(configured):
                return str(saved["refresh_token"])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Stop(
                f"the token file {file} cannot be read: {error.strerror}; give this user the right"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise Stop(
                f"the token file {file} is damaged; delete it and configure a new "
                f"{self._settings.spelled('refresh_token')}"
            ) from None
        return configured

    def _save(self, refresh_token: str) -> None:
        """Atomically, and readable by this user only."""
        file, settings = self._settings.token_file, self._settings
        if file is None:
            return
        assert settings.refresh_token is not None
        content = {"refresh_token": refresh_token, "from": _digest(settings.refresh_token.get_secret_value())}
        try:
            make_folder(file.parent, 0o700)
            replace_file(file, json.dumps(content).encode(), mode=0o600)
        except OSError as error:
            raise Stop(
                f"the renewed refresh token cannot be saved to {file} ({error.strerror}); make the folder writable: "
                "the old token may no longer be good"
            ) from None
        self._unsaved = ""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time renews: a rotated token is good for one use only."""
        file = self._settings.token_file
        if file is None:
            yield
            return
        import filelock

        try:
            make_folder(file.parent, 0o700)
            with filelock.FileLock(f"{file}.lock", timeout=_TIMEOUT + 10):
                yield
        except filelock.Timeout:
            raise Retry(f"another process has been renewing the token in {file} for too long") from None
        except OSError as error:
            raise Stop(
                f"the token file {file} cannot be locked: {error.strerror}; give this user the right"
            ) from None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


# --- endpoints


def _refresh(settings: OAuthSettings, refresh_token: str) -> _Answer:
    if settings.provider is Provider.GOOGLE:
        return _google(settings, refresh_token)
    scope = settings.scope or (_MICROSOFT_DELEGATED if settings.provider is Provider.MICROSOFT else None)
    return _through_msal(
        settings, lambda client: client.obtain_token_by_refresh_token(refresh_token, scope=scope)
    )


def _client_credentials(settings: OAuthSettings) -> _Answer:
    scope = settings.scope or (_MICROSOFT_APPLICATION if settings.provider is Provider.MICROSOFT else None)
    return _through_msal(settings, lambda client: client.obtain_token_for_client(scope=scope))


def _through_msal(settings: OAuthSettings, ask: Callable[[Any], dict[str, Any]]) -> _Answer:
    import requests
    from msal.oauth2cli.oauth2 import Client  # type: ignore[import-untyped]  # has no py.typed

    endpoint = settings.token_endpoint or _MICROSOFT_ENDPOINT.format(tenant=settings.tenant)
    with _session(settings.ca_file) as session:
        client = Client(
            {"token_endpoint": endpoint},
            settings.client_id,
            client_secret=settings.client_secret.get_secret_value() if settings.client_secret else None,
            http_client=session,
        )
        try:
            answer = ask(client)
        except requests.exceptions.SSLError:
            raise Stop(
                f"the certificate of {endpoint} is not trusted; name its authority in {settings.spelled('ca_file')}"
            ) from None
        except requests.exceptions.RequestException as error:
            raise Retry(f"no token from {endpoint}: {type(error).__name__}") from None
        except ValueError:
            raise Retry(f"no token from {endpoint}: the answer is no JSON") from None
    if "access_token" not in answer:
        _refused(endpoint, str(answer.get("error", "")), str(answer.get("error_description", "")), settings)
    return _Answer(
        access_token=str(answer["access_token"]),
        life=_life(answer.get("expires_in")),
        refresh_token=str(answer.get("refresh_token") or ""),
    )


def _google(settings: OAuthSettings, refresh_token: str) -> _Answer:
    from google.auth.exceptions import RefreshError, TransportError
    from google.auth.transport.requests import Request
    from google.oauth2.credentials import Credentials

    endpoint = settings.token_endpoint or _GOOGLE_ENDPOINT
    credentials = Credentials(  # type: ignore[no-untyped-call]  # google-auth annotates little
        None,
        refresh_token=refresh_token,
        token_uri=endpoint,
        client_id=settings.client_id,
        client_secret=settings.client_secret.get_secret_value() if settings.client_secret else None,
        scopes=(settings.scope or _GOOGLE_SCOPE).split(),
    )
    with _session(settings.ca_file) as session:
        try:
            credentials.refresh(partial(Request(session), timeout=_TIMEOUT))  # type: ignore[no-untyped-call]  # as above
        except TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Stop(
                    f"the certificate of {endpoint} is not trusted; name its authority in {settings.spelled('ca_file')}"
                ) from None
            raise Retry(f"no token from {endpoint}: it cannot be reached") from None
        except RefreshError as error:
            if error.retryable:
                raise Retry(f"no token from {endpoint}: it is overloaded or broken for now") from None
            details = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], dict) else {}
            _refused(
                endpoint, str(details.get("error", "")), str(details.get("error_description", "")), settings
            )
    # google-auth returns a naive UTC time
    expiry = credentials.expiry
    life = (expiry - datetime.now(UTC).replace(tzinfo=None)).total_seconds() if expiry else _DEFAULT_LIFE
    return _Answer(
        access_token=str(credentials.token), life=life, refresh_token=str(credentials.refresh_token or "")
    )


@contextlib.contextmanager
def _session(ca_file: Path | None) -> Iterator[Any]:
    """A session with a time-out, which requests does not have; `ca_file` instead of the built-in authorities."""
    import requests

    with requests.Session() as session:
        session.hooks["response"].append(_checked)
        # given with every request: the session's own `verify` yields to the environment (REQUESTS_CA_BUNDLE)
        verify = str(ca_file) if ca_file else None
        session.request = partial(session.request, timeout=_TIMEOUT, verify=verify)  # type: ignore[method-assign]  # as msal's documentation advises
        yield session


def _checked(answer: Any, **_: object) -> None:
    """A token, a secret or a code goes to no other place than the configured one; throttling passes like a 5xx."""
    if answer.is_redirect:
        answer.close()
        raise Stop(
            f"{answer.url} sends on to another address ({urlsplit(answer.headers['location']).hostname or 'of its own'}), and "
            "secrets are not sent there; correct the token endpoint"
        )
    if answer.status_code == 429:
        answer.close()
        answer.raise_for_status()


def _life(seconds: object) -> float:
    try:
        return float(str(seconds))
    except ValueError:
        return _DEFAULT_LIFE


def _refused(endpoint: str, error: str, description: str, settings: OAuthSettings) -> None:
    """Always raises."""
    for secret in (settings.client_secret, settings.refresh_token):
        if secret is not None:
            description = description.replace(secret.get_secret_value(), "***")
    spelled = settings.spelled
    said = f"{error}: {' '.join(description.split())}"[:300]
    if error in _PASSING:
        raise Retry(f"no token from {endpoint} for now ({said})")
    if error == "invalid_grant":
        what = (
            "the refresh token is no longer good (expired, revoked, or the password changed): sign in again"
        )
        raise Stop(f"{endpoint} refused: {what} and configure the new {spelled('refresh_token')} ({said})")
    if error in ("invalid_client", "unauthorized_client"):
        raise Stop(
            f"{endpoint} refused: check {spelled('client_id')}, {spelled('client_secret')} (it may have expired) and "
            f"{spelled('tenant')} ({said})"
        )
    raise Stop(
        f"{endpoint} refused ({said}); check {spelled('client_id')}, {spelled('scope')} and the permissions granted "
        "to the application"
    )
