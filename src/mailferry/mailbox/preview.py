"""What loading a spreadsheet would do: all of it is done, in a transaction that is rolled back."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry import database
from mailferry.database import server_codec
from mailferry.errors import Reject
from mailferry.mailbox.file_contract import (
    About,
    as_route,
    by_sheets,
    fitting_routes,
    look_contract,
    row_contract,
)
from mailferry.mailbox.ledger.jobs import Claim, File, FileState, Job, JobState
from mailferry.mailbox.load import upserted
from mailferry.mailbox.source.message import MessageRef
from mailferry.mailbox.target import table
from mailferry.mailbox.target.table import Target
from mailferry.mailbox.workbook.contract import Look
from mailferry.mailbox.workbook.inspector import spreadsheet_kind
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Counts

if TYPE_CHECKING:
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection, Pool
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import Kind, RejectedRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A column of the table, and where its values come from."""

    column: str
    type: str
    #: As written; "" where no cell is read.
    header: str
    #: Why the header is that column.
    reason: str
    #: Whether the table does not have it yet.
    new: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A row of the table that would change: values by column, as text; of an update those that differ."""

    key: str
    #: None for a row that would be inserted.
    old: dict[str, str | None] | None
    #: None for one that would be deleted.
    new: dict[str, str | None] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What one route of a feed, or the feed itself, would do with a file."""

    file: str
    #: From 1; 0 is the feed itself.
    route: int
    table: str
    #: Whether it would load. A duplicate would, and change nothing.
    loads: bool
    #: Why not; "" where it would.
    error: str = ""
    #: The file of the ledger that it is a duplicate of.
    duplicate_of: int | None = None
    sheets: tuple[str, ...] = ()
    #: As the spreadsheet program shows it; 0 where none was found.
    header_row: int = 0
    columns: tuple[Placed, ...] = ()
    #: Headers that are ignored, and columns of the table without one.
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    #: The first rows as they would be, by column; None is NULL.
    rows: tuple[dict[str, str | None], ...] = ()
    rejects: tuple[RejectedRow, ...] = ()
    counts: Counts = field(default_factory=Counts)
    changes: tuple[Change, ...] = ()


def preview(
    pool: Pool,
    feed: MailboxFeed,
    path: Path,
    name: str,
    *,
    job: Job | None = None,
    most: int = 10,
    about: About | None = None,
) -> list[Preview]:
    """What would become of a file, called `name`, by each route that fits; `most` rows, rejects and changes of each.

    `about` says which message brought it, where `job` is none. Raises Reject where it is no spreadsheet, Retry where the
    database is unreachable, Stop where no file could be loaded.
    """
    about = About.of(job, name) if job else about or About(file=name, received=datetime.now(UTC))
    with Reader(feed.limits) as reader:
        file = _file(path, name, spreadsheet_kind(reader, feed, path, name))
        trial = _Trial(
            reader=reader, file=file, held=Claim(job=_job(feed, about), fence=0), about=about, most=most
        )
        numbers, left = trial.routes(feed)
        with database.transaction(pool) as conn, conn.transaction(force_rollback=True):
            found = [trial.by_route(conn, as_route(feed, number), number) for number in numbers]
    if left:
        found[0].counts.warnings.append(
            f"sheets that no route is for were not loaded: {', '.join(map(repr, left))}"
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """One file on its way, as if it were loaded."""

    reader: Reader
    file: File
    held: Claim
    about: About
    most: int

    def routes(self, feed: MailboxFeed) -> tuple[list[int], list[str]]:
        numbers = fitting_routes(feed, self.about, self.file.kind)
        if not any(feed.routes[number - 1].sheet for number in numbers):
            return numbers or [0], []
        contract = look_contract(feed, self.file.kind, self.about, Look.NAMES)
        with self.reader.open(Path(self.file.path), self.file.kind, contract) as sheet:
            deque(sheet.chunks, maxlen=0)
        kept, left = by_sheets(feed, numbers, sheet.sheets)
        return kept or [0], left

    def by_route(self, conn: Connection, feed: MailboxFeed, number: int) -> Preview:
        table.lock(conn, feed.target_table)
        target = Target.inspect(conn, feed.target_table, feed.unique_key)
        contract = row_contract(feed, target, self.file.kind, server_codec(conn), self.about)
        title = target.title if target else feed.target_table
        try:
            with self.reader.open(Path(self.file.path), self.file.kind, contract) as sheet:
                return self._loaded(conn, feed, number, target, sheet)
        except Reject as error:
            return Preview(file=self.file.name, route=number, table=title, loads=False, error=str(error))

    def _loaded(
        self, conn: Connection, feed: MailboxFeed, number: int, target: Target | None, sheet: Sheet
    ) -> Preview:
        recording = feed.model_copy(update={"history": True})
        outcome = upserted(conn, recording, self.held, self.file, target, sheet, last=True)
        new = {column.name for column in sheet.new}
        return Preview(
            file=self.file.name,
            route=number,
            table=outcome.target.title if outcome.target else target.title if target else feed.target_table,
            loads=outcome.state in (FileState.LOADED, FileState.DUPLICATE),
            error=outcome.error or "",
            duplicate_of=outcome.duplicate_of,
            sheets=sheet.sheets,
            header_row=sheet.header_row,
            columns=tuple(
                Placed(
                    column=column.name,
                    type=column.type,
                    header=sheet.reasons[column.name][0],
                    reason=sheet.reasons[column.name][1],
                    new=column.name in new,
                )
                for column in sheet.columns
            ),
            unknown=sheet.unknown,
            missing=sheet.missing,
            rows=tuple(_first_rows(sheet, self.most)),
            rejects=tuple(islice(outcome.rejected, self.most)),
            counts=outcome.counts,
            changes=tuple(self._changes(conn)),
        )

    def _changes(self, conn: Connection) -> list[Change]:
        """What went on record for the file, which has a number that no other has; it is taken off again."""
        rows = conn.execute(
            "WITH gone AS (DELETE FROM mailferry.row_changes WHERE job_id = 0 RETURNING *)"
            " SELECT key, old, new FROM gone ORDER BY id LIMIT %s",
            (self.most,),
        ).fetchall()
        return [Change(key=key, old=old, new=new) for key, old, new in rows]


def _first_rows(sheet: Sheet, most: int) -> list[dict[str, str | None]]:
    """The first rows that were handed to the database."""
    whole, _, _ = sheet.first_chunk.rpartition(b"\n")
    names = [column.name for column in sheet.columns]
    rows = csv.reader(io.StringIO(whole.decode(), newline=""))
    return [
        {name: text or None for name, text in zip(names, row[1:], strict=True)}
        for row in islice(rows, most)
        if len(row) == len(names) + 1
    ]


def _file(path: Path, name: str, kind: Kind) -> File:
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return File(
        id=0, job_id=0, section="", member="", route=0, name=name, path=str(path), kind=kind,
        size=path.stat().st_size, sha256=sha256, content_sha256=None, state=FileState.PENDING, target=None,
        duplicate_of=None, counts=Counts(), error=None, finished_at=None,
    )  # fmt: skip


def _job(feed: MailboxFeed, about: About) -> Job:
    """A job that is on no record, of the number 0."""
    now = datetime.now(UTC)
    return Job(
        id=0, feed=feed.name, ref=MessageRef(account="", folder="", uidvalidity=0, uid=""), header_sha256="",
        message_id="", subject=about.subject, sender=about.sender, received=about.received or now,
        target=feed.target_table, state=JobState.IN_PROGRESS, attempts=1, next_attempt_at=now, runner=None,
        recorded_at=now, started_at=now, finished_at=None, marked_at=None, marked_as=None, error_kind=None, error=None,
        refused=False, acknowledged_at=None, warnings=0,
    )  # fmt: skip
