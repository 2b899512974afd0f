"""IMAP servers other than the Dovecot, and what a mailbox needs to speak to one."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from support_link import Link

HELLO = b"Subject: Track and Trace\r\nFrom: Depot <depot@example.com>\r\n\r\nhello\r\n"
OAUTH = {"client_id": "c", "client_secret": "s", "token_endpoint": "https://id.example.com/"}
#: A command's end, as an answer of `ScriptedImap`.
DONE = b"{tag} OK done\r\n"


class Tokens:
    """One access token at a time; `forget` goes on to the next as long as there is one."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    def token(self) -> str:
        return self.tokens[0]

    def forget(self) -> None:
        self.tokens = self.tokens[1:] or self.tokens


def through(server: Link | ScriptedImap) -> dict[str, Any]:
    """Settings that lead to a server of this machine without encryption, so that a link can look in."""
    return {"port": server.port, "ssl": False, "host": "127.0.0.1"}


@contextlib.contextmanager
def listening(backlog: int = 5) -> Iterator[socket.socket]:
    """A server that says nothing unless the test does."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield listener


class ScriptedImap:
    """An IMAP server that does what no real one does.

    `answers`: what is sent to a command, by its name in capitals (`UID` for all that begin so; `DONE` ends IDLE), or a
    function of the command's line that returns it. `{tag}` stands for the command's tag. Others are done at once.
    """

    def __init__(
        self, answers: Mapping[bytes, bytes | Callable[[bytes], bytes]], *, capabilities: bytes = b"IMAP4rev1"
    ) -> None:
        opened = b"* 1 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n" + DONE
        self._capabilities = capabilities
        self._answers = {
            b"CAPABILITY": b"* CAPABILITY " + capabilities + b"\r\n" + DONE,
            b"SELECT": opened,
            b"EXAMINE": opened,
            **answers,
        }
        #: Names of the commands that came.
        self.said: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=30)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                opened, _ = self._listener.accept()
                self.connections += 1
                with opened, opened.makefile("rb") as lines, contextlib.suppress(OSError):
                    opened.sendall(b"* OK [CAPABILITY " + self._capabilities + b"] ready\r\n")
                    tag = b""
                    for line in lines:
                        name = b"DONE" if line == b"DONE\r\n" else line.split()[1].upper()
                        tag = tag if name == b"DONE" else line.split()[0]
                        self.said.append(name)
                        answer = self._answers.get(name, DONE)
                        whole = answer(line) if callable(answer) else answer
                        opened.sendall(whole.replace(b"{tag}", tag))
