"""Content-Transfer-Encoding undone piece by piece (RFC 2045 6, and uuencode), whatever garbage lies in between."""

from __future__ import annotations

import binascii
import string
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: Bytes in a piece, fetched or given on.
PIECE = 256 * 1024

_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))
#: Words of letters at most; what is longer is data.
_LONG_WORD = 32
#: A line longer than this is no longer held back to see its end.
_LONG_LINE = 64 * 1024


def decoded(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Content in pieces of at most `PIECE` bytes. An unknown encoding is none, as RFC 2045 6.4 has no better idea."""
    for piece in _DECODERS.get(encoding.strip().lower(), iter)(pieces):
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE]


def _base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What is not in the alphabet is skipped; padding ends a run, and another may follow (mails joined by gateways)."""
    rest = b""
    for piece in _without_prose(pieces):
        runs = (rest + piece.translate(None, _NOT_BASE64)).split(b"=")
        whole = len(runs[-1]) & ~3
        yield b"".join(map(_run, runs[:-1])) + binascii.a2b_base64(runs[-1][:whole])
        rest = runs[-1][whole:]
    yield _run(rest)


def _without_prose(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Without the lines of words that gateways append, all of whose letters are in the alphabet."""
    rest = b""
    after_prose = False
    for piece in chain(pieces, (b"\n",)):
        held = rest + piece
        cut = held.rfind(b"\n") + 1
        if not cut and len(held) > _LONG_LINE:
            cut = held.rfind(b" ") + 1 or len(held)
        held, rest = held[:cut], held[cut:]
        if not after_prose and b" " not in held:  # as nearly always
            yield held
            continue
        kept = []
        for line in held.splitlines(keepends=True):
            words = line.lstrip(b"> ").split()
            # Words, not groups of four letters; below them an address stands alone.
            if any(len(word) < _LONG_WORD and len(word) % 4 for word in words[:-1]):
                after_prose = True
            elif not (after_prose and any(word.translate(None, _BASE64) for word in words)):
                kept.append(line)
        yield b"".join(kept)


def _run(run: bytes) -> bytes:
    """One run without its padding; a single left-over character holds less than a byte and goes."""
    if len(run) % 4 == 1:
        run = run[:-1]
    return binascii.a2b_base64(run + b"=" * (-len(run) % 4))


def _quoted_printable(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        held = rest + piece
        cut = held.rfind(b"\n") + 1
        if len(held) - cut > _LONG_LINE:
            # not within an `=XX`, nor between `=` and the line end that it hides
            cut = len(held) - 3
            escape = held.rfind(b"=", cut - 2, cut)
            cut = escape if escape >= 0 else cut
        yield binascii.a2b_qp(held[:cut])
        rest = held[cut:]
    yield binascii.a2b_qp(rest)


def _uuencode(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines between `begin <mode> <name>` and `end`; text around them is skipped."""
    inside = False
    for lines in _lines(pieces):
        found = []
        for line in lines:
            if not inside:
                inside = line.startswith(b"begin ")
            elif line.strip() == b"end":
                inside = False
            else:
                found.append(_uuencoded_line(line.rstrip(b"\r\n")))
        yield b"".join(found)


def _uuencoded_line(line: bytes) -> bytes:
    if not line or not 32 <= line[0] <= 96:
        return b""
    needed = ((line[0] - 32) & 63) * 4 // 3 + 1
    try:
        return binascii.a2b_uu(line[: 1 + needed + 3])
    except binascii.Error:
        # encoders pad the last group carelessly, and some gateways strip trailing spaces
        try:
            return binascii.a2b_uu(line[: 1 + (((line[0] - 32) & 63) * 4 + 5) // 3])
        except binascii.Error:
            return b""


def _lines(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = b""
    for piece in pieces:
        lines = (rest + piece).splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < _LONG_LINE else b""
        yield lines
    yield [rest]


_DECODERS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    "base64": _base64,
    "quoted-printable": _quoted_printable,
    "uuencode": _uuencode,
    "x-uuencode": _uuencode,
    "x-uue": _uuencode,
    "uue": _uuencode,
}
