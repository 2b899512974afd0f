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
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Self

import imapclient  # type: ignore[import-untyped]  # has no py.typed
import pytest

from mailferry.config.mailbox import MailboxSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """RFC 7662 in short: whose token is it? Gives the port."""

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


@pytest.fixture(scope="session")
def dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    # Dovecot's sockets need a short path that its own users may enter
    short = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path_factory.getbasetemp()
    base = short / f"mailferry-dovecot-{os.getpid()}"
    base.mkdir(mode=0o755)
    try:
        found = Dovecot(base=base, imap=free_port(), imaps=free_port())
        with _introspection(found.tokens) as introspection:
            _configure(found, introspection)
            process = subprocess.Popen([_program(), "-F", "-c", str(base / "dovecot.conf")])
            try:
                _wait_for(found, process)
                yield found
            finally:
                process.terminate()
                process.wait(timeout=20)
    finally:
        shutil.rmtree(base)


def _program() -> str:
    found = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found, "Dovecot is missing: install it with apt-get install dovecot-imapd"
    return found


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


def _wait_for(dovecot: Dovecot, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", dovecot.imap), timeout=5) as opened,
        ):
            if opened.recv(100).startswith(b"* OK"):
                return
        time.sleep(0.02)
    log = dovecot.base / "log"
    pytest.fail(f"Dovecot did not start: {log.read_text() if log.exists() else 'no log'}")


_numbers = itertools.count(1)


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    return Account(dovecot=dovecot, user=f"user{next(_numbers)}@example.com")


class Proxy:
    """Stands between a client and a server; every piece from the server goes through `answer`.

    `answer` gives the bytes to pass on, or None to cut the connection.
    """

    def __init__(self, port: int, answer: Callable[[bytes], bytes | None] = lambda piece: piece) -> None:
        self._target = port
        self.answer = answer
        #: Bytes that went to the client.
        self.bytes = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
        for opened in (self._listener, *self._sockets):
            opened.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                for source, target, change in ((client, server, None), (server, client, self._changed)):
                    thread = threading.Thread(target=self._relay, args=(source, target, change), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _changed(self, piece: bytes) -> bytes | None:
        changed = self.answer(piece)
        self.bytes += len(changed or b"")
        return changed

    def _relay(
        self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes | None] | None
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                passed = change(piece) if change else piece
                if passed is None:
                    break
                target.sendall(passed)
        for opened in (source, target):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


def without_starttls(piece: bytes) -> bytes:
    """An `answer` for a Proxy: a server without encryption. Greeting and capabilities come in one piece each."""
    return piece.replace(b" STARTTLS", b"")
