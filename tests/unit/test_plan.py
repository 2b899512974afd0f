"""What one host may run of a configuration."""

from __future__ import annotations

from pathlib import Path

from mailferry.config.alert_settings import AlertSettings
from mailferry.config.database import DatabaseSettings
from mailferry.config.event_feed import EventFeed
from mailferry.config.mailbox import MailboxSettings
from mailferry.config.mailbox_feed import MailboxFeed
from mailferry.config.page_settings import PageSettings
from mailferry.config.service import Configuration
from mailferry.config.service_settings import ServiceSettings
from mailferry.service.plan import Plan, host_name
from mailferry.service.queue import feed_lock, queue_name, table_lock

DATABASE = DatabaseSettings(data_dir=Path("/data"))


def events(name: str, **options: object) -> EventFeed:
    paths = {option: Path("/data") / name for option in ("position_file", "lock_file_path", "heartbeat_file")}
    values = {"section": name, "api_key": "0123456789abcdef", "log_directory": Path("/data"), **paths}
    return EventFeed.model_validate({**values, **options})


def mailbox(name: str, target: str, *, maildir: bool = False, **options: object) -> MailboxFeed:
    imap = {"host": "imap.example.com", "username": "user@example.com", "password": "secret"}
    given = MailboxSettings.model_validate({"kind": "maildir", "path": "/mail"} if maildir else imap)
    values = {"name": name, "mailbox": given, "database": DATABASE, "target_table": target}
    return MailboxFeed.model_validate({**values, **options})


def plan(*feeds: EventFeed | MailboxFeed, hosts: dict[str, str] | None = None) -> Plan:
    configuration = Configuration(
        service=ServiceSettings(host="here", data_dir=Path("/data")),
        database=DATABASE,
        page=PageSettings(),
        alerts=AlertSettings(),
        events=tuple(feed for feed in feeds if isinstance(feed, EventFeed)),
        mailboxes=tuple(feed for feed in feeds if isinstance(feed, MailboxFeed)),
        warnings=(),
        paths=(Path("mailferry.toml"),),
    )
    return Plan(configuration=configuration, host=host_name(configuration), hosts=hosts or {})


def test_a_feed_is_bound_that_writes_files_or_reads_them_or_names_a_host() -> None:
    made = plan(
        events("files"),
        events("table", destination="table"),
        events("table-there", destination="table", host="there"),
        mailbox("imap", "t"),
        mailbox("imap-there", "t", host="there"),
        mailbox("maildir", "t", maildir=True),
    )
    bound = {name for name, entry in made.entries.items() if entry.bound}
    assert bound == {"files", "table-there", "imap-there", "maildir"}


def test_a_feed_may_run_here_when_it_is_bound_to_no_host_or_to_this_one() -> None:
    made = plan(
        events("any"), events("mine"), events("theirs"), hosts={"any": "", "mine": "here", "theirs": "there"}
    )
    assert [name for name in made.entries if made.here(name)] == ["any", "mine"]


def test_a_feed_that_the_database_has_not_placed_yet_runs_nowhere() -> None:
    assert not plan(events("new")).here("new")


def test_a_table_is_loaded_by_any_host_unless_one_of_its_feeds_here_is_bound() -> None:
    feeds = [mailbox("imap", "t"), mailbox("maildir", "t", maildir=True), mailbox("other", "u")]
    made = plan(*feeds, hosts={"imap": "", "maildir": "here", "other": ""})
    assert made.loaders("t") == ["imap", "maildir"]
    assert made.load_host("t") == "here"
    assert made.load_host("u") == ""


def test_a_feed_bound_elsewhere_is_no_reason_to_load_its_table_here() -> None:
    made = plan(
        mailbox("imap", "t"), mailbox("maildir", "t", maildir=True), hosts={"imap": "", "maildir": "there"}
    )
    assert made.loaders("t") == ["imap"]
    assert made.load_host("t") == ""


def test_queues_and_locks_of_bound_work_bear_the_host() -> None:
    """So that what waits for a host that is gone holds up no other."""
    assert (queue_name("load", ""), queue_name("load", "a")) == ("load", "load@a")
    assert (
        len(
            {
                feed_lock("x", ""),
                feed_lock("x", "a"),
                feed_lock("x", "b"),
                table_lock("x", ""),
                table_lock("x", "a"),
            }
        )
        == 5
    )
