"""Which header means which column, where a feed declares its columns: names compared loosely, and a reason for each. Pure.

Case, accents, white space and punctuation do not count: `H.A.W.B` is `hawb`. What is written out goes before a wildcard.
"""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mailferry.config.columns import ColumnRule
    from mailferry.mailbox.workbook.header import Header

#: Letters that do not come apart into a plain one and a mark.
_PLAIN = str.maketrans("ıİłŁøØđĐ", "iIlLoOdD")
#: How well a header fits a column; smaller is better.
_SPELLED, _WRITTEN, _WILD = 0, 1, 2
#: Characters of a header that are looked at.
_MOST = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The column that a header means."""

    rule: ColumnRule
    rank: int
    #: What of the rule it fits: "its own name", "'House AWB*'".
    reason: str


@functools.lru_cache(maxsize=4_096)
def fold(name: str) -> str:
    """A name as it is compared: its letters and digits, small and without marks; one that has none, trimmed.

    The same for all names that differ in nothing else; folding twice changes nothing.
    """
    plain = unicodedata.normalize("NFKD", name[:_MOST].translate(_PLAIN).casefold())
    # Again: casefold() itself makes marks out of some letters, and NFKD letters that have a case.
    plain = unicodedata.normalize("NFKD", plain.translate(_PLAIN).casefold())
    return "".join(filter(str.isalnum, plain)) or name.strip()


def match_columns(header: Header, rules: Sequence[ColumnRule]) -> tuple[dict[int, Match], dict[int, str]]:
    """The columns by place of their headers, and warnings by place of headers that a better one leaves without.

    Raises Reject where a header fits two columns, or two headers fit one, equally well.
    """
    forms = [_Form(rule) for rule in rules if not rule.value]
    found: dict[int, Match] = {}
    for place, names in enumerate(header.alternatives):
        fits = [match for form in forms if (match := form.match(names))]
        best = [match for match in fits if match.rank == min(one.rank for one in fits)]
        if len(best) > 1:
            columns = " and ".join(f"{one.rule.name!r} ({one.reason})" for one in best)
            raise Reject(f"header {_shown(names)} fits two columns, {columns}; name it in `headers` of one")
        if best:
            found[place] = best[0]
    return _one_header_each(found, header)


def _one_header_each(found: dict[int, Match], header: Header) -> tuple[dict[int, Match], dict[int, str]]:
    kept: dict[int, Match] = {}
    warnings = {}
    for name in dict.fromkeys(match.rule.name for match in found.values()):
        places = [place for place, match in found.items() if match.rule.name == name]
        # Spelled as the column or written in `headers`: both are exact.
        rank = min(max(found[place].rank, _WRITTEN) for place in places)
        best = [place for place in places if max(found[place].rank, _WRITTEN) == rank]
        written = [_shown(header.alternatives[place]) for place in best]
        if len(best) > 1:
            raise Reject(
                f"column {name!r} has two headers, {' and '.join(written)}; name the right one in its `headers`"
            )
        kept[best[0]] = found[best[0]]
        for place in set(places) - set(best):
            warnings[place] = (
                f"header {_shown(header.alternatives[place])} fits {found[place].reason} of column {name!r} as well,"
                f" but {written[0]} is that column; it was ignored"
            )
    return kept, warnings


def meaning(rules: Iterable[ColumnRule]) -> Callable[[Sequence[str]], bool]:
    """Whether a header of some names means one of the columns."""
    forms = [_Form(rule) for rule in rules if not rule.value]
    return lambda names: any(form.match(names) for form in forms)


def missing(rule: ColumnRule, names: Iterable[str]) -> str:
    """What was looked for, and which of the names comes closest to it."""
    wanted = " or ".join(repr(one) for one in (rule.name, *rule.headers))
    by_form = {fold(name): name for name in names}
    close: list[str] = []
    for one in (rule.name, *rule.headers):
        close += difflib.get_close_matches(fold(one.replace("*", "")), list(by_form), 1, 0.6)
    return f"no header is {wanted}" + (f"; {by_form[close[0]]!r} comes closest" if close else "")


class Wildcard:
    """A text in which `*` stands for any other, compared as names are."""

    def __init__(self, text: str) -> None:
        #: A sign by itself, such as # or %, is compared as it is.
        self._by_letters = any(map(str.isalnum, text))
        parts = text.strip().split("*")
        if self._by_letters:
            parts = [fold(part) if any(map(str.isalnum, part)) else "" for part in parts]
        self._form = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)

    def fits(self, name: str) -> bool:
        """Whether it stands for a name, which is not empty."""
        return self._form.fullmatch(fold(name) if self._by_letters else name.strip()) is not None


class _Form:
    """A rule, ready to be compared with many headers."""

    def __init__(self, rule: ColumnRule) -> None:
        self._rule = rule
        self._own = fold(rule.name)
        self._written = {fold(text): text for text in rule.headers if "*" not in text}
        self._wild = [(text, Wildcard(text)) for text in rule.headers if "*" in text]

    def match(self, names: Sequence[str]) -> Match | None:
        found = [match for name in names if name.strip() and (match := self._match(name))]
        return min(found, key=lambda match: match.rank, default=None)

    def _match(self, name: str) -> Match | None:
        rule = self._rule
        if name.strip() == rule.name:
            return Match(rule=rule, rank=_SPELLED, reason="its own name")
        form = fold(name)
        if form == self._own:
            return Match(rule=rule, rank=_WRITTEN, reason="its own name")
        if text := self._written.get(form):
            return Match(rule=rule, rank=_WRITTEN, reason=repr(text))
        for text, wildcard in self._wild:
            if wildcard.fits(name):
                return Match(rule=rule, rank=_WILD, reason=repr(text))
        return None


def _shown(names: Sequence[str]) -> str:
    return repr(names[0][:80])
