"""IMAP servers that search badly, lie about sizes, or fail with one message."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import support_memory
from support_imap import FaultyFolder, Served, listening, through

from mailferry.config.mailbox import MailboxSettings
from mailferry.errors import Reject, Retry
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.transfer_encoding import PIECE, decoded
from mailferry.mailbox.mime.tree import leaves
from mailferry.mailbox.source.imap import ImapMailbox
from mailferry.mailbox.source.imap_connection import connect
from mailferry.mailbox.source.matcher import Matcher

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

MAILS = Path(__file__).parent.parent / "data" / "mails"
PLAIN = (MAILS / "plain.eml").read_bytes()


@pytest.fixture
def opened() -> Iterator[Any]:
    """Opens a folder's mailbox; both end with the test."""
    running: list[Any] = []

    def make(folder: FaultyFolder, **changes: Any) -> ImapMailbox:
        server = folder.serve()
        running.append(server.__enter__())
        settings = {"username": "alice", "password": "secret", "read_timeout": 20, **through(server)}
        mailbox = ImapMailbox(MailboxSettings(**{**settings, **changes}))
        running.append(mailbox)
        return mailbox

    yield make
    for one in reversed(running):
        one.close() if isinstance(one, ImapMailbox) else one.__exit__()


def _contents(mailbox: ImapMailbox) -> dict[str, bytes]:
    (ref,) = mailbox.find()
    summary = mailbox.summary(ref)
    assert summary
    return {part.name or part.section: b"".join(mailbox.fetch(ref, part)) for part in summary.parts}


def _expected(raw: bytes) -> dict[str, bytes]:
    found = leaves(from_message(raw))
    return {
        part.name or part.section: b"".join(decoded([raw[slice(*part.span)]], part.encoding))
        for part, _ in found
        if part.span
    }


def test_a_search_that_finds_nothing_is_not_believed(opened: Any) -> None:
    subject = b"=?utf-8?B?8J+TpiBUcmFjayBhbmQgVHJhY2Ugxp91YmU=?="
    folder = FaultyFolder(
        Served(raw=re.sub(rb"Subject: .*", b"Subject: " + subject, PLAIN)),
        Served(raw=PLAIN.replace(b"Track and Trace", b"Minutes")),
    )
    assert [ref.uid for ref in opened(folder).find()] == ["1"]


@pytest.mark.parametrize("after_end", [b"{0}\r\n", b"NIL", b'""'])
@pytest.mark.parametrize("most", [777, None])
def test_a_part_is_all_that_comes_until_the_server_ends_it(
    opened: Any, after_end: bytes, most: int | None
) -> None:
    folder = FaultyFolder(Served(raw=PLAIN, stated_size=100, most=most, after_end=after_end))
    assert _contents(opened(folder)) == _expected(PLAIN)


def test_a_header_that_is_refused_in_part_is_read_as_a_whole(opened: Any) -> None:
    folder = FaultyFolder(
        Served(raw=PLAIN), Served(raw=PLAIN, refused=(b"HEADER.FIELDS",)), Served(raw=PLAIN)
    )
    assert [ref.uid for ref in opened(folder).find()] == ["1", "2", "3"]


def test_a_header_that_cannot_be_read_leaves_the_others_and_is_undecided(opened: Any) -> None:
    bad = Served(raw=PLAIN, refused=(b"HEADER",))
    folder = FaultyFolder(*[Served(raw=PLAIN)] * 300, bad, *[Served(raw=PLAIN)] * 300)
    mailbox = opened(folder)
    look = Matcher(subject="", sender="").sort(mailbox.heads(mailbox.unmarked()))
    assert len(look.wanted) == 600
    assert [(head.ref.uid, "cannot do that" in head.problem) for head in look.unreadable] == [("301", True)]
    assert len(folder.lines) < 30


def test_a_header_at_which_the_server_always_hangs_up_leaves_the_others_and_is_undecided(opened: Any) -> None:
    bad = Served(raw=PLAIN, dropped=(b"HEADER",))
    folder = FaultyFolder(*[Served(raw=PLAIN)] * 300, bad, *[Served(raw=PLAIN)] * 300)
    mailbox = opened(folder)
    look = Matcher(subject="", sender="").sort(mailbox.heads(mailbox.unmarked()))
    assert len(look.wanted) == 600
    assert [(head.ref.uid, "connection was lost" in head.problem) for head in look.unreadable] == [
        ("301", True)
    ]
    bad.drops = 1
    folder.lines.clear()
    assert len(mailbox.find()) == 601
    assert len(folder.lines) < 10


def test_a_server_that_fails_for_a_while_is_a_passing_fault_and_names_the_message(opened: Any) -> None:
    folder = FaultyFolder(
        Served(raw=PLAIN, refused=(b"PEEK[2]",)), refusal=b"NO [UNAVAILABLE] try again later"
    )
    with pytest.raises(
        Retry, match=r"'Track and Trace plain attachment' from .*depot@example.com.*, 2026-11-01"
    ):
        _contents(opened(folder))
    folder.messages[0].refused = ()
    assert _contents(opened(folder)) == _expected(PLAIN)
    folder.messages[0].refused = (b"HEADER.FIELDS",)
    with pytest.raises(Retry, match="UNAVAILABLE"):
        opened(folder).find()


@pytest.mark.parametrize(
    "structure",
    [
        b"(" * 3000 + b")" * 3000,
        b'("text" "plain" ("name" "' + b"x" * 1_100_000 + b'"))',
        b"(((",
        b'"odd"',
        b"NIL",
        b'("multipart" "mixed" NIL NIL NIL "7bit" 3)',
    ],
    ids=["nested", "long", "open", "text", "nil", "no parts"],
)
@pytest.mark.parametrize("mail", ["plain", "no_boundary", "forwarded"])
def test_a_description_beyond_reading_is_replaced_by_the_message_itself(
    opened: Any, structure: bytes, mail: str
) -> None:
    raw = (MAILS / f"{mail}.eml").read_bytes()
    mailbox = opened(FaultyFolder(Served(raw=raw, structure=structure, most=777)), subject_filter="")
    assert _contents(mailbox) == _expected(raw)


def test_a_message_that_is_neither_described_nor_handed_out_is_rejected(opened: Any) -> None:
    mailbox = opened(FaultyFolder(Served(raw=PLAIN, structure=b"((("), Served(raw=PLAIN)), max_file_bytes=1)
    first, second = mailbox.find()
    mailbox.summary(second)
    small = opened(FaultyFolder(Served(raw=PLAIN + b"x" * 40_000_000, structure=b"(((")), max_file_bytes=1)
    with pytest.raises(Reject, match="larger than 33,554,433 bytes"):
        small.summary(first)


def test_a_message_without_a_date_is_described_all_the_same(opened: Any) -> None:
    mailbox = opened(FaultyFolder(Served(raw=PLAIN, received="")))
    (ref,) = mailbox.find()
    assert mailbox.summary(ref).received == datetime.fromtimestamp(0, UTC)


def test_pieces_are_asked_for_in_order_and_only_once(opened: Any) -> None:
    folder = FaultyFolder(Served(raw=PLAIN))
    mailbox = opened(folder)
    (ref,) = mailbox.find()
    part = mailbox.summary(ref).parts[1]
    folder.lines.clear()
    content = b"".join(mailbox.fetch(ref, part))
    assert content.startswith(b"PK")
    asked = [re.search(rb"<(\d+)\.(\d+)>", line) for line in folder.lines]
    assert [(int(found[1]), int(found[2])) for found in asked if found] == [
        (0, PIECE),
        (part.size, PIECE),
    ]


def _endless(opened: socket.socket, piece: bytes, pause: threading.Event, seconds: float) -> None:
    with contextlib.suppress(OSError):
        while not pause.wait(seconds):
            opened.sendall(piece)


@pytest.mark.parametrize(
    ("greeting", "piece", "seconds", "timeout", "fault"),
    [
        (b"* OK {1500000000}\r\n", b"x", 9.0, 5, "announced 1500000000 bytes"),
        (b"", b"* OK " + b"x" * 60_000 + b"\r\n", 0.0, 20, "more than 67,108,864 bytes"),
        (b"* OK ready\r\n* ", b"x", 0.02, 0.3, "no answer in time"),
    ],
    ids=["a huge literal", "without end", "byte by byte"],
)
def test_a_server_is_bounded_in_bytes_and_time_from_its_first_byte_on(
    greeting: bytes, piece: bytes, seconds: float, timeout: float, fault: str
) -> None:
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        one, _ = listener.accept()
        with one:
            one.sendall(greeting)
            _endless(one, piece, ended, seconds)

    with listening() as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        settings = MailboxSettings(
            host="127.0.0.1",
            port=listener.getsockname()[1],
            ssl=False,
            username="alice",
            password="secret",
            read_timeout=timeout,
        )
        begun = time.monotonic()
        support_memory.forget()
        before = support_memory.peak()
        with pytest.raises(Retry, match=fault):
            connect(settings, None)
        ended.set()
        thread.join(30)
        assert time.monotonic() - begun < 60
        assert support_memory.peak() - before < 200_000
