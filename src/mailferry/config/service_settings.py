"""What one worker process needs to know beside its feeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mailferry.config.settings import Line, Settings, setting

if TYPE_CHECKING:
    from collections.abc import Mapping

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class ServiceSettings(Settings):
    """One worker process."""

    host: Line = setting(
        "",
        "what this machine is called in the database and by the feeds' `host`; empty: its host name",
        variable="MAILFERRY_HOST",
        everywhere=True,
        max_length=253,
    )
    data_dir: Path = setting(
        meaning="holds what feeds do not place elsewhere, and the private database in `postgres`"
    )
    max_concurrent_jobs: int = setting(
        1, "jobs of different tables at the same time", variable="MAX_CONCURRENT_JOBS", ge=1, le=64
    )
    max_concurrent_feeds: int = setting(
        16, "feeds collected or polled at the same time", variable="MAX_CONCURRENT_FEEDS", ge=1, le=1000
    )
    log_level: LogLevel = setting("INFO", "least level that is logged", variable="LOG_LEVEL", everywhere=True)
    log_dir: Path | None = setting(None, "folder of the five log files", variable="LOG_DIR", everywhere=True)
    log_format: Literal["auto", "text", "json"] = setting(
        "auto",
        "of messages on standard error; `auto`: JSON for systemd's journal, else text",
        variable="LOG_FORMAT",
        everywhere=True,
    )


def systemd_log_dir(environ: Mapping[str, str]) -> Path | None:
    """The first folder that systemd has made for our logs (LogsDirectory= in the unit), where it is that which starts us."""
    first = environ.get("LOGS_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None
