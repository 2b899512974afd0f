"""What loading a spreadsheet would do: all of it is done, in a transaction that is rolled back."""

from __future__ import annotations

import csv
import hashlib
import io
import tempfile
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry import database
from mailferry.config.mailbox_feed import Absent
from mailferry.database import server_codec
from mailferry.errors import Reject
from mailferry.mailbox.containers.kinds import Container
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
from mailferry.mailbox.mime.file_buffer import FileBuffer
from mailferry.mailbox.mime.headers import header_block, parse_headers
from mailferry.mailbox.source.message import MessageRef, PartOutcome, Verdict
from mailferry.mailbox.storing import OneFile, part_named, store
from mailferry.mailbox.target import table
from mailferry.mailbox.target.table import Target
from mailferry.mailbox.workbook.contract import Look
from mailferry.mailbox.workbook.header import clean_name
from mailferry.mailbox.workbook.inspector import borrowing, look
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Counts

if TYPE_CHECKING:
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Connection, Pool
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import Kind, RejectedRow


_NO_MESSAGE = MessageRef(account="", folder="", uidvalidity=0, uid="")


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
    #: The statement that makes the table; "" where it is there.
    create_sql: str = ""
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

    Of a message, an archive or another container: of each file in it, by itself. `about` says which message brought it,
    where `job` is none. Raises Reject where there is no spreadsheet in it, Retry where the database is unreachable, Stop
    where no file could be loaded.
    """
    about = About.of(job, name) if job else about or About(file=name, received=datetime.now(UTC))
    with Reader(feed.limits) as reader:
        trials = _Trials(pool=pool, feed=feed, reader=reader, most=most)
        inspector = borrowing(reader, feed)
        found = look(inspector, feed, path, name)
        if found.kind:
            return trials.of_file(_file(path, name, found.kind), about)
        if found.container is Container.MESSAGE:
            about = _of_message(path, about)
        with tempfile.TemporaryDirectory(prefix="mailferry-") as folder:
            parts = _unpacked(feed, OneFile(path=path, inspector=inspector), name, Path(folder))
            return [one for part in parts for one in trials.of_part(part, about)]


def _unpacked(feed: MailboxFeed, file: OneFile, name: str, folder: Path) -> list[PartOutcome]:
    """What is in the file, taken out of it as `load` would. Raises Reject where that is no spreadsheet."""
    found = store(file, _NO_MESSAGE, part_named(name), folder, feed.mailbox, feed.limits)
    wanted = [one for one in found if one.verdict in {Verdict.TAKEN, Verdict.REJECTED}]
    if not wanted:
        why = "; ".join(f"{one.name or 'a part'}: {one.reason}" for one in found[:10])
        raise Reject(f"there is no spreadsheet in it ({why})")
    return wanted


def _of_message(path: Path, about: About) -> About:
    with FileBuffer.open(path) as buffer:
        head = parse_headers(header_block(buffer)[0])
    return replace(about, sender=about.sender or head.sender, subject=about.subject or head.subject)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trials:
    """Where files are loaded as if for good."""

    pool: Pool
    feed: MailboxFeed
    reader: Reader
    most: int

    def of_part(self, part: PartOutcome, about: About) -> list[Preview]:
        if part.path is None or part.kind is None:
            table = self.feed.target_table
            return [Preview(file=part.name, route=0, table=table, loads=False, error=part.reason)]
        return self.of_file(_file(part.path, part.name, part.kind), replace(about, file=part.name))

    def of_file(self, file: File, about: About) -> list[Preview]:
        held = Claim(job=_job(self.feed, about), fence=0)
        trial = _Trial(reader=self.reader, file=file, held=held, about=about, most=self.most)
        numbers, left = trial.routes(self.feed)
        with database.transaction(self.pool) as conn, conn.transaction(force_rollback=True):
            found = [trial.by_route(conn, as_route(self.feed, number), number) for number in numbers]
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
        create_sql = "" if target else _create_sql(conn, feed, sheet)
        recording = feed.model_copy(update={"history": True})
        outcome = upserted(conn, recording, self.held, self.file, target, sheet, last=True)
        new = {column.name for column in sheet.new}
        waits = "" if target or feed.create_table else _no_table(feed)
        return Preview(
            file=self.file.name,
            route=number,
            table=outcome.target.title if outcome.target else target.title if target else feed.target_table,
            loads=outcome.state in (FileState.LOADED, FileState.DUPLICATE) and not waits,
            error=outcome.error or waits,
            create_sql=create_sql,
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


def _create_sql(conn: Connection, feed: MailboxFeed, sheet: Sheet) -> str:
    key, marking = clean_name(feed.unique_key), feed.absent is Absent.MARK
    made = table.definition(conn, feed.target_table, key, sheet.new, marking=marking)
    return f"{made.as_string(conn)};"


def _no_table(feed: MailboxFeed) -> str:
    return (
        f"there is no table {feed.target_table}, and {feed.spelled('create_table')} = true is not set;"
        " it waits until the table is there"
    )


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
        id=0, job_id=0, section="", member="", route=0, name=name, path=str(path), original="", kind=kind,
        size=path.stat().st_size, sha256=sha256, content_sha256=None, state=FileState.PENDING, target=None,
        duplicate_of=None, counts=Counts(), error=None, finished_at=None,
    )  # fmt: skip


def _job(feed: MailboxFeed, about: About) -> Job:
    """A job that is on no record, of the number 0."""
    now = datetime.now(UTC)
    return Job(
        id=0, feed=feed.name, ref=_NO_MESSAGE, header_sha256="",
        message_id="", subject=about.subject, sender=about.sender, received=about.received or now,
        target=feed.target_table, state=JobState.IN_PROGRESS, attempts=1, next_attempt_at=now, runner=None,
        recorded_at=now, started_at=now, finished_at=None, marked_at=None, marked_as=None, error_kind=None, error=None,
        refused=False, acknowledged_at=None, warnings=0,
    )  # fmt: skip
