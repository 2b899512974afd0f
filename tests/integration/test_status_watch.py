"""What people watch: `mailferry status --watch`, on a terminal and without one, and how far a load is."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from support_fork import Forked, mailferry
from support_load import Site
from support_wait import wait_for

from mailferry.config import service
from mailferry.mailbox import run_once

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings

COMMAND = [sys.executable, "-m", "mailferry", "status", "--watch", "--config", "uzmanposta.ini"]


def configured(folder: Path) -> None:
    config = folder / "uzmanposta.ini"
    config.write_text("[MailLogger:outgoing]\napi_key = 9f8e7d6c5b4a3928\ndomain = example.com\n")
    config.chmod(0o600)


def test_on_a_terminal_it_shows_every_feed_again_until_it_is_interrupted(tmp_path: Path) -> None:
    configured(tmp_path)
    leader, follower = pty.openpty()
    variables = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        "COLUMNS": "100",
        "LINES": "30",
    }
    with subprocess.Popen(
        COMMAND, cwd=tmp_path, env=variables, stdin=follower, stdout=follower, stderr=follower
    ) as shown:
        os.close(follower)
        said = b""

        def twice() -> bool:
            nonlocal said
            said += os.read(leader, 65536)
            return said.count(b"outgoing: new") >= 2

        try:
            wait_for("two looks", twice)
            shown.send_signal(signal.SIGINT)
            # It writes to its end, for which a terminal that is not read has no room.
            with contextlib.suppress(OSError):
                while piece := os.read(leader, 65536):
                    said += piece
            assert shown.wait(30) == 0
        finally:
            shown.kill()
            os.close(leader)
    assert b"Traceback" not in said


def test_without_a_terminal_it_shows_it_once(tmp_path: Path) -> None:
    configured(tmp_path)
    done = Forked(mailferry, *COMMAND[3:], folder=tmp_path).finished()
    assert (done.returncode, done.stdout.count("outgoing: new")) == (0, 1)
    assert "\x1b" not in done.stdout


def test_a_load_says_after_each_job_how_much_of_it_is_done(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    site = Site(tmp_path, database_settings)
    site.send(files=1)
    site.send(files=2)
    (feed,) = service.read([tmp_path / "config.env"], {}).mailboxes
    said: list[tuple[str, float, int]] = []
    result = run_once.run(feed, watch=lambda *call: said.append(call))
    assert result.status == "done"
    assert said == [(feed.name, 0.5, 3), (feed.name, 1.0, 9)]
