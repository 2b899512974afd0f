"""The command `trackandtrace`: the older service's commands, its `config.env` and its ways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.entry import command_line

if TYPE_CHECKING:
    import threading

    from mailferry.config.mailbox_feed import MailboxFeed

_COMMANDS = {
    "start": "run on the schedule until SIGTERM or SIGINT (default)",
    "run-once": "run once and exit",
    "test-config": "check configuration, folders, database and mailbox",
    "status": "print statistics of the jobs",
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
    from mailferry.commands.mailbox import present
    from mailferry.config.env import SYSTEM_FILE

    return next((path for path in (Path("config.env"), SYSTEM_FILE) if present(path)), None)


def _run(command: str, config: Path | None, *, as_json: bool) -> int:
    from mailferry.commands import mailbox

    if command == "test-config":
        return mailbox.run_check(config, as_json=as_json)
    feed = mailbox.read(config)
    if command == "run-once":
        return mailbox.run_load(feed, as_json=as_json)
    return _status(feed, as_json=as_json) if command == "status" else _start(feed)


def _status(feed: MailboxFeed, *, as_json: bool) -> int:
    import dataclasses

    from mailferry import database, report_jobs
    from mailferry.mailbox import ledger
    from mailferry.mailbox.work import local_now

    with database.connect(feed.database) as pool, database.transaction(pool) as conn:
        found = ledger.statistics(conn, local_now(), feed.name)
    text = (
        report_jobs.dumped(feed=feed.name, **dataclasses.asdict(found))
        if as_json
        else report_jobs.statistics_text(feed.name, found)
    )
    sys.stdout.write(f"{text}\n")
    return 0


def _start(feed: MailboxFeed) -> int:
    """Run now and then every so many hours, counted from start to start; what fails is tried at the next turn."""
    import threading

    from mailferry.commands.mailbox import ending

    stop = threading.Event()
    with ending(stop):
        _turns(feed, stop)
    return 0


def _turns(feed: MailboxFeed, stop: threading.Event) -> None:
    import logging
    import time

    from mailferry.mailbox import loader
    from mailferry.mailbox.process import Interrupted
    from mailferry.mailbox.work import say

    period = feed.schedule_hours * 3600
    say(logging.INFO, "%s: started, every %g h", feed.name, feed.schedule_hours)
    try:
        while not stop.is_set():
            began = time.monotonic()
            loader.run(feed, stop=stop)
            stop.wait(max(0.0, began + period - time.monotonic()))
    except Interrupted:
        say(logging.WARNING, "%s: broken off; the next start goes on from there", feed.name)
    say(logging.INFO, "%s: ended", feed.name)
