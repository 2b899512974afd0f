"""What a feed's settings ask of one file: which routes fit it, and the contract for the child that reads it."""

from __future__ import annotations

import difflib
import fnmatch
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from mailferry.config.columns import Blanks
from mailferry.config.mailbox_feed import Absent
from mailferry.config.spreadsheet import UnknownColumns
from mailferry.errors import Stop
from mailferry.mailbox.mime.headers import fold
from mailferry.mailbox.passwords import read_passwords
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.target.table import ABSENT, OURS
from mailferry.mailbox.workbook.contract import Look, RowContract, column_of
from mailferry.mailbox.workbook.tables import sheet_matches
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mailferry.config.columns import Route
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.ledger.jobs import Job
    from mailferry.mailbox.target.table import Target
    from mailferry.mailbox.workbook.values import Column

#: Options of a route that say where the rows stand.
_PLACES = ("header_row", "header_rows", "skip_after", "stop_at", "hidden")
#: Looked for only where a word begins: else a long word without `@` takes seconds.
_ADDRESS = re.compile(r"(?<![^\s<>(),;:\"])[^\s<>(),;:\"]+@[^\s<>(),;:\"]+")
#: At the end of the header, where no name can stand.
_LAST_ADDRESS = re.compile(r"<([^\s<>]+@[^\s<>]+)>\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What is known of a file and of the message that brought it; routes and `value` of a column use it."""

    file: str
    #: As the message's header has it, decoded.
    sender: str = ""
    subject: str = ""
    received: datetime | None = None
    #: The job's number; None for a file that came by none.
    job: int | None = None

    @classmethod
    def of(cls, job: Job, file: str) -> Self:
        """A file of a job."""
        return cls(file=file, sender=job.sender, subject=job.subject, received=job.received, job=job.id)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that the sender's text has, for a name may look like an address: each has to match."""
        return tuple(dict.fromkeys(_ADDRESS.findall(self.sender)))

    @property
    def address(self) -> str:
        """The sender's own; "" where it is not clear which that is."""
        last = _LAST_ADDRESS.search(self.sender)
        return last[1] if last else self.addresses[0] if len(self.addresses) == 1 else ""

    @property
    def values(self) -> dict[str, str]:
        """By the names that `value` of a column knows, but for sheet and row."""
        return {
            "sender": self.address,
            "sender_domain": self.address.rpartition("@")[2].lower(),
            "subject": self.subject,
            "received": self.received.isoformat(sep=" ", timespec="seconds") if self.received else "",
            "file": self.file,
            "job": "" if self.job is None else str(self.job),
        }


def fitting_routes(feed: MailboxFeed, about: About, kind: Kind) -> list[int]:
    """The numbers, from 1, of the routes that fit a file, whatever its sheets are called."""
    return [number for number, route in enumerate(feed.routes, 1) if _fits(route, about, kind)]


def _fits(route: Route, about: About, kind: Kind) -> bool:
    if route.sheet and kind is Kind.CSV:
        return False  # there is no sheet with a name
    named = not route.file or fnmatch.fnmatchcase(fold(about.file), fold(route.file))
    return named and not Matcher(subject=route.subject, sender=route.sender).mismatch(about)


def by_sheets(
    feed: MailboxFeed, numbers: Sequence[int], sheets: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Those of the routes that are for a sheet of these or for any, and the sheets that none of them is for."""
    patterns = {number: feed.routes[number - 1].sheet for number in numbers}
    kept = [
        number
        for number, pattern in patterns.items()
        if not pattern or any(sheet_matches(sheet, pattern) for sheet in sheets)
    ]
    if not kept or any(not patterns[number] for number in kept):
        return kept, []
    left = [sheet for sheet in sheets if not any(sheet_matches(sheet, patterns[number]) for number in kept)]
    return kept, left


def as_route(feed: MailboxFeed, number: int) -> MailboxFeed:
    """The feed as its route of this number has it; 0 is the feed itself."""
    return _as_route(feed, feed.routes[number - 1]) if number else feed


def _as_route(feed: MailboxFeed, route: Route) -> MailboxFeed:
    own = {rule.name for rule in route.columns}
    shared = () if route.table else tuple(rule for rule in feed.columns if rule.name not in own)
    changes: dict[str, object] = {"columns": (*shared, *route.columns), "routes": ()}
    named = {"sheet": route.sheet, "target_table": route.table, "unique_key": route.unique_key}
    changes |= {field: value for field, value in named.items() if value}
    placed = {field: getattr(route, field) for field in _PLACES}
    changes |= {field: value for field, value in placed.items() if value is not None}
    return feed.model_copy(update=changes)


def row_contract(
    feed: MailboxFeed, target: Target | None, kind: Kind, codec: str, about: About
) -> RowContract:
    """How a file of this kind is to be read. `codec` is the database's encoding. Raises Stop: a column is not the table's."""
    wanted = feed.passwords_file if kind is Kind.PROTECTED else None
    if target:
        check_declared(feed, target)
    return RowContract(
        key=target.key if target else feed.unique_key,
        columns=_columns(feed, target) if target else (),
        sheet=feed.sheet,
        unknown_columns=feed.unknown_columns,
        reserved=_reserved(feed, target),
        key_width=feed.key_width,
        errors=feed.errors,
        hidden=feed.hidden,
        rules=feed.columns,
        about=about.values,
        header_row=feed.header_row,
        header_rows=feed.header_rows,
        skip_after=feed.skip_after,
        stop_at=tuple(one.strip() for one in feed.stop_at.split(",") if one.strip()),
        charset=feed.mailbox.charset,
        passwords=read_passwords(wanted) if wanted else (),
        # Of an encoding that is not known here, the database itself says what it does not have.
        encoding="" if codec in {"utf-8", "ascii"} else codec,
    )


def _reserved(feed: MailboxFeed, target: Target | None) -> tuple[str, ...]:
    own = target.filled if target else OURS
    return (*own, ABSENT) if feed.absent is Absent.MARK else own


def kept_blanks(feed: MailboxFeed, target: Target) -> frozenset[str]:
    """The columns in which an empty cell leaves the value that the table has."""
    declared = {
        found.name: rule.blanks for rule in feed.columns if (found := column_of(rule, target.columns))
    }
    return frozenset(
        column.name
        for column in target.columns
        if column.name != target.key and (declared.get(column.name) or feed.blanks) is Blanks.KEEP
    )


def _columns(feed: MailboxFeed, target: Target) -> tuple[Column, ...]:
    """As a sheet has to fill them: no value is needed in a cell that leaves the one of the table."""
    kept = kept_blanks(feed, target)
    return tuple(replace(one, nullable=True) if one.name in kept else one for one in target.columns)


def refuse_without_table(feed: MailboxFeed, source: str) -> None:
    """Raises Stop where a missing table is not to be made; `source` is what `mailferry preview` can look at: a job's number, say."""
    if not feed.create_table:
        raise Stop(
            f"There is no table {feed.target_table}, and mail makes none unless {feed.spelled('create_table')} = true is set."
            f" `mailferry preview {source}` shows the statement that makes it; until the table is there, mail for it waits"
        )


def check_declared(feed: MailboxFeed, target: Target) -> None:
    """Raises Stop for a declared column that the table does not have, or that is not a sheet's to fill."""
    names = [column.name for column in target.columns]
    for rule in feed.columns:
        if column_of(rule, target.columns):
            continue
        if rule.name in {column.name for column in target.all_columns}:
            raise Stop(
                f"Column {rule.name} of table {target.title} cannot be declared: it is filled by the loader or by the table."
            )
        if feed.unknown_columns is not UnknownColumns.ADD:
            close = difflib.get_close_matches(rule.name, names, 1, 0.6)
            hint = f"did you mean {close[0]}?" if close else f"its columns are: {', '.join(names)}"
            raise Stop(
                f"Column {rule.name} is declared, but table {target.title} does not have it; {hint}"
                " (unknown_columns = add makes it)"
            )


def look_contract(feed: MailboxFeed, kind: Kind, about: About, look: Look) -> RowContract:
    """Asks for less of a file than its rows."""
    return replace(row_contract(feed, None, kind, "", about), look=look)
