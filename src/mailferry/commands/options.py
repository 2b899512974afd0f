"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path,
    typer.Option(
        help="File of variables (the environment's win), or mailferry.toml; relative paths count from its folder."
    ),
]
Feed = Annotated[
    str, typer.Option("--feed", metavar="NAME", help="Which mailbox feed, where the file has several.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
