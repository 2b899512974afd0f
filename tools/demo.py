"""`./dev demo`: the main jobs on embedded defaults, in front of the reader. `./dev demo --hosts 3`: the service, and a kill."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import demo_events
import demo_hosts
import demo_mailbox


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument(
        "--hosts", type=int, metavar="N", help="show the service with so many workers (2 or more) instead"
    )
    given = parser.parse_args()
    if given.hosts is not None and given.hosts < 2:
        parser.error("one worker has no other to go on in its place: give 2 or more")
    folder = Path(tempfile.mkdtemp(prefix="mailferry-demo-"))
    folder.chmod(0o755)  # as root the private PostgreSQL runs as another user, who has to get there
    if given.hosts:
        good = demo_hosts.run(folder / "hosts", given.hosts)
    else:
        good = demo_events.run(folder / "events") & demo_mailbox.run(folder / "mailbox")
    print(f"\nAll files of this demo are in {folder}; delete them when you have seen them.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
