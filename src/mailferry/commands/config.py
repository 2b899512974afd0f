"""`mailferry config`: check, show and convert what feeds and service are configured by."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry.commands.options import Json
from mailferry.errors import ConfigError
from mailferry.report_json import dumped

if TYPE_CHECKING:
    from mailferry.config.service import Configuration

config = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check, show and convert the configuration."
)

_Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help="mailferry.toml, uzmanposta.ini or config.env; may be given again. Without it: those of the working "
        "directory, else of /etc/mailferry and /etc/trackandtrace.",
        show_default=False,
    ),
]


@config.command()
def check(files: _Files = None, as_json: Json = False) -> None:
    """Find every fault of the configuration at once; nothing is connected to.

    Exit status: 0 all well; 2 it has faults.
    """
    from mailferry.config import service
    from mailferry.secrets import mask

    try:
        found = service.read(files or [])
    except ConfigError as error:
        if not as_json:
            raise
        typer.echo(dumped(ok=False, faults=[mask(fault) for fault in error.faults], warnings=[]))
        sys.exit(2)
    if as_json:
        counts = {"events": len(found.events), "mailboxes": len(found.mailboxes)}
        paths = [str(path) for path in found.paths]
        typer.echo(dumped(ok=True, faults=[], warnings=list(found.warnings), files=paths, feeds=counts))
        return
    _warn(found)
    typer.echo(
        f"ok: {_count(len(found.events), 'event feed')}, {_count(len(found.mailboxes), 'mailbox feed')}"
    )


@config.command()
def show(files: _Files = None, as_json: Json = False) -> None:
    """Show the configuration as it counts: all files together, every default filled in, secrets masked.

    Exit status: 0 done; 2 the configuration has faults.
    """
    from mailferry.config import service, toml_write

    found = service.read(files or [])
    if as_json:
        typer.echo(dumped(**toml_write.as_plain(found)))
        return
    _warn(found)
    sources = ", ".join(map(str, found.paths)) or "the environment"
    typer.echo(f"# From {sources}\n\n{toml_write.as_toml(found, toml_write.Style.WHOLE)}", nl=False)


@config.command()
def convert(
    files: _Files = None,
    with_secrets: Annotated[
        bool,
        typer.Option("--with-secrets", help="Write passwords and keys as well; keep the output to yourself."),
    ] = False,
) -> None:
    """Print the configuration as one mailferry.toml that means the same.

    Exit status: 0 done; 2 the configuration has faults.
    """
    from mailferry.config import service, toml_write

    found = service.read(files or [])
    _warn(found)
    style = toml_write.Style.WITH_SECRETS if with_secrets else toml_write.Style.WITHOUT_SECRETS
    typer.echo(toml_write.as_toml(found, style), nl=False)


@config.command()
def schema() -> None:
    """Print a JSON schema of mailferry.toml, for editors and programs."""
    from mailferry.config import schema as made

    typer.echo(json.dumps(made.schema(), indent=2, ensure_ascii=False))


def _warn(found: Configuration) -> None:
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
