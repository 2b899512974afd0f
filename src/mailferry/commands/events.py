"""`mailferry collect`: event feeds into their files or tables."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry import console, logs, tracing
from mailferry.errors import ConfigError, MailferryError
from mailferry.report_json import dumped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.config.event_feeds import EventFeeds
    from mailferry.config.service import Configuration
    from mailferry.config.service_settings import ServiceSettings
    from mailferry.database import Pool

CONFIG = "uzmanposta.ini"


def collect(
    config: Annotated[
        Path, typer.Option(help="The INI file, or mailferry.toml; relative paths count from its folder.")
    ] = Path(CONFIG),
    section: Annotated[str | None, typer.Option(help="Run only this section.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Run all [MailLogger:*] sections.")] = False,
    parallel: Annotated[
        bool, typer.Option("--parallel", help="Run sections at the same time (with --all).")
    ] = False,
    max_workers: Annotated[int, typer.Option(min=1, help="Sections that run at the same time.")] = 5,
    show: Annotated[bool, typer.Option("--list", help="List the sections and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Collect events from the provider into hourly files or a table; exactly where the last run ended.

    Exit status: 0 done, or skipped as another run has the section; 1 a section failed, the next run goes on;
    2 configuration; 3 the provider was not reached at all; 4 done, with a new gap on record, or with files that could
    not be deleted, compressed or sealed.
    """
    if every and section is not None:
        raise typer.BadParameter("give either --all or --section")
    sys.exit(
        run_collect(
            config, section, every=every, workers=max_workers if parallel else 1, show=show, as_json=as_json
        )
    )


def run_collect(
    config: Path, section: str | None, *, every: bool, workers: int, show: bool, as_json: bool
) -> int:
    """`collect`, for both command lines that have it; returns the exit status.

    Raises:
        ConfigError: with all faults, before anything is fetched.
    """
    file = _read(config)
    if show:
        return _list(file, as_json=as_json)
    for warning in file.warnings:
        typer.echo(f"warning: {warning}", err=True)
    feeds = file.choose(section, every=every)

    from mailferry import report
    from mailferry.events import run
    from mailferry.events.collector import Result

    set_up_logs(file.service)
    tracing.set_up()
    faults = {name.partition(":")[2] or "default": found for name, found in file.faults.items() if every}
    faults |= run.prepare(feeds, file.path)
    feeds = [feed for feed in feeds if feed.section not in faults]
    if not feeds:
        raise ConfigError([fault for found in faults.values() for fault in found])
    alerting = _alerting(file, feeds)
    if alerting:
        from mailferry.monitor.alerts import once

        once.begin(alerting.alerts)
    with _pool(file, feeds, workers) as pool:
        ready = [
            feed for feed in feeds if feed.destination == "files" or not isinstance(pool, MailferryError)
        ]
        with console.progress() as watch:
            results, stopped_by = run.blocking(
                run.collect(
                    ready,
                    pool=None if isinstance(pool, MailferryError) else pool,
                    workers=workers,
                    watch=watch,
                )
            )
    results += [
        Result(section=feed.section, status="error", error=str(pool), table=feed.table)
        for feed in feeds
        if feed not in ready
    ]
    results += [
        Result(section=section, status="error", error="; ".join(found), misconfigured=True)
        for section, found in faults.items()
    ]
    tracing.end()
    status = run.exit_status(results)
    typer.echo(report.as_json(results, status) if as_json else console.fitted(report.as_text(results)))
    if alerting and not stopped_by:
        beside = next(feed.position_file for feed in file.feeds.values() if feed)
        once.collected(alerting, results, beside, good=status == run.Exit.DONE)
    if stopped_by and os.name == "posix":
        # Everything is written; end as the signal would have, so that shells and systemd see why.
        sys.stdout.flush()
        signal.signal(stopped_by, signal.SIG_DFL)
        os.kill(os.getpid(), stopped_by)
    return 128 + stopped_by if stopped_by else status


def _read(config: Path) -> EventFeeds:
    from mailferry.config import event_feeds

    if config.suffix.lower() != ".toml":
        return event_feeds.read(config)
    from mailferry.config import service

    found = service.read([config])
    return event_feeds.EventFeeds(
        path=found.paths[0],
        feeds={feed.section: feed for feed in found.events},
        faults={},
        warnings=found.warnings,
        database=found.database,
        service=found.service,
        alerts=found.alerts,
    )


def _alerting(file: EventFeeds, feeds: Sequence[EventFeed]) -> Configuration | None:
    """The configuration that the alerts of a run use; None where none are set up."""
    from mailferry.config import service
    from mailferry.config.database import DatabaseSettings
    from mailferry.config.page_settings import PageSettings

    alerts = file.alerts
    if alerts is None:
        alerts, faults = service.alerts_of_environment(os.environ)
        for fault in faults:
            typer.echo(f"warning: {fault}; not used", err=True)
    if not alerts.any:
        return None
    folder = file.path.parent
    database = file.database
    if database is None and any(feed.destination == "table" for feed in feeds):
        database = service.database_of_environment(os.environ, folder)
    return service.Configuration(
        service=file.service or service.ServiceSettings(data_dir=folder),
        database=database or DatabaseSettings(data_dir=folder),
        page=PageSettings(),
        alerts=alerts,
        events=tuple(feeds),
        mailboxes=(),
        warnings=(),
        paths=(file.path,),
    )


def set_up_logs(settings: ServiceSettings | None) -> None:
    """Where no file says how, as the environment does; what of that cannot be used must not keep the events waiting."""
    from mailferry.config import service

    if settings is None:
        settings, faults = service.of_environment(os.environ, Path.cwd())
        for fault in faults:
            typer.echo(f"warning: {fault}; not used", err=True)
    logs.set_up(settings.log_level, folder=settings.log_dir, style=settings.log_format)


@contextlib.contextmanager
def _pool(
    file: EventFeeds, feeds: Sequence[EventFeed], workers: int
) -> Iterator[Pool | MailferryError | None]:
    """The database of the feeds that write into a table; None where there are none, or why it cannot be used.

    The others must not wait for it. Raises ConfigError.
    """
    if all(feed.destination == "files" for feed in feeds):
        yield None
        return
    from mailferry import database
    from mailferry.config import service

    settings = file.database or service.database_of_environment(os.environ, file.path.parent)
    from mailferry.events.places import AT_MOST

    # Each section that runs holds one connection; so do those that wait for a host.
    sized = settings.model_copy(update={"pool_min": 1, "pool_max": min(workers + AT_MOST, len(feeds))})
    with contextlib.ExitStack() as stack:
        opened: Pool | MailferryError
        try:
            opened = stack.enter_context(database.connect(sized))
        except MailferryError as error:
            logs.of("mailferry.events").error("%s", error)
            opened = error
        yield opened


def _list(file: EventFeeds, *, as_json: bool) -> int:
    if as_json:
        sections = [
            {
                "section": name,
                "domain": feed.domain,
                "category": feed.category,
                "type": feed.type,
                "table": feed.table if feed.destination == "table" else None,
                "folder": str(feed.folder) if feed.destination == "files" else None,
            }
            if feed
            else {"section": name, "faults": file.faults.get(name, [])}
            for name, feed in file.feeds.items()
        ]
        typer.echo(dumped(sections=sections))
    else:
        width = max(map(len, file.feeds), default=0)
        for name, feed in file.feeds.items():
            what = f"{feed.domain or '(all domains)'}  {feed.category}  {feed.type}" if feed else "has faults"
            typer.echo(f"{name:<{width}}  {what}")
    faults = [fault for some in file.faults.values() for fault in some]
    if faults:
        raise ConfigError(faults)
    return 0
