"""IMAP servers other than the Dovecot, and what a mailbox needs to speak to one."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from mailferry.mailbox.mime.headers import header_block
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.tree import leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from support_link import Link

    from mailferry.mailbox.mime.tree import Node

HELLO = b"Subject: Track and Trace\r\nFrom: Depot <depot@example.com>\r\n\r\nhello\r\n"
OAUTH = {"client_id": "c", "client_secret": "s", "token_endpoint": "https://id.example.com/"}
#: A command's end, as an answer of `ScriptedImap`.
DONE = b"{tag} OK done\r\n"
#: At the end of an answer of `ScriptedImap`: the connection is dropped.
DROP = b"{drop}"


@dataclass(kw_only=True)
class Served:
    """A message of a `FaultyFolder`, and how the server fails with it."""

    raw: bytes
    #: INTERNALDATE.
    received: str = "01-Nov-2026 10:00:00 +0000"
    seen: bool = False
    #: Commands for this message that hold one of these are refused.
    refused: tuple[bytes, ...] = ()
    #: At commands for this message that hold one of these the connection is dropped, so many times.
    dropped: tuple[bytes, ...] = ()
    drops: int = 1_000_000
    #: Its BODYSTRUCTURE, where it is not the true one.
    structure: bytes | None = None
    #: The size that its parts are said to have.
    stated_size: int | None = None
    #: The most bytes that come at once.
    most: int | None = None
    #: What comes after the end of a part: an empty text, or NIL.
    after_end: bytes = b"{0}\r\n"


class FaultyFolder:
    """Answers of an INBOX, for `ScriptedImap`; UIDs count from 1. A search for text finds nothing, and says OK."""

    def __init__(self, *messages: Served, refusal: bytes = b"NO cannot do that") -> None:
        self.messages = list(messages)
        self.refusal = refusal
        #: Whole lines of the commands that came.
        self.lines: list[bytes] = []

    def serve(self) -> ScriptedImap:
        """A server of it."""
        return ScriptedImap({b"UID": self.answer, b"SELECT": self._open, b"EXAMINE": self._open})

    def _open(self, _: bytes) -> bytes:
        return b"* %d EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n" % len(self.messages) + DONE

    def answer(self, line: bytes) -> bytes:
        self.lines.append(line)
        command, wanted = line.split()[2].upper(), line.split()[3]
        if command == b"SEARCH":
            found = [b"%d" % uid for uid, one in enumerate(self.messages, 1) if not one.seen]
            found = [] if re.search(rb"SUBJECT|FROM|TEXT", line) else found
            return b"* SEARCH " + b" ".join(found) + b"\r\n" + DONE
        uids = [int(uid) for uid in wanted.split(b",")]
        if command == b"STORE":
            for uid in uids:
                self.messages[uid - 1].seen = True
            return DONE
        answers, fault = b"", b""
        for uid in uids:
            one = self.messages[uid - 1]
            if one.drops and any(part in line for part in one.dropped):
                one.drops -= 1
                return answers + DROP
            if any(part in line for part in one.refused):
                fault = b"{tag} " + self.refusal + b"\r\n"
            else:
                answers += b"* %d FETCH (UID %d %b)\r\n" % (uid, uid, self._items(one, line))
        return answers + (fault or DONE)

    def _items(self, one: Served, line: bytes) -> bytes:
        raw = one.raw
        header = raw[: header_block(raw)[1]]
        found = [b'INTERNALDATE "%b"' % one.received.encode()] if b"INTERNALDATE" in line else []
        if b"RFC822.SIZE" in line:
            found.append(b"RFC822.SIZE %d" % len(raw))
        if b"BODYSTRUCTURE" in line:
            true = _structure(from_message(raw), one.stated_size)
            found.append(b"BODYSTRUCTURE " + (true if one.structure is None else one.structure))
        for item in re.findall(rb"BODY\.PEEK(\[HEADER[^\]]*\])", line):
            found.append(b"BODY%b {%d}\r\n%b" % (item, len(header), header))
        for section, offset, size in re.findall(rb"BODY\.PEEK\[([\d.]*)\]<(\d+)\.(\d+)>", line):
            spans = {part.section.encode(): part.span for part, _ in leaves(from_message(raw))}
            start, end = spans.get(section) or (0, len(raw))
            body = raw[start:end]
            piece = body[int(offset) :][: min(int(size), one.most or int(size))]
            literal = b"{%d}\r\n%b" % (len(piece), piece) if piece else one.after_end
            found.append(b"BODY[%b]<%b> %b" % (section, offset, literal))
        return b" ".join(found)


def _structure(node: Node, size: int | None) -> bytes:
    """A BODYSTRUCTURE without extension data."""
    kind, _, subtype = node.mime.partition("/")
    if node.is_multipart:
        parts = b"".join(_structure(child, size) for child in node.children)
        return b'(%b "%b")' % (parts, subtype.encode())
    name = node.part("1").name
    parameters = f'("name" "{name}")' if name.isascii() and name else "NIL"
    lines = " 1" if kind == "text" else ""
    stated = node.size if size is None else size
    return f'("{kind}" "{subtype}" {parameters} NIL NIL "{node.encoding}" {stated}{lines})'.encode()


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
                        opened.sendall(whole.removesuffix(DROP).replace(b"{tag}", tag))
                        if whole.endswith(DROP):
                            break
