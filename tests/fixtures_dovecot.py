"""A real Dovecot of the tests' own on free loopback ports: plain and STARTTLS, implicit TLS, password and OAuth2."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import ipaddress
import itertools
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import imapclient  # type: ignore[import-untyped]  # has no py.typed
import pytest
from support_wait import wait_for

from mailferry.config.mailbox import MailboxSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "s3cret-of-the-tests"
#: Another one that opens every account, and that LOGIN cannot carry.
OTHER_PASSWORD = "gizli-şifre"

#: What every version of Dovecot understands.
_COMMON = """
protocols = imap
listen = 127.0.0.1
base_dir = $base/run
state_dir = $base/state
log_path = $base/log
default_internal_user = $user
default_internal_group = $group
default_login_user = $user
ssl = yes
ssl_min_protocol = TLSv1.2
auth_mechanisms = plain login xoauth2 oauthbearer
auth_failure_delay = 0
auth_username_chars =
mail_fsync = never
mail_max_userip_connections = 100
first_valid_uid = 1
service imap-login {
  chroot =
  inet_listener imap {
    port = $imap
  }
  inet_listener imaps {
    port = $imaps
    ssl = yes
  }
}
service anvil {
  chroot =
  # no waiting after a refused sign-in
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  chroot =
}
"""
_OAUTH2 = """
introspection_mode = auth
introspection_url = http://127.0.0.1:$introspection/
username_attribute = username
active_attribute = active
active_value = true
"""
_UNTIL_2_3 = """
ssl_cert = <$base/server.pem
ssl_key = <$base/server.key
disable_plaintext_auth = no
mail_location = maildir:~/Maildir
service imap-login {
  service_count = 0
}
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = $base/oauth2.conf
}
passdb {
  driver = static
  mechanisms = plain login
  args = password=$password
}
passdb {
  driver = static
  mechanisms = plain login
  args = password=$other_password
}
userdb {
  driver = static
  args = uid=$uid gid=$gid home=$base/home/%u
}
"""
#: The version of the syntax must be the first setting; the OAuth2 mechanisms need no passdb any more.
_SINCE_2_4 = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
ssl_server_cert_file = $base/server.pem
ssl_server_key_file = $base/server.key
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = ~/Maildir
service imap-login {
  restart_request_count = unlimited
}
passdb static {
  passdb_static_password = $password
}
passdb other {
  driver = static
  passdb_static_password = $other_password
}
userdb static {
  fields {
    uid = $uid
    gid = $gid
    home = $base/home/%{user}
  }
}
"""


@dataclass(kw_only=True)
class Dovecot:
    base: Path
    imap: int
    imaps: int
    #: Access tokens that the introspection endpoint knows, and whose they are.
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def ca_file(self) -> Path:
        return self.base / "ca.pem"

    def start(self) -> subprocess.Popen[bytes]:
        """The master process, once it answers."""
        process = subprocess.Popen([_program(), "-F", "-c", str(self.base / "dovecot.conf")])
        wait_for(self._log, lambda: process.poll() is not None or self._answers(), patience=20)
        assert process.poll() is None, self._log()
        return process

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.imap), timeout=5) as opened,
        ):
            return opened.recv(100).startswith(b"* OK")
        return False

    def _log(self) -> str:
        log = self.base / "log"
        return f"Dovecot: {log.read_text() if log.exists() else 'no log'}"


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of the Dovecot with an empty mailbox."""

    dovecot: Dovecot
    user: str

    def settings(self, **changes: Any) -> MailboxSettings:
        values: dict[str, Any] = {
            "host": "localhost",
            "port": self.dovecot.imaps,
            "username": self.user,
            "password": PASSWORD,
            "ca_file": self.dovecot.ca_file,
            "read_timeout": 20,
        }
        return MailboxSettings(**{**values, **changes})

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        with imapclient.IMAPClient("127.0.0.1", port=self.dovecot.imap, ssl=False, timeout=20) as client:
            client.login(self.user, PASSWORD)
            yield client

    def deliver(
        self,
        *messages: bytes,
        folder: str = "INBOX",
        received: dt.datetime | None = None,
        flags: Any = (),
    ) -> None:
        with self.client() as client:
            for message in messages:
                client.append(folder, message, flags=flags, msg_time=received)

    def put(self, name: str, *pieces: bytes, seen: bool = False) -> None:
        """Write a message into the account's folder on disk: faster than APPEND for many or large ones."""
        root = self.dovecot.base / "home" / self.user / "Maildir"
        path = root / ("cur" if seen else "new") / (f"{name}:2,S" if seen else name)
        if not root.exists():
            owner = root.parent.parent.stat()
            for folder in (root.parent, root, root / "cur", root / "new", root / "tmp"):
                folder.mkdir()
                os.chown(folder, owner.st_uid, owner.st_gid)
        with path.open("wb") as file:
            file.writelines(pieces)

    def flags(self, folder: str = "INBOX") -> dict[int, set[str]]:
        """Flags of every message by UID, but for \\Recent."""
        with self.client() as client:
            client.select_folder(folder, readonly=True)
            found = client.get_flags(client.search())
        return {uid: {flag.decode() for flag in flags} - {"\\Recent"} for uid, flags in found.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_certificates(folder: Path) -> None:
    """An authority (ca.pem) and a certificate for localhost (server.pem, server.key) that it signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = dt.datetime.now(dt.UTC)

    def builder(subject: str, issuer: str, key: Any) -> x509.CertificateBuilder:
        name, issuer_name = (
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (subject, issuer)
        )
        made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer_name).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=2))

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = builder("Test authority", "Test authority", ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    ca = ca.add_extension(
        x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usage), critical=True
    )
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = builder("localhost", "Test authority", key.public_key())
    server = server.add_extension(x509.SubjectAlternativeName(names), critical=False)
    server = server.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.pem").write_bytes(server.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@contextlib.contextmanager
def _introspection(tokens: dict[str, str]) -> Iterator[int]:
    """RFC 7662 in short: whose token is it? Yields the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            user = tokens.get(token)
            body = json.dumps({"active": user is not None, "username": user or ""}).encode()
            self.send_response(200 if user else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def own_dovecot() -> Iterator[Dovecot]:
    """A server's folder and ports; nothing runs yet."""
    # Dovecot's sockets need a short path that its own users may enter
    shared = Path("/dev/shm")
    base = Path(
        tempfile.mkdtemp(prefix="mailferry-dovecot-", dir=shared if os.access(shared, os.W_OK) else None)
    )
    base.chmod(0o755)
    try:
        made = Dovecot(base=base, imap=free_port(), imaps=free_port())
        with _introspection(made.tokens) as introspection:
            _configure(made, introspection)
            yield made
    finally:
        shutil.rmtree(base)


def _program() -> str:
    found = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found, "Dovecot is missing: install it with apt-get install dovecot-imapd"
    return found


@contextlib.contextmanager
def running_dovecot() -> Iterator[Dovecot]:
    with own_dovecot() as made:
        process = made.start()
        try:
            yield made
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="session")
def dovecot() -> Iterator[Dovecot]:
    with running_dovecot() as made:
        yield made


def _configure(dovecot: Dovecot, introspection: int) -> None:
    base = dovecot.base
    me = pwd.getpwuid(os.getuid())
    mail = me if me.pw_uid else pwd.getpwnam("nobody")
    user = me.pw_name if me.pw_uid else "nobody"
    group = subprocess.run(["id", "-gn", user], capture_output=True, text=True, check=True).stdout.strip()
    (base / "home").mkdir()
    if not me.pw_uid:
        os.chown(base / "home", mail.pw_uid, mail.pw_gid)
    make_certificates(base)
    version = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.split(".")[:2])) < (2, 4):
        text = _UNTIL_2_3 + _COMMON
    else:
        text = f"{_SINCE_2_4}{_COMMON}oauth2 {{{_OAUTH2}}}\n"
    values = {
        "base": base,
        "user": user,
        "group": group,
        "imap": dovecot.imap,
        "imaps": dovecot.imaps,
        "introspection": introspection,
        "password": PASSWORD,
        "other_password": OTHER_PASSWORD,
        "uid": mail.pw_uid,
        "gid": mail.pw_gid,
    }
    (base / "oauth2.conf").write_text(Template(_OAUTH2).substitute(values))
    (base / "dovecot.conf").write_text(Template(text).substitute(values))


_numbers = itertools.count(1)


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    return Account(dovecot=dovecot, user=f"user{next(_numbers)}@example.com")


def without_starttls(piece: bytes) -> bytes:
    """An `answer` for a Link: a server without encryption. Greeting and capabilities come in one piece each."""
    return piece.replace(b" STARTTLS", b"")
