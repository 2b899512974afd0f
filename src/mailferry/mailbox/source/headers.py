"""Header text as people read it: decoded, in one line, without control characters; and comparing it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from email.parser import BytesHeaderParser

#: A header block is read up to here; what comes after is no longer a header that anybody wrote.
MAX_HEADER = 1024 * 1024
#: A single value is decoded up to here, in characters.
_MAX_VALUE = 8192
#: They make a name read as another one (`fdp.xlsx` for `xslx.pdf`).
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, kw_only=True, slots=True)
class Headers:
    """The few headers that filters and the ledger look at; "" where missing."""

    subject: str
    sender: str
    message_id: str


def parse_headers(block: bytes) -> Headers:
    """Read a header block; the first of equal names counts."""
    values = raw_values(block)
    return Headers(
        subject=words(values.get("subject", "")),
        sender=words(values.get("from", "")),
        message_id=clean(values.get("message-id", "")),
    )


def raw_values(block: bytes) -> dict[str, str]:
    """Header values by lower-case name, still encoded; folded lines are joined, bytes become text."""
    message = BytesHeaderParser().parsebytes(block[:MAX_HEADER])
    values: dict[str, str] = {}
    for name, value in message.raw_items():
        values.setdefault(name.lower(), _unfolded(text(str(value).encode("utf-8", "surrogateescape"))))
    return values


def text(value: object) -> str:
    """Bytes of unknown charset: UTF-8, or else Latin-1, which takes anything. IMAP gives bare digits as integers."""
    if value is None:
        return ""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def words(value: str) -> str:
    """Decode RFC 2047 encoded words and clean the result; what cannot be decoded stays as it is."""
    value = value[:_MAX_VALUE]
    if "=?" not in value:
        return clean(value)
    try:
        decoded = "".join(_chunk(chunk, charset) for chunk, charset in decode_header(value))
    except (HeaderParseError, ValueError):
        return clean(value)
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


def _unfolded(value: str) -> str:
    return value.replace("\r", "").replace("\n", "")


def _chunk(chunk: bytes | str, charset: str | None) -> str:
    if isinstance(chunk, str):
        return chunk
    if charset is None:
        # decode_header gives plain text beside encoded words in this encoding
        return chunk.decode("raw-unicode-escape", "replace")
    try:
        return chunk.decode(charset, "replace")
    except (LookupError, ValueError):
        return text(chunk)
