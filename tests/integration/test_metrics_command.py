"""`mailferry metrics`: for cron runs, in a file that another program reads at any moment."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

from support_fork import Forked, mailferry
from support_load import Site

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    return Forked(mailferry, "metrics", *arguments, folder=folder, variables=variables).finished()


def test_after_a_load_the_file_has_its_numbers_for_every_user_and_nothing_else_is_left(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    site = Site(tmp_path, database_settings)
    site.send(files=1)
    assert site.load()[0] == 0
    folder = tmp_path / "textfiles"
    folder.mkdir()
    assert run(tmp_path, "--config", "config.env", "--textfile", "textfiles/mailferry.prom").returncode == 0
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    lines = file.read_text().splitlines()
    for line in (
        'mailferry_jobs{state="completed"} 1.0',
        'mailferry_rows_total{result="read"} 3.0',
        'mailferry_rows_total{result="rejected"} 1.0',
        'mailferry_needs{kind="rows"} 1.0',
        "mailferry_job_duration_seconds_count 1.0",
    ):
        assert line in lines
    printed = run(tmp_path, "--config", "config.env")
    assert (printed.returncode, printed.stdout.splitlines()[0]) == (0, lines[0])
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=printed.stdout.encode(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_what_is_wrong_is_in_the_exit_status_and_an_unreachable_database_in_the_metrics_too(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    site = Site(tmp_path, database_settings)
    nowhere = run(tmp_path, "--config", "config.env", "--textfile", "nowhere/mailferry.prom")
    assert nowhere.returncode == 1
    assert "nowhere/mailferry.prom" in nowhere.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        site.configure(DB_HOST="127.0.0.1", DB_PORT=free.getsockname()[1])
    down = run(tmp_path, "--config", "config.env")
    assert down.returncode == 3
    assert "mailferry_database_up 0.0" in down.stdout.splitlines()
    assert 'mailferry_needs{kind="database"} 1.0' in down.stdout.splitlines()
