"""Provider JSON <-> one line of a file, with nothing changed on the way.

orjson does the common case. What it would change or refuse (numbers with more digits than 64 bits hold, lone surrogates,
bytes that are no UTF-8, raw control characters, deep nesting) takes a slower way, record by record if need be.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Two days before the calendar ends, Unix seconds.
LAST_SECOND = 253_402_300_800 - 2 * 86_400
#: From here on a number is no count of seconds (the year 5138): milliseconds, microseconds, nanoseconds.
_MILLISECONDS = 100_000_000_000

#: Every digit and the point become 0: a plain search then finds the long numbers, far faster than a pattern.
_DIGITS_ALIKE = bytes.maketrans(b"123456789.", b"0" * 10)
#: 16 digits and a point, or 17 digits: fewer always fit; and what may stand before a number.
_LONG = b"0" * 17
_BEFORE = frozenset(b":,[ -\n\t")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?")
#: What is of interest on the way to the end of a JSON value: strings, and brackets outside of them.
_PIECE = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_CLOSES = {b"[": b"]", b"{": b"}"}
_DEEPEST = 5000
_BOM = b"\xef\xbb\xbf"


class Decoded(NamedTuple):
    """The value of an answer."""

    value: Any
    #: Parts that no parser could read, and that stand in `value` as their text.
    unreadable: int = 0


def decode(body: bytes) -> Any:
    """The JSON value of a whole answer.

    Raises:
        ValueError: not JSON, or cut off.
    """
    if not _has_long_number(body):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    return _decode_slowly(body.removeprefix(_BOM))


def decode_leniently(body: bytes) -> Decoded:
    """As `decode`, but one record that cannot be read does not spoil the rest: its smallest unreadable part becomes text.

    Raises:
        ValueError: not JSON, or cut off.
    """
    try:
        return Decoded(decode(body))
    except ValueError:
        return _salvaged(body.removeprefix(_BOM).strip(b" \t\r\n"), levels=5)


def encode(record: Any) -> bytes:
    """One line, without its newline: compact JSON, UTF-8 as it is."""
    try:
        return orjson.dumps(record, default=_exact)
    except TypeError:
        with _deep(4):
            text = _spelled(record, ascii_only=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        with _deep(4):
            return _spelled(record, ascii_only=True).encode()


def canonical(record: Any) -> bytes:
    """The same bytes for the same JSON value, whatever the order of its keys."""
    try:
        return orjson.dumps(record, default=_exact, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        with _deep(4):
            return _spelled(record, ascii_only=True, sort=True).encode()


def event_time(record: Any) -> int | None:
    """When the event happened, in Unix seconds, by the provider's rules; None where the record does not say.

    A mail record's time is that of its first recipient that has one; the others carry `time`, `timestamp` or `starttime`.
    """
    return _timed(record)[1]


def times(record: Any) -> set[int]:
    """All times that a record shows as its own or a recipient's, in Unix seconds."""
    return {seconds for _, seconds in _times(record)}


def queue_id(record: Any) -> str | None:
    """The provider's name for the mail, or None where the record has none."""
    value = record.get("queue_id") if isinstance(record, dict) else None
    return str(value) if isinstance(value, str | int | Decimal) and value != "" else None


def time_spellings(record: Any) -> list[str]:
    """The record's time as its detail may be asked for: in Unix seconds, and as the provider wrote it."""
    value, seconds = _timed(record)
    return [] if seconds is None else list(dict.fromkeys((str(seconds), str(value))))


def is_detail(answer: Any, listed: Any) -> bool:
    """Whether an answer is the detail of a listed record: an object with its queue id, and with recipients if it has some."""
    name = queue_id(listed)
    if not isinstance(answer, dict) or (queue_id(answer) or name) != name:
        return False
    if listed.get("recipients"):
        return isinstance(answer.get("recipients"), list)
    # Without recipients: a field that says more than an error object does.
    return any(field in answer for field in listed if field not in {"queue_id", "time", *_OF_ERRORS})


def error_status(answer: Any) -> int | None:
    """The HTTP status that an error object names in its `status` or `code`; None where it is none."""
    if not isinstance(answer, dict):
        return None
    for name in ("status", "code"):
        found = re.fullmatch(r"\D*([45]\d\d)\D*", str(answer.get(name, "")))
        if found:
            return int(found[1])
    return None


_OF_ERRORS = ("status", "code", "message", "api-version", "extended-code-text", "link")


def _timed(record: Any) -> tuple[Any, int | None]:
    """The first value of the record that is a time, and that in Unix seconds."""
    try:
        # What nearly every mail record has, many times faster.
        time = record["recipients"][0]["time"]
    except (TypeError, KeyError, IndexError):
        time = None
    if type(time) is int and 0 <= time < _MILLISECONDS:
        return time, time
    return next(_times(record), (None, None))


def _times(record: Any) -> Iterator[tuple[Any, int]]:
    if not isinstance(record, dict):
        return
    recipients = record.get("recipients")
    listed = recipients if isinstance(recipients, list) else ()
    shown = [one.get("time") for one in listed if isinstance(one, dict)]
    for value in (*shown, *(record.get(name) for name in ("time", "timestamp", "starttime"))):
        if (seconds := _seconds(value)) is not None:
            yield value, seconds


def _seconds(value: Any) -> int | None:
    """Unix seconds of a number (of seconds, or of milli-, micro- or nanoseconds), of its text, or of ISO 8601 (else UTC)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _iso_seconds(value)
    # Beyond the year 9999, in any time zone, no calendar goes; such a number is no time.
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and 0 <= value < 1e19:
        while value >= _MILLISECONDS:
            value = value // 1000
        return int(value)
    return None


def _iso_seconds(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.strip())
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return int(seconds) if 0 <= seconds < LAST_SECOND else None


# --- the slower way


def _has_long_number(body: bytes) -> bool:
    """Whether a number in it has digits that orjson would not keep."""
    alike = body.translate(_DIGITS_ALIKE)
    at = alike.find(_LONG)
    while at >= 0:
        if at == 0 or body[at - 1] in _BEFORE:
            number = _NUMBER.match(body, at - 1 if body[at - 1 : at] == b"-" else at)
            if number and not _fits(number[0], whole=number[1] is None and number[2] is None):
                return True
        at = alike.find(_LONG, at + len(_LONG))
    return False


def _fits(number: bytes, *, whole: bool) -> bool:
    if whole:
        return len(number) < 19 or (len(number) <= 20 and -(2**63) <= int(number) < 2**64)
    value = repr(float(number))
    return value == (text := number.decode()) or Decimal(value) == Decimal(text)


def _decode_slowly(body: bytes) -> Any:
    try:
        # Bytes that are no UTF-8 become lone surrogates, and in the line escapes: odd, but not lost.
        with _deep():
            return json.loads(
                body.decode("utf-8", "surrogateescape"),
                strict=False,
                parse_float=_float,
                parse_int=_int,
                parse_constant=str,
            )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _salvaged(body: bytes, levels: int) -> Decoded:
    """What can be read of an array or an object, each member by itself; members that cannot be read as their text."""
    members = _members(body)
    unreadable = 0
    values: list[Any] = []
    for member in members:
        key, text = _key_and_value(member) if body[:1] == b"{" else ("", member)
        try:
            value = decode(text)
        except ValueError:
            try:
                if levels <= 1 or text[:2] == b"[[":
                    raise
                value, count = _salvaged(text, levels - 1)
            except ValueError:
                value, count = text.decode("utf-8", "surrogateescape"), 1
            unreadable += count
        values.append((key, value) if body[:1] == b"{" else value)
    return Decoded(dict(values) if body[:1] == b"{" else values, unreadable)


def _members(body: bytes) -> list[bytes]:
    """The members of an array or an object, by its strings and brackets alone.

    Raises:
        ValueError: it does not end where it should: cut off, or no JSON.
    """
    closes = _CLOSES.get(body[:1])
    if closes is None:
        raise ValueError("no array and no object")
    members = []
    begin, depth = 1, 0
    for piece in _PIECE.finditer(body):
        what = piece[0]
        if what in _CLOSES:
            depth += 1
        elif what in {b"]", b"}"}:
            depth -= 1
        if depth == (1 if what == b"," else 0) and what in {b",", closes}:
            members.append(body[begin : piece.start()].strip())
            begin = piece.end()
        if depth == 0:
            break
    if depth or begin != len(body):
        raise ValueError("it does not end where it should")
    return [] if members == [b""] else members


def _key_and_value(member: bytes) -> tuple[str, bytes]:
    key = _PIECE.match(member)
    if key is None or member[key.end() :].lstrip()[:1] != b":":
        raise ValueError("no key")
    return str(_decode_slowly(key[0])), member[key.end() :].lstrip()[1:].strip()


def _float(text: str) -> float | Decimal | str:
    """A decimal keeps every digit; what is beyond every float is kept as text."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        return text
    exact = Decimal(text)
    return value if Decimal(repr(value)) == exact else exact


def _int(text: str) -> int | Decimal | str:
    # Python refuses to convert more than 4,300 digits.
    if len(text) < 19:
        return int(text)
    return Decimal(text) if len(text) <= 4000 else text


def _exact(value: Any) -> orjson.Fragment:
    """A number that orjson does not know, digit by digit."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value).encode())
    raise TypeError(type(value).__name__)


def _spelled(value: Any, *, ascii_only: bool, sort: bool = False) -> str:
    """Compact JSON, of whatever depth and with lone surrogates."""
    # Lists, not generators: those would nest on the C stack.
    if isinstance(value, dict):
        members = sorted(value.items()) if sort else value.items()
        inner = [
            f"{json.dumps(key, ensure_ascii=ascii_only)}:{_spelled(one, ascii_only=ascii_only, sort=sort)}"
            for key, one in members
        ]
        return f"{{{','.join(inner)}}}"
    if isinstance(value, list):
        return f"[{','.join([_spelled(one, ascii_only=ascii_only, sort=sort) for one in value])}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=ascii_only)


@contextlib.contextmanager
def _deep(frames: int = 1) -> Iterator[None]:
    """Let so many frames a level nest as deep as a record may; Python's own limit is lower."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEEPEST * frames))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
