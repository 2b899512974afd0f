"""The JSON of the stand-in provider's records: shaped as the API's, with the text that breaks careless programs."""

# ruff: noqa: RUF001 - Turkish text is what is wanted here

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

#: What makes a record: kind, domain, Unix second, eight random integers of 32 bits -> JSON, queue id, time.
Made = tuple[bytes, str | None, int | None]

_SUBJECTS = (
    "Sipariş onayı: İstanbul şubesi, ödeme güncellendi",
    "Iğdır'dan ışık hızında: ÇĞİÖŞÜ çğıöşü",
    "Your invoice is ready 🎉📎",
    "family 👨‍👩‍👧 and flag 🇹🇷",
    'He said "it works" and left \\ behind',
    "first line\nsecond line\r\n\tthird line",
    "line separators \u2028 and \u2029 and \x7f and \x1f",
    "",
    " leading and trailing blanks ",
    "<b>bold</b> & 'quoted' {\"json\": [1, 2]}",
    "e\u0301 is not \u00e9 before normalisation",
    "مرحبا 你好 привет",
    "a long subject that goes on and on " * 8,
    "null",
    "0012345",
    "Re: Re: Fwd: weekly report",
)
_LOCALS = ("ayse", "mehmet", "info", "no-reply", "o'brien", "ömer.çelik", "sales+tag", "postmaster")
_STATUSES = ("delivered", "deferred", "bounced", "sent")
_RESULTS = ("success", "wrong password", "unknown user")
_BIG = 2 * 10**19


def mail(kind: str, domain: str, second: int, draw: Sequence[int]) -> Made:
    """Return a mail record; its time is that of its first recipient, or its own where `kind` is "own_time"."""
    if (odd := _no_object(kind, draw)) is not None:
        return odd
    words, choice, numbers = draw[3], draw[4], draw[5]
    queue_id = _identifier(draw)
    recipients: list[dict[str, Any]] = [
        {
            "email": f"{_LOCALS[(choice >> 3 * place) % 8]}@{domain if place else 'example.com'}",
            "time": second + 7 * place,
            "status": _STATUSES[(choice >> 2 * place) % 4],
        }
        for place in range(1 + numbers % 5 // 3)
    ]
    record: dict[str, Any] = {
        "queue_id": queue_id,
        "message_id": f"<{draw[6]}.{draw[7]}@mail.{domain}>",
        "sender": f"{_LOCALS[words % 8]}@{domain}",
        "subject": _SUBJECTS[words // 8 % len(_SUBJECTS)],
        "size": 600 + numbers % 3_000_000,
        "score": numbers % 200 / 10 - 4,
        "tls": not numbers % 2,
        "error": None,
        "recipients": recipients,
    }
    found: str | None = queue_id
    time: int | None = second
    if kind == "no_queue_id":
        del record["queue_id"]
        found = None
    elif kind in {"no_time", "own_time"}:
        for recipient in recipients:
            del recipient["time"]
        if kind == "no_time":
            time = None
        elif numbers % 2:
            record["timestamp"] = second
        else:
            record["recipients"] = []
            record["time"] = second
    return orjson.dumps(record), found, time


def quarantine(kind: str, domain: str, second: int, draw: Sequence[int]) -> Made:
    """Return a quarantine record, with identifiers of its own and its time as `time` or `starttime`."""
    if (odd := _no_object(kind, draw)) is not None:
        return odd
    words = draw[3]
    record: dict[str, Any] = {
        "id": draw[6] << 20 | draw[7] >> 12,
        "mail_id": _identifier(draw),
        "from": f"{_LOCALS[words % 8]}@example.com",
        "to": [f"{_LOCALS[words // 8 % 8]}@{domain}"],
        "subject": _SUBJECTS[words // 64 % len(_SUBJECTS)],
        "reason": ("spam", "virus", "policy")[draw[4] % 3],
        "size": 600 + draw[5] % 3_000_000,
    }
    return _timed(record, kind, "starttime" if draw[4] % 4 == 0 else "time", second)


def authentication(kind: str, domain: str, second: int, draw: Sequence[int]) -> Made:
    """Return an authentication record, with its time as `time` or `timestamp` and nothing that identifies it."""
    if (odd := _no_object(kind, draw)) is not None:
        return odd
    words = draw[3]
    record: dict[str, Any] = {
        "user": f"{_LOCALS[words % 8]}@{domain}",
        "ip": f"192.0.2.{draw[4] % 256}",
        "protocol": ("imap", "smtp", "pop3", "web")[draw[5] % 4],
        "result": _RESULTS[words // 8 % 3],
        "session": _identifier(draw),
    }
    return _timed(record, kind, "timestamp" if draw[5] % 8 > 3 else "time", second)


MAKERS: Mapping[str, Callable[[str, str, int, Sequence[int]], Made]] = MappingProxyType(
    {"mail": mail, "quarantine": quarantine, "authentication": authentication}
)


def more_for_details(random: Random, size: int) -> list[bytes]:
    """Return 16 endings of about `size` bytes each, `,"logs":...}`, that make a detail of a mail record."""
    return [_more(random, size) for _ in range(16)]


def with_big_integer(record: bytes, draw: Sequence[int]) -> bytes:
    """Return the object with an integer of 20 digits more, over 2**64."""
    return b'%b,"trace_id":%d}' % (record[:-1], _BIG + draw[6])


def with_hostile_text(record: bytes) -> bytes:
    """Return the object with an escaped NUL and an unpaired surrogate more (RFC 8259 8.2 leaves them open)."""
    return record[:-1] + b',"note":"cut \\u0000 short \\ud83d"}'


def _identifier(draw: Sequence[int]) -> str:
    return f"{draw[6]:08X}{draw[7]:08X}"


def _no_object(kind: str, draw: Sequence[int]) -> Made | None:
    if kind == "nulls":
        return b"null", None, None
    if kind != "not_objects":
        return None
    number = draw[6] << 32 | draw[7]
    return orjson.dumps((f"kayıt okunamadı {number}", number, [number, None])[draw[3] % 3]), None, None


def _timed(record: dict[str, Any], kind: str, key: str, second: int) -> Made:
    if kind == "no_time":
        return orjson.dumps(record), None, None
    record[key] = second
    return orjson.dumps(record), None, second


def _more(random: Random, size: int) -> bytes:
    logs: list[dict[str, Any]] = []
    more = {
        "logs": logs,
        "transactions": [{"id": random.randrange(10**9), "code": 250, "text": "2.0.0 Ok: kuyruğa alındı"}],
        "filters": [{"name": name, "score": random.randrange(100) / 10} for name in ("SPF", "DKIM", "BAYES")],
        "emails": [],
    }
    left = size - len(orjson.dumps(more))
    while left > 0:
        line = {"host": f"mx{random.randrange(9)}.example.com", "text": f"{random.choice(_SUBJECTS)[:80]} ✓"}
        logs.append(line)
        left -= len(orjson.dumps(line)) + 1
    return b"," + orjson.dumps(more)[1:]
