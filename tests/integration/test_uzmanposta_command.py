"""The two command lines for event feeds: `mailferry collect`, and `uzmanposta` as the older script's users type it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_events import KEY, OUTGOING, RECENT, SIGN_INS, Site, a_site, finished, ran, suffix

from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAITS = Traits(rate=0.1, start=RECENT, end=RECENT + 300, detail_bytes=100)
MODULE = [sys.executable, "-m", "uzmanposta"]
SCRIPT = [str(Path(sys.executable).with_name("uzmanposta"))]
Program = Callable[..., subprocess.CompletedProcess[str]]
PROGRAMS = [
    pytest.param(partial(ran, module="uzmanposta"), id="uzmanposta"),
    pytest.param(partial(ran, "collect"), id="mailferry"),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path, {OUTGOING: TRAITS, SIGN_INS: TRAITS}, now=time.time()) as site:
        site.configure()
        yield site


def only(site: Site, header: str) -> None:
    """Leave one section, under this header."""
    head, _, rest = site.config.read_text().partition(f"[MailLogger:{suffix(OUTGOING)}]")
    body = rest.partition("[MailLogger:")[0]
    site.config.write_text(f"{head}{header}{body}")


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_the_older_arguments_run_all_sections(site: Site, program: list[str]) -> None:
    done = finished([*program, "--config", str(site.config), "--all", "--parallel", "--max-workers", "3"])
    assert done.returncode == 0, done.stderr
    site.assert_exactly_once(OUTGOING)
    site.assert_exactly_once(SIGN_INS)
    for words in (f"{suffix(OUTGOING)}: completed", f"{suffix(SIGN_INS)}: completed", "total: 2 sections"):
        assert words in done.stdout
    for words in ("requests, 100 % good", "on average", "logs/s"):
        assert words in done.stdout


def test_the_configuration_is_found_in_the_working_directory(site: Site) -> None:
    only(site, f"[MailLogger:{suffix(OUTGOING)}]")
    done = ran(module="uzmanposta", folder=site.folder)
    assert done.returncode == 0
    site.assert_exactly_once(OUTGOING)


@pytest.mark.parametrize("name", [f"MailLogger:{suffix(SIGN_INS)}", suffix(SIGN_INS)])
def test_a_section_is_named_in_full_or_by_its_suffix(site: Site, name: str) -> None:
    done = ran("--config", site.config, "--section", name, module="uzmanposta")
    assert done.returncode == 0
    site.assert_exactly_once(SIGN_INS)
    assert not site.data_folder(OUTGOING).exists()


def test_with_neither_all_nor_section_the_only_section_runs(site: Site) -> None:
    only(site, "[MailLogger]")
    done = ran("--config", site.config, module="uzmanposta")
    assert done.returncode == 0
    assert "default: completed" in done.stdout
    assert (site.folder / "positions" / "default.pos").exists()
    site.assert_exactly_once(OUTGOING)


@pytest.mark.parametrize("program", PROGRAMS)
def test_with_neither_all_nor_section_many_sections_are_a_question(site: Site, program: Program) -> None:
    done = program("--config", site.config)
    assert done.returncode == 2
    for words in ("--section NAME", "--all", suffix(OUTGOING), suffix(SIGN_INS)):
        assert words in done.stderr
    assert not site.provider.stats.requests


@pytest.mark.parametrize("program", PROGRAMS)
def test_sections_are_listed_and_nothing_is_fetched(site: Site, program: Program) -> None:
    done = program("--config", site.config, "--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"MailLogger:{suffix(OUTGOING)}",
        f"MailLogger:{suffix(SIGN_INS)}",
    ]
    assert KEY not in done.stdout
    assert not site.provider.stats.requests
    assert sorted(path.name for path in site.folder.iterdir()) == ["uzmanposta.ini"]


@pytest.mark.parametrize(
    "wrong",
    [["--max-workers", "0"], ["--max-workers", "many"], ["--nonsense"], ["--all", "--section", "x"]],
    ids=" ".join,
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_arguments_are_exit_2_and_nothing_is_fetched(
    site: Site, program: Program, wrong: list[str]
) -> None:
    done = program("--config", site.config, *wrong)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert not site.provider.stats.requests


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_faults_of_a_configuration_are_reported_at_once_before_anything_is_fetched(
    site: Site, program: Program
) -> None:
    url = site.provider.list_url("mail")
    site.config.write_text(
        f"""[DEFAULT]
url = {url}
splitinterval = 5

[MailLogger:no-key]
domain = example.com

[MailLogger:placeholder]
api_key = YOUR_API_KEY
domain = example.com

[MailLogger:category]
api_key = {KEY}
domain = example.com
category = mails

[MailLogger:type]
api_key = {KEY}
domain = example.com
type = sent

[MailLogger:format]
api_key = {KEY}
domain = example.com
log_file_name_format = {{nothing}}_%Q.log

[MailLogger:twice]
api_key = {KEY}
domain = example.com

[MailLogger:twice]
api_key = {KEY}
domain = example.org

[MailLogger:option]
api_key = {KEY}
domain = example.com
max_paralel_details = 3
this is no option

[MailLogger:good]
api_key = {KEY}
domain = good.example.com
"""
    )
    done = program("--config", site.config, "--all")
    assert done.returncode == 2
    for words in (
        "splitinterval: unknown option; did you mean split_interval?",
        "[MailLogger:no-key] api_key is missing",
        "[MailLogger:placeholder] api_key: still the example's value",
        "[MailLogger:category] category = mails: must be 'mail', 'quarantine' or 'authentication'",
        "[MailLogger:type] type: unknown type 'sent'",
        "[MailLogger:format] log_file_name_format: unknown placeholder {nothing}",
        "section [MailLogger:twice] stands twice",
        "max_paralel_details: unknown option; did you mean max_parallel_details?",
        "cannot be understood",
    ):
        assert words in done.stderr
    assert all(line.startswith(str(site.config)) for line in done.stderr.splitlines())
    assert KEY not in done.stderr + done.stdout
    assert not site.provider.stats.requests
    assert sorted(path.name for path in site.folder.iterdir()) == ["uzmanposta.ini"]


def test_a_log_directory_that_cannot_be_written_is_a_fault_of_the_configuration(site: Site) -> None:
    site.configure(log_directory="uzmanposta.ini/logs", position_file="uzmanposta.ini/{section}.pos")
    done = ran("--config", site.config, "--all", module="uzmanposta")
    assert done.returncode == 2
    for feed in (OUTGOING, SIGN_INS):
        assert f"[{suffix(feed)}] log_directory: cannot write in" in done.stderr
        assert f"[{suffix(feed)}] position_file: cannot write in" in done.stderr
    assert not site.provider.stats.requests


@pytest.mark.parametrize("fault", ["placeholder", "folder"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_section_with_faults_is_reported_and_stops_no_other(
    site: Site, program: Program, fault: str
) -> None:
    site.configure()
    bad = {
        "placeholder": "api_key = YOUR_API_KEY",
        "folder": f"api_key = {KEY}\nlog_directory = uzmanposta.ini/logs",
    }
    text = site.config.read_text()
    site.config.write_text(f"{text}\n[MailLogger:bad]\n{bad[fault]}\ndomain = bad.example.com\n")
    done = program("--config", site.config, "--all")
    assert done.returncode == 2
    assert "bad: error" in done.stdout
    assert ("api_key" if fault == "placeholder" else "log_directory: cannot write in") in done.stdout
    for feed in (OUTGOING, SIGN_INS):
        site.assert_exactly_once(feed)
    alone = program("--config", site.config, "--section", "bad")
    assert alone.returncode == 2
    assert "[MailLogger:bad]" in alone.stderr or "[bad]" in alone.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_configuration_that_is_not_there_is_reported(tmp_path: Path, program: Program) -> None:
    # A backslash and an n in a name are no end of a line.
    missing = tmp_path / "c:\\new.ini"
    done = program("--config", missing, "--all")
    assert done.returncode == 2
    assert str(missing) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_result_as_json(site: Site) -> None:
    done = ran("collect", "--config", site.config, "--all", "--json")
    assert done.returncode == 0
    printed = json.loads(done.stdout)
    assert (printed["version"], printed["exit_status"]) == (1, 0)
    for feed, one in zip((OUTGOING, SIGN_INS), printed["sections"], strict=True):
        assert one["section"] == suffix(feed)
        assert one["status"] == "completed"
        assert one["error"] is None
        assert one["new_gaps"] == 0
        assert one["folder"] == str(site.data_folder(feed))
        assert one["files"] == [path.name for path in site.data_files(feed)]
        assert one["metrics"]["total_logs_processed"] == len(site.lines(feed))
        first = site.position_file(feed).read_text().splitlines()[0]
        assert one["position"] == int(first)
    events = [one["metrics"]["total_logs_processed"] for one in printed["sections"]]
    assert printed["total"]["total_logs_processed"] == sum(events)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_gap_is_exit_4_and_stands_in_the_summary(tmp_path: Path, program: Program) -> None:
    full = Traits(rate=0, start=RECENT, end=RECENT + 300, bursts={RECENT + 60: 8})
    with a_site(tmp_path, {SIGN_INS: full}, Settings(page_cap=5), now=time.time()) as site:
        site.configure(max_records_per_page=5)
        done = program("--config", site.config)
        assert done.returncode == 4
        assert "logs           5 (1 new gaps)" in done.stdout
        assert "1 new gaps on record" in done.stderr
        assert program("--config", site.config).returncode == 0
