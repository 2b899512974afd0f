"""A message's MIME tree (RFC 2045, RFC 2046), from the message itself or from an IMAP BODYSTRUCTURE: one shape for both."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mailferry.errors import Reject
from mailferry.mailbox.mime.headers import MAX_HEADER, raw_values
from mailferry.mailbox.mime.parameters import file_name, first_token, header_value, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: No mail program writes mail like that; one that does wants to use up memory or the stack.
MAX_DEPTH = 50
MAX_PARTS = 1000

_DISPOSITIONS = ("attachment", "inline")
#: Encodings that leave the content as it is.
PLAIN = ("", "7bit", "8bit", "binary")
#: A delimiter line of a multipart that names no boundary (RFC 2046 5.1.1: at most 70 characters), and how far to look for it.
_DELIMITER = re.compile(rb"^--([!-~](?:[ -~]{0,69}?[!-~])?)[ \t]*\r?\n", re.MULTILINE)
_PREAMBLE = 64 * 1024
#: A header block that says what its entity is.
_DESCRIBES = re.compile(
    rb"^content-(type|disposition|transfer-encoding)[ \t]*:", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One leaf of a message's MIME tree, as BODYSTRUCTURE or the headers describe it; nothing is fetched yet."""

    #: IMAP section number: "1", "2.1"; parts inside a forwarded message (message/rfc822) go on counting below it.
    section: str
    #: `type/subtype`, lower case.
    mime: str
    #: Content-Transfer-Encoding, lower case; "" where none is given.
    encoding: str
    #: Decoded file name (RFC 2047, RFC 2231, either header), or "" where there is none. Not yet safe as a path.
    name: str
    #: "attachment", "inline" or "".
    disposition: str
    #: Encoded size in bytes as the server states it, or None where it does not.
    size: int | None
    #: Where its encoded body lies in the whole message; None where only the server knows.
    span: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One entity: a leaf, a multipart with its parts, or a message/rfc822 with the forwarded message's body."""

    mime: str
    encoding: str = ""
    #: Parameters by lower-case name as in `parameters.header_value`.
    type_parameters: Mapping[str, str]
    disposition: str = ""
    disposition_parameters: Mapping[str, str]
    #: Encoded size in bytes, as stated or as it is.
    size: int | None = None
    #: Parts of a multipart; of a message/rfc822 the one body.
    children: tuple[Node, ...] = ()
    #: Where the still encoded body lies in the message, [start, end); None where a server described it.
    span: tuple[int, int] | None = None

    @property
    def is_multipart(self) -> bool:
        return self.mime.startswith("multipart/")

    @property
    def has_parts(self) -> bool:
        """Whether there are parts in it, by its type."""
        return self.is_multipart or (self.mime == "message/rfc822" and self.encoding in PLAIN)

    def charset(self) -> str:
        """The charset of the first text in it, or ""."""
        if self.mime.startswith("text/") and (named := first_token(self.type_parameters.get("charset", ""))):
            return named
        return next(filter(None, (child.charset() for child in self.children)), "")

    def part(self, section: str, charsets: Sequence[str] = ()) -> Part:
        """As a leaf of a message."""
        return Part(
            section=section,
            mime=self.mime,
            encoding=self.encoding,
            name=file_name(self.disposition_parameters, self.type_parameters, charsets),
            disposition=self.disposition,
            size=self.size,
            span=self.span,
        )


class Buffer(Protocol):
    """What `from_message` reads: bytes or a `FileBuffer`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int, end: int, /) -> int: ...


def leaves(root: Node, charsets: Sequence[str] = ()) -> Iterator[tuple[Part, Node]]:
    """All leaves in order, with their IMAP section numbers (RFC 3501 6.4.5).

    `charsets` are tried for raw 8-bit names that are not UTF-8, after the charset that the message's text names.
    """
    named = root.charset()
    tried = (named, *charsets) if named else tuple(charsets)
    for section, _, node in sections(root):
        yield node.part(section, tried), node


def sections(root: Node) -> Iterator[tuple[str, str, Node]]:
    """All leaves with their section numbers, and the sections of their header blocks (`2.MIME`, `HEADER`, `3.HEADER`)."""
    return _message_leaves(root, "")


def _message_leaves(body: Node, prefix: str) -> Iterator[tuple[str, str, Node]]:
    """The parts of a message's multipart body are numbered right below the message; any other body is its part 1."""
    if body.is_multipart and body.children:
        for number, child in enumerate(body.children, 1):
            yield from _part_leaves(child, f"{prefix}{number}", f"{prefix}{number}.MIME")
    else:
        yield from _part_leaves(body, f"{prefix}1", f"{prefix}HEADER")


def _part_leaves(node: Node, section: str, header: str) -> Iterator[tuple[str, str, Node]]:
    if node.is_multipart and node.children:
        for number, child in enumerate(node.children, 1):
            yield from _part_leaves(child, f"{section}.{number}", f"{section}.{number}.MIME")
    elif node.children:
        yield from _message_leaves(node.children[0], f"{section}.")
    else:
        yield section, header, node


def reconciled(root: Node, headers: Mapping[str, bytes]) -> Node:
    """A server's tree with its leaves as their own headers describe them; `headers` by section, as in `sections`.

    Reject where a server takes for a leaf what has parts, or sees a multipart without any.
    """
    found = {id(node): headers.get(header) for _, header, node in sections(root)}

    def leaf(node: Node) -> Node:
        block = found.get(id(node))
        own = described(block, node.mime) if block is not None and _DESCRIBES.search(block) else None
        if node.is_multipart or (own and own.has_parts):
            raise Reject("the server does not see the parts of a part")
        return replace(own, size=node.size) if own else node

    def whole(node: Node) -> Node:
        return replace(node, children=tuple(map(whole, node.children))) if node.children else leaf(node)

    return whole(root)


class Counter:
    """Counts as a tree is built, so that a hostile one ends early."""

    def __init__(self) -> None:
        self._nodes = 0

    def count(self, depth: int) -> None:
        """One more node at this depth. Reject beyond MAX_PARTS or MAX_DEPTH."""
        self._nodes += 1
        if self._nodes > MAX_PARTS or depth > MAX_DEPTH:
            raise Reject(
                f"the message has more than {MAX_PARTS} parts, or parts nested over {MAX_DEPTH} deep"
            )


def known_disposition(disposition: str) -> str:
    """RFC 2183 2.8: an unknown disposition is to be treated as an attachment."""
    disposition = first_token(disposition)
    return disposition if disposition in _DISPOSITIONS or not disposition else "attachment"


def described(block: bytes, default: str = "text/plain") -> Node:
    """What an entity's header block says of it, without its body."""
    values = raw_values(block)
    kind, parameters = header_value(values.get("content-type", ""))
    disposition, disposition_parameters = header_value(values.get("content-disposition", ""))
    return Node(
        # a type that cannot be read may be anything, so it is not taken for text
        mime=kind if re.fullmatch(r"[^/]+/[^/]+", kind) else "application/octet-stream" if kind else default,
        encoding=first_token(values.get("content-transfer-encoding", "")),
        type_parameters=parameters,
        disposition=known_disposition(disposition),
        disposition_parameters=disposition_parameters,
    )


def from_message(message: Buffer) -> Node:
    """Tree of a message in memory or in a file; only headers are copied. Reject beyond MAX_PARTS or MAX_DEPTH."""
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


class _Scanner(Counter):
    def __init__(self, message: Buffer) -> None:
        super().__init__()
        self._message = message

    def entity(self, start: int, end: int, depth: int, default: str) -> Node:
        self.count(depth)
        block, body = header_block(self._message, start, end)
        node = described(block, default)
        children: tuple[Node, ...] = ()
        if node.is_multipart:
            inner = "message/rfc822" if node.mime == "multipart/digest" else "text/plain"
            children = tuple(
                self.entity(first, last, depth + 1, inner) for first, last in self._spans(node, body, end)
            )
        elif node.has_parts:
            children = (self.entity(body, end, depth + 1, "text/plain"),)
        return replace(node, size=end - body, children=children, span=(body, end))

    def _spans(self, node: Node, body: int, end: int) -> list[tuple[int, int]]:
        """Where a multipart's parts lie; by its boundary, by what is left of a boundary without quotes, or by its first delimiter."""
        boundary = node.type_parameters.get("boundary") or joined(node.type_parameters, "boundary")
        for named in dict.fromkeys((boundary, boundary.partition(" ")[0])):
            if named and (found := list(self._split(body, end, b"--" + named.encode("latin-1", "replace")))):
                return found
        guess = _DELIMITER.search(self._message[body : min(body + _PREAMBLE, end)])
        return list(self._split(body, end, b"--" + guess[1])) if guess else []

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
