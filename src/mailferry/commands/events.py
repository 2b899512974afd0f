"""`mailferry collect`: event feeds into their files."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from mailferry.config.ini import IniFile

CONFIG = "uzmanposta.ini"


def collect(
    config: Annotated[
        Path, typer.Option(help="The INI file; relative paths in it count from its folder.")
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
    """Collect events from the provider into hourly files; exactly where the last run ended.

    Exit status: 0 done, or skipped as another run has the section; 1 a section failed, the next run goes on;
    2 configuration; 3 the provider was not reached at all; 4 done, with a new gap on record.
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
    """`collect`, for both command lines that have it; gives the exit status.

    Raises:
        ConfigError: with all faults, before anything is fetched.
    """
    from mailferry import console
    from mailferry.config import ini

    file = ini.read(config)
    if show:
        return _list(file, as_json=as_json)
    for warning in file.warnings:
        typer.echo(f"warning: {warning}", err=True)
    feeds = file.choose(section, every=every)

    from mailferry import report
    from mailferry.events import run

    console.set_up()
    run.prepare(feeds, file.path)
    with console.progress() as watch:
        results, stopped_by = run.blocking(run.collect(feeds, workers=workers, watch=watch))
    status = run.exit_status(results)
    typer.echo(report.as_json(results, status) if as_json else report.as_text(results))
    if stopped_by and os.name == "posix":
        # Everything is written; end as the signal would have, so that shells and systemd see why.
        sys.stdout.flush()
        signal.signal(stopped_by, signal.SIG_DFL)
        os.kill(os.getpid(), stopped_by)
    return 128 + stopped_by if stopped_by else status


def _list(file: IniFile, *, as_json: bool) -> int:
    if as_json:
        import json

        sections = [
            {
                "section": name,
                "domain": feed.domain,
                "category": feed.category,
                "type": feed.type,
                "folder": str(feed.folder),
            }
            if feed
            else {"section": name, "faults": file.faults.get(name, [])}
            for name, feed in file.feeds.items()
        ]
        typer.echo(json.dumps({"version": 1, "sections": sections}, ensure_ascii=False))
    else:
        width = max(map(len, file.feeds), default=0)
        for name, feed in file.feeds.items():
            what = f"{feed.domain or '(all domains)'}  {feed.category}  {feed.type}" if feed else "has faults"
            typer.echo(f"{name:<{width}}  {what}")
    faults = [fault for some in file.faults.values() for fault in some]
    if faults:
        raise ConfigError(faults)
    return 0
