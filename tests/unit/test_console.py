"""What people see on standard error."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TYPE_CHECKING

from mailferry import console
from mailferry.secrets import hide

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
            watch("first", share)
            watch("second", share)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    lines = [line for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", plain) if line.strip()]
    assert {line.split()[0] for line in lines if "50 %" in line} == {"first", "second"}
    assert [line.split()[0] for line in lines[-2:]] == ["first", "second"]


def test_without_a_terminal_there_are_plain_lines_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    hide("a-secret-of-the-test")
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        console.set_up()
        with console.progress() as watch:
            watch("first", 0.5)
        logging.getLogger("mailferry").info("forged\nline with a-secret-of-the-test \x1b[31m")
    finally:
        root.handlers, level = before
        root.setLevel(level)
    said = capsys.readouterr().err
    assert "a-secret-of-the-test" not in said
    assert "\x1b" not in said
    assert said.count("%") == 0
