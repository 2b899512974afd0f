"""The machine's clock and time zone."""

from __future__ import annotations

import os
from datetime import datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo


def local_now() -> datetime:
    """The time in the machine's zone, aware."""
    return datetime.now().astimezone()


def local_zone() -> tzinfo:
    """The machine's time zone with its changes to summer time and back, as cron expressions need it."""
    name = os.environ.get("TZ", "/etc/localtime").removeprefix(":") or "UTC"
    try:
        if not name.startswith("/"):
            return ZoneInfo(name)
        with Path(name).open("rb") as data:
            return ZoneInfo.from_file(data)
    except (KeyError, ValueError, OSError):
        pass  # a rule such as EST5EDT4,M3...; the C library knows today's offset
    zone = datetime.now().astimezone().tzinfo
    assert zone
    return zone
