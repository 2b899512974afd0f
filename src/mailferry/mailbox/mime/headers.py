"""Header text as people read it: decoded, in one line, without control characters; and comparing it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A header block is read up to here; what comes after is no longer a header that a mail program wrote.
MAX_HEADER = 1024 * 1024
#: A single value is decoded up to here, in characters.
_MAX_VALUE = 8192
#: They make a name read as another one (`fdp.xlsx` for `xslx.pdf`).
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Tried for raw 8-bit text after what the message and the configuration name. It differs from Western European
#: (windows-1252) in the six Turkish letters only, for which that has Icelandic ones.
FALLBACK = "windows-1254"
#: Charsets that mail programs name when they send their supersets (WHATWG Encoding, 4.2).
_SUPERSETS = {"iso-8859-1": "windows-1252", "latin1": "windows-1252", "iso-8859-9": FALLBACK}
_ASCII = frozenset({"us-ascii", "ascii", "ansi_x3.4-1968", "unknown-8bit"})
_CHARSET = re.compile(r'charset\*?\s*=\s*"?([\w.:+-]+)', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Headers:
    """The few headers that filters and the ledger look at; "" where missing."""

    subject: str
    sender: str
    message_id: str
    #: The addresses of `From`, without the names beside them.
    addresses: tuple[str, ...] = ()


class Buffer(Protocol):
    """Bytes that are read where they are asked for: `bytes`, or a `FileBuffer`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


def header_block(message: Buffer, start: int = 0, end: int | None = None) -> tuple[bytes, int]:
    """The header block that starts here, and where the body after the empty line begins."""
    end = len(message) if end is None else end
    if message[start : start + 2] == b"\r\n":
        return b"", min(start + 2, end)
    if message[start : start + 1] == b"\n":
        return b"", min(start + 1, end)
    found = [
        (at, at + len(blank))
        for blank in (b"\n\r\n", b"\n\n")
        if (at := message.find(blank, start, min(end, start + MAX_HEADER))) >= 0
    ]
    stop, body = min(found, default=(min(end, start + MAX_HEADER), end))
    return message[start : min(stop + 1, end)], body


def parse_headers(block: bytes, charsets: Sequence[str] = ()) -> Headers:
    """Read a header block; the first of equal names counts. `charsets` are tried for raw 8-bit text, see `text`."""
    values = raw_values(block)
    tried = (*named_charset(values.get("content-type", "")), *charsets)
    sender = values.get("from", "")[:_MAX_VALUE]
    return Headers(
        subject=words(values.get("subject", ""), tried),
        sender=words(sender, tried),
        message_id=clean(text(values.get("message-id", "").encode("latin-1"), tried)),
        addresses=tuple(clean(address) for _, address in getaddresses([sender]) if address),
    )


def is_raw(block: bytes) -> bool:
    """Whether a header block holds bytes that are neither ASCII nor UTF-8, so that their charset has to be found out."""
    try:
        block.decode()
    except UnicodeDecodeError:
        return True
    return False


def raw_values(block: bytes) -> dict[str, str]:
    """The first value of each header by lower-case name, still encoded. One character is one byte (Latin-1)."""
    values: dict[str, str] = {}
    for name, value in fields(block):
        values.setdefault(name, value)
    return values


def fields(block: bytes) -> Iterator[tuple[str, str]]:
    """Names in small letters and values, from top to bottom; folded lines are joined."""
    for name, value in BytesHeaderParser().parsebytes(block[:MAX_HEADER]).raw_items():
        raw = str(value).encode("ascii", "surrogateescape").decode("latin-1")
        yield name.lower(), raw.replace("\r", "").replace("\n", "")


def named_charset(content_type: str) -> tuple[str, ...]:
    """The charset that a Content-Type names, or nothing."""
    found = _CHARSET.search(content_type[:_MAX_VALUE])
    return (found[1],) if found else ()


def text(value: object, charsets: Sequence[str] = ()) -> str:
    """Bytes as text: UTF-8, else the first of `charsets` that fits, else `FALLBACK`, else Latin-1, which takes anything.

    IMAP has bare digits as integers.
    """
    if value is None:
        return ""
    if not isinstance(value, bytes):
        return str(value)
    for charset in ("utf-8", *charsets, FALLBACK):
        name = charset.lower()
        if name not in _ASCII:
            try:
                return value.decode(_SUPERSETS.get(name, name))
            except (LookupError, ValueError):
                continue
    return value.decode("latin-1")


def named_text(value: bytes, charset: str, charsets: Sequence[str] = ()) -> str:
    """Bytes in the charset that is named right beside them; where that is not true, as `text`."""
    named = charset.lower()
    try:
        return value.decode(_SUPERSETS.get(named, named))
    except (LookupError, ValueError):
        return text(value, charsets)


def words(value: str, charsets: Sequence[str] = ()) -> str:
    """Decode RFC 2047 encoded words and raw bytes (given as Latin-1), and clean the result.

    A word that cannot be decoded stays as it is; one whose charset is wrong is read as raw bytes are.
    """
    value = value[:_MAX_VALUE]
    if not value.isascii() and any(character > "\xff" for character in value):
        return clean(value)  # it is decoded already
    if "=?" not in value:
        return clean(text(value.encode("latin-1"), charsets))
    try:
        decoded = "".join(_chunk(chunk, charset, charsets) for chunk, charset in decode_header(value))
    except (HeaderParseError, ValueError):
        return clean(text(value.encode("latin-1"), charsets))
    return clean(decoded)


def clean(value: str) -> str:
    """One line: runs of white space become one space; control, surrogate and bidirectional marks go."""
    value = " ".join(value.split())
    return "".join(c for c in value if unicodedata.category(c) not in ("Cc", "Cs") and c not in _BIDI)


def fold(value: str) -> str:
    """A form for comparing in any case; the four Turkish i are one letter, as mail servers' own folding differs on them."""
    folded = unicodedata.normalize("NFKD", value).casefold().replace("\u0131", "i").replace("\u0307", "")
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def contains(value: str, part: str) -> bool:
    """Whether a value contains a filter's text, in any case; an empty filter is contained in everything."""
    return fold(part) in fold(value)


def _chunk(chunk: bytes | str, charset: str | None, charsets: Sequence[str]) -> str:
    # decode_header has plain text beside encoded words as the bytes that it was
    raw = chunk.encode("latin-1", "replace") if isinstance(chunk, str) else chunk
    # RFC 2231 5: a language may follow the charset
    return text(raw, charsets) if charset is None else named_text(raw, charset.partition("*")[0], charsets)
