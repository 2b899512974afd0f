"""A file within a container, and reading it piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.mailbox.mime.transfer_encoding import PIECE, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.mailbox.mime.headers import Buffer

#: Files of one container; one with more wants to use up memory.
MOST_FILES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A file in a container, where it lies there."""

    #: As the container has it, or ""; not yet safe as a path.
    name: str
    #: MIME type, or "" where the container does not say.
    mime: str = ""
    #: "attachment", "inline" or "".
    disposition: str = ""
    #: Content-Transfer-Encoding that is still to be undone.
    encoding: str = ""
    #: Of a text, as its part states it, or "".
    charset: str = ""
    #: Where its bytes lie, [start, end) each, in order.
    spans: Sequence[tuple[int, int]]

    def read(self, buffer: Buffer) -> Iterator[bytes]:
        """Its content in pieces of at most 256 KiB."""
        return decoded(self._pieces(buffer), self.encoding)

    def _pieces(self, buffer: Buffer) -> Iterator[bytes]:
        for start, end in self.spans:
            for at in range(start, end, PIECE):
                yield buffer[at : min(at + PIECE, end)]
