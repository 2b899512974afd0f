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


def test_a_long_line_goes_on_below_its_last_column_and_loses_no_word() -> None:
    lines = [
        "! tracking: job 7: " + "word " * 30,
        "    to do     " + "word " * 30 + "https://example.com/" + "x" * 90,
        "     7  2026-01-31 14:30  completed    " + "word " * 20,
        "             " + "/" + "x" * 90 + " word",
        "  short    as it is",
        "",
    ]
    folded = console.folded("\n".join(lines), 80).split("\n")
    assert " ".join(" ".join(folded).split()) == " ".join(" ".join(lines).split())
    assert all(len(line) <= 80 or "xxx" in line for line in folded)
    indents = [len(line) - len(line.lstrip()) for line in folded]
    assert indents == [0, 4, 4, 4, 14, 14, 14, 5, 39, 39, 13, 13, 2, 0]


def test_only_a_terminal_gets_folded_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word " * 40
    assert console.fitted(text) == text
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, console.fitted(text).split("\n"))) <= 60
