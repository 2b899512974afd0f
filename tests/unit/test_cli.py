"""The command line as a whole."""

from __future__ import annotations

from typer.testing import CliRunner

from mailferry import __version__
from mailferry.cli import app


def test_the_version_is_told_with_and_without_a_command() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"mailferry {__version__}\n"
    assert CliRunner().invoke(app, ["--version", "collect"]).output == f"mailferry {__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output
