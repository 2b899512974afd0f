"""Proposes the declared columns for a sample sheet and a table, as TOML to paste. Nothing of it counts until it is pasted."""

from __future__ import annotations

import csv
import difflib
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mailferry.config import toml_text
from mailferry.errors import Reject
from mailferry.mailbox.file_contract import About, look_contract
from mailferry.mailbox.workbook.contract import Look
from mailferry.mailbox.workbook.header import clean_name
from mailferry.mailbox.workbook.inspector import spreadsheet_kind
from mailferry.mailbox.workbook.matching import fold
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Column

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mailferry.config.mailbox_feed import MailboxFeed

#: How alike two names are at least, from 0 to 1.
_ALIKE = 0.55
#: Forms of dates that are looked for; of two that fit all cells neither is proposed.
_FORMS = {
    r"\d{1,2}\.\d{1,2}\.\d{4}": "%d.%m.%Y",
    r"\d{4}-\d{1,2}-\d{1,2}": "%Y-%m-%d",
    r"\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d{2}": "%d.%m.%Y %H:%M",
}
_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+),\d+|[+-]?\d{1,3}(\.\d{3}){2,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """The columns that one sheet would declare."""

    sheet: str
    #: As the spreadsheet program shows it.
    header_row: int
    #: By column of the table, the options of its rule.
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Headers that are like none of the table's columns.
    left: tuple[str, ...] = ()

    def as_toml(self, section: str) -> str:
        """The table of that name, and what is left over as comments."""
        lines = [f"# Sheet {self.sheet!r}, header in row {self.header_row}", f"[{section}]"]
        lines += [toml_text.option(name, rule) for name, rule in self.columns.items()]
        lines += [f"# no column is like {toml_text.value(header)}" for header in self.left]
        return "\n".join(lines)


def propose(feed: MailboxFeed, path: Path, columns: Sequence[Column]) -> list[Proposal]:
    """One for each visible sheet with anything like a header. `columns` are the table's; none: it is still to be made.

    Raises Reject where the file is no spreadsheet or has no such sheet.
    """
    with Reader(feed.limits) as reader:
        kind = spreadsheet_kind(reader, feed, path, path.name)
        contract = look_contract(feed, kind, About(file=path.name), Look.TOP)
        with reader.open(path, kind, contract) as sheet:
            text = b"".join(sheet.chunks).decode()
    rows: dict[int, list[list[str]]] = {}
    for number, *cells in csv.reader(io.StringIO(text, newline="")):
        rows.setdefault(int(number), []).append(cells)
    key = Column(name=clean_name(feed.unique_key), type="")
    found = [_of_sheet(sheet.sheets[at], top, columns, key) for at, top in rows.items()]
    if not any(found):
        raise Reject("no sheet of it has a row that could be a header")
    return [one for one in found if one]


def _of_sheet(name: str, top: list[list[str]], columns: Sequence[Column], key: Column) -> Proposal | None:
    # Of a table that is still to be made the key alone has a name.
    known = columns or [key]
    best = max(range(len(top)), key=lambda at: _fitness(top[at], known))
    headers = [header.strip() for header in top[best]]
    if not any(headers):
        return None
    taken: dict[str, dict[str, Any]] = {}
    left = []
    pairs = _pairs(headers, known)
    for place, header in enumerate(headers):
        if not header:
            continue
        column = pairs.get(place)
        if column is None and columns:
            left.append(header)
            continue
        own = column.name if column else clean_name(header)
        rule: dict[str, Any] = {} if fold(own) == fold(header) else {"headers": [header]}
        below = [row[place].strip() for row in top[best + 1 :] if place < len(row) and row[place].strip()]
        taken.setdefault(own, rule | _reading(below, column.type if column else ""))
    return Proposal(sheet=name, header_row=best + 1, columns=taken, left=tuple(left))


def _fitness(row: Sequence[str], columns: Sequence[Column]) -> tuple[int, int]:
    """How many of the table's columns a row names, and how many names it has."""
    headers = [cell.strip() for cell in row]
    names = {header for header in headers if header and not header.replace(".", "").isdigit()}
    return len(_pairs(headers, columns)), len(names)


def _pairs(headers: Sequence[str], columns: Sequence[Column]) -> dict[int, Column]:
    """The columns that headers are most like, best first; each once."""
    scores = [
        (_likeness(header, column.name), -place, place, column)
        for place, header in enumerate(headers)
        if header
        for column in columns
    ]
    found: dict[int, Column] = {}
    for score, _, place, column in sorted(scores, key=lambda one: one[:2], reverse=True):
        if score >= _ALIKE and place not in found and column not in found.values():
            found[place] = column
    return found


def _likeness(header: str, name: str) -> float:
    one, other = fold(header), fold(name)
    if one == other:
        return 1.0
    # "House AWB (kg)" and "awb": a whole word of one that is the other.
    words = {fold(word) for word in re.split(r"[\W_]+", header) if word}
    if other in words or one in {fold(word) for word in name.split("_")}:
        return 0.9
    return difflib.SequenceMatcher(None, one, other).ratio()


def _reading(texts: Sequence[str], type_name: str) -> dict[str, Any]:
    """How the cells below a header are to be read, where they show only one way."""
    if not texts:
        return {}
    if type_name.startswith(("date", "timestamp")) or not type_name:
        forms = [
            form for pattern, form in _FORMS.items() if all(re.fullmatch(pattern, text) for text in texts)
        ]
        if len(forms) == 1 and forms[0] != "%Y-%m-%d":
            return {"formats": forms}
    if type_name in ("", "integer", "bigint", "real", "double precision") or type_name.startswith("numeric"):
        numbers = [text for text in texts if re.search(r"\d[.,]\d", text)]
        if (
            numbers
            and any(map(_COMMA.fullmatch, numbers))
            and all(re.fullmatch(r"[-+\d.,]+", text) for text in texts)
        ):
            return {"decimal": ","}
    return {}
