"""What a feed's settings ask of one file, for the child that reads it."""

from __future__ import annotations

import difflib
from dataclasses import replace
from email.utils import getaddresses
from typing import TYPE_CHECKING

from mailferry.config.columns import Blanks
from mailferry.config.mailbox_feed import Absent
from mailferry.config.spreadsheet import UnknownColumns
from mailferry.errors import Stop
from mailferry.mailbox.passwords import read_passwords
from mailferry.mailbox.target.table import ABSENT, OURS
from mailferry.mailbox.workbook.contract import RowContract, column_of
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.ledger.jobs import Job
    from mailferry.mailbox.target.table import Target
    from mailferry.mailbox.workbook.values import Column


def about(job: Job, file: str) -> dict[str, str]:
    """What `value` of a declared column may fill in of a message and its file."""
    address = next((one for _, one in getaddresses([job.sender]) if one), "")
    return {
        "sender": address,
        "sender_domain": address.rpartition("@")[2].lower(),
        "subject": job.subject,
        "received": job.received.isoformat(sep=" ", timespec="seconds"),
        "file": file,
        "job": str(job.id),
    }


def row_contract(
    feed: MailboxFeed, target: Target | None, kind: Kind, codec: str, about: dict[str, str]
) -> RowContract:
    """How a file of this kind is to be read. `codec` is the database's encoding. Raises Stop: a column is not the table's."""
    wanted = feed.passwords_file if kind is Kind.PROTECTED else None
    if target:
        _check_declared(feed, target)
    return RowContract(
        key=target.key if target else feed.unique_key,
        columns=_columns(feed, target) if target else (),
        sheet=feed.sheet,
        unknown_columns=feed.unknown_columns,
        reserved=_reserved(feed, target),
        key_width=feed.key_width,
        errors=feed.errors,
        rules=feed.columns,
        about=about,
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


def _check_declared(feed: MailboxFeed, target: Target) -> None:
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
