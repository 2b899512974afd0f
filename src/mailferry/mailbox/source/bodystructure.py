"""The MIME tree that an IMAP server describes (BODYSTRUCTURE, RFC 3501 7.4.2), in the shape of `mime.Node`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailferry.errors import Reject
from mailferry.mailbox.mime.headers import text
from mailferry.mailbox.mime.parameters import first_token
from mailferry.mailbox.mime.tree import PLAIN, Counter, Node, known_disposition

if TYPE_CHECKING:
    from collections.abc import Sequence


def from_bodystructure(body: Any) -> Node:
    """Tree of a BODYSTRUCTURE in nested sequences as IMAPClient has it. Reject when it cannot be one."""
    try:
        return _Reader().node(body, 0)
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        raise Reject(
            "the server's description of the message's parts (BODYSTRUCTURE) cannot be understood"
        ) from error


class _Reader(Counter):
    def node(self, body: Sequence[Any], depth: int) -> Node:
        self.count(depth)
        if isinstance(body[0], (list, tuple)):
            return self._multipart(body, depth)
        if not isinstance(body[0], bytes | None):
            raise TypeError("no media type")
        # a type that the server does not know may be anything, so it is not taken for text
        kind, subtype = text(body[0]).lower() or "application", text(body[1]).lower() or "octet-stream"
        disposition, disposition_parameters = _disposition(body[7:])
        size = _at(body, 6)
        encoding = first_token(text(_at(body, 5)))
        # an encoded message has to be decoded first; servers describe what they make of its encoded text
        nested = _at(body, 8) if (kind, subtype) == ("message", "rfc822") and encoding in PLAIN else None
        return Node(
            mime=f"{kind}/{subtype}",
            encoding=encoding,
            type_parameters=_parameters(_at(body, 2)),
            disposition=disposition,
            disposition_parameters=disposition_parameters,
            size=size if isinstance(size, int) else None,
            children=(self.node(nested, depth + 1),) if isinstance(nested, (list, tuple)) and nested else (),
        )

    def _multipart(self, body: Sequence[Any], depth: int) -> Node:
        """IMAPClient puts the parts of a multipart in one list, but not those within a forwarded message."""
        if isinstance(body[0], list):
            parts: Sequence[Any] = body[0]
            rest = body[1:]
        else:
            count = next((i for i, item in enumerate(body) if not isinstance(item, (list, tuple))), len(body))
            parts, rest = body[:count], body[count:]
        subtype = text(_at(rest, 0)).lower() or "mixed"
        parameters = _parameters(_at(rest, 1))
        # Some servers leave out the parameters of a multipart; one that sees two parts has found its boundary.
        if len(rest) > 1 and len(parts) < 2 and not any(name.startswith("boundary") for name in parameters):
            raise Reject("a multipart without a boundary, of which the server can only see the start")
        return Node(
            mime=f"multipart/{subtype}",
            type_parameters=parameters,
            disposition_parameters={},
            children=tuple(self.node(part, depth + 1) for part in parts),
        )


def _at(items: Sequence[Any], index: int) -> Any:
    return items[index] if index < len(items) else None


def _parameters(items: Any) -> dict[str, str]:
    """By lower-case name, the first of equal ones, one character for one byte; servers leave RFC 2231 to the client."""
    if not isinstance(items, (list, tuple)):
        return {}
    found: dict[str, str] = {}
    for name, value in zip(items[::2], items[1::2], strict=False):
        raw = value.decode("latin-1") if isinstance(value, bytes) else text(value)
        found.setdefault(text(name).lower(), raw)
    return found


def _disposition(extension: Sequence[Any]) -> tuple[str, dict[str, str]]:
    """The disposition among the extension data. Servers leave fields out, so it is known by its shape alone."""
    for item in extension:
        if isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], bytes):
            if item[1] is None or isinstance(item[1], (list, tuple)):
                return known_disposition(text(item[0])), _parameters(item[1])
        elif isinstance(item, bytes) and item.lower() in (b"attachment", b"inline"):
            return known_disposition(text(item)), {}
    return "", {}
