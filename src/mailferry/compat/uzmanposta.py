"""The command `uzmanposta`: the older script's arguments, its configuration file and its ways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mailferry.entry import command_line


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="uzmanposta", description="Collect mail events from the Uzman Posta API."
    )
    parser.add_argument(
        "--config", metavar="PATH", default="uzmanposta.ini", help="path to the INI configuration file"
    )
    parser.add_argument("--section", metavar="NAME", help="run only this section of the configuration")
    parser.add_argument("--all", action="store_true", help="process all sections [MailLogger:*]")
    parser.add_argument(
        "--parallel", action="store_true", help="run sections at the same time (requires --all)"
    )
    parser.add_argument(
        "--max-workers", metavar="N", type=_positive, default=5, help="sections at the same time (default 5)"
    )
    parser.add_argument("--list", action="store_true", help="list all sections of the configuration and exit")
    given = parser.parse_args()
    if given.all and given.section:
        parser.error("give either --all or --section")

    with command_line():
        from mailferry.commands.events import run_collect

        workers = given.max_workers if given.parallel else 1
        sys.exit(
            run_collect(
                Path(given.config),
                given.section,
                every=given.all,
                workers=workers,
                show=given.list,
                as_json=False,
            )
        )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
