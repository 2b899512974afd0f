"""The files of a job that are to be loaded: on disk, and once for each route of the feed that fits them."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.errors import Reject
from mailferry.mailbox.attachments import WHOLE
from mailferry.mailbox.file_contract import About, as_route, by_sheets, fitting_routes, look_contract
from mailferry.mailbox.intake import fetch_again, take_again
from mailferry.mailbox.ledger import leases, records
from mailferry.mailbox.ledger.jobs import FileState
from mailferry.mailbox.ledger.rows import files_of
from mailferry.mailbox.workbook.contract import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.ledger.jobs import Claim, File

log = logs.of(__name__, logs.FILES)


def pending_files(work: Work, held: Claim) -> list[File]:
    """The files to load; a message that could not be read when it arrived, and is tried again, gets its files now."""
    with work.transaction() as conn:
        files = files_of(conn, held.job.id)
    if any(file.state is FileState.PENDING and file.section == WHOLE for file in files):
        parts = None
        with contextlib.suppress(Reject):  # then the file's reason is recorded again
            parts = take_again(work, held.job)
        if parts is not None:
            with work.transaction() as conn:
                leases.hold(conn, held)
                records.replace_whole(conn, held.job.id, parts)
                files = files_of(conn, held.job.id)
    return [file for file in files if file.state is FileState.PENDING]


def on_disk(work: Work, held: Claim, file: File) -> File:
    """The file with a path that exists on this host; fetched again where it has gone."""
    if file.path and work.folders.holds(Path(file.path)):
        return file
    part = fetch_again(work, held.job, file)
    with work.transaction() as conn:
        leases.hold(conn, held)
        records.refetched(conn, file.id, part)
    log.info("job %d: %s fetched again", held.job.id, file.name)
    return replace(file, path=str(part.path), kind=part.kind or file.kind, size=part.size, sha256=part.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A file, the feed as the route has it that the file is loaded by, and what a person should know of that."""

    file: File
    feed: MailboxFeed
    warnings: tuple[str, ...] = ()


def by_routes(work: Work, held: Claim, pending: Sequence[File]) -> list[Piece]:
    """The files, once for each route that is to load them; each has a row of its own in the ledger."""
    wanted: dict[tuple[str, str], tuple[list[int], list[str]]] = {}
    for file in pending:
        if (file.section, file.member) not in wanted:
            wanted[file.section, file.member] = _routes_of(work, held, file)
    with work.transaction() as conn:
        leases.hold(conn, held)
        for file in pending:
            records.set_routes(conn, file, wanted[file.section, file.member][0][1:])
        files = [file for file in files_of(conn, held.job.id) if file.state is FileState.PENDING]
    pieces = []
    for file in files:
        numbers, left = wanted[file.section, file.member]
        feed = as_route(work.feed, file.route or numbers[0])
        warnings = (
            (f"sheets that no route is for were not loaded: {', '.join(map(repr, left))}",) if left else ()
        )
        pieces.append(Piece(file=file, feed=feed, warnings=() if file.route else warnings))
    return pieces


def _routes_of(work: Work, held: Claim, file: File) -> tuple[list[int], list[str]]:
    """The numbers of the routes that a file is loaded by, 0 for the feed itself, and the sheets that none is for."""
    about = About.of(held.job, file.name)
    numbers = fitting_routes(work.feed, about, file.kind)
    if not any(work.feed.routes[number - 1].sheet for number in numbers):
        return numbers or [0], []
    try:
        file = on_disk(work, held, file)
        with work.read(
            Path(file.path), file.kind, look_contract(work.feed, file.kind, about, Look.NAMES)
        ) as sheet:
            deque(sheet.chunks, maxlen=0)
    except Reject:
        return numbers[:1], []  # what is wrong with it is said where it is loaded
    kept, left = by_sheets(work.feed, numbers, sheet.sheets)
    return kept or [0], left
