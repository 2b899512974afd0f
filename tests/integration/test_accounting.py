"""Every message that the filter matches ends done, refused or open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from support_mail import HEADER, feed_of, mail, workbook
from support_run import Setting, one

from mailferry import database
from mailferry.config.mailbox import WithoutAttachment
from mailferry.errors import Reject
from mailferry.mailbox.ledger import admin, records
from mailferry.mailbox.ledger.jobs import FileState, JobState
from mailferry.mailbox.source.maildir import MaildirMailbox
from mailferry.mailbox.source.message import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.mailbox_feed import MailboxFeed

PDF = b"%PDF-1.7\n" + bytes(200)


class Accounts(Setting):
    """A feed whose mailbox settings a test may change."""

    changes: dict[str, Any]

    def feed(self, **changes: Any) -> MailboxFeed:
        feed = feed_of(self.base, self.maildir.root, self.settings, **changes)
        return feed.model_copy(update={"mailbox": feed.mailbox.model_copy(update=self.changes)})

    def receive(self, *files: tuple[str, bytes]) -> None:
        self.maildir.deliver(mail("Track and Trace", *files))


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Accounts:
    setting = Accounts(tmp_path, database_settings)
    setting.changes = {}
    return setting


def good(key: str = "1") -> tuple[str, bytes]:
    return "good.xlsx", workbook(HEADER, (key, "x", 1))


def refused(here: Accounts) -> int:
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        name = here.feed().name
        return admin.statistics(conn, datetime.now(UTC), [name])[name].refused


def test_a_message_without_any_file_is_done_or_refused_as_the_setting_says(here: Accounts) -> None:
    here.receive()
    run = here.load()
    assert (run.exit_status, one(run).job.state, one(run).job.refused) == (0, JobState.COMPLETED, False)
    here.changes = {"without_attachment": WithoutAttachment.REFUSE}
    here.receive()
    run = here.load()
    assert (run.exit_status, one(run).job.state, one(run).job.refused) == (1, JobState.FAILED, True)
    assert "`without_attachment`" in (one(run).job.error or "")
    assert refused(here) == 1


def test_files_of_which_none_could_be_taken_are_refused_each_with_its_reason(here: Accounts) -> None:
    here.receive(("report.pdf", PDF), ("notes.docx", b"PK\x03\x04"))
    run = here.load()
    error = one(run).job.error or ""
    assert (run.exit_status, one(run).job.state) == (1, JobState.FAILED)
    assert ("report.pdf: " in error, "notes.docx: " in error) == (True, True)
    assert list(here.maildir.flags().values()) == [""]


def test_what_is_never_data_does_not_count(here: Accounts) -> None:
    here.changes = {"ignore_attachments": "*.PDF, image/*"}
    here.receive(("report.pdf", PDF))
    run = here.load()
    assert (run.exit_status, one(run).job.state, one(run).job.refused) == (0, JobState.COMPLETED, False)
    assert "'*.PDF' of `ignore_attachments`" in {part.reason for part in one(run).skipped}


def test_another_kind_of_file_beside_a_good_one_is_skipped(here: Accounts) -> None:
    here.receive(good(), ("cover.pdf", PDF))
    run = here.load()
    assert (run.exit_status, one(run).job.state, one(run).job.refused) == (0, JobState.COMPLETED, False)


def test_a_good_file_beside_a_bad_one_is_loaded_and_the_job_needs_a_person(here: Accounts) -> None:
    here.receive(good(), ("bad.xlsx", workbook(HEADER)[:500]))
    run = here.load()
    job = one(run).job
    assert (run.exit_status, job.state, job.refused) == (1, JobState.COMPLETED, True)
    assert here.rows() == [("1", "x", 1)]
    assert refused(here) == 1
    assert here.load().exit_status == 0
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        assert [one.id for one in admin.jobs(conn, refused=True)] == [job.id]
        acknowledged = admin.acknowledge(conn, job.id)
        assert (acknowledged.state, acknowledged.acknowledged_at is None) == (JobState.COMPLETED, False)
        with pytest.raises(Reject, match="refused and not acknowledged"):
            admin.acknowledge(conn, job.id)
        assert admin.jobs(conn, refused=True) == []
        again = admin.retry(conn, job.id)
        assert (again.refused, again.acknowledged_at) == (False, None)
    assert here.load().exit_status == 1
    assert refused(here) == 1


def test_all_refused_jobs_of_a_feed_are_acknowledged_at_once_and_a_failed_one_can_be_cancelled(
    here: Accounts,
) -> None:
    for _ in range(3):
        here.receive(("report.pdf", PDF))
    here.load()
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        assert admin.cancel(conn, 1).state is JobState.CANCELLED
        assert admin.acknowledge_all(conn, "another") == []
        assert sorted(job.id for job in admin.acknowledge_all(conn)) == [2, 3]
    assert refused(here) == 0


def test_a_passing_fault_leaves_a_message_open_and_the_next_run_loads_it(
    here: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "retry_delay", lambda _attempt: timedelta(milliseconds=1))
    here.receive(good())
    with monkeypatch.context() as patch:
        patch.setattr(MaildirMailbox, "summary", unavailable)
        run = here.load()
        assert (run.exit_status, one(run).job.state, one(run).job.attempts) == (1, JobState.PENDING, 0)
        assert "try again later" in (one(run).job.error or "")
        assert here.load().exit_status == 1
    run = here.load()
    assert (run.exit_status, one(run).job.state) == (0, JobState.COMPLETED)
    assert [file.state for file in one(run).files] == [FileState.LOADED]
    assert here.rows() == [("1", "x", 1)]


def test_warnings_are_counted_on_the_job_and_in_the_statistics(here: Accounts) -> None:
    here.receive(("a.xlsx", workbook(HEADER, ("1", "x", 1), ("1", "y", 2))))
    assert one(here.load()).job.warnings == 1
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        name = here.feed().name
        assert admin.statistics(conn, datetime.now(UTC), [name])[name].today.warnings == 1


def unavailable(*_: object) -> None:
    raise Unavailable("NO [UNAVAILABLE] try again later")


def test_a_sender_who_may_not_change_rows_is_refused_until_the_settings_allow_it(here: Accounts) -> None:
    here.changes = {"allow_senders": "partner.example"}
    here.receive(good())
    run = here.load()
    assert (run.exit_status, one(run).job.state, one(run).job.refused) == (1, JobState.FAILED, True)
    assert "is none of `allow_senders`" in (one(run).job.error or "")
    assert refused(here) == 1
    here.changes = {"allow_senders": "sender@example.com"}
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        admin.retry(conn, one(run).job.id)
    run = here.load()
    assert one(run).job.state is JobState.COMPLETED
    assert here.rows() == [("1", "x", 1)]
