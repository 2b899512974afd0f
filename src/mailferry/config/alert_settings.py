"""Who is alerted of what needs a person, and how."""

from __future__ import annotations

from email.errors import HeaderParseError
from email.headerregistry import Address
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, field_validator

from mailferry.config.schedule import Schedule
from mailferry.config.settings import Line, Settings, setting

if TYPE_CHECKING:
    from datetime import timedelta

_PORTS = {"smtp": 25, "smtps": 465}


class AlertSettings(Settings):
    """Alerts by mail, to a webhook, and to a service that notices silence; all that are set."""

    mail_to: Line = setting("", "addresses that get a mail", variable="ALERT_MAIL_TO")
    mail_from: Line = setting(
        "", "sender of these mails; empty: mailferry at this machine's name", variable="ALERT_MAIL_FROM"
    )
    smtp_url: SecretStr | None = setting(
        None,
        "smtp:// or smtps:// user:password@host:port; left out: port 25 of this machine, else its sendmail",
        variable="ALERT_SMTP_URL",
    )
    webhook: SecretStr | None = setting(None, "address that gets a POST", variable="ALERT_WEBHOOK")
    webhook_format: Literal["json", "slack", "teams"] = setting(
        "json", "what the POST holds", variable="ALERT_WEBHOOK_FORMAT"
    )
    ping_url: SecretStr | None = setting(
        None, "address of a check as healthchecks.io has them", variable="ALERT_PING_URL"
    )
    repeat_after: Line = setting(
        "24h", "an alert is sent again after so long; 0: once only", variable="ALERT_REPEAT_AFTER"
    )

    @property
    def any(self) -> bool:
        """Whether anything is to be sent at all."""
        return bool(self.mail_to or self.webhook or self.ping_url)

    @property
    def repeats(self) -> timedelta | None:
        """After how long an alert is sent again; None: never."""
        return None if self.repeat_after == "0" else Schedule.parse(self.repeat_after).interval

    @property
    def recipients(self) -> list[str]:
        """The addresses, each by itself."""
        return _addresses(self.mail_to)

    @field_validator("mail_to", "mail_from")
    @classmethod
    def _are_addresses(cls, text: str) -> str:
        for one in _addresses(text):
            try:
                whole = bool(Address(addr_spec=one).domain)
            except (HeaderParseError, ValueError, IndexError):
                whole = False
            if not whole or not one.isascii():
                raise ValueError("must be addresses as name@example.com, with commas between them")
        return text

    @field_validator("smtp_url")
    @classmethod
    def _server(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            smtp_server(url)
        return url

    @field_validator("webhook", "ping_url")
    @classmethod
    def _web(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            try:
                found = urlsplit(url.get_secret_value())
                good = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
            except ValueError:
                good = False
            if not good:
                raise ValueError("must be an address as https://example.com/path")
        return url

    @field_validator("repeat_after")
    @classmethod
    def _interval(cls, text: str) -> str:
        if text != "0" and Schedule.parse(text).interval is None:
            raise ValueError("must be a time such as 24h or 7d, or 0")
        return text


def _addresses(text: str) -> list[str]:
    return text.replace(",", " ").replace(";", " ").split()


class SmtpServer(Settings):
    """Where mails are handed over."""

    host: str
    port: int
    #: TLS from the first byte on; without it, STARTTLS.
    implicit: bool
    user: str
    password: str


def smtp_server(url: SecretStr) -> SmtpServer:
    """Raises ValueError, without the URL in its text."""
    try:
        found = urlsplit(url.get_secret_value())
        host, port, scheme = found.hostname, found.port, found.scheme
    except ValueError:
        host = port = None
        scheme = ""
    if not host or scheme not in _PORTS or port == 0 or found.path.strip("/") or found.query:
        raise ValueError(
            "must be smtp://host:port or smtps://host:port, with user:password@ before the host if need be"
        )
    return SmtpServer(
        host=host,
        port=port or (587 if scheme == "smtp" and found.username else _PORTS[scheme]),
        implicit=scheme == "smtps",
        user=unquote(found.username or ""),
        password=unquote(found.password or ""),
    )
