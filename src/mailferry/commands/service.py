"""`mailferry start`, `reload` and `status`: the service."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry import console, logs
from mailferry.commands.options import Json
from mailferry.entry import quit_with
from mailferry.errors import Retry, Stop
from mailferry.report_json import dumped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.config.service import Configuration

log = logs.of(__name__)
Configs = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="mailferry.toml, uzmanposta.ini or config.env; may be given more than once.",
        show_default="those of the working directory, else of /etc",
    ),
]
#: Seconds that a worker gets to answer to `reload`: it looks every 5.
_PATIENCE = 30.0
#: Seconds between two looks of `status --watch`.
_AGAIN = 2.0


def start(config: Configs = None) -> None:
    """Run every feed on its schedule, until SIGTERM; on as many hosts as you like that share a database.

    SIGHUP, or `mailferry reload`, takes a new configuration. Exit status: 0 ended by SIGTERM or SIGINT; 1 a person has
    to act before anything can be done; 2 configuration.
    """
    sys.exit(run_start(config or ()))


def run_start(paths: Sequence[Path]) -> int:
    """`start`, for both command lines that have it; returns the exit status."""
    if sys.platform != "win32":
        # What a reload would read is being read; until the service listens to it, it must not end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from mailferry.config import service as service_config
    from mailferry.monitor.alerts.beside import Alerts
    from mailferry.monitor.page.serving import Beside
    from mailferry.monitor.telemetry import Telemetry
    from mailferry.service import process

    configuration = service_config.read(paths)
    settings = configuration.service
    logs.set_up(settings.log_level, folder=settings.log_dir, style=settings.log_format)
    for warning in configuration.warnings:
        log.warning("%s", warning)
    try:
        return process.run(paths, configuration, [Telemetry(), Beside(), Alerts()])
    except Stop as error:
        log.error("%s", error)  # noqa: TRY400 - its text says all
        return 1


def page(config: Configs = None) -> None:
    """Serve the status page and its API alone, without running any feed, until SIGTERM.

    For a host that runs feeds by cron; `mailferry start` serves the page by itself. Exit status: 0 ended by SIGTERM or SIGINT; 1 the
    address cannot be used; 2 configuration.
    """
    import threading

    from mailferry.monitor.page.serving import Site

    configuration = read(config or ())
    settings = configuration.service
    logs.set_up(settings.log_level, folder=settings.log_dir, style=settings.log_format)
    if not configuration.page.listen:
        raise Stop("The page is switched off: set listen of [page] (PAGE_LISTEN).")
    site = Site(configuration)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: site.stop())
    serving = threading.Thread(target=site.run, name="mailferry page", daemon=True)
    serving.start()
    log.info("status page: http://%s/", configuration.page.listen)
    serving.join()


def reload(
    config: Configs = None,
    everywhere: Annotated[
        bool, typer.Option("--all-hosts", help="On every host, not only on this one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have the running service read its configuration again; a broken one is refused, and the old one stays.

    Exit status: 0 taken; 1 refused, or no worker answered; 2 configuration; 3 the database cannot be reached.
    """
    answers = _reload(read(config or ()), everywhere=everywhere)
    good = bool(answers) and not any(answer["error"] for answer in answers)
    if as_json:
        typer.echo(dumped(exit_status=int(not good), workers=answers))
    else:
        for answer in answers:
            text = f"refused: {answer['error']}" if answer["error"] else "taken"
            typer.echo(f"{answer['worker']}: {text}")
        if not answers:
            typer.echo("no worker is running here; start one: mailferry start")
    sys.exit(int(not good))


def status(
    config: Configs = None,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, on a terminal, until Ctrl+C.")
    ] = False,
) -> None:
    """Show every feed with its position, last and next run, the mailboxes, the queue and the workers.

    Exit status: 0 all well; 1 something needs a person; 2 configuration; 3 the database cannot be reached.
    """
    if watch and as_json:
        raise typer.BadParameter("give either --watch or --json")
    if watch and sys.stdout.isatty():
        _watch(config or ())
    else:
        sys.exit(run_status(config or (), as_json=as_json))


def _watch(paths: Sequence[Path]) -> None:
    from mailferry.clock import local_now
    from mailferry.monitor import status as monitor
    from mailferry.monitor.connected import Connected

    configuration = read(paths)
    with Connected() as connected:

        def shown() -> str:
            now = local_now()
            return f"again every {_AGAIN:g} s; Ctrl+C ends\n\n{monitor.as_text(monitor.look_again(connected, configuration, now))}"

        console.live(shown, _AGAIN)


def run_status(paths: Sequence[Path], *, as_json: bool) -> int:
    """`status`, for both command lines that have it; returns the exit status."""
    from mailferry.clock import local_now
    from mailferry.monitor import status as monitor

    found = monitor.look(read(paths), local_now())
    code = 3 if found.database_error else int(not found.healthy)
    text = (
        dumped(exit_status=code, **monitor.as_plain(found))
        if as_json
        else console.fitted(monitor.as_text(found))
    )
    typer.echo(text)
    return code


def read(paths: Sequence[Path]) -> Configuration:
    """The configuration; its warnings go to standard error. Raises ConfigError."""
    from mailferry.config import service as service_config

    configuration = service_config.read(paths)
    for warning in configuration.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return configuration


def _reload(configuration: Configuration, *, everywhere: bool) -> list[dict[str, str]]:
    """Ask the workers, and wait for their answers: "" or why the new configuration was refused."""
    from mailferry import database
    from mailferry.service.plan import host_name
    from mailferry.service.store import ALIVE

    queries = database.queries("service")
    answers: dict[str, dict[str, str]] = {}
    try:
        with database.connect(configuration.database) as pool:
            host = None if everywhere else host_name(configuration)
            with database.transaction(pool) as conn:
                asked = conn.execute(queries["ask_reload"], {"host": host, "alive": ALIVE}).fetchall()
            silent = {row[0] for row in asked}
            until = time.monotonic() + _PATIENCE
            while silent and time.monotonic() < until:
                time.sleep(0.2)
                with database.transaction(pool) as conn:
                    for worker, at, pid, error in conn.execute(
                        queries["reloaded"], {"ids": list(silent)}
                    ).fetchall():
                        answers[worker] = {"worker": f"{at}:{pid}", "error": error}
                        silent.discard(worker)
            for worker, at, pid in asked:
                answers.setdefault(
                    worker, {"worker": f"{at}:{pid}", "error": f"no answer in {_PATIENCE:g} s"}
                )
    except Retry as error:
        quit_with(error, 3)
    return list(answers.values())
