"""Transfer encodings undone in pieces."""

from __future__ import annotations

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.mailbox.mime.transfer_encoding import PIECE, decoded


def _cut(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def _uuencode(content: bytes) -> bytes:
    lines = b"".join(binascii.b2a_uu(line) for line in _cut(content, 45))
    return b"A word before.\nbegin 644 name\n" + lines + b"`\nend\nand after\n"


_ENCODERS = {
    "base64": base64.encodebytes,
    "quoted-printable": lambda content: binascii.b2a_qp(content, istext=False, quotetabs=True),
    "x-uuencode": _uuencode,
    "binary": bytes,
    "": bytes,
    "unheard-of": bytes,
}


@pytest.mark.parametrize("encoding", _ENCODERS)
@given(content=st.binary(max_size=300), size=st.integers(1, 80))
def test_any_content_survives_in_pieces_of_any_size(encoding: str, content: bytes, size: int) -> None:
    encoded = _ENCODERS[encoding](content)
    assert b"".join(decoded(_cut(encoded, size), encoding)) == content


@pytest.mark.parametrize("encoding", _ENCODERS)
@given(pieces=st.lists(st.binary(max_size=40), max_size=10))
def test_garbage_never_raises(encoding: str, pieces: list[bytes]) -> None:
    assert sum(map(len, decoded(pieces, encoding))) <= sum(map(len, pieces)) + 1


def test_base64_skips_foreign_characters_and_goes_on_after_padding() -> None:
    assert b"".join(decoded([b"aGVs*b!G8", b"=\r\nIHdvcm", b"xk=garbage-less"], "BASE64 ")).startswith(
        b"hello world"
    )


@pytest.mark.parametrize("length", [57, 58, 59, 100_000])
@pytest.mark.parametrize("size", [7, 1_000_000])
def test_words_that_a_gateway_appended_to_base64_are_no_data(length: int, size: int) -> None:
    content = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
    mail = (
        base64.encodebytes(content)
        + b"\r\n-- \r\nThis mail was scanned by Example AV\r\nhttps://example.com/\r\n"
    )
    assert b"".join(decoded(_cut(mail, size), "base64")) == content
    wrapped = base64.encodebytes(content).replace(b"\n", b" ")
    assert b"".join(decoded(_cut(wrapped, size), "base64")) == content


def test_a_line_without_end_is_not_held_back() -> None:
    for encoding in ("quoted-printable", "x-uuencode"):
        endless = (b"a" * 100_000 for _ in range(50))
        pieces = list(decoded(endless, encoding))
        assert all(len(piece) <= PIECE for piece in pieces)
    assert b"".join(decoded([b"=3D" * 60_000], "quoted-printable")) == b"=" * 60_000
    assert b"".join(decoded(_cut(b"=3D" * 60_000, 70_001), "quoted-printable")) == b"=" * 60_000


def test_pieces_are_never_larger_than_agreed() -> None:
    assert [len(piece) for piece in decoded([b"x" * (2 * PIECE + 5)], "7bit")] == [PIECE, PIECE, 5]
