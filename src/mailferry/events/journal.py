"""What one run says: to the program's log; and where the feed has files, to its own logs beside them.

Those are `messages_*` for people and `errors_*` as JSON lines, the newest few of each kept. A disk that refuses a log line must not stop the collection of data: such a failure is logged to the program's log.
"""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING

import orjson

from mailferry import disk, logs
from mailferry.events.folder import files_of
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed

log = logs.of("mailferry.events")


class Journal:
    """Where one run of one section says what it does: the program's log."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    def step(self, text: str) -> None:
        """What only a `verbose` feed says."""
        if self._feed.verbose:
            self.message(text)

    def message(self, text: str, level: int = logging.INFO) -> None:
        """A line for people."""
        log.log(level, "%s: %s", self._feed.section, text)

    def error(
        self, error: str, *, request: str = "", duration_ms: int | None = None, level: int = logging.DEBUG
    ) -> None:
        """What went wrong; for people at `level`. A try that is going to be repeated is no warning."""
        self._note(error, request, duration_ms)
        if level >= logging.WARNING:
            self.message(error, level)
        else:
            asked = f" ({request})" if request else ""
            log.log(level, "%s: %s%s", self._feed.section, error, asked)

    def _note(self, error: str, request: str, duration_ms: int | None) -> None:
        """Keep an error for programs."""

    def close(self) -> None:
        """The run is over."""


class FileJournal(Journal):
    """The program's log, and the logs in the feed's folder."""

    def __init__(self, feed: EventFeed, clock: Callable[[], float] = time.time) -> None:
        super().__init__(feed)
        self._clock = clock
        self._messages = _Rotating(
            feed.folder, feed.fill(feed.message_log_file_name), feed.message_log_retention_count
        )
        self._errors = _Rotating(
            feed.folder, feed.fill(feed.error_log_file_name), feed.error_log_retention_count
        )

    def message(self, text: str, level: int = logging.INFO) -> None:
        """A line for people."""
        now = self._now()
        line = f"{now:%Y-%m-%d %H:%M:%S%z} {logging.getLevelName(level)} {mask(text)}\n"
        self._messages.write(now, line.encode())
        super().message(text, level)

    def _note(self, error: str, request: str, duration_ms: int | None) -> None:
        feed = self._feed
        now = self._now()
        fields = {
            "time": now.isoformat(timespec="milliseconds"),
            "section": feed.section,
            "error": mask(error),
            "api_key": feed.masked_key,
            "domain": feed.domain,
            "type": feed.type,
            "request": mask(request),
            "duration_ms": duration_ms,
        }
        self._errors.write(now, orjson.dumps(fields) + b"\n")

    def close(self) -> None:
        """Close both files."""
        self._messages.close()
        self._errors.close()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock()).astimezone()


class _Rotating:
    """A log whose file name follows the clock."""

    def __init__(self, folder: Path, name_format: str, keep: int) -> None:
        self._folder = folder
        self._format = name_format
        self._keep = keep
        self._path: Path | None = None
        self._stack = contextlib.ExitStack()

    def write(self, now: datetime, line: bytes) -> None:
        path = self._folder / now.strftime(self._format)
        try:
            if path != self._path:
                self._open(path)
            self._file.write(line)
        except OSError as error:
            log.warning("cannot write %s: %s", path, error.strerror)

    def _open(self, path: Path) -> None:
        self.close()
        opened = open(path, "ab", buffering=0, opener=disk.opener)  # noqa: SIM115 - Path.open takes no opener
        self._file = self._stack.enter_context(opened)
        self._path = path
        older = [found.path for found in files_of(self._folder, self._format) if found.path != path]
        for file in older[: max(0, len(older) + 1 - self._keep)]:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        self._stack.close()
        self._path = None
