"""Watching a Maildir."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fixtures_watch import Calls, is_state
from support_imap import HELLO
from support_wait import wait_for

from mailferry.config.mailbox import MailboxKind, MailboxSettings
from mailferry.mailbox.source.watch import State, Watcher
from mailferry.mailbox.source.watch_maildir import MaildirWatcher

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    return tmp_path / "Maildir"


def _maildir(root: Path, calls: Calls, every: float = 0.01, **changes: Any) -> MaildirWatcher:
    settings = MailboxSettings(kind=MailboxKind.MAILDIR, path=root, **changes)
    return MaildirWatcher(settings, calls, every=every)


def _has_looked_since(watched: Watcher, before: datetime | None) -> bool:
    return watched.health.last_good != before


def _looked(watched: Watcher) -> None:
    """Wait until it has looked once from beginning to end."""
    for _ in range(2):
        before = watched.health.last_good
        wait_for("a look", partial(_has_looked_since, watched, before))


@pytest.mark.parametrize("folder", ["INBOX", "Yükler"])
def test_a_file_that_appears_in_a_maildir_calls(root: Path, start: Any, calls: Calls, folder: str) -> None:
    path = root if folder == "INBOX" else root / f".{folder}"
    for name in ("new", "cur"):
        (path / name).mkdir(parents=True, exist_ok=True)
    watched = start(_maildir(root, calls, folder=folder))
    calls.reach(1)
    for number, name in enumerate(("new/1.a", "new/2.a", "cur/3.a:2,S"), start=2):
        (path / name).write_bytes(HELLO)
        calls.reach(number)
    _looked(watched)
    assert (calls.count, watched.health.state) == (4, State.WATCHING)


def test_reading_flagging_and_deleting_in_a_maildir_are_no_news(root: Path, start: Any, calls: Calls) -> None:
    for name in ("1.a", "2.a"):
        (root / "new" / name).write_bytes(HELLO)
    watched = start(_maildir(root, calls))
    calls.reach(1)
    (root / "new/1.a").rename(root / "cur/1.a:2,")
    _looked(watched)
    (root / "cur/1.a:2,").rename(root / "cur/1.a:2,FS")
    _looked(watched)
    (root / "new/2.a").unlink()
    _looked(watched)
    assert calls.count == 1
    (root / "new/3.a").write_bytes(HELLO)
    calls.reach(2)
    _looked(watched)
    assert calls.count == 2


def test_a_second_file_within_one_tick_of_the_file_systems_clock_is_seen(
    root: Path, start: Any, calls: Calls
) -> None:
    watched = start(_maildir(root, calls))
    calls.reach(1)
    (root / "new/1.a").write_bytes(HELLO)
    calls.reach(2)
    _looked(watched)
    tick = (root / "new").stat().st_mtime_ns
    aside = root / "tmp/2.a"
    aside.write_bytes(HELLO)
    aside.rename(root / "new/2.a")
    os.utime(root / "new", ns=(tick, tick))
    calls.reach(3)


def test_a_maildir_that_goes_away_is_watched_again_when_it_is_back(
    root: Path, start: Any, calls: Calls
) -> None:
    watched = start(_maildir(root, calls))
    calls.reach(1)
    root.rename(root.parent / "elsewhere")
    is_state(watched, State.UNREACHABLE)
    assert str(root) in watched.health.error
    (root.parent / "elsewhere").rename(root)
    calls.reach(2)
    (root / "new/1.a").write_bytes(HELLO)
    calls.reach(3)


def test_a_folder_name_that_cannot_be_one_is_reported_in_the_health(
    root: Path, start: Any, calls: Calls
) -> None:
    watched = start(_maildir(root, calls, folder="../other"))
    is_state(watched, State.REFUSED)
    assert "cannot be the name of a Maildir folder" in watched.health.error
