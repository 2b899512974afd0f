"""`uzmanposta.ini`: the older script's file, read whole, with every fault reported at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailferry.config import event_feeds
from mailferry.config.event_feed import CATEGORIES
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.config.event_feed import EventFeed

KEY = "0123456789abcdef"


def read(folder: Path, text: str) -> event_feeds.EventFeeds:
    path = folder / "uzmanposta.ini"
    path.write_text(text, "utf-8")
    return event_feeds.read(path)


def feed(folder: Path, options: str = "", head: str = "[MailLogger:example-outgoing]") -> EventFeed:
    file = read(folder, f"{head}\napi_key = {KEY}\n{options}")
    return file.choose(None, every=True)[0]


def faults(folder: Path, text: str) -> list[str]:
    found = [fault for some in read(folder, text).faults.values() for fault in some]
    assert found
    return found


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    found = feed(tmp_path, "domain = example.com")
    assert found.folder == tmp_path / "output/example.com/mail/outgoinglog"
    assert found.position_file == tmp_path / "positions/example-outgoing.pos"
    assert found.lock_file_path == tmp_path / "locks/example-outgoing.lock"
    assert found.heartbeat_file == found.folder / "example-outgoing_heartbeat.json"
    assert found.url == CATEGORIES["mail"][0]
    assert (found.category, found.type, found.start_time) == ("mail", "outgoinglog", None)
    assert (found.split_interval, found.max_time_gap, found.max_records_per_page) == (300, 3600, 1000)
    assert (found.list_retries, found.list_sleep_time, found.list_timeout) == (10, 2, 300)
    assert (found.detail_retries, found.detail_sleep_time, found.detail_timeout) == (10, 2, 120)
    assert (found.max_parallel_details, found.use_session, found.verbose) == (2, True, True)
    assert (found.message_log_retention_count, found.error_log_retention_count) == (2, 2)
    assert (found.look_back, found.settle, found.file_time, found.log_retention_days) == (300, 30, "event", 0)


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ("category = authentication\ndomain = example.com", "example.com/authentication"),
        ("category = quarantine\ndomain = example.com", "example.com/quarantine"),
        ("category = quarantine\ntype = hold\ndomain = example.com", "example.com/quarantine/hold"),
        ("type = incominglog", "global/mail/incominglog"),
    ],
)
def test_folders_are_those_of_the_contract(tmp_path: Path, options: str, folder: str) -> None:
    assert feed(tmp_path, options).folder == tmp_path / "output" / folder


def test_a_percent_sign_is_literal_and_a_byte_order_mark_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "uzmanposta.ini"
    path.write_bytes(b"\xef\xbb\xbf[MailLogger]\napi_key = 50%50%abcdef%(x)s\n")
    found = event_feeds.read(path).choose(None, every=False)[0]
    assert (found.section, found.api_key.get_secret_value()) == ("default", "50%50%abcdef%(x)s")


def test_placeholders_are_filled_in(tmp_path: Path) -> None:
    found = feed(
        tmp_path,
        "domain = example.com\nposition_file = p/{section}-{id}.pos\nlog_file_name_format = {category}_{domain}_%H%%.log",
    )
    assert found.position_file == tmp_path / f"p/example-outgoing-{found.id}.pos"
    assert found.fill(found.log_file_name_format) == "mail_example.com_%H%%.log"


def test_a_url_in_default_counts_for_mail_only(tmp_path: Path) -> None:
    text = "[DEFAULT]\napi_key = " + KEY + "\nurl = https://one.example.com/list\n"
    text += "[MailLogger:a]\n[MailLogger:b]\ncategory = quarantine\n[MailLogger:c]\ncategory = authentication\nurl = https://two.example.com/x\n"
    urls = [found.url for found in read(tmp_path, text).choose(None, every=True)]
    assert urls == ["https://one.example.com/list", CATEGORIES["quarantine"][0], "https://two.example.com/x"]


@pytest.mark.parametrize("host", ["provider.example.com", "192.0.2.7", "[2001:db8::1]:8080"])
def test_http_to_another_host_is_refused_unless_it_is_allowed(tmp_path: Path, host: str) -> None:
    (fault,) = faults(tmp_path, f"[MailLogger:a]\napi_key = {KEY}\nurl = http://{host}/logs\n")
    assert "http:// sends the api_key unencrypted" in fault
    assert "[MailLogger:a] url" in fault
    allowed = feed(tmp_path, f"url = http://{host}/logs\nallow_http = yes")
    assert allowed.url == f"http://{host}/logs"
    for own in ("localhost", "127.0.0.1:8080", "[::1]:8080"):
        assert feed(tmp_path, f"url = http://{own}/logs").url == f"http://{own}/logs"


def test_every_fault_is_reported_at_once_with_section_and_option(tmp_path: Path) -> None:
    text = """[DEFAULT]
api_kee = x
[MailLogger:a]
api_key = YOUR_API_KEY
type = outgoing
split_interval = often
log_file_name_format = {doman}_%Q.log
[MailLogger:b]
api_key = 0123456789abcdef
category = mial
max_parallel_details = 0
verbose = perhaps
timezone = Mars/Olympus
[MailLogger:b]
[MailLogger:c]
api_key = 0123456789abcdef
domain = ../../etc
url = ftp://example.com
just a line
"""
    reported = "\n".join(faults(tmp_path, text))
    for part in (
        "line 14: section [MailLogger:b] stands twice",
        "line 19: cannot be understood",
        "[DEFAULT] api_kee: unknown option; did you mean api_key?",
        "[MailLogger:a] api_key: still the example's value",
        "[MailLogger:a] type: unknown type 'outgoing'",
        "[MailLogger:a] split_interval = often",
        "[MailLogger:a] log_file_name_format: unknown placeholder {doman}",
        "[MailLogger:b] category = mial: must be 'mail', 'quarantine' or 'authentication'",
        '[MailLogger:b] max_parallel_details = 0: must be a whole number from 1 to 256, or "auto"',
        "[MailLogger:b] verbose = perhaps",
        "[MailLogger:b] timezone: unknown time zone",
        "[MailLogger:c] domain:",
        "[MailLogger:c] url:",
    ):
        assert part in reported
    assert reported.count("\n") == 12


@pytest.mark.parametrize(
    "format_",
    [
        "a/b.log",
        "../x.log",
        "",
        ".hidden",
        "%Q.log",
        "{domain.log",
        "domain}.log",
        "x%",
        "{nothing}.log",
        "%x.log",
        "%c.log",
    ],
)
def test_a_bad_file_name_format_is_refused(tmp_path: Path, format_: str) -> None:
    reported = faults(tmp_path, f"[MailLogger:a]\napi_key={KEY}\nlog_file_name_format = {format_ or '/'}\n")
    assert len(reported) == 1
    assert "[MailLogger:a] log_file_name_format" in reported[0]


def test_two_sections_must_not_share_a_file(tmp_path: Path) -> None:
    text = f"[DEFAULT]\napi_key={KEY}\ndomain=example.com\n[MailLogger:a]\n[MailLogger:b]\n"
    assert "writes the same file as [MailLogger:a]" in faults(tmp_path, text)[0]
    shared = f"[DEFAULT]\napi_key={KEY}\nposition_file=one.pos\n[MailLogger:a]\ndomain=a.example\n[MailLogger:b]\ndomain=b.example\n"
    assert "position_file" in faults(tmp_path, shared)[0]


def test_without_a_choice_the_only_section_runs_and_several_are_named(tmp_path: Path) -> None:
    assert feed(tmp_path).section == "example-outgoing"
    two = read(tmp_path, f"[DEFAULT]\napi_key={KEY}\n[MailLogger:a]\n[MailLogger:b]\ntype=incominglog\n")
    assert [found.section for found in two.choose(None, every=True)] == ["a", "b"]
    assert [found.section for found in two.choose("b", every=False)] == ["b"]
    assert [found.section for found in two.choose("MailLogger:a", every=False)] == ["a"]
    with pytest.raises(
        ConfigError, match=r"choose one by --section NAME or run --all of them: MailLogger:a, MailLogger:b"
    ):
        two.choose(None, every=False)
    with pytest.raises(ConfigError, match="did you mean 'MailLogger:b'"):
        two.choose("MailLoger:b", every=False)


def test_a_faulty_section_does_not_keep_a_named_good_one_from_running(tmp_path: Path) -> None:
    file = read(tmp_path, f"[MailLogger:good]\napi_key={KEY}\n[MailLogger:bad]\ntype=x\n")
    assert file.choose("good", every=False)[0].section == "good"
    with pytest.raises(ConfigError):
        file.choose("bad", every=False)


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    reported = faults(tmp_path, "[MailLogger:a]\napi_key = sécret with spaces\nsplit_interval = x\n")
    assert "sécret" not in "\n".join(reported)
    found = feed(tmp_path)
    assert KEY not in f"{found!r} {found} {found.masked_key} {found.model_dump()}"


@pytest.mark.parametrize("content", [b"\xff\xfe[\x00", b"no section\n", b"", b"[Other]\nx=1\n"])
def test_a_file_that_is_none_is_one_clear_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "uzmanposta.ini"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        event_feeds.read(path).choose(None, every=True)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        event_feeds.read(tmp_path / "missing.ini")


def test_a_page_limit_above_the_providers_is_not_believed(tmp_path: Path) -> None:
    found = feed(tmp_path, "max_records_per_page = 5000")
    assert found.page_limit == 1000
    assert "max_records_per_page" in event_feeds.read(tmp_path / "uzmanposta.ini").warnings[0]


def test_names_that_two_formats_could_give_are_refused(tmp_path: Path) -> None:
    reported = faults(
        tmp_path,
        f"[MailLogger:a]\napi_key={KEY}\nlog_file_name_format=%Y-%m-%d_%H.log\nmessage_log_file_name=%Y-%m-%d_%H.log\n",
    )
    assert "message_log_file_name: its names are also those of log_file_name_format" in reported[0]


def test_a_line_that_begins_with_a_blank_is_a_fault(tmp_path: Path) -> None:
    reported = faults(tmp_path, f"[MailLogger:a]\napi_key={KEY}\nlog_directory = out\n  type = incominglog\n")
    assert "[MailLogger:a] log_directory: the line after it begins with a blank" in reported[0]


def test_a_section_with_a_blank_before_its_name_is_a_fault(tmp_path: Path) -> None:
    assert "section names begin with MailLogger:" in faults(tmp_path, f"[ MailLogger:b]\napi_key={KEY}\n")[0]


def test_a_line_without_its_sign_does_not_tell_the_key(tmp_path: Path) -> None:
    reported = faults(tmp_path, f"[MailLogger:a]\napi_key {KEY}\n")
    assert KEY not in "\n".join(reported)


def test_the_id_is_made_of_what_was_given(tmp_path: Path) -> None:
    import hashlib

    given = f"{KEY}example.comauthenticationauthenticationhttps://one.example.com/list/"
    found = feed(
        tmp_path,
        "domain=example.com\ncategory=authentication\ntype=authentication\nurl=https://one.example.com/list/",
    )
    assert found.id == hashlib.md5(given.encode()).hexdigest()[:8]
    assert found.url == "https://one.example.com/list"


def test_a_feed_may_write_into_a_table_and_all_of_a_file_share_one_database(tmp_path: Path) -> None:
    url = "postgresql://user:secret@example.com/mail"
    text = (
        f"[DEFAULT]\napi_key = {KEY}\ndestination = table\ndatabase_url = {url}\n"
        "[MailLogger:a]\n[MailLogger:b]\ntable = Logs.Events\nschedule = 1h\nhost = one\n[MailLogger:c]\ndestination = files\n"
    )
    file = read(tmp_path, text)
    a, b, c = file.choose(None, every=True)
    assert (a.destination, a.table, a.schedule, a.host) == ("table", "mail_events", "5m", "")
    assert (b.table, b.schedule, b.host, c.destination) == ("logs.events", "1h", "one", "files")
    assert file.database is not None
    assert file.database.url is not None
    assert file.database.url.get_secret_value() == url
    assert "secret" not in repr(file)
    assert read(tmp_path, f"[MailLogger:a]\napi_key = {KEY}\n").database is None


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("destination = tables", "destination = tables: must be 'files' or 'table'"),
        ("table = a-b", "table: 'a-b' cannot name the table"),
        (f"table = {'x' * 56}", "at most 55 characters"),
        ("schedule = soon", "schedule: 'soon' is no schedule"),
        ("database_url = mysql://x", r"database_url: must start with postgresql://"),
        ("database_url = postgresql://b/b", r"database_url: [a] and [b] name different databases"),
    ],
)
def test_a_fault_of_what_a_table_needs_names_its_option(tmp_path: Path, option: str, says: str) -> None:
    text = f"[a]\n[MailLogger:a]\napi_key = {KEY}\ndatabase_url = postgresql://a/a\n[MailLogger:b]\napi_key = {KEY}\n{option}\n"
    found = faults(tmp_path, text)
    assert any(
        says.replace("[a]", "[MailLogger:a]").replace("[b]", "[MailLogger:b]") in fault for fault in found
    ), found


def test_two_feeds_of_one_table_are_no_feeds_of_one_file(tmp_path: Path) -> None:
    text = f"[DEFAULT]\napi_key = {KEY}\ndestination = table\nposition_file = same.pos\n[MailLogger:a]\n[MailLogger:b]\n"
    assert len(read(tmp_path, text).choose(None, every=True)) == 2


def test_a_key_may_come_from_a_file_or_the_environment_and_a_section_s_own_goes_first(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-of-the-file-1234\n")
    (tmp_path / "uzmanposta.ini").write_text(
        "[DEFAULT]\nlog_file_name_format = {section}_%H.log\napi_key = key-of-all-123456\n[MailLogger:a]\napi_key_file = key\n[MailLogger:b]\n"
        "[MailLogger:c]\napi_key = key-of-c-12345678\n[MailLogger:d-e]\n"
    )
    environ = {"MAILFERRY_EVENTS_D_E_API_KEY": "key-of-d-12345678"}

    def keys(**more: str) -> list[str]:
        found = event_feeds.read(tmp_path / "uzmanposta.ini", environ | more).choose(None, every=True)
        return [feed.api_key.get_secret_value() for feed in found]

    assert keys() == ["key-of-the-file-1234", "key-of-all-123456", "key-of-c-12345678", "key-of-d-12345678"]
    assert keys(MAILFERRY_EVENTS_API_KEY="key-for-others-12")[1:3] == [
        "key-for-others-12",
        "key-of-c-12345678",
    ]
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match=r"\[MailLogger:a\] api_key_file: .*cannot be read"):
        event_feeds.read(tmp_path / "uzmanposta.ini", environ).choose("a", every=False)
