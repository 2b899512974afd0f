"""The command line: parse, call, print. Results go to standard output, messages to standard error."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry.commands import completeness, mailbox, preview, service
from mailferry.commands.alerts import alerts
from mailferry.commands.config import config
from mailferry.commands.events import collect
from mailferry.commands.jobs import jobs
from mailferry.commands.metrics import metrics
from mailferry.commands.simulate import simulate
from mailferry.entry import command_line

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="mailferry",
    help="Carries mail events and mailbox attachments into log files and PostgreSQL.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts three times as fast
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(collect)
app.command()(completeness.verify)
app.command()(completeness.backfill)
app.add_typer(completeness.gaps, name="gaps")
app.command()(mailbox.load)
app.command()(mailbox.explain)
app.command()(preview.preview)
app.command()(preview.columns)
app.command()(mailbox.check)
app.add_typer(jobs, name="jobs")
app.add_typer(config, name="config")
app.command()(service.start)
app.command()(service.status)
app.command()(service.reload)
app.command()(service.page)
app.command()(metrics)
app.add_typer(alerts, name="alerts")
app.command()(simulate)


def main() -> None:
    """Entry point: errors become one message and an exit status."""
    with command_line():
        _needed(sys.argv[1:])()


def _needed(arguments: Sequence[str]) -> typer.Typer:
    """The program with the one command that is asked for; with all where there is none such, or help is asked for.

    To build the parsers of all takes a third of a short command's time.
    """
    first = arguments[0] if arguments else ""
    commands = [one for one in app.registered_commands if one.callback and one.callback.__name__ == first]
    groups = [one for one in app.registered_groups if one.name == first]
    if not commands and not groups:
        return app
    needed = copy.copy(app)
    needed.registered_commands, needed.registered_groups = commands, groups
    return needed


def _version(wanted: bool) -> None:
    if wanted:
        from mailferry import __version__

        typer.echo(f"mailferry {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
