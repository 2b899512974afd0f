"""Messages on standard error, and progress bars where that is a terminal."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import TaskID


class _Masked(logging.Formatter):
    """One line an event; tracebacks lose their secrets too."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(mask(line) for line in super().format(record).splitlines())


def set_up(level: str = "INFO") -> None:
    """Send messages of `level` and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A bar for each section that runs, on a terminal; elsewhere nothing. Told by `watch(section, share)`."""
    if not sys.stderr.isatty():
        yield lambda _section, _share: None
        return
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
    )
    root = logging.getLogger()
    plain = root.handlers[:]
    # Messages go above the bars instead of through them.
    rich = RichHandler(
        console=console,
        show_path=False,
        show_level=False,
        omit_repeated_times=False,
        log_time_format="%H:%M:%S",
    )
    rich.setFormatter(_Masked("%(message)s"))
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    def watch(section: str, share: float) -> None:
        if section not in tasks:
            tasks[section] = bars.add_task(section, total=1.0)
        bars.update(tasks[section], completed=share, visible=share < 1)

    root.handlers = [rich]
    try:
        with bars:
            yield watch
    finally:
        root.handlers = plain
