"""What a mailbox feed needs to know of its mailbox: where it is, how to sign in, what to look for, how to mark."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from mailferry.config.database import is_local
from mailferry.config.settings import Line, Lines, Name, Settings, setting

_MIB = 1024 * 1024
_Seconds = Annotated[float, Field(gt=0, le=3600)]


class MailboxKind(StrEnum):
    IMAP = "imap"
    MAILDIR = "maildir"


class Auth(StrEnum):
    PASSWORD = "password"  # noqa: S105 - the name of a method, no secret
    XOAUTH2 = "xoauth2"
    OAUTHBEARER = "oauthbearer"


class Provider(StrEnum):
    MICROSOFT = "microsoft"
    GOOGLE = "google"
    GENERIC = "generic"


class MarkBy(StrEnum):
    """How a message that is done with is marked."""

    SEEN = "seen"  # completed: \Seen; failed: left unread
    KEYWORD = "keyword"  # an IMAP keyword; of a Maildir, one letter a-z
    MOVE = "move"  # to another folder
    LEAVE = "leave"  # nothing is changed; the ledger alone knows


class WithoutAttachment(StrEnum):
    """What becomes of a message that matches and carries no file at all."""

    DONE = "done"  # a person's reply, say: nothing to load, marked
    REFUSE = "refuse"  # the job fails and needs a person


#: (completed, failed) where the configuration names none.
_MARK_DEFAULTS = {
    (MarkBy.KEYWORD, MailboxKind.IMAP): ("MailferryDone", "MailferryFailed"),
    (MarkBy.KEYWORD, MailboxKind.MAILDIR): ("m", "x"),
    (MarkBy.MOVE, MailboxKind.IMAP): ("Processed", "Failed"),
    (MarkBy.MOVE, MailboxKind.MAILDIR): ("Processed", "Failed"),
}


class OAuthSettings(Settings):
    """How to get an access token: by a refresh token, or by client credentials where there is none."""

    provider: Provider = setting(Provider.GENERIC, "who signs in", variable="EMAIL_OAUTH_PROVIDER")
    client_id: str = setting(
        "", "of the registered application", variable="EMAIL_OAUTH_CLIENT_ID", personal=True
    )
    client_secret: SecretStr | None = setting(None, "its secret", variable="EMAIL_OAUTH_CLIENT_SECRET")
    tenant: str = setting("", "Microsoft: directory (tenant) id or domain", variable="EMAIL_OAUTH_TENANT")
    refresh_token: SecretStr | None = setting(
        None,
        "the first one, until `token_file` has a newer one that came from it",
        variable="EMAIL_OAUTH_REFRESH_TOKEN",
    )
    token_endpoint: str = setting(
        "",
        "https address in place of the provider's; needed for `generic`",
        variable="EMAIL_OAUTH_TOKEN_ENDPOINT",
    )
    scope: str = setting(
        "", "space-separated; empty: what the provider needs for IMAP", variable="EMAIL_OAUTH_SCOPE"
    )
    ca_file: Path | None = setting(
        None, "PEM file of authorities to trust at the token endpoint", variable="EMAIL_OAUTH_CA_FILE"
    )
    token_file: Path | None = setting(
        None, "where a renewed refresh token is kept, mode 0600", variable="EMAIL_OAUTH_TOKEN_FILE"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.client_id:
            raise ValueError("`client_id` is missing: it is shown where the application was registered")
        if self.refresh_token is None and self.client_secret is None:
            raise ValueError("either `refresh_token` or `client_secret` is needed")
        if self.refresh_token is None and self.provider is Provider.GOOGLE:
            raise ValueError("Google needs a `refresh_token`: it has no client credentials for mailboxes")
        if (
            self.refresh_token is not None
            and self.token_file is None
            and self.provider is not Provider.GOOGLE
        ):
            raise ValueError(
                "`token_file` is missing: this provider renews refresh tokens, and the new one must be kept"
            )
        if self.provider is Provider.MICROSOFT and not self.tenant and not self.token_endpoint:
            raise ValueError("`tenant` is missing: the directory (tenant) id of Microsoft Entra")
        if self.provider is Provider.GENERIC and not self.token_endpoint:
            raise ValueError("`token_endpoint` is missing")
        url = urlsplit(self.token_endpoint)
        if self.token_endpoint and url.scheme != "https" and not is_local(url.hostname or "?"):
            raise ValueError("`token_endpoint` must be an https address: secrets travel there")
        return self


class MailboxSettings(Settings):
    """The mail side of one mailbox feed."""

    kind: MailboxKind = MailboxKind.IMAP
    oauth: OAuthSettings | None = None

    host: Line = setting("imap.gmail.com", "IMAP server", variable="EMAIL_HOST", table="imap", personal=True)
    port: int = setting(993, "143 without `ssl`", variable="EMAIL_PORT", table="imap", ge=1, le=65535)
    username: Line = setting("", "user name", variable="EMAIL_USERNAME", table="imap", personal=True)
    password: SecretStr | None = setting(
        None, "password or app password; not with OAuth2", variable="EMAIL_PASSWORD", table="imap"
    )
    ssl: bool = setting(
        True, "TLS from the first byte; false: STARTTLS", variable="EMAIL_USE_SSL", table="imap"
    )
    allow_plaintext: bool = setting(
        False,
        "allow a sign-in without encryption to a host other than this machine",
        variable="EMAIL_ALLOW_PLAINTEXT",
        table="imap",
    )
    ca_file: Path | None = setting(
        None,
        "PEM file of authorities to trust instead of the system's",
        variable="EMAIL_CA_FILE",
        table="imap",
    )
    auth: Auth = setting(Auth.PASSWORD, "how to sign in", variable="EMAIL_AUTH", table="imap")
    connect_timeout: _Seconds = setting(15, "seconds to connect", table="imap")
    read_timeout: _Seconds = setting(
        60, "seconds of silence before a connection counts as dead", variable="EMAIL_TIMEOUT", table="imap"
    )

    path: Path | None = setting(
        None, "a Maildir folder in place of IMAP", variable="EMAIL_MAILDIR", option="maildir"
    )
    #: "INBOX" is a Maildir's own, others are its sub-folders `.Name`.
    folder: Name = setting("INBOX", "folder to watch", variable="EMAIL_FOLDER")
    subject_filter: Line = setting(
        "Track and Trace",
        "text that the subject contains, in any case; empty: all",
        variable="EMAIL_SUBJECT_FILTER",
        may_be_empty=True,
    )
    sender_filter: Line = setting(
        "",
        "address, domain or word that the sender's address matches, in any case; empty: all",
        variable="EMAIL_SENDER_FILTER",
    )
    allow_senders: Lines = setting(
        "",
        "addresses and domains, with commas, that may change rows; another sender's message that matches is refused; empty: all",
        variable="EMAIL_ALLOW_SENDERS",
        plural=True,
    )
    deny_senders: Lines = setting(
        "",
        "addresses and domains, with commas, whose messages are refused",
        variable="EMAIL_DENY_SENDERS",
        plural=True,
    )
    require_authenticated: bool = setting(
        False,
        "refuse a message unless DKIM or DMARC passed for the domain of its sender, as the receiving server says",
        variable="EMAIL_REQUIRE_AUTHENTICATED",
    )
    authserv_id: Line = setting(
        "",
        "the receiving server's name in the Authentication-Results headers that it adds; of others none counts",
        variable="EMAIL_AUTHSERV_ID",
    )
    name_filter: Line = setting(
        "",
        "pattern (`*`, `?`) of attachment names, in any case; empty: all",
        variable="EMAIL_ATTACHMENT_FILTER",
    )
    charset: str = setting(
        "windows-1254",
        "charset of raw 8-bit headers, file names and text files that are not UTF-8 nor in a charset that they name",
        variable="EMAIL_CHARSET",
    )
    ignore_attachments: Lines = setting(
        "",
        "patterns, with commas, of names (`*.pdf`) or MIME types (`image/*`) of attachments that never hold data",
        variable="EMAIL_IGNORE_ATTACHMENTS",
        plural=True,
    )
    without_attachment: WithoutAttachment = setting(
        WithoutAttachment.DONE,
        "what becomes of a message that matches and carries no file",
        variable="EMAIL_WITHOUT_ATTACHMENT",
    )
    mark: MarkBy = setting(MarkBy.SEEN, "how a message that is done with is marked", variable="EMAIL_MARK")
    mark_completed: Line = setting(
        "", "keyword or folder; empty: the default of `mark`", variable="EMAIL_MARK_COMPLETED"
    )
    mark_failed: Line = setting(
        "", "keyword or folder; empty: the default of `mark`", variable="EMAIL_MARK_FAILED"
    )
    max_file_bytes: int = setting(
        100 * _MIB, "largest attachment, decoded, in bytes", variable="EMAIL_MAX_FILE_BYTES", gt=0
    )

    @field_validator("charset")
    @classmethod
    def _is_charset(cls, value: str) -> str:
        try:
            b"".decode(value or "-")
        except (LookupError, ValueError):
            raise ValueError(f"{value!r} is no charset that is known here; windows-1254 is one") from None
        return value.lower()

    @field_validator("password")
    @classmethod
    def _one_line(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(character in value.get_secret_value() for character in "\0\r\n"):
            raise ValueError("holds a line break or NUL: was it read from a file with its line end?")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.require_authenticated and not self.authserv_id:
            raise ValueError(
                "`authserv_id` is missing: the name in the Authentication-Results headers of the receiving server"
            )
        if self.kind is MailboxKind.MAILDIR:
            if self.path is None:
                raise ValueError("`path` is missing: the Maildir's folder")
        elif not self.host or not self.username:
            raise ValueError("`host` and `username` are needed")
        elif self.auth is Auth.PASSWORD and self.password is None:
            raise ValueError("`password` is missing")
        elif self.auth is not Auth.PASSWORD and self.oauth is None:
            raise ValueError(f"`auth` {self.auth} needs the OAuth2 settings")
        self._check_marks()
        return self

    def _check_marks(self) -> None:
        completed, failed = self.marks
        if self.mark is MarkBy.KEYWORD:
            for keyword in (completed, failed):
                if self.kind is MailboxKind.MAILDIR and not (len(keyword) == 1 and "a" <= keyword <= "z"):
                    raise ValueError(f"a Maildir's keyword is one letter from a to z, not {keyword!r}")
                if not keyword.isascii() or any(c in keyword for c in ' (){%*"\\]'):
                    raise ValueError(f"{keyword!r} cannot be an IMAP keyword: letters, digits, $ . _ - only")
        if self.mark in (MarkBy.KEYWORD, MarkBy.MOVE) and completed == failed:
            raise ValueError("`mark_completed` and `mark_failed` must differ")
        if self.mark is MarkBy.MOVE and self.folder in (completed, failed):
            raise ValueError("messages cannot be moved to the folder that they are read from")

    @property
    def marks(self) -> tuple[str, str]:
        """Keyword or folder for completed and for failed; two times "" where `mark` takes none."""
        completed, failed = _MARK_DEFAULTS.get((self.mark, self.kind), ("", ""))
        if self.mark in (MarkBy.SEEN, MarkBy.LEAVE):
            return "", ""
        return self.mark_completed or completed, self.mark_failed or failed
