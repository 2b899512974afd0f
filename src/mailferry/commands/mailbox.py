"""`mailferry load`, `explain`, `check` and `jobs`: mailbox feeds."""

from __future__ import annotations

import contextlib
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry.commands.options import Config, Feed, Json
from mailferry.config.text import present
from mailferry.entry import quit_with
from mailferry.errors import ConfigError, Reject, Retry
from mailferry.report_json import dumped

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.service import Configuration
    from mailferry.database import Connection
    from mailferry.mailbox.run_once import Run

CONFIG, TOML = "config.env", "mailferry.toml"
#: Seconds from a signal to the moment when the work is broken off where it stands.
GRACE = 7


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


def load(config: Config = Path(CONFIG), feed: Feed = "", as_json: Json = False) -> None:
    """Load what has arrived in the mailbox into its table, once.

    Exit status: 0 done, or skipped as another run is at it; 1 the run failed, or a job failed, waits or was refused;
    2 configuration;
    3 neither mailbox nor database could be reached.
    """
    sys.exit(run_load(config, feed, as_json=as_json))


def explain(
    config: Config = Path(CONFIG),
    feed: Feed = "",
    limit: Annotated[int, typer.Option(min=1, help="So many messages, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show for each message and part why it would be taken or skipped; nothing is changed.

    Exit status: 0 done; 1 the mailbox cannot be opened; 2 configuration.
    """
    import dataclasses

    from mailferry import report_jobs
    from mailferry.mailbox.explain import explain as messages

    found = list(messages(read(config, feed), limit=limit))
    plain = [dataclasses.asdict(message) for message in found]
    typer.echo(dumped(messages=plain) if as_json else report_jobs.explained_text(found))


def check(config: Config = Path(CONFIG), feed: Feed = "", as_json: Json = False) -> None:
    """Check configuration, folders, database and mailbox, and say what to do where one fails.

    Exit status: 0 all well; 1 something failed; 2 configuration; 3 neither mailbox nor database could be reached.
    """
    sys.exit(run_check(config, feed, as_json=as_json))


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
    typer.echo(dumped(jobs=plain) if as_json else report_jobs.jobs_text(found))


@jobs.command()
def show(
    number: Annotated[int, typer.Argument(help="The job's number, as `jobs list` has it.")],
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
        typer.echo(report_jobs.details_text(details, rows))
        return
    plain = {file.id: [dataclasses.asdict(row) for row in some] for file, some in rows}
    typer.echo(dumped(job=report_jobs.details_plain(details), rejected_rows=plain))


@jobs.command()
def retry(
    number: Annotated[
        int, typer.Argument(help="The job's number, as `jobs list` has it.", show_default=False)
    ] = 0,
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
        dumped(dry_run=dry_run, jobs=plain) if as_json else report_jobs.replayed_text(done, dry_run=dry_run)
    )


@jobs.command()
def acknowledge(
    number: Annotated[
        int, typer.Argument(help="The job's number, as `jobs list` has it.", show_default=False)
    ] = 0,
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
    typer.echo(dumped(jobs=plain) if as_json else report_jobs.acknowledged_text(done))


@jobs.command()
def cancel(
    number: Annotated[int, typer.Argument(help="The job's number, as `jobs list` has it.")],
    config: Config = Path(CONFIG),
    as_json: Json = False,
) -> None:
    """Cancel a job that waits or runs, or one that failed; nothing more of it is loaded."""
    _change("cancel", number, config, as_json=as_json)


@jobs.command()
def undo(
    number: Annotated[int, typer.Argument(help="The job's number, as `jobs list` has it.")],
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
    typer.echo(report_jobs.undone_json(done) if as_json else report_jobs.undone_text(done))


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


# For both command lines


def read(config: Path | None, feed: str = "") -> MailboxFeed:
    """The feed `feed`, or the only one, of a file and the environment. Raises ConfigError."""
    return _chosen(config, feed)[0]


def _chosen(config: Path | None, feed: str) -> tuple[MailboxFeed, Configuration]:
    from mailferry import logs

    file = chosen_file(config)
    found = _configuration(file)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    feeds, settings = found.mailboxes, found.service
    logs.set_up(settings.log_level, folder=settings.log_dir, style=settings.log_format)
    names = [one.name for one in feeds]
    if not feed and len(feeds) == 1:
        return feeds[0], found
    if feed in names:
        return feeds[names.index(feed)], found
    what = f"no mailbox feed {feed!r}" if feed else f"{len(feeds)} mailbox feeds"
    raise ConfigError(
        [f"{file or 'the environment'}: has {what}; choose one by --feed: {', '.join(names) or 'none'}"]
    )


def chosen_file(config: Path | None) -> Path | None:
    """The file that is meant: the named one, else the working directory's, else the system's; None where there is none."""
    from mailferry.config.env import SYSTEM_FILE

    if config is None or config != Path(CONFIG) or present(config):
        return config
    return next(filter(present, (Path(TOML), Path("/etc/mailferry", TOML), SYSTEM_FILE)), None)


def _configuration(file: Path | None) -> Configuration:
    """What `start` would run by this file; None: by the environment alone. Raises ConfigError."""
    from mailferry.config import service

    return service.read([file])


def run_load(config: Path | None, name: str = "", *, as_json: bool) -> int:
    """One run; prints what it came to, and returns the exit status. Raises ConfigError."""
    import threading

    from mailferry import report_jobs, tracing
    from mailferry.mailbox import run_once

    feed, configuration = _chosen(config, name)
    if configuration.alerts.any:
        from mailferry.monitor.alerts import once

        once.begin(configuration.alerts)
    tracing.set_up()
    stop = threading.Event()
    with ending(stop) as received:
        run = _run(feed, stop)
    tracing.end()
    if run is not None:
        typer.echo(report_jobs.run_json(run) if as_json else report_jobs.run_text(run))
    if received:
        return 128 + received[0]
    assert isinstance(run, run_once.Run)
    if configuration.alerts.any:
        once.loaded(configuration, run)
    return run.exit_status


def _run(feed: MailboxFeed, stop: threading.Event) -> Run | None:
    """None where the work had to be broken off."""
    from mailferry import console, logs
    from mailferry.mailbox import run_once
    from mailferry.mailbox.load import Interrupted

    try:
        with logs.bound(feed=feed.name), console.progress("rows") as watch:
            return run_once.run(feed, stop=stop, watch=watch)
    except Interrupted:
        typer.echo("broken off; the next run goes on from there", err=True)
        return None


@contextlib.contextmanager
def ending(stop: threading.Event) -> Iterator[list[int]]:
    """SIGTERM and SIGINT set `stop`; when the step at hand takes longer than GRACE, it is broken off (Interrupted).

    Returns the signals received.
    """
    from mailferry.mailbox.load import Interrupted

    received: list[int] = []

    def react(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def break_off(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    handlers: dict[int, Callable[[int, FrameType | None], None]] = {
        signal.SIGINT: react,
        signal.SIGTERM: react,
    }
    if sys.platform != "win32":
        handlers[signal.SIGALRM] = break_off
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def run_check(config: Path | None, feed: str = "", *, as_json: bool) -> int:
    """The health checks, printed; returns the exit status."""
    from mailferry import report_jobs
    from mailferry.mailbox import health

    try:
        found = list(health.checks(read(config, feed)))
        status = health.exit_status(found)
    except ConfigError as error:
        found, status = [health.faulty(error)], 2
    plain = [health.as_plain(one) for one in found]
    typer.echo(dumped(exit_status=status, checks=plain) if as_json else report_jobs.checks_text(found))
    return status


@contextlib.contextmanager
def _ledger(config: Path) -> Iterator[Connection]:
    """One transaction on the ledger; a database that cannot be reached ends the program with status 3."""
    from mailferry import database

    settings = _database(config)
    try:
        with database.connect(settings) as pool, database.transaction(pool) as conn:
            yield conn
    except Retry as error:
        quit_with(error, 3)


def _database(config: Path) -> DatabaseSettings:
    """The one database of all feeds."""
    return _configuration(chosen_file(config)).database
