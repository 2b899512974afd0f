"""Where the status page is served, and who may open it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr, field_validator, model_validator

from mailferry.config.database import is_local
from mailferry.config.settings import Line, Settings, setting

#: A token that is guessed at, a few times a minute, should last for ages.
_SHORTEST_TOKEN = 16


class PageSettings(Settings):
    """One page a worker process; every one of them shows the whole."""

    listen: Line = setting(
        "127.0.0.1:8417", "address and port; empty: no page", variable="PAGE_LISTEN", may_be_empty=True
    )
    token: SecretStr | None = setting(
        None, "what is asked for at the sign-in, and what programs send as a bearer", variable="PAGE_TOKEN"
    )
    hosts: Line = setting(
        "", "names that the page is opened by, beside this machine's and addresses", variable="PAGE_HOSTS"
    )
    proxy_header: Line = setting(
        "",
        "header in which a reverse proxy names the user that it has signed in",
        variable="PAGE_PROXY_HEADER",
    )
    proxies: Line = setting(
        "127.0.0.1 ::1", "addresses of the proxies whose header counts", variable="PAGE_PROXIES"
    )

    @property
    def address(self) -> tuple[str, int]:
        """Where to listen; the host is a name or an address without brackets."""
        return _address(self.listen)

    @property
    def open_to_all(self) -> bool:
        """Whether there is no sign-in: all users of this machine may see and act."""
        return self.token is None and not self.proxy_header

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, listen: str) -> str:
        if listen:
            _address(listen)
        return listen

    @field_validator("token")
    @classmethod
    def _token_is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < _SHORTEST_TOKEN:
            raise ValueError(
                f"must have at least {_SHORTEST_TOKEN} characters; `openssl rand -hex 20` makes one"
            )
        return token

    @field_validator("proxies")
    @classmethod
    def _proxies_are_addresses(cls, proxies: str) -> str:
        for one in words(proxies):
            ip_address(one)
        return proxies

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        if self.listen and self.open_to_all and not is_local(self.address[0]):
            raise ValueError(
                f"listen: other machines can reach {self.listen}: set `token`, or `proxy_header`, or listen on 127.0.0.1"
            )
        return self


def words(text: str) -> list[str]:
    """The parts between blanks and commas."""
    return text.replace(",", " ").split()


def _address(listen: str) -> tuple[str, int]:
    """Raises ValueError."""
    try:
        found = urlsplit(f"//{listen}")
        host, port = found.hostname, found.port
    except ValueError:
        host = port = None
    if not host or not port or found.netloc != listen or "@" in listen:
        raise ValueError("must be an address and a port, as 127.0.0.1:8417 or [::1]:8417")
    return host, port
