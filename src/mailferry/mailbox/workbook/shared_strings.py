"""The texts that the cells of an .xlsx share, for the fast path: all of them as bytes, those in use as text.

A full sheet may have millions. Source: ECMA-376 part 1, 18.4.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

from mailferry.mailbox.workbook.plain_xml import Unknown, blocks, shown, unescaped

if TYPE_CHECKING:
    from collections.abc import Iterable

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
#: Texts, and bytes of them, that are ready from the beginning; and others that are kept once they were needed.
_READY = 250_000
_READY_BYTES = 32 * 1024 * 1024
_KEPT = 50_000
_KEPT_BYTES = 16 * 1024 * 1024


class SharedStrings(dict[bytes, str]):
    """Text by index, as a cell has that. Raises Unknown."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._encoded = bytearray()
        #: Where each of those in `_encoded` ends.
        self._ends = array("Q", [0])
        self._kept: list[bytes] = []
        self._kept_size = 0
        content = blocks(pieces, _BEGIN, b"</si>", b"</sst>")
        next(content)
        size = ready = 0
        for block in content:
            texts = _texts(block) if block else []
            size += len(block)
            if ready + len(texts) <= _READY and size <= _READY_BYTES and not self._encoded:
                self.update(zip(map(b"%d".__mod__, range(ready, ready + len(texts))), texts, strict=True))
                ready += len(texts)
            else:
                encoded = list(map(str.encode, texts))
                self._ends.extend(list(accumulate(map(len, encoded), initial=len(self._encoded)))[1:])
                self._encoded += b"".join(encoded)
        self._ready = ready

    def __missing__(self, index: bytes) -> str:
        at = int(index) - self._ready if index.isdigit() else -1
        if not 0 <= at < len(self._ends) - 1:
            raise Unknown("an index of a text")
        begin, end = self._ends[at : at + 2]
        text = self._encoded[begin:end].decode()
        self._kept.append(index)
        self._kept_size += end - begin
        if len(self._kept) > _KEPT or self._kept_size > _KEPT_BYTES:
            for one in self._kept[:-1]:
                del self[one]
            self._kept = [index]
            self._kept_size = end - begin
        self[index] = text
        return text


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
