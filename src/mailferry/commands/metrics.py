"""`mailferry metrics`: what is known, for Prometheus."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mailferry.commands.service import Configs, read

_Textfile = Annotated[
    Path | None,
    typer.Option(
        help="Write into this file, whole or not at all; for node_exporter's textfile collector.",
        show_default="standard output",
    ),
]


def metrics(config: Configs = None, textfile: _Textfile = None) -> None:
    """Print the metrics that the status page serves, for feeds that cron runs.

    Exit status: 0 done; 1 the file cannot be written; 2 configuration; 3 the database cannot be reached (the metrics say so, too).
    """
    from mailferry import disk
    from mailferry.clock import local_now
    from mailferry.monitor.metrics import render
    from mailferry.monitor.status import look

    status = look(read(config or ()), local_now())
    text = render(status)
    if textfile is None:
        typer.echo(text.decode(), nl=False)
    else:
        with disk.explained("write the metrics", textfile):
            # The collector runs as another user.
            disk.replace_file(textfile.absolute(), text, mode=0o644, durable=False)
    sys.exit(3 if status.database_error else 0)
