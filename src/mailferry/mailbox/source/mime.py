"""A message's MIME tree, from an IMAP BODYSTRUCTURE (RFC 3501 7.4.2) or from the message itself: one shape for both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.message import Message
from email.utils import decode_params, unquote
from typing import TYPE_CHECKING, Any, Protocol

from mailferry.errors import Reject
from mailferry.mailbox.source.headers import MAX_HEADER, raw_values, text, words
from mailferry.mailbox.source.message import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Nobody writes mail like that; whoever does wants to use up memory or the stack.
MAX_DEPTH = 50
MAX_PARTS = 1000

_DISPOSITIONS = ("attachment", "inline")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One entity: a leaf, a multipart with its parts, or a message/rfc822 with the forwarded message's body."""

    mime: str
    encoding: str = ""
    name: str = ""
    disposition: str = ""
    size: int | None = None
    #: Parts of a multipart; of a message/rfc822 the one body.
    children: tuple[Node, ...] = ()
    #: Where the still encoded body lies in the message, [start, end); None for an IMAP message.
    span: tuple[int, int] | None = None

    @property
    def is_multipart(self) -> bool:
        return self.mime.startswith("multipart/")


class Buffer(Protocol):
    """What `from_message` reads: bytes or an mmap."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


def leaves(root: Node) -> Iterator[tuple[Part, Node]]:
    """All leaves in order, with their IMAP section numbers (RFC 3501 6.4.5)."""
    yield from _message_leaves(root, "")


def _message_leaves(body: Node, prefix: str) -> Iterator[tuple[Part, Node]]:
    """The parts of a message's multipart body are numbered right below the message; any other body is its part 1."""
    if body.is_multipart and body.children:
        for number, child in enumerate(body.children, 1):
            yield from _part_leaves(child, f"{prefix}{number}")
    else:
        yield from _part_leaves(body, f"{prefix}1")


def _part_leaves(node: Node, section: str) -> Iterator[tuple[Part, Node]]:
    if node.is_multipart and node.children:
        for number, child in enumerate(node.children, 1):
            yield from _part_leaves(child, f"{section}.{number}")
    elif node.children:
        yield from _message_leaves(node.children[0], f"{section}.")
    else:
        yield (
            Part(
                section=section,
                mime=node.mime,
                encoding=node.encoding,
                name=node.name,
                disposition=node.disposition,
                size=node.size,
            ),
            node,
        )


# --- BODYSTRUCTURE


def from_bodystructure(body: Any) -> Node:
    """Tree of a BODYSTRUCTURE in nested sequences as IMAPClient gives it. Reject when it cannot be one."""
    try:
        return _Reader().node(body, 0)
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise Reject(
            "the server's description of the message's parts (BODYSTRUCTURE) cannot be understood"
        ) from error


class _Reader:
    """Counts as it goes, so that a hostile structure ends early."""

    def __init__(self) -> None:
        self._nodes = 0

    def count(self, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_PARTS or depth > MAX_DEPTH:
            raise Reject(
                f"the message has more than {MAX_PARTS} parts, or parts nested over {MAX_DEPTH} deep"
            )

    def node(self, body: Sequence[Any], depth: int) -> Node:
        self.count(depth)
        if isinstance(body[0], (list, tuple)):
            return self._multipart(body, depth)
        if not isinstance(body[0], bytes | None):
            raise TypeError("no media type")
        # a type that the server does not know may be anything, so it is not taken for text
        kind, subtype = text(body[0]).lower() or "application", text(body[1]).lower() or "octet-stream"
        parameters = _parameters(_pairs(_at(body, 2)))
        disposition, disposition_parameters = _disposition(body[7:])
        size = _at(body, 6)
        nested = _at(body, 8) if (kind, subtype) == ("message", "rfc822") else None
        return Node(
            mime=f"{kind}/{subtype}",
            encoding=text(_at(body, 5)).strip().lower(),
            name=_name(disposition_parameters, parameters),
            disposition=disposition,
            size=size if isinstance(size, int) else None,
            children=(self.node(nested, depth + 1),) if isinstance(nested, (list, tuple)) and nested else (),
        )

    def _multipart(self, body: Sequence[Any], depth: int) -> Node:
        """IMAPClient puts the parts of a multipart in one list, but not those within a forwarded message."""
        if isinstance(body[0], list):
            parts: Iterable[Any] = body[0]
            rest = body[1:]
        else:
            count = next((i for i, item in enumerate(body) if not isinstance(item, (list, tuple))), len(body))
            parts, rest = body[:count], body[count:]
        subtype = text(_at(rest, 0)).lower() or "mixed"
        return Node(mime=f"multipart/{subtype}", children=tuple(self.node(part, depth + 1) for part in parts))


def _at(items: Sequence[Any], index: int) -> Any:
    return items[index] if index < len(items) else None


def _pairs(items: Any) -> list[tuple[str, str]]:
    if not isinstance(items, (list, tuple)):
        return []
    return [(text(name), text(value)) for name, value in zip(items[::2], items[1::2], strict=False)]


def _disposition(extension: Sequence[Any]) -> tuple[str, dict[str, str]]:
    """The disposition among the extension data. Servers leave fields out, so it is known by its shape alone."""
    for item in extension:
        if isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], bytes):
            if item[1] is None or isinstance(item[1], (list, tuple)):
                return _known(text(item[0])), _parameters(_pairs(item[1]))
        elif isinstance(item, bytes) and item.lower() in (b"attachment", b"inline"):
            return _known(text(item)), {}
    return "", {}


def _known(disposition: str) -> str:
    """RFC 2183 2.8: an unknown disposition is to be treated as an attachment."""
    disposition = disposition.strip().lower()
    return disposition if disposition in _DISPOSITIONS or not disposition else "attachment"


# --- the message itself


def from_message(message: Buffer) -> Node:
    """Tree of a message in memory or mapped; only headers are copied. Reject beyond MAX_PARTS or MAX_DEPTH."""
    return _Scanner(message).entity(0, len(message), 0, "text/plain")


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


class _Scanner(_Reader):
    def __init__(self, message: Buffer) -> None:
        super().__init__()
        self._message = message

    def entity(self, start: int, end: int, depth: int, default: str) -> Node:
        self.count(depth)
        block, body = header_block(self._message, start, end)
        values = raw_values(block)
        mime, parameters = _header_parameters(values.get("content-type", ""))
        kind = mime if mime.count("/") == 1 and not mime.startswith("/") else default
        disposition, disposition_parameters = _header_parameters(values.get("content-disposition", ""))
        encoding = values.get("content-transfer-encoding", "").split(";")[0].strip().lower()
        children: tuple[Node, ...] = ()
        boundary = parameters.get("boundary", "").encode("latin-1", "replace")
        if kind.startswith("multipart/") and boundary:
            inner = "message/rfc822" if kind == "multipart/digest" else "text/plain"
            spans = list(self._split(body, end, b"--" + boundary))
            children = tuple(self.entity(first, last, depth + 1, inner) for first, last in spans)
        elif kind == "message/rfc822" and encoding in ("", "7bit", "8bit", "binary"):
            children = (self.entity(body, end, depth + 1, "text/plain"),)
        return Node(
            mime=kind,
            encoding=encoding,
            name=_name(disposition_parameters, parameters),
            disposition=_known(disposition),
            size=end - body,
            children=children,
            span=(body, end),
        )

    def _split(self, start: int, end: int, delimiter: bytes) -> Iterator[tuple[int, int]]:
        """Spans between delimiter lines (RFC 2046 5.1.1); without the closing one the last part runs to the end."""
        opened = None
        for line, after, closing in self._delimiters(start, end, delimiter):
            if opened is not None:
                yield opened, max(opened, self._without_line_end(line))
            if closing:
                return
            opened = after
        if opened is not None:
            yield opened, end

    def _delimiters(self, start: int, end: int, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
        """Each delimiter line: where it starts, where the next line starts, whether it closes the multipart."""
        at = self._message.find(delimiter, start, end)
        while at >= 0:
            line_end = self._message.find(b"\n", at, end)
            after = end if line_end < 0 else line_end + 1
            tail = self._message[at + len(delimiter) : min(after, at + len(delimiter) + 100)]
            closing = tail.startswith(b"--")
            if (at == start or self._message[at - 1 : at] == b"\n") and (closing or not tail.strip()):
                yield at, after, closing
            at = self._message.find(delimiter, at + len(delimiter), end)

    def _without_line_end(self, at: int) -> int:
        """The line end before a delimiter belongs to the delimiter."""
        if self._message[max(at - 2, 0) : at] == b"\r\n":
            return at - 2
        return at - 1 if self._message[max(at - 1, 0) : at] == b"\n" else at


def _header_parameters(value: str) -> tuple[str, dict[str, str]]:
    """The value before the first semicolon in lower case, and the decoded parameters."""
    message = Message()
    try:
        message["Content-Type"] = value
        first, *rest = message.get_params(failobj=[("", "")], unquote=False) or [("", "")]
    except (HeaderParseError, TypeError, ValueError, IndexError):
        # the library trips over continuations that contradict each other
        first = (value.partition(";")[0], "")
        rest = re.findall(r';\s*([\w-]+)\*?\d*\*?\s*=\s*("[^"]*"|[^;\s]+)', value)
    return str(first[0]).strip().lower(), _collapsed(rest)


# --- parameters


def _parameters(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Decoded parameters by lower-case name: RFC 2231 charset and continuations joined; the first of two equals counts."""
    try:
        _, *decoded = decode_params([("", ""), *((name.lower(), value) for name, value in pairs)])
    except (TypeError, ValueError):
        # continuations that contradict each other (`name*` beside `name*0`): what can be had without them
        decoded = [(name.lower().split("*")[0], value) for name, value in pairs]
    return _collapsed(decoded)


def _collapsed(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """The first of equal names counts, but an extended value before a plain one (RFC 6266 4.3, of the same syntax)."""
    result: dict[str, str] = {}
    for name, value in sorted(pairs, key=lambda pair: isinstance(pair[1], str)):
        result.setdefault(name.lower(), _value(value))
    return result


def _value(value: str | tuple[str | None, str | None, str]) -> str:
    """A parameter's text; RFC 2231 ones come as (charset, language, bytes as Latin-1)."""
    if isinstance(value, str):
        return unquote(value)
    charset, _, escaped = value
    raw = unquote(escaped).encode("latin-1", "replace")
    try:
        return raw.decode(charset) if charset else text(raw)
    except (LookupError, ValueError):
        return text(raw)


def _name(disposition: dict[str, str], content_type: dict[str, str]) -> str:
    """File name from either header, which may be written as RFC 2047 words although RFC 2047 5 forbids it there."""
    for parameters, key in ((disposition, "filename"), (content_type, "name"), (disposition, "name")):
        if name := words(parameters.get(key, "")):
            return name
    return ""
