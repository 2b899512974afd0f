"""Outlook's winmail.dat: Transport Neutral Encapsulation Format ([MS-OXTNEF] 2.1; properties: [MS-OXCDATA] 2.11)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.containers.inner import MOST_FILES, Inner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.mime.headers import Buffer

SIGNATURE = b"\x78\x9f\x3e\x22"
TYPE = "application/ms-tnef"

_HEADER = struct.Struct("<BII")
_RENDDATA, _TITLE, _DATA, _ATTACHMENT, _CODEPAGE = 0x00069002, 0x00018010, 0x0006800F, 0x00069005, 0x00069007
_MOST_ATTRIBUTES, _MOST_PROPERTIES = 20_000, 20_000
#: Names are read up to here, in bytes.
_MOST_NAME = 2000

_DATA_OBJECT, _FILE_NAME, _LONG_NAME = 0x3701, 0x3704, 0x3707
_STRING8, _UNICODE, _OBJECT, _BINARY = 0x001E, 0x001F, 0x000D, 0x0102
_MULTIPLE = 0x1000
#: Sizes of values by property type, padded to four bytes.
_FIXED = {1: 0, 2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 10: 4, 11: 4, 20: 8, 64: 8, 72: 16}
#: IID_IMessage: the object is a message, a TNEF stream of its own.
_MESSAGE = bytes.fromhex("0703020000000000c000000000000046")


@dataclass(kw_only=True, slots=True)
class _Attachment:
    title: str = ""
    long_name: str = ""
    mime: str = ""
    data: tuple[int, int] | None = None
    #: Binary data among the properties, which counts where there is no other.
    object: tuple[int, int] | None = None

    def inner(self) -> Inner | None:
        """As a file; None where it has no content of its own (a link, a picture in the text)."""
        span = self.object if self.mime == TYPE else self.data or self.object
        return Inner(name=self.long_name or self.title, mime=self.mime, spans=(span,)) if span else None


@dataclass(kw_only=True, slots=True)
class _Reader:
    buffer: Buffer
    charset: str = "cp1252"
    found: list[_Attachment] = field(default_factory=list)


def attachments(buffer: Buffer) -> list[Inner]:
    """Its files, messages among them. Raises Reject where it is damaged."""
    reader = _Reader(buffer=buffer)
    if buffer[0:4] != SIGNATURE:
        raise Reject("not what it calls itself: winmail.dat without its signature")
    for number, (kind, start, end) in enumerate(_attributes(buffer)):
        if number > _MOST_ATTRIBUTES or len(reader.found) > MOST_FILES:
            raise Reject(f"a winmail.dat of more than {MOST_FILES} files")
        _take(reader, kind, start, end)
    return [inner for one in reader.found if (inner := one.inner())]


def _attributes(buffer: Buffer) -> Iterator[tuple[int, int, int]]:
    """Each attribute's id, and where its data lies."""
    at, size = 6, len(buffer)
    while at + _HEADER.size <= size:
        level, kind, length = _HEADER.unpack(buffer[at : at + _HEADER.size])
        start = at + _HEADER.size
        if level not in {1, 2} or start + length > size:
            raise Reject("a damaged or truncated winmail.dat; have it sent as an ordinary attachment")
        yield kind, start, start + length
        at = start + length + 2  # a checksum follows, which is none of TLS's strength and is not needed


def _take(reader: _Reader, kind: int, start: int, end: int) -> None:
    if kind == _CODEPAGE and end - start >= 4:
        reader.charset = f"cp{int.from_bytes(reader.buffer[start : start + 4], 'little')}"
    elif kind == _RENDDATA:
        reader.found.append(_Attachment())
    elif kind in {_TITLE, _DATA, _ATTACHMENT}:
        if not reader.found:
            reader.found.append(_Attachment())
        one = reader.found[-1]
        if kind == _TITLE:
            one.title = _text(reader, reader.buffer[start : min(end, start + _MOST_NAME)])
        elif kind == _DATA:
            one.data = (start, end)
        else:
            _properties(reader, one, start, end)


def _properties(reader: _Reader, one: _Attachment, start: int, end: int) -> None:
    try:
        for kind, number, first, last in _values(reader.buffer, start, end):
            if number in {_LONG_NAME, _FILE_NAME} and kind in {_STRING8, _UNICODE}:
                raw = reader.buffer[first : min(last, first + _MOST_NAME)]
                name = raw.decode("utf-16-le", "replace") if kind == _UNICODE else _text(reader, raw)
                if number == _LONG_NAME or not one.long_name:
                    one.long_name = name.partition("\0")[0]
            elif number == _DATA_OBJECT and kind == _BINARY:
                one.object = (first, last)
            elif number == _DATA_OBJECT and kind == _OBJECT:
                message = reader.buffer[first : first + 16] == _MESSAGE
                one.object, one.mime = (first + 16, max(last, first + 16)), TYPE if message else ""
    except struct.error:
        if one.data is None:
            raise Reject("a damaged winmail.dat; have it sent as an ordinary attachment") from None


def _values(buffer: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Type and id of each property, and where its value lies, of several the last. Raises struct.error at garbage."""
    (count,) = _u32(buffer, at, end)
    at += 4
    for _ in range(min(count, _MOST_PROPERTIES)):
        (tag,) = _u32(buffer, at, end)
        kind, number = tag & 0xFFFF, tag >> 16
        at += 4
        if number >= 0x8000:  # a named one: GUID, kind of name, name
            (named,) = _u32(buffer, at + 16, end)
            at += 20
            (length,) = _u32(buffer, at, end)
            at += 4 + (_padded(length) if named else 0)
        single = kind & ~_MULTIPLE
        values = 1
        if kind & _MULTIPLE or single not in _FIXED:
            (values,) = _u32(buffer, at, end)
            at += 4
        if values > _MOST_PROPERTIES:
            raise struct.error
        first = last = at
        for _ in range(values):
            size = _FIXED.get(single)
            if size is None:
                (size,) = _u32(buffer, at, end)
                at += 4
            first, last = at, at + size
            at += _padded(size)
            if last > end:
                raise struct.error
        yield kind, number, first, last


def _u32(buffer: Buffer, at: int, end: int) -> tuple[int]:
    if at + 4 > end:
        raise struct.error
    return (int.from_bytes(buffer[at : at + 4], "little"),)


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _text(reader: _Reader, raw: bytes) -> str:
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode(reader.charset)
    except (LookupError, ValueError):
        return raw.decode("latin-1")
