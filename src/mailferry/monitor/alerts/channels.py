"""How alerts are sent: mail, a webhook, a ping. Each delivery takes a bounded time, and raises Retry where it fails."""

from __future__ import annotations

import contextlib
import shutil
import smtplib
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from mailferry import logs
from mailferry.config.alert_settings import smtp_server
from mailferry.config.database import is_local
from mailferry.errors import Retry
from mailferry.mailbox.folders import REJECTS, rejects_csv
from mailferry.monitor.alerts import wording
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.alert_settings import AlertSettings, SmtpServer
    from mailferry.monitor.alerts.decide import Message
    from mailferry.monitor.alerts.wording import RefusedJob

    #: All about a job; None where that cannot be read.
    Lookup = Callable[[int], RefusedJob | None]

log = logs.of(__name__)
#: Seconds for one mail, and for one request, from first to last.
_MAIL, _REQUEST = 30.0, 15.0
_ANSWER = 10.0
_LOCAL_PORT = 25
_SENDMAIL = ("/usr/sbin/sendmail", "/usr/lib/sendmail")
#: Bytes of an attachment, before it is encoded.
_LARGEST = 5_000_000


class Channel(Protocol):
    """One way, with a memory of its own."""

    name: str

    def split(self, message: Message) -> list[Message]:
        """The messages that are delivered, each by itself."""

    def deliver(self, message: Message, lookup: Lookup) -> str:
        """Returns whereto it went, for the log. Raises Retry."""


def channels(settings: AlertSettings) -> list[Channel]:
    """Those that are set up; a ping is none, as it has no words."""
    found: list[Channel] = []
    if settings.mail_to:
        found.append(Mail(settings))
    if settings.webhook:
        found.append(Webhook(settings.webhook.get_secret_value(), settings.webhook_format))
    return found


# Mail


class Mail:
    """By SMTP, or through this machine's sendmail."""

    name = "mail"

    def __init__(self, settings: AlertSettings) -> None:
        self._to = settings.recipients
        host = socket.getfqdn()
        self._from = settings.mail_from or f"mailferry@{host if host.isascii() else 'localhost'}"
        self._server = smtp_server(settings.smtp_url) if settings.smtp_url else None

    def split(self, message: Message) -> list[Message]:
        """A few refused jobs are a mail each."""
        return wording.split(message)

    def deliver(self, message: Message, lookup: Lookup) -> str:
        """Hand it over to a mail server. Raises Retry."""
        mail = self.compose(message, lookup)
        if self._server:
            self._smtp(mail, self._server)
        else:
            self._local(mail)
        return ", ".join(self._to)

    def compose(self, message: Message, lookup: Lookup) -> EmailMessage:
        """The mail; about one refused job with its rejected rows."""
        mail = EmailMessage()
        mail["From"], mail["To"] = self._from, ", ".join(self._to)
        mail["Date"] = format_datetime(datetime.now(UTC))
        mail["Message-ID"] = make_msgid(domain=self._from.rpartition("@")[2] or "localhost")
        # RFC 3834: no machine answers to it.
        mail["Auto-Submitted"] = "auto-generated"
        need = message.new[0] if len(message.new) == 1 and not message.still and not message.over else None
        refused = lookup(need.job_id) if need and need.job_id is not None else None
        if need and refused:
            mail["Subject"] = wording.job_subject(refused)
            mail.set_content(wording.job_text(refused, need), cte="quoted-printable")
            for file in refused.files:
                if rows := refused.rejected.get(file.id):
                    data = rejects_csv(rows)[:_LARGEST]
                    name = f"{wording.line(file.name)}{REJECTS}"
                    mail.add_attachment(data, maintype="text", subtype="csv", filename=name)
        else:
            mail["Subject"] = f"[mailferry {message.host}] {wording.headline(message)}"
            mail.set_content(wording.text(message) + "\n", cte="quoted-printable")
        return mail

    def _local(self, mail: EmailMessage) -> None:
        """Port 25 of this machine; where nothing listens there, its sendmail."""
        try:
            self._smtp(mail, None)
        except Retry as error:
            program = shutil.which("sendmail") or next(filter(shutil.which, _SENDMAIL), None)
            if program is None or not isinstance(error.__cause__, ConnectionRefusedError):
                raise
            _sendmail(program, mail)

    def _smtp(self, mail: EmailMessage, server: SmtpServer | None) -> None:
        host, port = (server.host, server.port) if server else ("localhost", _LOCAL_PORT)
        try:
            with _watched(host, port, server) as client:
                _sign_in(client, server, host)
                refused = client.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            raise Retry(f"the mail server {host}:{port} did not take it: {mask(_said(error))}") from error
        if refused:
            # The others have it, and would get it twice if it were sent again.
            log.warning("the mail server %s:%d refused %s; see mail_to", host, port, ", ".join(refused))


@contextlib.contextmanager
def _watched(host: str, port: int, server: SmtpServer | None) -> Iterator[smtplib.SMTP]:
    """A connection that is cut off when the whole takes too long: a server may say a byte at a time."""
    implicit = server is not None and server.implicit
    if implicit:
        client: smtplib.SMTP = smtplib.SMTP_SSL(timeout=_ANSWER, context=ssl.create_default_context())
    else:
        client = smtplib.SMTP(timeout=_ANSWER)

    def cut() -> None:
        with contextlib.suppress(OSError, AttributeError):
            client.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr] # None before it is connected

    last = threading.Timer(_MAIL, cut)
    last.daemon = True
    last.start()
    try:
        # By name, as the certificate has it.
        client._host = host  # type: ignore[attr-defined] # noqa: SLF001 - set by __init__ alone, which would connect unwatched
        client.connect(host, port)
        yield client
        with contextlib.suppress(OSError, smtplib.SMTPException):
            client.quit()
    finally:
        last.cancel()
        client.close()


def _sign_in(client: smtplib.SMTP, server: SmtpServer | None, host: str) -> None:
    """STARTTLS where there is a password, with the certificate checked; else where it is offered, as mail servers do."""
    client.ehlo_or_helo_if_needed()
    user = server.user if server else ""
    if not (server and server.implicit):
        offered = client.has_extn("starttls")
        if user and not offered and not is_local(host):
            raise smtplib.SMTPNotSupportedError("it offers no STARTTLS, and a password is not sent without")
        if offered and (user or not is_local(host)):
            context = ssl.create_default_context()
            if not user:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.starttls(context=context)
    if server and user:
        client.login(user, server.password)


def _said(error: Exception) -> str:
    """What the server said, in one line."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        return f"{error.smtp_code} {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "; ".join(
            f"{who}: {code} {what.decode('utf-8', 'replace')}"
            for who, (code, what) in error.recipients.items()
        )
    return str(error) or type(error).__name__


def _sendmail(program: str, mail: EmailMessage) -> None:
    command = [program, "-i", "-t"]
    try:
        done = subprocess.run(command, input=mail.as_bytes(), capture_output=True, timeout=_MAIL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Retry(f"{program} did not take the mail: {error}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise Retry(f"{program} did not take the mail: status {done.returncode}, {mask(said)}")


# The web


class Webhook:
    """A POST of JSON."""

    name = "webhook"

    def __init__(self, url: str, style: str) -> None:
        self._url = url
        self._style = style

    def split(self, message: Message) -> list[Message]:
        """One."""
        return [message]

    def deliver(self, message: Message, lookup: Lookup) -> str:  # noqa: ARG002 - it has no attachments
        """Post it. Raises Retry."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return _post(self._url, json=wording.payload(message, self._style, at))


def ping(url: str, what: str = "", text: str = "") -> str:
    """Report to a check that something began ("start"), succeeded ("") or failed ("fail"). Raises Retry.

    As https://healthchecks.io/docs/http_api/ has it.
    """
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{what}" if what else parts.path
    return _post(parts._replace(path=path).geturl(), data=text.encode()[:10_000])


def _post(url: str, **body: Any) -> str:
    """Returns the host's name: the rest of an address may be a secret."""
    from mailferry.events.run import blocking

    host = urlsplit(url).hostname or ""
    status, said = blocking(_posted(url, host, body))
    if not 200 <= status < 300:
        raise Retry(f"{host} answered {status}: {mask(said)[:200]}")
    return host


async def _posted(url: str, host: str, body: dict[str, Any]) -> tuple[int, str]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_REQUEST)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, allow_redirects=False, **body) as answer,
        ):
            return answer.status, (await answer.content.read(500)).decode("utf-8", "replace")
    except TimeoutError as error:
        raise Retry(f"{host} did not answer in {_REQUEST:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Retry(f"{host} cannot be reached: {mask(str(error) or type(error).__name__)}") from error
