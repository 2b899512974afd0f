"""A signed-in IMAP connection: TLS, sign-in, time-outs, and which of its faults may pass by themselves."""

from __future__ import annotations

import contextlib
import imaplib
import ipaddress
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Protocol

from mailferry.config.mailbox import Auth
from mailferry.errors import MailferryError, Retry, Stop
from mailferry.mailbox.source.imap_meter import Metered
from mailferry.mailbox.source.message import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.mailbox import MailboxSettings

#: Response codes of RFC 5530 (and usual words of servers that send none) for a refusal that will pass.
_PASSING = re.compile(
    r"\[(UNAVAILABLE|INUSE|LIMIT|SERVERBUG)\b|too many|temporar|try again|throttl", re.IGNORECASE
)


class TokenSource(Protocol):
    """Where access tokens come from."""

    def token(self) -> str:
        """A token that is still good for a while. Raises Retry or Stop."""

    def forget(self) -> None:
        """The last token was refused: the next one must be a new one."""


def token_source(settings: MailboxSettings) -> TokenSource | None:
    """Access tokens for a mailbox that nothing else has opened; None where it has a password."""
    if settings.auth is Auth.PASSWORD:
        return None
    from mailferry.mailbox.source.oauth import Tokens

    assert settings.oauth is not None
    return Tokens(settings.oauth)


class Dropped(Unavailable):
    """The connection was lost or did not answer; a new one may do."""


def connect(
    settings: MailboxSettings, tokens: TokenSource | None, dial: Callable[[], socket.socket] | None = None
) -> Any:
    """Connect, encrypt and sign in; an IMAPClient in state AUTH.

    `dial` returns the TCP connection, with a time-out set, for a caller that may have to close it while the rest goes on.
    Stop: certificate, encryption or sign-in refused. Retry: anything else, a time-out among it.
    """
    place = f"{settings.host}:{settings.port}"
    with mapped_errors(settings, f"connecting to {place}"):
        client = _open(settings, dial)
    try:
        with mapped_errors(settings, f"encrypting the connection to {place}"):
            if not settings.ssl:
                _encrypt(client, settings)
        with mapped_errors(settings, f"signing in to {place}"):
            _sign_in(client, settings, tokens)
    except BaseException:
        hang_up(client)
        raise
    return client


def hang_up(client: Any) -> None:
    """Close the socket without a word; never raises."""
    with contextlib.suppress(Exception):
        client.shutdown()


@contextlib.contextmanager
def mapped_errors(settings: MailboxSettings, doing: str) -> Iterator[None]:
    """Turn what sockets, TLS and imaplib raise into our errors; texts of the server are cleaned of secrets."""
    try:
        yield
    except MailferryError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise Stop(
            f"{doing}: the server's certificate is not trusted ({error.verify_message}); check the host name, "
            f"or name the authority that signed it in {settings.spelled('ca_file')}"
        ) from None
    except TimeoutError:
        raise Dropped(f"{doing}: no answer in time ({settings.read_timeout:g} s)") from None
    except imaplib.IMAP4.readonly:
        raise Stop(
            f"{doing}: the folder is read-only for this account, so messages cannot be marked; give it the right "
            f"to do so, or set {settings.spelled('mark')} = leave"
        ) from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, imaplib.IMAP4.abort) as error:
        raise Dropped(f"{doing}: the connection was lost ({_harmless(error, settings)})") from None
    except ssl.SSLError as error:
        raise Stop(
            f"{doing}: TLS failed ({error.reason or 'handshake'}); is this the port for TLS, and does the server "
            "speak TLS 1.2 or later? For STARTTLS switch implicit TLS off"
        ) from None
    except socket.gaierror as error:
        raise Dropped(
            f"{doing}: the host name is not known ({error.strerror}); check its spelling and DNS"
        ) from None
    except OSError as error:
        raise Dropped(f"{doing}: {error.strerror or error}") from None
    except imaplib.IMAP4.error as error:
        kind = Unavailable if is_passing(str(error)) else Retry
        raise kind(f"{doing}: the server refused ({_harmless(error, settings)})") from None


def tls_context(settings: MailboxSettings) -> ssl.SSLContext:
    """Verify certificate and name against the system's authorities or `ca_file`; TLS 1.2 and later. Stop for a bad file."""
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise Stop(
            f"{settings.spelled('ca_file')} {settings.ca_file} cannot be used: {error}; it must hold certificates in PEM form"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def is_loopback(address: str) -> bool:
    """Whether a socket's peer address is this machine."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def is_passing(said: str) -> bool:
    """Whether a server's refusal says that it will pass."""
    return _PASSING.search(said) is not None


class _Imap(Metered):
    """IMAP over TLS or not, over a TCP connection that is made here or elsewhere."""

    def __init__(self, settings: MailboxSettings, dial: Callable[[], socket.socket] | None) -> None:
        self._settings, self._dial = settings, dial
        self.patience = settings.read_timeout
        super().__init__(settings.host, settings.port)

    def _create_socket(self, _timeout: float | None) -> socket.socket:
        settings = self._settings
        context = tls_context(settings) if settings.ssl else None
        made = (
            self._dial()
            if self._dial
            else socket.create_connection((settings.host, settings.port), settings.connect_timeout)
        )
        # closes what it was given when the handshake fails
        return context.wrap_socket(made, server_hostname=settings.host) if context else made


def _open(settings: MailboxSettings, dial: Callable[[], socket.socket] | None) -> Any:
    import imapclient  # type: ignore[import-untyped]  # has no py.typed

    class Client(imapclient.IMAPClient):  # type: ignore[misc]  # as above
        def _create_IMAP4(self) -> Any:  # noqa: N802 - IMAPClient's name for it
            return _Imap(settings, dial)

    client = Client(
        settings.host,
        port=settings.port,
        ssl=settings.ssl,
        ssl_context=tls_context(settings) if settings.ssl else None,
        timeout=imapclient.SocketTimeout(connect=settings.connect_timeout, read=settings.read_timeout),
    )
    client.normalise_times = False
    return client


def _encrypt(client: Any, settings: MailboxSettings) -> None:
    """STARTTLS where the server has it; without, only what never leaves this machine or is expressly allowed."""
    if client.has_capability("STARTTLS"):
        client.starttls(tls_context(settings))
        client._imap.meter()  # noqa: SLF001 - IMAPClient offers no way in
        return
    peer = str(client.socket().getpeername()[0])
    if not (settings.allow_plaintext or is_loopback(peer)):
        raise Stop(
            f"{settings.host}:{settings.port} offers no encryption (STARTTLS), and the password would travel in the "
            "clear; use implicit TLS (port 993), or allow plaintext expressly "
            f"({settings.spelled('allow_plaintext')})"
        )


def _sign_in(client: Any, settings: MailboxSettings, tokens: TokenSource | None) -> None:
    if settings.auth is Auth.PASSWORD:
        assert settings.password is not None
        _refusable(settings, lambda: _password_sign_in(client, settings), _CHECK_ACCOUNT)
        return
    assert tokens is not None
    mechanism = settings.auth.value.upper()
    if not client.has_capability(f"AUTH={mechanism}"):
        raise Stop(f"{settings.host} does not offer {mechanism}; see which of xoauth2 and oauthbearer it has")
    token = tokens.token()
    try:
        _token_sign_in(client, settings, mechanism, token)
    except Stop:
        # it may have been revoked before its time: one more try with a new one
        tokens.forget()
        renewed = tokens.token()
        if renewed == token:
            raise
        _token_sign_in(client, settings, mechanism, renewed)


_CHECK_ACCOUNT = (
    "check user name and password; Gmail wants an app password or OAuth2, Microsoft 365 takes OAuth2 only, "
    "and IMAP must be switched on for the account"
)
_CHECK_GRANT = (
    "check that the user name is the mailbox's address and that the token is for IMAP: at Microsoft 365 the permission "
    "IMAP.AccessAsUser.All (or IMAP.AccessAsApp and its service principal), at Google the scope https://mail.google.com/"
)


def _refusable(settings: MailboxSettings, sign_in: Callable[[], object], hint: str, secret: str = "") -> None:
    """Run a sign-in; a refusal is Stop with what to check, unless the server says that it is for a while only."""
    try:
        sign_in()
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as error:
        said = _harmless(error, settings, secret)
        who = f"{settings.username} at {settings.host}"
        if is_passing(said):
            raise Retry(f"the mail server does not let {who} in for now ({said})") from None
        raise Stop(f"the mail server refused the sign-in of {who} ({said}); {hint}") from None


def _password_sign_in(client: Any, settings: MailboxSettings) -> None:
    assert settings.password is not None
    password = settings.password.get_secret_value()
    # LOGIN takes ASCII only (RFC 3501 9); SASL PLAIN takes UTF-8 (RFC 4616)
    if (password + settings.username).isascii() and not client.has_capability("LOGINDISABLED"):
        client.login(settings.username, password)
    elif client.has_capability("AUTH=PLAIN"):
        client.plain_login(settings.username, password)
    else:
        raise Stop(
            f"{settings.host} takes no password that way (no AUTH=PLAIN); use OAuth2 or an ASCII app password"
        )


def _token_sign_in(client: Any, settings: MailboxSettings, mechanism: str, token: str) -> None:
    answers = iter([_token_message(settings, token)])
    # a refusal comes as a challenge with details, which an empty answer ends (RFC 7628 3.2.3 has ^A)
    last = b"" if settings.auth is Auth.XOAUTH2 else b"\x01"
    _refusable(
        settings,
        lambda: client.sasl_login(mechanism, lambda _challenge: next(answers, last)),
        _CHECK_GRANT,
        token,
    )


def _token_message(settings: MailboxSettings, token: str) -> bytes:
    """First client message: Google's and Microsoft's XOAUTH2, or RFC 7628 3.1."""
    if settings.auth is Auth.XOAUTH2:
        return f"user={settings.username}\1auth=Bearer {token}\1\1".encode()
    name = settings.username.replace("=", "=3D").replace(",", "=2C")
    return f"n,a={name},\1host={settings.host}\1port={settings.port}\1auth=Bearer {token}\1\1".encode()


def _harmless(error: BaseException, settings: MailboxSettings, secret: str = "") -> str:
    """What a server said, short, in one line, and without the secrets that it might have echoed."""
    said = " ".join(str(error).split())
    password = settings.password.get_secret_value() if settings.password else ""
    for known in (secret, password):
        if known:
            said = said.replace(known, "***")
    return said[:300]
