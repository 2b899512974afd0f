"""Who may open the page, and which requests may change something. Values only; the clock is passed in.

Three ways in: a token (a form once, then a cookie; programs send it as a bearer), a header of a reverse proxy that signs
people in, or being on this machine where neither is configured. Against requests that another site has the browser make:
a name that is not ours is refused (DNS rebinding), so is a POST from another origin, and a form must bring back what only
our page could have put into it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from collections import OrderedDict, deque
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mailferry.config.page_settings import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.page_settings import PageSettings

#: Seconds that a sign-in lasts.
SESSION = 12 * 3600
#: Wrong tokens from one address within so many seconds, after which it has to wait.
TRIES, SPAN = 5, 60.0
#: Addresses whose wrong tokens are remembered.
_ADDRESSES = 1000


class Attempts:
    """Wrong tokens, by the address that they came from."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until the address may try again; 0: now."""
        failed = self._failed.get(address)
        if not failed or len(failed) < TRIES:
            return 0.0
        return max(0.0, failed[0] + SPAN - self._clock())

    def failed(self, address: str) -> None:
        """Note a wrong token."""
        self._failed.setdefault(address, deque(maxlen=TRIES)).append(self._clock())
        self._failed.move_to_end(address)
        while len(self._failed) > _ADDRESSES:
            self._failed.popitem(last=False)


class Access:
    """The rules of one configuration. Sessions outlive the process, and end with the token."""

    def __init__(self, settings: PageSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self.attempts = Attempts(clock)
        self._token = settings.token.get_secret_value().encode() if settings.token else b""
        self._key = hashlib.sha256(b"mailferry page\0" + self._token).digest() if self._token else b""
        self._form_key = self._key or secrets.token_bytes(32)
        self._names = {name.lower().rstrip(".") for name in words(settings.hosts)} | {
            "localhost",
            socket.gethostname().lower(),
            settings.address[0].lower() if settings.listen else "localhost",
        }
        self._proxies = {ip_address(one) for one in words(settings.proxies)}

    @property
    def by_token(self) -> bool:
        """Whether there is a sign-in form."""
        return bool(self._token)

    @property
    def open_to_all(self) -> bool:
        return self._settings.open_to_all

    def knows_host(self, header: str) -> bool:
        """Whether a Host header is one of ours: a name that is configured, or any address, which no name service can forge."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        return name.rstrip(".") in self._names or _is_address(name)

    def is_proxy(self, address: str) -> bool:
        """Whether a request comes from a proxy whose header counts."""
        return (
            bool(self._settings.proxy_header)
            and _is_address(address)
            and ip_address(address) in self._proxies
        )

    def signed_in(self, address: str, header: Callable[[str], list[str]], cookie: str) -> str | None:
        """Who asks: "" where nothing is asked for, the proxy's user, "token"; None: not signed in.

        `header` returns the values of a header by its name. Programs' wrong tokens count as tries.
        """
        if self.open_to_all:
            return ""
        if self.is_proxy(address):
            users = header(self._settings.proxy_header)
            if len(users) == 1 and users[0].strip():
                return users[0].strip()
        if not self._token:
            return None
        if self.session_holds(cookie):
            return "token"
        for value in header("authorization"):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                return "token" if self.token_is(address, token.strip()) else None
        return None

    def token_is(self, address: str, token: str) -> bool:
        """Whether it is the token; a wrong one counts, and after some none is looked at for a while."""
        if not self._token or self.attempts.wait(address):
            return False
        if hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
            return True
        self.attempts.failed(address)
        return False

    def new_session(self) -> str:
        """A cookie's value for one who has signed in."""
        ends = f"{int(self._clock()) + SESSION}.{secrets.token_hex(8)}"
        return f"{ends}.{self._mac(self._key, ends)}"

    def session_holds(self, cookie: str) -> bool:
        ends, _, mac = cookie.rpartition(".")
        if not self._key or not hmac.compare_digest(mac.encode(), self._mac(self._key, ends).encode()):
            return False
        return int(ends.partition(".")[0]) > self._clock()

    def new_visitor(self) -> str:
        """A cookie's value that forms are bound to."""
        return secrets.token_hex(16)

    def form_mark(self, visitor: str) -> str:
        """What a form on a page of ours carries."""
        return self._mac(self._form_key, f"form {visitor}")

    def form_is_ours(self, visitor: str, mark: str) -> bool:
        return bool(visitor) and hmac.compare_digest(mark.encode(), self.form_mark(visitor).encode())

    @staticmethod
    def _mac(key: bytes, text: str) -> str:
        return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def same_origin(host: str, origin: str, site: str) -> bool:
    """Whether a POST comes from a page of ours, as far as the browser says: its headers Origin and Sec-Fetch-Site.

    A program sends neither. The scheme is not compared: behind a proxy it is another one there.
    """
    if site and site not in ("same-origin", "none"):
        return False
    if not origin:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def local_path(text: str) -> str:
    """Where to go after a form, a path of this page; "/" for anything else."""
    plain = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if plain else "/"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
