"""Progress bars on standard error, where that is a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailferry import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import TaskID


@contextmanager
def progress(what: str = "events") -> Iterator[Callable[[str, float, int], None]]:
    """A bar for each section that runs, on a terminal; elsewhere nothing.

    Yields `watch(section, share, count)`, which moves a bar; `count` of `what` were done, for the rate.
    """
    if not sys.stderr.isatty():
        yield lambda _section, _share, _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
    )
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    tasks: dict[str, TaskID] = {}

    began = time.monotonic()

    def watch(section: str, share: float, count: int) -> None:
        if section not in tasks:
            tasks[section] = bars.add_task(section, total=1.0, rate="")
        rate = f"{count / max(time.monotonic() - began, 0.001):,.0f} {what}/s"
        bars.update(tasks[section], completed=share, visible=share < 1, rate=rate)

    def show(line: str) -> None:
        # Above the bars instead of through them.
        console.print(Text(line), soft_wrap=True)

    with bars, logs.shown_by(show):
        yield watch


def live(text: Callable[[], str], every: float) -> None:
    """Show a text on the whole terminal, made again every so many seconds, until Ctrl+C."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=Console(), screen=True, auto_refresh=False, vertical_overflow="crop") as shown,
    ):
        while True:
            shown.update(Text(text()), refresh=True)
            time.sleep(every)
