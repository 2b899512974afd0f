"""Runs that change no marks, and runs over IMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from support_mail import HEADER, feed_of, mail, workbook
from support_run import Setting, one

from mailferry import database
from mailferry.mailbox import health, run_once
from mailferry.mailbox.explain import explain
from mailferry.mailbox.ledger.jobs import FileState

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    return Setting(tmp_path, database_settings)


def test_with_marks_left_alone_the_ledger_alone_knows(here: Setting) -> None:
    here.send(("1", "a", 1))
    assert here.load(mark="leave").arrived == 1
    run = here.load(mark="leave")
    assert (run.arrived, run.jobs, here.maildir.flags()) == (0, {}, {"1.test.host": ""})


def test_over_imap_a_workbook_is_loaded_and_its_message_seen(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    book = workbook(HEADER, ("1", "out", 3))
    account.deliver(mail("Track and Trace: Güncelleme", ("data.xlsx", book)), mail("Other", ("o.xlsx", book)))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings()}
    )
    run = run_once.run(feed)
    assert (run.exit_status, run.arrived) == (0, 1), run
    assert account.flags() == {1: {"\\Seen"}, 2: set()}
    assert run_once.run(feed).arrived == 0


def test_over_imap_checks_and_explanations_change_nothing(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    book = workbook(HEADER, ("1", "out", 3))
    account.deliver(mail("Track and Trace", ("data.xlsx", book)), mail("Other", ("o.xlsx", book)))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings()}
    )
    found = list(health.checks(feed))
    assert [check.ok for check in found] == [True] * 5, found
    assert "1 messages match" in found[3].text
    assert [message.verdict for message in explain(feed, limit=5)] == ["skipped", "taken"]
    assert account.flags() == {1: set(), 2: set()}
    refused = account.settings(password="another-password")
    (mailbox,) = [c for c in health.checks(feed.model_copy(update={"mailbox": refused})) if not c.ok]
    assert (mailbox.name, mailbox.unreachable) == ("mailbox", False)
    assert "app password" in mailbox.text
    run = run_once.run(feed.model_copy(update={"mailbox": refused}))
    assert (run.status, run.exit_status) == ("blocked", 1)


def test_over_imap_a_changed_uidvalidity_loads_nothing_twice(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    account.deliver(mail("Track and Trace", ("data.xlsx", workbook(HEADER, ("1", "out", 3)))))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings()}
    )
    assert run_once.run(feed).arrived == 1
    with psycopg.connect(**database.parameters(database_settings)) as conn:
        conn.execute("UPDATE mailferry.jobs SET uidvalidity = uidvalidity + 1, uid = '77', marked_at = NULL")
    with account.client() as client:
        client.select_folder("INBOX")
        client.remove_flags([1], [b"\\Seen"])
    run = run_once.run(feed)
    assert (run.exit_status, run.arrived, run.jobs) == (0, 0, {})
    assert account.flags() == {1: {"\\Seen"}}
    with psycopg.connect(**database.parameters(database_settings)) as conn:
        found = conn.execute("SELECT uid, marked_at IS NOT NULL FROM mailferry.jobs").fetchall()
    assert found == [("1", True)]


def test_over_imap_a_message_that_only_looks_like_an_old_one_is_a_job_of_its_own(
    tmp_path: Path, database_settings: DatabaseSettings, account: Account
) -> None:
    account.deliver(mail("Track and Trace", ("data.xlsx", workbook(HEADER, ("1", "out", 3)))))
    feed = feed_of(tmp_path / "app", tmp_path, database_settings).model_copy(
        update={"mailbox": account.settings(mark="leave")}
    )
    assert run_once.run(feed).arrived == 1
    with psycopg.connect(**database.parameters(database_settings)) as conn:
        conn.execute(
            "UPDATE mailferry.jobs SET uidvalidity = uidvalidity + 1, received = received - interval '1 day'"
        )
    run = run_once.run(feed)
    assert (run.exit_status, run.arrived) == (0, 1)
    assert one(run).files[0].state is FileState.DUPLICATE
