"""The docs name every command, option, setting, metric and exit status."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.main

from mailferry.cli import app
from mailferry.config.env import VARIABLES
from mailferry.config.ini import OPTIONS
from mailferry.events.metrics import Metrics
from mailferry.events.run import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in ROOT.glob("docs/**/*.md")}


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")


def test_every_command_and_option_stands_in_the_reference_and_has_help() -> None:
    reference = DOCS["docs/reference/commands.md"]
    missing = []
    for path, command in commands(typer.main.get_command(app), "mailferry"):
        if f"`{path}" not in reference or not command.help:
            missing.append(path)
        for parameter in command.params:
            options = [option for option in parameter.opts if option.startswith("--")]
            missing += [
                f"{path} {option}"
                for option in options
                if f"`{option}" not in reference or not parameter.help
            ]
    assert not missing


def test_every_setting_of_the_ini_file_stands_in_its_reference() -> None:
    table = DOCS["docs/reference/uzmanposta-ini.md"]
    assert not {option for option in OPTIONS if f"`{option}`" not in table}


def test_every_metric_and_exit_status_stands_in_the_reference() -> None:
    text = DOCS["docs/reference/files.md"]
    assert not {name for name in Metrics().to_json() if f"`{name}`" not in text}
    statuses = [value for name, value in vars(Exit).items() if name.isupper()]
    assert not {status for status in statuses if f"| {status} |" not in text}


def test_links_between_the_docs_lead_somewhere() -> None:
    broken = []
    for name, text in {**DOCS, "README.md": (ROOT / "README.md").read_text("utf-8")}.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not ((ROOT / name).parent / target).exists():
                broken.append(f"{name}: {target}")
    assert not broken


def test_every_variable_of_config_env_stands_in_its_reference_and_nothing_else() -> None:
    table = DOCS["docs/reference/config-env.md"]
    assert set(re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE)) == set(VARIABLES)
