"""The command `uzmanposta`: the older script's arguments, its configuration file and its ways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mailferry import startup


def main() -> None:
    """Entry point."""
    startup.quicken()
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

    from mailferry.commands.events import run_collect
    from mailferry.errors import ConfigError
    from mailferry.secrets import mask

    try:
        status = run_collect(
            Path(given.config),
            given.section,
            every=given.all,
            workers=given.max_workers if given.parallel else 1,
            show=given.list,
            as_json=False,
        )
    except ConfigError as error:
        sys.stderr.writelines(f"{mask(fault)}\n" for fault in error.faults)
        sys.exit(2)
    sys.exit(status)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
