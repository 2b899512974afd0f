"""Files within plain text: uuencode, as mail programs before MIME and some machines to this day send them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailferry.mailbox.containers.inner import MOST_FILES, Inner

if TYPE_CHECKING:
    from mailferry.mailbox.mime.headers import Buffer

_BEGIN = re.compile(rb"begin [0-7]{3,4} ([^\r\n]{1,500})\r?\n")
_LONGEST_LINE = 520


def files(buffer: Buffer) -> list[Inner]:
    """Those between `begin <mode> <name>` and `end`; without an end up to the end of the text."""
    found: list[Inner] = []
    at, size = 0, len(buffer)
    while len(found) < MOST_FILES and (at := buffer.find(b"begin ", at, size)) >= 0:
        line = _BEGIN.match(buffer[at : at + _LONGEST_LINE])
        if not line or (at and buffer[at - 1 : at] != b"\n"):
            at += 6
            continue
        end = buffer.find(b"\nend", at, size)
        end = size if end < 0 else min(end + 4, size)
        name = line[1].decode("utf-8", "replace").strip()
        found.append(Inner(name=name, encoding="x-uuencode", spans=((at, end),)))
        at = end
    return found
