"""The docs name every command, option, setting, metric and exit status; what they quote is so; their links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import functools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from mailferry.cli import app
from mailferry.compat import trackandtrace, uzmanposta
from mailferry.config import service, tables
from mailferry.config.env import NAMES, UNNEEDED
from mailferry.config.ini import OPTIONS
from mailferry.config.tables import VARIABLES
from mailferry.errors import ConfigError
from mailferry.events.metrics import Metrics
from mailferry.events.run import Exit
from mailferry.monitor.facts import Status
from mailferry.monitor.metrics import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.config.settings import Setting

ROOT = Path(__file__).parents[2]
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in ROOT.glob("docs/**/*.md")}
READMES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "README.tr.md")}
PAGES = {**DOCS, **READMES}


# --- the reference is whole


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


@pytest.mark.parametrize("name", ["uzmanposta", "trackandtrace"])
def test_every_option_of_the_older_command_lines_stands_in_the_reference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def note(parser: argparse.ArgumentParser) -> None:
        """Every option and command that is taken; goes no further."""
        for action in parser._actions:
            taken.extend(action.option_strings[-1:] or action.choices or ())
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", note)
    with pytest.raises(SystemExit):
        {"uzmanposta": uzmanposta, "trackandtrace": trackandtrace}[name].main()
    text = DOCS["docs/reference/commands.md"].partition(f"## `{name}`")[2].partition("\n## ")[0]
    assert len(taken) > 3
    assert not {option for option in taken if f"`{option}" not in text} - {"--help"}


def test_every_setting_of_the_ini_file_stands_in_its_reference() -> None:
    table = DOCS["docs/reference/uzmanposta-ini.md"]
    assert not {option for option in OPTIONS if f"`{option}`" not in table}


def test_every_variable_of_config_env_stands_in_its_reference_and_nothing_else() -> None:
    table = DOCS["docs/reference/config-env.md"]
    used, unneeded = table.split("| no longer needed |")
    assert set(re.findall(r"^\| `([A-Z_]+)`", used, re.MULTILINE)) == set(NAMES)
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", unneeded, re.MULTILINE)
    documented = {name: why.replace("`", "") for names, why in rows for name in re.findall(r"`(\w+)`", names)}
    assert documented == UNNEEDED


def shown(setting: Setting) -> str:
    """A default as the reference writes it; "" where it says what takes the place of one."""
    value = setting.default
    if value is None or value == "" or setting.secret or setting.path:
        return ""
    value = str(value).lower() if isinstance(value, bool) else value
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize(
    ("page", "settings"),
    [
        ("config-env", {name: setting for name, (_, setting) in VARIABLES.items()}),
        ("uzmanposta-ini", dict(tables.EVENTS.options)),
        ("mailferry-toml", tables.SERVICE.options | tables.MAILBOX.options | tables.MESSAGES.options),
    ],
)
def test_the_defaults_in_the_reference_are_those_that_count(page: str, settings: dict[str, Setting]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", DOCS[f"docs/reference/{page}.md"], re.MULTILINE)
    assert len(rows) > 15
    # Rows of several options, and defaults that go by another option, are left out.
    compared = {name: default for name, default in rows if name in settings and shown(settings[name])}
    wrong = {
        name: (default, shown(settings[name]))
        for name, default in compared.items()
        if f"`{shown(settings[name])}`".lower() not in default.lower()
    }
    assert not wrong


def test_every_option_of_mailferry_toml_stands_in_its_reference() -> None:
    text = DOCS["docs/reference/mailferry-toml.md"]
    # Those that an INI file has as well are explained there.
    parts = (tables.SERVICE, tables.DATABASE, tables.MAILBOX, tables.MESSAGES, *tables.WITHIN.values())
    options = {option for part in parts for option in part.options} | (set(tables.EVENTS.options) - OPTIONS)
    assert not {option for option in options if f"`{option}`" not in text}


def test_every_metric_and_exit_status_stands_in_the_reference() -> None:
    assert not {name for name in Metrics().to_json() if f"`{name}`" not in DOCS["docs/reference/files.md"]}
    statuses = {value for name, value in vars(Exit).items() if name.isupper()}
    rows = re.findall(r"^\| (\d) \|", DOCS["docs/reference/exit-status.md"], re.MULTILINE)
    assert {int(row) for row in rows} == statuses


def test_every_prometheus_metric_stands_on_its_page_and_no_other() -> None:
    status = Status(at=datetime.now(UTC), host="h", feeds=[])
    names = set(re.findall(r"^# TYPE (\w+)", render(status).decode(), re.MULTILINE))
    assert set(re.findall(r"`(mailferry_\w+)", DOCS["docs/metrics.md"])) == names


# --- what is quoted is so


@functools.cache
def messages() -> tuple[str, ...]:
    """All that the program may say: its strings, with NUL where a value stands."""
    found = []
    for path in ROOT.glob("src/mailferry/**/*"):
        if path.suffix == ".sql":
            # A sentence in pieces, joined by ||.
            found.append(re.sub(r"'\s*\|\|[^']*\|\|\s*'", "\0", path.read_text("utf-8")))
        elif path.suffix == ".py":
            found += [_string(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    return tuple(filter(None, found))


def _string(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    # One message of two strings, as "..." + f"...".
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _string(node.left) + _string(node.right)
    return ""


def test_every_message_that_troubleshooting_quotes_is_one_that_the_program_has() -> None:
    rows = re.findall(r"^\| (.*?) \| ", DOCS["docs/troubleshooting.md"], re.MULTILINE)
    quoted = [
        quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if "…" in quote or "; " in quote
    ]
    # What others say, and older contracts.
    pieces = {
        piece.strip(" .;:") for quote in quoted for piece in quote.split("…") if len(piece.strip(" .;:")) > 7
    }
    assert len(pieces) > 30
    assert not {piece for piece in pieces if not any(piece in message for message in messages())}


def test_the_contracts_troubles_have_an_answer() -> None:
    text = DOCS["docs/troubleshooting.md"]
    for named in (
        *("[WinError 5] Access is denied", "Too Many Requests", "journalctl -u trackandtrace.service -n 50"),
        *("trackandtrace-test", "ls -la /var/lib/trackandtrace", "psql -h", "pg_hba.conf", "firewall"),
        *("app password", "IMAP switched on", "DB_UNIQUE_KEY", "permissions"),
    ):
        assert named in text


def test_every_setting_of_the_contract_that_bears_on_speed_stands_on_the_performance_page() -> None:
    text = DOCS["docs/performance.md"]
    for named in (
        *("`--parallel`", "`--max-workers`", "`max_parallel_details`", "`use_session`", "`split_interval`"),
        *("`MAX_CONCURRENT_JOBS`", "`SCHEDULE_INTERVAL_HOURS`", "`FILE_RETENTION_DAYS`", "`DB_TEMP_SCHEMA`"),
        *(
            "`pool_max`",
            "`DB_POOL_SIZE`",
            "`BATCH_SIZE`",
            "`DB_BATCH_SIZE`",
            "`CHUNK_SIZE`",
            "batch size",
            "upsert",
            "`LOG_LEVEL`, `DEBUG`",
        ),
    ):
        assert named in text


@functools.cache
def blocks(language: str) -> list[tuple[str, str]]:
    """(where, text) of every block in this language."""
    return [
        (f"{name}, block {number}", re.sub(r"^ +", "", text, flags=re.MULTILINE) if indent else text)
        for name, page in PAGES.items()
        for number, (indent, text) in enumerate(
            re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
        )
    ]


@pytest.mark.parametrize(
    ("where", "language", "text"),
    [
        pytest.param(where, language, text, id=where)
        for language in ("toml", "ini", "env")
        for where, text in blocks(language)
    ],
)
def test_every_configuration_in_the_docs_can_be_read(
    where: str, language: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / {"toml": "mailferry.toml", "ini": "uzmanposta.ini", "env": "config.env"}[language]
    if language == "ini" and "[MailLogger" not in text:
        text += "\n[MailLogger:x]\napi_key = 9f8e7d6c5b4a\n"
    if language == "env" and "EMAIL_" not in text:
        text += "\nEMAIL_MAILDIR=Maildir\n"
    if language == "toml" and text.startswith("[alerts]"):
        text += '\n[events.x]\napi_key = "9f8e7d6c5b4a"\n'
    # Files with secrets are the reader's own.
    for place in re.findall(r"/etc/\S+?(?=[\"\s]|$)", text):
        secret = tmp_path / place.strip("/").replace("/", "-")
        secret.write_text("a-secret")
        secret.chmod(0o600)
        text = text.replace(place, str(secret))
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    try:
        found = service.read([path], {})
    except ConfigError as error:
        faults = [fault for fault in error.faults if "still the example's value" not in fault]
        assert not faults, where
    else:
        assert found.events or found.mailboxes


def test_every_cron_line_in_the_docs_calls_a_command_of_ours_with_options_that_it_has() -> None:
    reference = DOCS["docs/reference/commands.md"]
    lines = [line for _, text in blocks("cron") for line in text.splitlines() if line[:1] in "*0123456789"]
    assert lines
    for line in lines:
        found = re.search(r"\S*/(mailferry (?:collect|load)|uzmanposta)( --\S.*)", line)
        assert found, line
        assert all(f"`{option}" in reference for option in re.findall(r"--[a-z-]+", found[2]))


def test_every_command_of_ours_in_a_shell_block_exists_with_its_options() -> None:
    known = dict(commands(typer.main.get_command(app), "mailferry"))
    unknown = []
    for where, text in [*blocks("sh"), *blocks("sh run")]:
        # Without what is printed, or written into files.
        plain = re.sub(r"<<'(\w+)'.*?^\1$|echo \"[^\"]*\"", "", text, flags=re.MULTILINE | re.DOTALL)
        for call in re.findall(r"(?<![\w/.-])(?<!-U )mailferry ((?:[a-z]+\b)[^|&;>#)\n]*)", plain):
            words = call.split()
            path = " ".join(
                ["mailferry", *words[: 2 if words[0] in ("jobs", "config", "gaps", "alerts") else 1]]
            )
            if path not in known:
                unknown.append(f"{where}: {path}")
                continue
            has = {option for parameter in known[path].params for option in parameter.opts} | {"--help"}
            unknown += [
                f"{where}: {path} {word}" for word in words if word.startswith("--") and word not in has
            ]
    assert not unknown


# --- pages and links


def anchors(page: str) -> set[str]:
    """What a heading is called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_the_docs_lead_somewhere() -> None:
    broken = []
    for name, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            path = (ROOT / name).parent / target if target else ROOT / name
            page = path.resolve().relative_to(ROOT).as_posix()
            if not path.exists() or (anchor and page in PAGES and anchor not in anchors(PAGES[page])):
                broken.append(f"{name}: {target}#{anchor}")
    assert not broken


def test_every_page_is_linked_from_the_index() -> None:
    index = DOCS["docs/index.md"]
    linked = {f"docs/{target}" for target in re.findall(r"\]\(([^)#:]+)\)", index)}
    assert not set(DOCS) - linked - {"docs/index.md"}


def test_both_readmes_say_the_same() -> None:
    english, turkish = READMES["README.md"], READMES["README.tr.md"]

    def shape(text: str) -> list[str]:
        """Headings' levels, links and code without comments, in their order."""
        found = re.findall(r"^(#+) |\]\(([^)]+)\)|^```(.*?)^```|`([^`\n]+)`", text, re.MULTILINE | re.DOTALL)
        plain = ["".join(one) for one in found]
        return [re.sub(r"\s+# .*", "", one) for one in plain if not one.startswith("README")]

    assert shape(english) == shape(turkish)
