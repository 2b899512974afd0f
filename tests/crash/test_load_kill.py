"""kill -9 at every step of a run of a mailbox feed: nothing lost, nothing twice, nothing left lying about.

Some eighty kills in all. Every run goes on where the one before was killed, so that repairing is killed as well.
Statements are distinguished on their way to the server, and the process is killed before one gets there, or when the
server has done it and the process has not heard so. System calls on files are hit by strace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support_fork import KILLED
from support_link import Step, Wire
from support_load import Site, ended

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings

#: What a run says to the database, in its order.
RECORDING = [
    "INSERT INTO mailferry.jobs",
    "INSERT INTO mailferry.files",
    "INSERT INTO mailferry.passed_parts",
]
CLAIMING = ["fence = fence \\+ 1, attempts"]
LOADING = [
    'COPY "temp_processing"',
    "WITH done AS \\(INSERT",
    "UPDATE mailferry.files\\s+SET state",
    "COPY mailferry.rejected_rows",
]
SETTLING = [
    "UPDATE mailferry.jobs AS j\\sSET state = CASE",
    "UPDATE mailferry.files SET path",
    "SET marked_at",
]


def steps(*statements: str) -> list[Step]:
    """Before and after each statement, and the commit of the last."""
    found = [Step(statement=statement, after=after) for statement in statements for after in (False, True)]
    return found + [Step(statement=statements[-1], commit=True, after=after) for after in (False, True)]


ALL_STEPS = {
    "recording": steps(*RECORDING) + steps(*CLAIMING),
    "loading": steps(*LOADING),
    "settling": [step for statement in SETTLING for step in steps(statement)],
}


@pytest.fixture
def site(tmp_path: Path, database_settings: DatabaseSettings) -> Site:
    return Site(tmp_path, database_settings)


def let_through_when_cut_off_too_often(site: Site) -> None:
    """A job that was cut off four times is given up; here none is to come to that."""
    if site.cut_off() >= 3:
        site.load()


@pytest.mark.slow(30)
@pytest.mark.parametrize("part", ALL_STEPS)
def test_kill_before_and_after_each_statement(site: Site, part: str) -> None:
    with Wire(site.settings) as wire:
        for step in ALL_STEPS[part]:
            let_through_when_cut_off_too_often(site)
            site.send()
            process = site.start(before=wire.kills(step), DB_HOST="127.0.0.1", DB_PORT=wire.port)
            status, error = ended(process)
            assert status == KILLED, f"{step}: {error}"
    site.send_all_kinds()
    status, error = site.load()
    assert status == 1, error  # one is broken
    site.assert_exactly_once()
    assert site.load()[0] == 0
    site.assert_exactly_once()


#: System calls on files: the first so many of a run. Folders first: those of the day are made once.
CALLS = {"mkdir": 3, "fsync": 11, "rename": 9, "unlink": 3, "rmdir": 2}


@pytest.mark.slow(60)
def test_kill_at_each_call_that_changes_files(site: Site) -> None:
    hit: set[str] = set()
    for call, last in CALLS.items():
        site.load()  # the first of each call meets new messages and nothing else
        for number in range(1, last + 1):
            status = 0
            while status != KILLED:
                let_through_when_cut_off_too_often(site)
                if site.all_done():
                    # Two files each, so that there is a second one when the first is put away.
                    site.send_broken()
                    site.send(files=2)
                status, error = site.under_strace(call, f"signal=KILL:when={number}")
                assert status in {KILLED, 0, 1}, error
            hit.add(site.last_call())
    site.send_all_kinds()
    assert site.load()[0] == 1
    site.assert_exactly_once()
    moving = {f"rename {to}" for to in ("pending", "failed", "processed", "rejects.csv", "Maildir")}
    syncing = {f"fsync {what}" for what in ("pending", "failed", "processed", "rejects.csv")}
    assert hit >= moving | syncing | {"mkdir processed", "mkdir reading", "rmdir reading", "unlink pending"}
