"""The texts that the cells of an .xlsx share, for the fast path: text, or only bytes where they are very many.

A full sheet may have millions, and a Python string is five times as large. Source: ECMA-376 part 1, 18.4.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

from mailferry.mailbox.workbook.plain_xml import Unknown, blocks, shown, unescaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BEGIN = re.compile(rb"<sst(?: [^<>]*+)?>")
_TEXT = rb'<t( xml:space="preserve")?>([^<]*+)</t>'
_RUN = rb"<r>(?:<rPr>(?:[^<]|<(?!/rPr>))*+</rPr>)?+%b</r>"
_RUNS = re.compile(_RUN % _TEXT)
#: Attributes and text of a plain one; all of one in runs; what is neither.
_ITEM = re.compile(
    rb"<si>(?:%b|<t ?/>|((?:%b)++))(?:<phoneticPr [^<>/]*+/>)?+</si>|([\s\S]+)"
    % (_TEXT, _RUN % rb'<t(?: xml:space="preserve")?>[^<]*+</t>')
)
_OPEN, _CLOSE = b"<si><t>", b"</t></si>"
#: Texts, and bytes of XML that hold them, that are kept as such.
_READY = 600_000
_READY_BYTES = 64 * 1024 * 1024


class SharedStrings:
    """A table of shared texts."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        """Raises Unknown."""
        self._ready: list[str] = []
        #: The others, one after the other, and where each of them ends.
        self._encoded = bytearray()
        self._ends = array("Q", [0])
        content = blocks(pieces, _BEGIN, b"</si>", b"</sst>")
        next(content)
        size = 0
        for block in content:
            texts = _texts(block) if block else []
            size += len(block)
            if len(self._ready) + len(texts) <= _READY and size <= _READY_BYTES and not self._encoded:
                self._ready += texts
            else:
                encoded = list(map(str.encode, texts))
                self._ends.extend(list(accumulate(map(len, encoded), initial=len(self._encoded)))[1:])
                self._encoded += b"".join(encoded)

    def texts(self, indexes: Sequence[bytes]) -> list[str]:
        """The texts of some cells, by their index. Raises Unknown where there is none."""
        if not b"".join(indexes).isdigit():
            raise Unknown("an index of a text")
        numbers = list(map(int, indexes))
        if max(numbers) < len(self._ready):
            return list(map(self._ready.__getitem__, numbers))
        return list(map(self._text, numbers))

    def _text(self, number: int) -> str:
        if number < len(self._ready):
            return self._ready[number]
        at = number - len(self._ready)
        if at >= len(self._ends) - 1:
            raise Unknown("an index of a text")
        return self._encoded[self._ends[at] : self._ends[at + 1]].decode()


def _texts(block: bytes) -> list[str]:
    parts = block[len(_OPEN) : -len(_CLOSE)].split(_CLOSE + _OPEN)
    if block.startswith(_OPEN) and block.endswith(_CLOSE) and block.count(b"<") == 4 * len(parts):
        return shown(unescaped(parts))  # nearly all are like this
    return _mixed(block)


def _mixed(block: bytes) -> list[str]:
    found = _ITEM.findall(block)
    if found and found[-1][-1]:
        raise Unknown("a shared text")
    texts = []
    for preserve, plain, runs, _ in found:
        parts = _RUNS.findall(runs) if runs else [(preserve, plain)]
        texts.append("".join(_run(*part) for part in parts))
    return texts


def _run(preserve: bytes, text: bytes) -> str:
    texts = unescaped([text])
    return (texts if preserve else shown(texts))[0]
