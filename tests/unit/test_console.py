"""What people see on standard error."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TYPE_CHECKING

from mailferry import console, logs

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_every_running_section_has_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress() as watch:
        for share in (0.1, 0.2, 0.5):
            watch("first", share, 1000)
            watch("second", share, 0)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    lines = [line for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", plain) if line.strip()]
    assert {line.split()[0] for line in lines if "50 %" in line} == {"first", "second"}
    assert [line.split()[0] for line in lines[-2:]] == ["first", "second"]
    assert re.search(r"^first .* [1-9][\d,]* events/s", lines[-2])


def test_lines_of_the_log_go_above_the_bars(monkeypatch: pytest.MonkeyPatch, fresh_logs: None) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    logs.set_up()
    with console.progress() as watch:
        watch("first", 0.5, 1)
        logging.getLogger("mailferry").info("[bold]as it is[/bold] %s", "x" * 100)
    logging.getLogger("mailferry").info("after the bars")
    said = terminal.getvalue()
    assert f"INFO [bold]as it is[/bold] {'x' * 100}  run={logs.RUN}\n" in said
    assert said.endswith(f"INFO after the bars  run={logs.RUN}\n")


def test_without_a_terminal_there_are_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as watch:
        watch("first", 0.5, 1)
    assert capsys.readouterr().err == ""
