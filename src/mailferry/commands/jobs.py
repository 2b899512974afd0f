"""`mailferry jobs`: see, retry, cancel, undo and acknowledge the jobs of mailbox feeds."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry import console
from mailferry.commands.mailbox import CONFIG, chosen_file, configured
from mailferry.commands.options import Config, Json
from mailferry.entry import quit_with
from mailferry.errors import Reject, Retry
from mailferry.report_json import dumped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.database import Connection

_Number = Annotated[int, typer.Argument(help="The job's number, as `jobs list` has it.", show_default=False)]


class Replayed(StrEnum):
    """Which jobs `jobs retry` takes."""

    FAILED = "failed"
    REJECTED = "rejected"


class State(StrEnum):
    """States of a job, as `jobs list` filters by them."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"


jobs = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See, retry, cancel, undo and acknowledge jobs: one message each.",
)


@jobs.command("list")
def list_jobs(
    config: Config = Path(CONFIG),
    feed: Annotated[str, typer.Option(help="Only jobs of this feed.", metavar="NAME")] = "",
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.", show_default=False)] = None,
    table: Annotated[str, typer.Option(help="Only jobs of this table.", metavar="NAME")] = "",
    sender: Annotated[str, typer.Option(help="Only jobs with this in the sender.")] = "",
    text: Annotated[str, typer.Option(help="Only jobs with this in subject, sender or Message-ID.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, latest arrival first.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, latest arrival first."""
    from mailferry import report_jobs
    from mailferry.mailbox.ledger import admin
    from mailferry.mailbox.ledger.jobs import JobState

    with _ledger(config) as conn:
        refused = state is State.REFUSED
        wanted = JobState(state) if state and not refused else None
        found = admin.jobs(
            conn,
            feed=feed or None,
            state=wanted,
            refused=refused,
            target=table or None,
            sender=sender or None,
            text=text or None,
            limit=limit,
        )
    plain = [report_jobs.job_plain(job) for job in found]
    typer.echo(dumped(jobs=plain) if as_json else console.fitted(report_jobs.jobs_text(found)))


@jobs.command()
def show(
    number: _Number,
    config: Config = Path(CONFIG),
    rejects: Annotated[int, typer.Option(min=0, help="Rejected rows to show of each file.")] = 20,
    as_json: Json = False,
) -> None:
    """Show all about one job: its files, counts, errors and rejected rows."""
    import dataclasses

    from mailferry import report_jobs
    from mailferry.mailbox.ledger import admin
    from mailferry.mailbox.ledger.rows import rejected_rows

    with _ledger(config) as conn:
        details = admin.show(conn, number)
        if details is None:
            raise Reject(f"There is no job {number}; `mailferry jobs list` shows those there are.")
        rows = [(file, rejected_rows(conn, file.id, rejects)) for file in details.files]
    if not as_json:
        typer.echo(console.fitted(report_jobs.details_text(details, rows)))
        return
    plain = {file.id: [dataclasses.asdict(row) for row in some] for file, some in rows}
    typer.echo(dumped(job=report_jobs.details_plain(details), rejected_rows=plain))


@jobs.command()
def retry(
    number: _Number = 0,
    feed: Annotated[str, typer.Option(help="All of this feed.", metavar="NAME")] = "",
    state: Annotated[
        Replayed | None,
        typer.Option(help="All that failed, or all with a rejected file or row.", show_default=False),
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="All whose message was received then or later: ISO 8601.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List them; change nothing.")] = False,
    config: Config = Path(CONFIG),
    as_json: Json = False,
) -> None:
    """Have the next run do a job again: its files that were not loaded. Or all of a feed, a state, a time, oldest first.

    One job by itself overwrites what was loaded since. All of them together leave rows of messages that were received later.
    """
    every = bool(feed or state or since)
    if bool(number) == every or (number and dry_run):
        raise typer.BadParameter("give either a job's number, or --feed, --state or --since (and --dry-run)")
    if number:
        _change("retry", number, config, as_json=as_json)
    else:
        _replay(feed, state, since, config, dry_run=dry_run, as_json=as_json)


def _replay(
    feed: str, state: Replayed | None, since: str, config: Path, *, dry_run: bool, as_json: bool
) -> None:
    from datetime import UTC, datetime

    from mailferry import report_jobs
    from mailferry.commands.completeness import moment
    from mailferry.mailbox.ledger import admin

    start = datetime.fromtimestamp(moment(since, "--since"), UTC) if since else None
    with _ledger(config) as conn:
        found = admin.replayable(conn, feed=feed or None, state=state and str(state), since=start)
        done = found if dry_run else admin.replay(conn, found)
    plain = [report_jobs.job_plain(job) for job in done]
    typer.echo(
        dumped(dry_run=dry_run, jobs=plain)
        if as_json
        else console.fitted(report_jobs.replayed_text(done, dry_run=dry_run))
    )


@jobs.command()
def acknowledge(
    number: _Number = 0,
    every: Annotated[bool, typer.Option("--all", help="All refused jobs.")] = False,
    feed: Annotated[str, typer.Option(help="With --all: only those of this feed.", metavar="NAME")] = "",
    config: Config = Path(CONFIG),
    as_json: Json = False,
) -> None:
    """Take refused jobs off the list of those that need a person; they keep their states and reasons."""
    from mailferry import report_jobs
    from mailferry.mailbox.ledger import admin

    if bool(number) == every:
        raise typer.BadParameter("give a job's number, or --all")
    with _ledger(config) as conn:
        done = admin.acknowledge_all(conn, feed or None) if every else [admin.acknowledge(conn, number)]
    plain = [report_jobs.job_plain(job) for job in done]
    typer.echo(dumped(jobs=plain) if as_json else console.fitted(report_jobs.acknowledged_text(done)))


@jobs.command()
def cancel(
    number: _Number,
    config: Config = Path(CONFIG),
    as_json: Json = False,
) -> None:
    """Cancel a job that waits or runs, or one that failed; nothing more of it is loaded."""
    _change("cancel", number, config, as_json=as_json)


@jobs.command()
def undo(
    number: _Number,
    config: Config = Path(CONFIG),
    as_json: Json = False,
) -> None:
    """Put back what a job changed in its table: old values, deleted rows; rows that it inserted are deleted.

    Only where the feed keeps history, and no later job or other program has changed those rows. All of it or nothing.
    """
    from mailferry import report_jobs
    from mailferry.mailbox.ledger import admin

    with _ledger(config) as conn:
        done = admin.undo(conn, number)
    typer.echo(report_jobs.undone_json(done) if as_json else console.fitted(report_jobs.undone_text(done)))


def _change(what: str, number: int, config: Path, *, as_json: bool) -> None:
    from mailferry import report_jobs
    from mailferry.mailbox.ledger import admin

    with _ledger(config) as conn:
        job = (admin.retry if what == "retry" else admin.cancel)(conn, number)
    if as_json:
        typer.echo(dumped(job=report_jobs.job_plain(job)))
    else:
        typer.echo(
            f"job {job.id}: {job.state}"
            + ("; the service, or the next `mailferry load`, does it" if what == "retry" else "")
        )


@contextlib.contextmanager
def _ledger(config: Path) -> Iterator[Connection]:
    """One transaction on the ledger; a database that cannot be reached ends the program with status 3."""
    from mailferry import database

    settings = configured(chosen_file(config)).database
    try:
        with database.connect(settings) as pool, database.transaction(pool) as conn:
            yield conn
    except Retry as error:
        quit_with(error, 3)
