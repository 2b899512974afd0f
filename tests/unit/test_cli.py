"""The command line as a whole."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mailferry import __version__, cli
from mailferry.cli import app


def test_the_version_is_shown_with_and_without_a_command() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"mailferry {__version__}\n"
    assert CliRunner().invoke(app, ["--version", "collect"]).output == f"mailferry {__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output


@pytest.mark.parametrize(
    "words",
    [
        "collect --help",
        "jobs list --help",
        "jobs",
        "gaps wrong",
        "load --wrong",
        "lod",
        "--help",
        "--version",
        "",
    ],
)
def test_a_command_answers_alone_as_it_does_among_all(words: str) -> None:
    alone = CliRunner().invoke(cli._needed(words.split()), words.split())
    among_all = CliRunner().invoke(app, words.split())
    assert (alone.exit_code, alone.output) == (among_all.exit_code, among_all.output)


def test_only_what_is_asked_for_is_built() -> None:
    assert [one.name for one in cli._needed(["jobs", "list"]).registered_groups] == ["jobs"]
    assert cli._needed(["jobs", "list"]).registered_commands == []
    assert len(cli._needed(["collect"]).registered_commands) == 1
    assert cli._needed(["--help"]) is app
