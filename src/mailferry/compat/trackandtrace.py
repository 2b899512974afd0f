"""The command `trackandtrace`: the older service's commands, its `config.env` and its ways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mailferry.entry import command_line

_COMMANDS = {
    "start": "run as a service until SIGTERM or SIGINT (default)",
    "run-once": "run once and exit",
    "test-config": "check configuration, folders, database and mailbox",
    "status": "print the state of mailbox, jobs and workers",
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="trackandtrace",
        description="Load spreadsheets that arrive by mail into PostgreSQL.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:<12} {what}" for name, what in _COMMANDS.items()),
    )
    parser.add_argument("command", nargs="?", choices=_COMMANDS, default="start", metavar="COMMAND")
    parser.add_argument(
        "--config",
        metavar="PATH",
        type=Path,
        help="file of variables (default: ./config.env, else /etc/trackandtrace/config.env, else the environment alone)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON (not with start)")
    given = parser.parse_args()

    with command_line(unreachable=3):
        sys.exit(_run(given.command, given.config or _default(), as_json=given.json))


def _default() -> Path | None:
    from mailferry.config.env import SYSTEM_FILE
    from mailferry.config.text import present

    return next((path for path in (Path("config.env"), SYSTEM_FILE) if present(path)), None)


def _run(command: str, config: Path | None, *, as_json: bool) -> int:
    from mailferry.commands import mailbox, service

    paths = [config] if config else []
    if command == "start":
        return service.run_start(paths)
    if command == "status":
        return service.run_status(paths, as_json=as_json)
    if command == "test-config":
        return mailbox.run_check(config, as_json=as_json)
    return mailbox.run_load(config, as_json=as_json)
