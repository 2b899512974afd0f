"""Events as rows of a table: what jsonb can hold of a record, and the bytes of COPY. Values in, values out.

jsonb keeps every field and digit, but no NUL and no half of a surrogate pair, both of which JSON can say. Such a
record stands in the column `record` with U+FFFD in their place, and as it is in the column `raw`.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mailferry.events.destination import Line

#: Every escape of a JSON text, whole pairs of surrogates first.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL
)
_REFUSED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})")

#: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4: signature, flags, length of an extension.
_HEAD = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TAIL = struct.pack("!h", -1)
#: Number of fields; each field is its length and its bytes. The time counts microseconds from 2000-01-01 UTC.
_TIME = struct.Struct("!hiqi")
_LENGTH = struct.Struct("!i")
_NUMBER = struct.Struct("!iqib")
_NULL = _LENGTH.pack(-1)
_YEAR_2000 = 946_684_800
#: Bytes that go to the server at once, so that it works while the next are made ready.
_PIECE = 262_144

#: The columns that are filled, in this order.
COLUMNS = ("time", "feed", "identity", "number", "record", "raw")


class Row(NamedTuple):
    """One event as the table has it, but for the feed."""

    #: Unix seconds.
    time: int
    identity: str
    #: Order of arrival: its place among all events of the feed.
    number: int
    #: JSON that jsonb takes.
    record: bytes
    #: The record's exact JSON where `record` is not.
    raw: bytes | None


def rows(lines: Iterable[Line], last_number: int) -> list[Row]:
    """The lines as rows, with the numbers after `last_number`."""
    made = []
    for number, line in enumerate(lines, start=last_number + 1):
        record = storable(line.data)
        made.append(Row(line.time, line.key, number, record, None if record is line.data else line.data))
    return made


def storable(data: bytes) -> bytes:
    """The JSON text as jsonb takes it: the very same object where nothing had to be replaced."""
    if b"\\u" not in data:
        return data
    fit = _ESCAPE.sub(lambda found: b"\\ufffd" if _REFUSED.fullmatch(found[0]) else found[0], data)
    return data if fit == data else fit


def copied(feed: str, some: Sequence[Row]) -> Iterator[bytes]:
    """The rows as COPY's binary format, in pieces; for `COLUMNS`."""
    name = feed.encode()
    pieces = [_HEAD]
    size = 0
    for time, identity, number, record, raw in some:
        key = identity.encode()
        pieces += (
            _TIME.pack(len(COLUMNS), 8, (time - _YEAR_2000) * 1_000_000, len(name)),
            name,
            _LENGTH.pack(len(key)),
            key,
            # jsonb's own format begins with its version, 1; then comes JSON text.
            _NUMBER.pack(8, number, len(record) + 1, 1),
            record,
        )
        pieces += (_NULL,) if raw is None else (_LENGTH.pack(len(raw)), raw)
        size += len(record)
        if size >= _PIECE:
            yield b"".join(pieces)
            pieces, size = [], 0
    pieces.append(_TAIL)
    yield b"".join(pieces)
