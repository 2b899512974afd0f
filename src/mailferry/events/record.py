"""Provider JSON <-> one line of a file, with nothing changed on the way.

orjson does the common case. What it would change or refuse (integers over 64 bits, which it reads as floats;
lone surrogates; bytes that are no UTF-8) takes the standard library's slower way.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Two days before the calendar ends, Unix seconds.
LAST_SECOND = 253_402_300_800 - 2 * 86_400

#: A number token too long for 64 bits; long digits within a string do not count.
_LONG_NUMBER = re.compile(rb"[:\[,]\s*-?\d{19}")
#: Every digit becomes 0: a plain search then says, six to ten times faster than the pattern, that no such number is there.
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
_NINETEEN = b"0" * 19


def decode(body: bytes) -> Any:
    """The JSON value of a whole answer.

    Raises:
        ValueError: not JSON, or cut off.
    """
    if _NINETEEN not in body.translate(_DIGITS_ALIKE) or not _LONG_NUMBER.search(body):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    try:
        # Bytes that are no UTF-8 become lone surrogates, and in the line escapes: odd, but not lost.
        with _deep():
            return json.loads(
                body.decode("utf-8", "surrogateescape"),
                parse_float=_float,
                parse_int=_int,
                parse_constant=str,
            )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode(record: Any) -> bytes:
    """One line, without its newline: compact JSON, UTF-8 as it is."""
    try:
        return orjson.dumps(record)
    except TypeError:
        with _deep():
            text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        with _deep():
            return json.dumps(record, separators=(",", ":")).encode()


def canonical(record: Any) -> bytes:
    """The same bytes for the same JSON value, whatever the order of its keys."""
    try:
        return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        with _deep():
            return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def event_time(record: Any) -> int | None:
    """When the event happened, in Unix seconds, by the provider's rules; None where the record does not tell.

    A mail record's time is that of its first recipient; the others carry `time`, `timestamp` or `starttime`.
    """
    if not isinstance(record, dict):
        return None
    recipients = record.get("recipients")
    if isinstance(recipients, list) and recipients and isinstance(recipients[0], dict):
        time = _seconds(recipients[0].get("time"))
        if time is not None:
            return time
    for name in ("time", "timestamp", "starttime"):
        time = _seconds(record.get(name))
        if time is not None:
            return time
    return None


def queue_id(record: Any) -> str | None:
    """The provider's name for the mail, or None where the record has none."""
    value = record.get("queue_id") if isinstance(record, dict) else None
    return str(value) if isinstance(value, str | int) and value != "" else None


def _seconds(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    # Beyond the year 9999, in any time zone, no calendar goes; such a number is no time.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LAST_SECOND:
        return int(value)
    return None


def _float(text: str) -> float | str:
    """A number that no float can hold is kept as text."""
    value = float(text)
    return text if value in (float("inf"), float("-inf")) else value


def _int(text: str) -> int | str:
    # Python refuses to convert more than 4,300 digits.
    return int(text) if len(text) <= 4000 else text


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Let the standard library nest as deep as orjson reads; its own limit is lower."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 5000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
