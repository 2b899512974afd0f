"""XML read by patterns that have to match all of it: for the fast path of large .xlsx, which knows few forms and no others.

Whatever it does not know raises Unknown, and the reader of record reads the part instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Bytes without an end of an element that are kept at most.
_LONGEST = 4 * 1024 * 1024
_DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?(?:<\?xml version=["']1\.0["'](?: encoding=["']utf-8["'])?(?: standalone=["']yes["'])?\s*\?>)?\s*<(?!\?)""", re.IGNORECASE)  # fmt: skip
#: Comments, CDATA and DOCTYPE may hide what looks like an element.
_MARKUP = (b"<!", b"\0")
_REFERENCE = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)")
_ESCAPE = re.compile(rb"_[xX][0-9a-fA-F]{4}_")


class Unknown(Exception):  # noqa: N818 - says what the file is
    """Something that the fast path does not know, which need not be wrong."""


def blocks(pieces: Iterable[bytes], begin: re.Pattern[bytes], unit: bytes, end: bytes) -> Iterator[bytes]:
    """What stands before the content of an element, with its tag; then the content, cut behind an end of `unit`.

    Reads on to the end of the pieces, so that their maker finds that a checksum is wrong.
    """
    buffer = b""
    remaining = iter(pieces)
    found = None
    while found is None:
        buffer += _next(remaining, buffer)
        found = begin.search(buffer)
    head = buffer[: found.end()]
    if not _DECLARED.match(head) or any(mark in head for mark in _MARKUP):
        raise Unknown("its beginning")
    yield head
    buffer = buffer[found.end() :]
    while (last := buffer.find(end)) < 0:
        cut = buffer.rfind(unit) + len(unit)
        if cut >= len(unit):
            yield buffer[:cut]
            buffer = buffer[cut:]
        buffer += _next(remaining, buffer)
    yield buffer[:last]
    for _ in remaining:
        pass


def _next(pieces: Iterator[bytes], kept: bytes) -> bytes:
    piece = next(pieces, b"")
    if not piece or len(kept) > _LONGEST:
        raise Unknown("no end")
    return piece


def unescaped(texts: Sequence[bytes]) -> list[str]:
    """Character data as text."""
    if not texts:
        return []
    together = b"\0".join(texts)
    # A look for a mark costs a tenth of a pattern's.
    if together.count(b"\0") != len(texts) - 1 or b"<" in together or b"\r" in together:
        raise Unknown("its text")
    if (b"&" in together and _REFERENCE.search(together)) or (b"_" in together and _ESCAPE.search(together)):
        raise Unknown("its text")
    try:
        text = together.decode()
    except UnicodeDecodeError:
        raise Unknown("its text") from None
    if "&" in text:
        for name, mark in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&")):
            text = text.replace(f"&{name};", mark)
    return text.split("\0")


def shown(texts: list[str]) -> list[str]:
    """Texts whose spaces are not to be preserved; where that makes a difference they are unknown."""
    if list(map(str.strip, texts)) != texts:
        raise Unknown("space around a text")
    return texts
