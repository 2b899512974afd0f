"""`./dev demo`: the main jobs on embedded defaults, in front of the reader."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import demo_events
import demo_mailbox


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="mailferry-demo-"))
    folder.chmod(0o755)  # as root the private PostgreSQL runs as another user, who has to get there
    good = demo_events.run(folder / "events") & demo_mailbox.run(folder / "mailbox")
    print(f"\nAll files of this demo are in {folder}; delete them when you have seen them.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
