"""The product's own sentences, in the reader's language. Pure.

Ledger, logs, mails and the API have reasons in English, one language to search them in. The page finds the sentences of
`reasons.py` in them and shows those in Turkish. What it does not know, such as the words of a server, stays as it is.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass

from mailferry.monitor.page.reasons import TURKISH

#: Values that are phrases of our own; every other one is of outside, and stays as it is.
_OURS = frozenset({"what", "why", "where"})
#: Values that are numbers, with marks of thousands.
_NUMBERS = frozenset({"count", "most", "total"})
#: Characters of a text, and parts within each other: a text from outside may hold many.
_LONGEST, _DEEPEST = 5000, 20
#: Characters that may be a part of any text.
_FEW = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sentence:
    """A sentence with values: what stands around them, and their names."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]
    turkish: str

    @property
    def size(self) -> int:
        """Characters that are not of values."""
        return sum(map(len, self.pieces))

    def values(self, text: str) -> dict[str, str] | None:
        """What stands in place of each name; None: it is another sentence. Takes linear time, whatever the text."""
        first, *middle, last = self.pieces
        at, end = len(first), len(text) - len(last)
        if at > end or not (text.startswith(first) and text.endswith(last)):
            return None
        values = []
        for piece in middle:
            found = text.find(piece, at, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(piece)
        values.append(text[at:end])
        # What it begins with, or has next to no words around it, may be a sentence of its own, and no value.
        doubtful = values[0] if not first or self.size < _FEW else ""
        if self.names[0] != "why" and re.search("[:;] ", doubtful):
            return None
        return dict(zip(self.names, values, strict=True))


@functools.lru_cache(4096)
def turkish(text: str) -> str:
    """A reason in Turkish, as far as its sentences are known."""
    if len(text) > _LONGEST:
        return text
    return "\n".join(_line(line, _DEEPEST) for line in text.split("\n"))


def _line(text: str, depth: int) -> str:
    """A sentence; else what stands before and behind a colon; else each of what semicolons divide."""
    if (known := _sentence(text, depth)) is not None:
        return known
    if not depth:
        return text
    first, mark, rest = text.partition("; ")
    for colon in itertools.islice(re.finditer(": ", first), _DEEPEST):
        before, behind = text[: colon.start()], text[colon.end() :]
        if _sentence(before, depth) is not None or _sentence(behind, depth) is not None:
            return f"{_phrase(before, depth)}: {_line(behind, depth - 1)}"
    return f"{_line(first, depth - 1)}; {_line(rest, depth - 1)}" if mark else text


def _phrase(text: str, depth: int) -> str:
    found = _sentence(text, depth)
    return text if found is None else found


def _sentence(text: str, depth: int) -> str | None:
    if not depth or text in _EXACT:
        return _EXACT.get(text)
    for one in _SENTENCES:
        if (values := one.values(text)) is not None:
            return one.turkish.format(**{name: _value(name, value, depth) for name, value in values.items()})
    return None


def _value(name: str, value: str, depth: int) -> str:
    if name == "why":
        return _line(value, depth - 1)
    if name in _OURS:
        return _phrase(value, depth - 1)
    return value.translate(str.maketrans(",.", ".,")) if name in _NUMBERS else value


def _made(english: str, shown: str) -> _Sentence:
    pieces = re.split(r"\{\w+\}", english)
    return _Sentence(pieces=tuple(pieces), names=tuple(re.findall(r"\{(\w+)\}", english)), turkish=shown)


_EXACT = {english: shown for english, shown in TURKISH.items() if "{" not in english}
#: Those that say most first: a text may be more than one.
_SENTENCES = sorted(
    (_made(english, shown) for english, shown in TURKISH.items() if "{" in english),
    key=lambda one: -one.size,
)
