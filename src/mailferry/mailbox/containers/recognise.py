"""What a file is that holds other files, by how it begins, and what it holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailferry.mailbox.containers import signed, tnef, uuencoded
from mailferry.mailbox.containers.inner import Inner
from mailferry.mailbox.containers.kinds import PACKED, Container
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.tree import leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailferry.mailbox.mime.headers import Buffer

#: Bytes from the beginning that are enough to recognise one, but for uuencode.
START = 4096

_SHEET_IN_BASE64 = re.compile(rb"\s*(UEsDB|0M8R4KGx)[A-Za-z0-9+/]{40,}[A-Za-z0-9+/=\s]*\Z")
_FIELD = rb"[A-Za-z][A-Za-z0-9-]{0,70}:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*"
_HEADERS = re.compile(rb"(?:From [^\r\n]*\r?\n)?(?:" + _FIELD + rb"){3}")
_OF_A_MESSAGE = re.compile(rb"^(?:received|return-path|from):", re.IGNORECASE | re.MULTILINE)
_OF_MIME = re.compile(rb"^(?:mime-version|content-type):", re.IGNORECASE | re.MULTILINE)


def container_of(start: bytes, name: str, mime: str) -> Container | None:
    """What a file is that begins with these up to `START` bytes; None for what holds no files."""
    if start.startswith(tnef.SIGNATURE):
        return Container.TNEF
    if signed.is_cms(start):
        return Container.SIGNED
    if _SHEET_IN_BASE64.match(start):
        return Container.BASE64
    if mime == "message/rfc822" or name.lower().endswith(".eml"):
        return Container.MESSAGE
    headers = start.lstrip()
    # a web archive that a spreadsheet program saved is no message: it has no sender
    if _HEADERS.match(headers) and _OF_A_MESSAGE.search(headers) and _OF_MIME.search(headers):
        return Container.MESSAGE
    return Container.UUENCODED if b"begin " in start else None


def held_by(container: Container, buffer: Buffer, charsets: Sequence[str] = ()) -> list[Inner]:
    """The files that a container holds. Raises Reject where it cannot be read, with what to do."""
    return _READERS[container](buffer, charsets)


def _message(buffer: Buffer, charsets: Sequence[str]) -> list[Inner]:
    return [
        Inner(
            name=part.name,
            mime=part.mime,
            disposition=part.disposition,
            encoding=part.encoding,
            charset=part.charset,
            spans=(part.span,),
        )
        for part, _ in leaves(from_message(buffer), charsets)
        if part.span
    ]


def _signed(buffer: Buffer, _: Sequence[str]) -> list[Inner]:
    """A MIME entity; or, as in `rows.xlsx.p7m`, the file itself."""
    spans = signed.signed_content(buffer)
    at = spans[0][0] if spans else 0
    is_file = buffer[at : at + 4] in PACKED
    return [Inner(name="", mime="" if is_file else "message/rfc822", spans=spans)]


def _base64(buffer: Buffer, _: Sequence[str]) -> list[Inner]:
    return [Inner(name="", encoding="base64", spans=((0, len(buffer)),))]


_READERS: dict[Container, Callable[[Buffer, Sequence[str]], list[Inner]]] = {
    Container.SIGNED: _signed,
    Container.TNEF: lambda buffer, _: tnef.attachments(buffer),
    Container.MESSAGE: _message,
    Container.UUENCODED: lambda buffer, _: uuencoded.files(buffer),
    Container.BASE64: _base64,
}
