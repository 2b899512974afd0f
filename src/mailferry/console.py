"""What people see on a terminal: progress bars on standard error, long lines folded, a status that goes on."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import textwrap
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailferry import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import TaskID


#: What stands before the last column of a line: "    runs      ", "     7  2026-01-31 14:30  completed    ".
_COLUMNS = re.compile(r".{0,40}\S\s{2,}(?=\S)")


def fitted(text: str) -> str:
    """A text for standard output: folded where that is a terminal; as it is for a file or a program."""
    return folded(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text


def folded(text: str, width: int) -> str:
    """Lines longer than `width` go on below their last column; words that are longer than that stay whole."""
    return "\n".join(short for line in text.split("\n") for short in _short(line, width))


def _short(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    before = _COLUMNS.match(line)
    start = len(line) - len(line.lstrip())
    # A line that only goes on below a column begins there already.
    indent = before.end() if before else start + (4 if start < 8 else 0)
    return textwrap.wrap(
        line.lstrip(),
        width,
        initial_indent=" " * start,
        subsequent_indent=" " * (indent if indent <= width * 2 // 3 else 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


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
            shown.update(Text(fitted(text())), refresh=True)
            time.sleep(every)
