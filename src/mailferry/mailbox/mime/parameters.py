"""Parameters of Content-Type and Content-Disposition (RFC 2045 5.1, RFC 2231), as mail programs write them.

Values hold one character for one byte (Latin-1) until `file_name` decodes them. Everything is linear in its input.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from mailferry.mailbox.mime.headers import clean, named_text, text, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: A header's value is read up to here, in characters, and so many of its parameters.
_MAX_VALUE = 65_536
_MAX_PARAMETERS = 400

_NAME = re.compile(r"[^\s=;\"]+")
_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_UNTIL_SEMICOLON = re.compile(r"[^;]*")
#: A backslash quotes only these: `C:\Temp` is a path of a program that does not know of quoting.
_QUOTED_PAIR = re.compile(r'\\(["\\])')
_TOKEN = re.compile(r"[^\s;,()\"]*")
#: `name*`, `name*0`, `name*0*` (RFC 2231 3 and 4).
_EXTENDED = re.compile(r"([^*]+)\*(?:(\d{1,3})(\*)?)?")


def header_value(value: str) -> tuple[str, dict[str, str]]:
    """What stands before the parameters, in lower case and without comments, and the parameters by lower-case name.

    Of extended ones (`name*0*`) each piece is a parameter of its own; see `joined`.
    """
    value = value[:_MAX_VALUE]
    first = _UNTIL_SEMICOLON.match(value)
    assert first
    return first_token(first[0]), dict(_pairs(value, first.end()))


def first_token(value: str) -> str:
    """The first word, in lower case, without what follows: comments (`base64 (mime)`), semicolons, more words."""
    found = _TOKEN.match(value.strip().strip('"'))
    return found[0].lower() if found else ""


def _pairs(value: str, at: int) -> Iterable[tuple[str, str]]:
    seen: set[str] = set()
    for _ in range(_MAX_PARAMETERS):
        if at >= len(value):
            return
        # between parameters: a semicolon, or none where a program forgot it
        space = _SPACE.match(value, at + 1 if value[at] == ";" else at)
        assert space
        at = space.end()
        found = _NAME.match(value, at)
        if not found:
            at += 1
            continue
        at = _end(_SPACE, value, found.end())
        if value[at : at + 1] != "=":
            continue
        at = _end(_SPACE, value, at + 1)
        name = found[0].lower()
        quoted = _QUOTED.match(value, at)
        if quoted:
            at, content = quoted.end(), _QUOTED_PAIR.sub(r"\1", quoted[1])
        else:
            # also a quote that is never closed; a blank or parenthesis belongs to a name that should have been quoted
            end = _end(_UNTIL_SEMICOLON, value, at)
            at, content = end, value[at:end].strip().strip('"')
        if name not in seen:
            seen.add(name)
            yield name, content


def _end(pattern: re.Pattern[str], value: str, at: int) -> int:
    found = pattern.match(value, at)
    return found.end() if found else at


def joined(parameters: Mapping[str, str], wanted: str, charsets: Sequence[str] = ()) -> str:
    """A parameter's text: RFC 2231 pieces joined and decoded, before a plain one of the same name (RFC 6266 4.3)."""
    pieces: dict[int, tuple[bool, str]] = {}
    for name, value in parameters.items():
        found = _EXTENDED.fullmatch(name)
        if found and found[1] == wanted:
            # `name*` alone is whole; it comes before pieces that contradict it
            number = int(found[2]) if found[2] else -1
            pieces.setdefault(number, (found[2] is None or found[3] is not None, value))
    if -1 in pieces:
        pieces = {-1: pieces[-1]}
    if not pieces:
        return words(parameters.get(wanted, ""), charsets)
    charset, raw = "", b""
    for position, (_, (extended, value)) in enumerate(sorted(pieces.items())):
        part = value
        if extended and position == 0 and part.count("'") >= 2:
            charset, _, part = part.split("'", 2)
        encoded = part.encode("latin-1", "replace")
        raw += unquote_to_bytes(encoded) if extended else encoded
    decoded = named_text(raw, charset, charsets) if charset else text(raw, charsets)
    # some programs write RFC 2047 words in here
    return words(decoded, charsets) if "=?" in decoded and decoded.isascii() else clean(decoded)


def file_name(
    disposition: Mapping[str, str], content_type: Mapping[str, str], charsets: Sequence[str] = ()
) -> str:
    """File name from either header, which may be written as RFC 2047 words although RFC 2047 5 forbids it there."""
    for parameters, key in ((disposition, "filename"), (content_type, "name"), (disposition, "name")):
        if name := joined(parameters, key, charsets):
            return name
    return ""
