"""A message's MIME tree (RFC 2045, RFC 2046), from the message itself or from an IMAP BODYSTRUCTURE: one shape for both."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.mime.headers import raw_values
from mailferry.mailbox.mime.parameters import file_name, first_token, header_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: No mail program writes mail like that; one that does wants to use up memory or the stack.
MAX_DEPTH = 50
MAX_PARTS = 1000

_DISPOSITIONS = ("attachment", "inline")
#: Encodings that leave the content as it is.
PLAIN = ("", "7bit", "8bit", "binary")
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
    #: As the part states it, or "".
    charset: str = ""
    #: Whether mail programs may have broken its lines (format=flowed, RFC 3676).
    flowed: bool = False
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
            charset=first_token(self.type_parameters.get("charset", "")),
            flowed=self.mime == "text/plain"
            and first_token(self.type_parameters.get("format", "")).lower() == "flowed",
            span=self.span,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """The parts of a message, and the charset of its first text, or ""."""

    parts: tuple[Part, ...]
    charset: str


def structure(root: Node, charsets: Sequence[str] = ()) -> Structure:
    """A tree's leaves as parts; `charsets` as in `leaves`."""
    return Structure(parts=tuple(part for part, _ in leaves(root, charsets)), charset=root.charset())


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
    """An entity as its header block describes it, without its body."""
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
