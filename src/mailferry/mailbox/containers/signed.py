"""S/MIME messages that hold their content in the signature: CMS SignedData (RFC 5652 5, RFC 8551 3.5), in BER or DER.

The signature is not checked: what a sender signed is loaded as it would be without. What is encrypted has no content
that anyone but the recipient can read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.mime.headers import Buffer

#: Object identifiers as they are encoded.
_PKCS7 = bytes.fromhex("2a864886f70d0107")
_SIGNED = _PKCS7 + b"\x02"
_SMIME = bytes.fromhex("2a864886f70d01091001")
_OTHERS = {
    _PKCS7
    + b"\x03": "encrypted (S/MIME), which only the recipient's key opens; have it sent unencrypted, or decrypted by the gateway",
    _SMIME
    + b"\x17": "encrypted (S/MIME), which only the recipient's key opens; have it sent unencrypted, or decrypted by the gateway",
    _SMIME + b"\x09": "compressed by S/MIME, which is not opened; have it sent without",
}
_OCTETS, _OID, _SEQUENCE, _EXPLICIT = 0x04, 0x06, 0x30, 0xA0
_CONSTRUCTED = 0x20
_MOST_DEPTH = 20
#: Elements that are looked at; programs write content in pieces of a kilobyte and more.
_MOST_ELEMENTS = 300_000


def is_cms(start: bytes) -> bool:
    """Whether a file that begins like this is a CMS message, of any kind."""
    head = start[:40]
    return head[:1] == b"\x30" and any(b"\x06" + bytes([len(o) + 1]) + o in head for o in (_PKCS7, _SMIME))


def signed_content(buffer: Buffer) -> list[tuple[int, int]]:
    """Where the signed content, a MIME entity, lies. Raises Reject for what is not signed, or damaged."""
    try:
        return _content(_Ber(buffer))
    except IndexError:
        raise Reject("a damaged or truncated S/MIME message") from None


def _content(ber: _Ber) -> list[tuple[int, int]]:
    # ContentInfo: contentType, [0] content
    kind, content = _two(ber, ber.element(0))
    oid = ber.octets(kind)
    if oid in _OTHERS:
        raise Reject(_OTHERS[oid])
    if oid != _SIGNED:
        raise Reject("an S/MIME message of a kind without content (a certificate or the like)")
    data = _child(ber, content, _SEQUENCE)
    # SignedData: version, digestAlgorithms, encapContentInfo ...
    _, _, encapsulated, *_ = _first(ber, data, 3)
    _, inner = _two(ber, encapsulated)
    octets = next(ber.children(inner))
    return list(ber.pieces(octets, 0))


def _two(ber: _Ber, element: _Element) -> tuple[_Element, _Element]:
    found = _first(ber, element, 2)
    if found[0].tag != _OID or found[1].tag != _EXPLICIT:
        raise Reject("an S/MIME message without content: the signature alone")
    return found[0], found[1]


def _first(ber: _Ber, element: _Element, count: int) -> list[_Element]:
    found = [child for _, child in zip(range(count), ber.children(element), strict=False)]
    if len(found) < count:
        raise Reject("an S/MIME message without content: the signature alone")
    return found


def _child(ber: _Ber, element: _Element, tag: int) -> _Element:
    (found,) = _first(ber, element, 1)
    if found.tag != tag:
        raise IndexError
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Element:
    tag: int
    start: int
    #: None: up to an end-of-contents mark (X.690 8.1.3.6).
    end: int | None


class _Ber:
    """Elements of X.690, as far as they are needed. Raises IndexError where they do not fit together."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._size = len(buffer)
        self._seen = 0

    def element(self, at: int) -> _Element:
        self._seen += 1
        head = self._buffer[at : at + 10]
        if self._seen > _MOST_ELEMENTS or len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise IndexError
        length = head[1]
        if length == 0x80:
            if not head[0] & _CONSTRUCTED:
                raise IndexError
            return _Element(tag=head[0], start=at + 2, end=None)
        start = at + 2
        if length > 0x80:
            count = length & 0x7F
            if count > 8 or len(head) < 2 + count:
                raise IndexError
            length = int.from_bytes(head[2 : 2 + count], "big")
            start += count
        if start + length > self._size:
            raise IndexError
        return _Element(tag=head[0], start=start, end=start + length)

    def children(self, parent: _Element, depth: int = 0) -> Iterator[_Element]:
        at = parent.start
        while parent.end is None or at < parent.end:
            if parent.end is None and self._buffer[at : at + 2] == b"\0\0":
                return
            child = self.element(at)
            yield child
            at = self._after(child, depth)

    def _after(self, element: _Element, depth: int) -> int:
        if element.end is not None:
            return element.end
        if depth > _MOST_DEPTH:
            raise IndexError
        at = element.start
        for child in self.children(element, depth + 1):
            at = self._after(child, depth + 1)
        return at + 2

    def octets(self, element: _Element) -> bytes:
        if element.end is None or element.end - element.start > 100:
            raise IndexError
        return self._buffer[element.start : element.end]

    def pieces(self, element: _Element, depth: int) -> Iterator[tuple[int, int]]:
        """Where an octet string lies, which may be in parts (X.690 8.7.3)."""
        if element.tag & ~_CONSTRUCTED != _OCTETS or depth > _MOST_DEPTH:
            raise IndexError
        if element.tag == _OCTETS:
            assert element.end is not None
            yield element.start, element.end
            return
        for child in self.children(element):
            yield from self.pieces(child, depth + 1)
