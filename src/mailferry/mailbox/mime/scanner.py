"""The MIME tree of a message itself (RFC 2046 5.1.1). It runs in the reading child."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mailferry.mailbox.mime.headers import header_block
from mailferry.mailbox.mime.parameters import joined
from mailferry.mailbox.mime.tree import Counter, Node, described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.mime.headers import Buffer

#: A delimiter line of a multipart that names no boundary (RFC 2046 5.1.1: at most 70 characters), and how far to look for it.
_DELIMITER = re.compile(rb"^--([!-~](?:[ -~]{0,69}?[!-~])?)[ \t]*\r?\n", re.MULTILINE)
_PREAMBLE = 64 * 1024


def from_message(message: Buffer) -> Node:
    """Tree of a message in memory or in a file; only headers are copied. Reject beyond MAX_PARTS or MAX_DEPTH."""
    return _Scanner(message).entity(0, len(message), 0, "text/plain")


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
