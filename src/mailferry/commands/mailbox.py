"""`mailferry load`, `explain` and `check`: mailbox feeds."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry import console
from mailferry.commands.options import Config, Feed, Json
from mailferry.config.text import present
from mailferry.errors import ConfigError, Interrupted
from mailferry.report_json import dumped

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from types import FrameType

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.service import Configuration
    from mailferry.mailbox.run_result import Run

CONFIG, TOML = "config.env", "mailferry.toml"
#: Seconds from a signal to the moment when the work is broken off where it stands.
GRACE = 7


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
    typer.echo(dumped(messages=plain) if as_json else console.fitted(report_jobs.explained_text(found)))


def check(config: Config = Path(CONFIG), feed: Feed = "", as_json: Json = False) -> None:
    """Check configuration, folders, database and mailbox, and say what to do where one fails.

    Exit status: 0 all well; 1 something failed; 2 configuration; 3 neither mailbox nor database could be reached.
    """
    sys.exit(run_check(config, feed, as_json=as_json))


# For both command lines


def read(config: Path | None, feed: str = "") -> MailboxFeed:
    """The feed `feed`, or the only one, of a file and the environment. Raises ConfigError."""
    return _chosen(config, feed)[0]


def _chosen(config: Path | None, feed: str) -> tuple[MailboxFeed, Configuration]:
    from mailferry import logs
    from mailferry.disk import foreign

    file = chosen_file(config)
    found = configured(file)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    feeds, settings = found.mailboxes, found.service
    if settings.log_dir and (why := foreign(settings.log_dir.absolute())):
        raise ConfigError([why])
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


def configured(file: Path | None) -> Configuration:
    """What `start` would run by this file; None: by the environment alone. Raises ConfigError."""
    from mailferry.config import service

    return service.read([file])


def run_load(config: Path | None, name: str = "", *, as_json: bool) -> int:
    """One run; prints what it came to, and returns the exit status. Raises ConfigError."""
    import threading

    from mailferry import report_jobs, tracing
    from mailferry.mailbox.run_result import Run

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
        typer.echo(report_jobs.run_json(run) if as_json else console.fitted(report_jobs.run_text(run)))
    if received:
        return 128 + received[0]
    assert isinstance(run, Run)
    if configuration.alerts.any:
        once.loaded(configuration, run)
    return run.exit_status


def _run(feed: MailboxFeed, stop: threading.Event) -> Run | None:
    """None where the work had to be broken off."""
    from mailferry import logs
    from mailferry.mailbox import run_once

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
    import dataclasses

    from mailferry import report_jobs
    from mailferry.mailbox import health

    try:
        found = list(health.checks(read(config, feed)))
        status = health.exit_status(found)
    except ConfigError as error:
        found, status = [health.faulty(error)], 2
    plain = [dataclasses.asdict(one) for one in found]
    typer.echo(
        dumped(exit_status=status, checks=plain)
        if as_json
        else console.fitted(report_jobs.checks_text(found))
    )
    return status
