"""Progress bars on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailferry import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import TaskID


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A bar for each section that runs, on a terminal; elsewhere nothing. Yields `watch(section, share)`, which moves a bar."""
    if not sys.stderr.isatty():
        yield lambda _section, _share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
    )
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    def watch(section: str, share: float) -> None:
        if section not in tasks:
            tasks[section] = bars.add_task(section, total=1.0)
        bars.update(tasks[section], completed=share, visible=share < 1)

    def show(line: str) -> None:
        # Above the bars instead of through them.
        console.print(Text(line), soft_wrap=True)

    with bars, logs.shown_by(show):
        yield watch
