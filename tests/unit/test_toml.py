"""`mailferry.toml`: both kinds of feeds, every fault reported at once, and a way there from the older files."""

from __future__ import annotations

import functools
import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailferry.config import schema, service, tables, toml, toml_text, toml_write
from mailferry.config.build import build
from mailferry.config.mailbox import Auth, MailboxKind
from mailferry.config.settings import Settings
from mailferry.config.spreadsheet import Limits
from mailferry.errors import ConfigError
from mailferry.secrets import mask

if TYPE_CHECKING:
    from mailferry.config.service import Configuration

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef"
EVENTS = f'[defaults.events]\napi_key = "{KEY}"\n[events.example-outgoing]\ndomain = "example.com"\n'
IMAP = '[mailbox.tracking.imap]\nhost = "imap.example.com"\nusername = "me@example.com"\npassword = "app-secret"\n'


def read(folder: Path, text: str, **environ: str) -> Configuration:
    path = folder / "mailferry.toml"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return service.read([path], environ)


def faults(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return [fault.removeprefix(f"{folder}/mailferry.toml: ") for fault in caught.value.faults]


def test_the_defaults_are_those_of_the_older_files_below_the_data_folder(tmp_path: Path) -> None:
    found = read(tmp_path, EVENTS + IMAP)
    (event,), (feed,) = found.events, found.mailboxes
    data = tmp_path / "data"
    assert (found.service.data_dir, found.database.private, found.database.data_dir) == (data, True, data)
    assert event.position_file == data / "positions/example-outgoing.pos"
    assert event.folder == data / "output/example.com/mail/outgoinglog"
    assert event.heartbeat_file == event.folder / "example-outgoing_heartbeat.json"
    assert (event.schedule, event.destination, event.look_back) == ("5m", "files", 300)
    assert (feed.name, feed.base_dir) == ("tracking", data / "mailbox/tracking")
    assert (feed.target_table, feed.mailbox.subject_filter, feed.schedule_hours) == (
        "tracking_data",
        "Track and Trace",
        1,
    )
    assert feed.database == found.database
    assert feed.limits == Limits()


def test_a_feeds_own_option_goes_before_the_one_that_all_share_also_in_inner_tables(tmp_path: Path) -> None:
    shared = (
        '[service]\nmax_concurrent_jobs = 3\nlog_level = "DEBUG"\n[defaults.mailbox]\nfolder = "Reports"\nmark = "leave"\n'
        '[defaults.mailbox.imap]\nhost = "imap.example.com"\npassword = "app-secret"\nssl = false\n'
        '[defaults.mailbox.limits]\nfiles = 5\n[mailbox.a]\nmark = "seen"\nschedule = 90\n'
        '[mailbox.a.imap]\nusername = "a"\n[mailbox.a.limits]\nentries = 7\n[mailbox.b.imap]\nusername = "b"\nport = 1143\n'
        '[mailbox.c]\nmaildir = "mail"\n'
    )
    found = read(tmp_path, shared)
    a, b, c = found.mailboxes
    assert (found.service.max_concurrent_jobs, found.service.log_level) == (3, "DEBUG")
    assert (a.mailbox.folder, a.mailbox.mark, a.mailbox.port, a.limits.files) == ("Reports", "seen", 143, 5)
    assert (a.limits.entries, a.schedule) == (7, "90")
    assert (b.mailbox.mark, b.mailbox.port, b.mailbox.username) == ("leave", 1143, "b")
    assert (c.mailbox.kind, c.mailbox.path, c.mailbox.password) == (
        MailboxKind.MAILDIR,
        tmp_path / "mail",
        None,
    )


def test_oauth_takes_the_place_of_the_password(tmp_path: Path) -> None:
    text = (
        '[mailbox.x.imap]\nusername = "me@example.com"\n[mailbox.x.oauth]\nprovider = "microsoft"\ntenant = "example.com"\n'
        'client_id = "id"\ntoken_file = "token"\nclient_secret = "very-secret"\n'
    )
    (feed,) = read(tmp_path, text).mailboxes
    assert feed.mailbox.auth is Auth.XOAUTH2
    assert feed.mailbox.oauth is not None
    assert feed.mailbox.oauth.token_file == tmp_path / "token"


def test_placeholders_are_filled_into_paths(tmp_path: Path) -> None:
    more = 'position_file = "p/{domain}-{section}.pos"\nheartbeat_file = "{section}.json"\nlog_directory = "~/out"\n'
    (feed,) = read(tmp_path, EVENTS + more).events
    assert feed.position_file == tmp_path / "p/example.com-example-outgoing.pos"
    assert feed.heartbeat_file == feed.folder / "example-outgoing.json"
    assert feed.log_directory == Path("~/out").expanduser()


def test_all_faults_are_reported_at_once_each_with_table_and_option(tmp_path: Path) -> None:
    text = """
[servce]
[service]
max_concurrent_jobs = "2"
hots = "x"
[database]
url = "mysql://u:hidden-2@h/x"
[defaults.events]
timezon = "UTC"
[events]
api_key = "x"
[events.a]
api_key = "0123456789abcdef"
schedule = "0 0 31 2 *"
verbose = 1
max_parallel_details = 0
start_time = 2025-01-01T00:00:00Z
category = "mial"
[events.b]
type = "outgoing"
list_timeout = inf
domain = ["example.com"]
[mailbox.both]
maildir = "x"
schedule_hours = "1"
[mailbox.both.imap]
[mailbox.none]
target_table = 5
[mailbox.example.imap]
username = "your-mailbox@example.com"
prot = 993
[mailbox.example.oauth]
provider = "microsft"
[mailbox.last]
unique_key = ""
imap = "imap.example.com"
[mailbox.last.limits]
memory = -1
"""
    wanted = [
        r"servce: unknown table; did you mean service\?",
        r"\[service\] hots: unknown option; did you mean host\?",
        r'\[service\] max_concurrent_jobs = "2": must be a whole number, without quotes',
        r"\[database\] url: must start with postgresql://",
        r"\[defaults.events\] timezon: unknown option; did you mean timezone\?",
        r"\[events\] api_key: must stand in the table of one feed, \[events.<name>\], or in \[defaults.events\]",
        r"\[events.a\] schedule: '0 0 31 2 \*' never fires",
        r"\[events.a\] verbose = 1: must be true or false",
        r"\[events.a\] max_parallel_details = 0: must be a whole number from 1 to 256, or \"auto\"",
        r"\[events.a\] start_time: takes no date",
        r"\[events.a\] category = \"mial\": must be 'mail', 'quarantine' or 'authentication'",
        r"\[events.b\] type: unknown type 'outgoing' of category mail",
        r"\[events.b\] list_timeout: takes no infinite number",
        r"\[events.b\] domain: takes no list",
        r"\[events.b\] api_key is missing: give api_key_file, api_key, or the variable or credential MAILFERRY_EVENTS_B_API_KEY",
        r"\[mailbox.both\] maildir: there is \[mailbox.both.imap\] as well",
        r'\[mailbox.both\] schedule_hours = "1": must be a number, without quotes',
        r"\[mailbox.none\] no mailbox: write a table \[mailbox.none.imap\], or maildir",
        r"\[mailbox.none\] target_table = 5: must be text in quotes",
        r"\[mailbox.example.imap\] username: still the example's value",
        r"\[mailbox.example.imap\] prot: unknown option; did you mean port\?",
        r'\[mailbox.example.oauth\] provider = "microsft": must be .*google',
        r"\[mailbox.last\] unique_key = \"\": must not be empty",
        r"mailbox.last.imap: is a table: write \[mailbox.last.imap\] and its options below it",
        r"\[mailbox.last.limits\] memory: must be greater than 0",
    ]
    found = faults(tmp_path, text)
    assert [pattern for pattern in wanted if not any(re.match(pattern, fault) for fault in found)] == []
    assert [fault for fault in found if not any(re.match(pattern, fault) for pattern in wanted)] == [
        "[mailbox.last.imap] username is missing: the mailbox's user name (or maildir, a Maildir folder)",
        "[mailbox.last.imap] password is missing: give password_file, password, or the variable or credential MAILFERRY_MAILBOX_LAST_PASSWORD",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[events.a\n", "is not TOML"),
        ("[events.a]\ndomain = example.com\n", "text stands in quotes"),
        ('[events.a]\nlog_directory = "C:\\data"\n', "single quotes"),
        ("[events.a]\n[events.a]\n", "a table stands twice"),
        ("", "no feed in it"),
        ("events = 5\n", "is a table: write"),
        ("[events]\na = 5\n", "must stand in the table of one feed"),
    ],
)
def test_a_file_that_is_none_is_a_clear_message(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in "\n".join(faults(tmp_path, text))


NAMES = st.sampled_from(
    sorted({
        *("service", "database", "defaults", "events", "mailbox", "imap", "oauth", "limits", "maildir", "a", "b.c", ""),
        *(option for table in (tables.SERVICE, tables.DATABASE, tables.EVENTS, tables.MAILBOX) for option in table.keys),
        *(option for table in (tables.MESSAGES, *tables.WITHIN.values()) for option in table.keys),
    })
)  # fmt: skip
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    st.sampled_from(
        ["~nobody-of-this-name/x", "a\0b", "postgresql://[::1/x", "5m", "* * * * *", "imap", "{x", "%"]
    ),
    *(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.datetimes(),
        st.lists(st.integers() | st.datetimes(), max_size=2),
    ),
)
DOCUMENTS = st.dictionaries(
    NAMES,
    st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12),
    max_size=4,
)


@settings(max_examples=50)
@given(DOCUMENTS, st.sampled_from(["events", "mailbox", "defaults", "service", "database"]), DOCUMENTS)
def test_whatever_stands_in_a_file_there_is_a_configuration_or_faults(
    document: dict[str, Any], kind: str, feeds: dict[str, Any]
) -> None:
    path = Path("/nowhere/mailferry.toml")
    part = build(toml.source_of({**document, kind: feeds}, path), {})
    assert all(fault.startswith(f"{path}: ") and "\n" not in fault for _, fault in part.faults)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "1" * 10_000])
def test_a_file_that_is_too_much_for_the_parser_is_a_fault(tmp_path: Path, text: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert "is not TOML" in fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[events.a]\nheartbeat_file = "~nobody-of-this-name/x"', "there is no such user's folder"),
        ('[events.a]\nposition_file = "a\\u0000b"', "holds a NUL character"),
        (
            '[mailbox.a]\nmaildir = "x"\nignore_attachments = [1979-05-27]',
            "ignore_attachments: takes no date or time",
        ),
        (
            '[mailbox.a]\nmaildir = "x"\n[mailbox.a.columns.x]\nheaders = [07:32:00]',
            "headers: takes no date or time",
        ),
        (
            '[mailbox.a]\nmaildir = "x"\n[mailbox.a.columns.x]\nmap = { a = 1979-05-27 }',
            "map: takes no date or time",
        ),
        ('[events.a]\ncategory = "quarantine"\n[defaults.events]\nurl = []', "url: takes no list"),
        ('[events.a]\napi_key_file = "a\\u0000b"', "holds a NUL character"),
        ('[mailbox.a]\nmaildir = "~nobody-of-this-name/x"', "there is no such user's folder"),
        ('[events.a]\ntable = "a\\u0000b"', "table: holds a control character"),
        ('[mailbox."a\\nb"]\nmaildir = "x"', "name: holds a control character"),
    ],
)
def test_a_value_that_can_be_none_is_one_fault(tmp_path: Path, text: str, fault: str) -> None:
    (reported,) = faults(tmp_path, text, MAILFERRY_EVENTS_API_KEY=KEY)
    assert fault in reported


def test_names_whose_secrets_would_have_one_name_are_refused(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, EVENTS + '[events.example_outgoing]\ndomain = "other.example"\n')
    assert "too like 'example-outgoing'" in fault


def test_secrets_are_neither_in_faults_nor_in_what_is_shown(tmp_path: Path) -> None:
    text = EVENTS + IMAP + '[database]\nurl = "postgresql://me:hidden-3@db.example.com/x"\n'
    found = read(tmp_path, text)
    shown = toml_write.as_toml(found, toml_write.Style.WHOLE) + json.dumps(toml_write.as_plain(found))
    for hidden in (KEY, "app-secret", "hidden-3"):
        assert hidden not in shown + repr(found)
        assert hidden not in mask(f"a message with {hidden}")
    assert "postgresql://me:********@db.example.com/x" in shown
    reported = faults(tmp_path, text.replace("me:hidden-3", "me:hidden-3 x").replace("postgresql:", "mysql:"))
    assert "hidden-3" not in str(reported)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://h/x?password=top-secret", "********"),
        ("postgresql://u:to@p-secret@h/x", "********"),
        ("postgresql://u:top-secret@[::1/x", "********"),
        ("postgresql://u@h/x", "postgresql://u@h/x"),
    ],
)
def test_of_a_database_url_nothing_of_the_password_is_shown(url: str, shown: str) -> None:
    from pydantic import SecretStr

    assert toml_write.masked(SecretStr(url)) == shown


def test_a_file_with_secrets_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "mailferry.toml"
    path.write_text(EVENTS, "utf-8")
    path.chmod(0o644)
    (warning,) = service.read([path], {}).warnings
    assert (
        warning
        == f"{path}: holds api_key of [defaults.events] and can be read by every user; chmod 640 or 600 it"
    )


def test_the_example_needs_nothing_but_ones_own_values(tmp_path: Path) -> None:
    text = (ROOT / "mailferry.toml.example").read_text("utf-8")
    with pytest.raises(ConfigError) as caught:
        service.read([ROOT / "mailferry.toml.example"], {})
    assert all("still the example's value" in fault for fault in caught.value.faults)
    assert not violations(tomllib.loads(text))
    everything = re.sub(r"^#(?=[\[a-z_]+[a-z.\]-]* ?=|\[)", "", text, flags=re.MULTILINE)
    assert not violations(tomllib.loads(everything))
    # Columns and routes are checked further than a schema can.
    declared = re.search(
        r"^\[mailbox\.tracking\.columns\].*?(?=^\[mailbox\.tracking\.oauth)",
        everything,
        re.MULTILINE | re.DOTALL,
    )
    assert declared
    (feed,) = read(tmp_path, f'[mailbox.tracking]\nmaildir = "m"\n{declared[0]}').mailboxes
    assert [rule.name for rule in feed.columns] == ["hawb", "weight_kg", "eta", "status", "customer"]
    assert [route.table for route in feed.routes] == ["sea_freight"]


@pytest.mark.parametrize(
    "text",
    [
        "[servce]",
        '[events.a]\ndomian = "x"',
        '[events.a]\nverbose = "yes"',
        "[service]\nmax_concurrent_jobs = 65",
        '[mailbox.a]\nmark = "later"',
        "[mailbox.a.limits]\nmemory = 0",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(tmp_path: Path, text: str) -> None:
    assert violations(tomllib.loads(text))
    assert faults(tmp_path, text)


def test_every_field_of_the_models_is_a_setting_but_for_those_that_the_builder_fills() -> None:
    models = (*{table.model for table in (tables.SERVICE, tables.DATABASE, tables.EVENTS, tables.MAILBOX)},)
    models += (tables.IMAP.model, tables.OAUTH.model)
    filled = {"section", "mailbox", "limits", "database", "kind", "oauth", "data_dir", "columns", "routes"}
    for model in models:
        assert issubclass(model, Settings)
        assert set(model.model_fields) - set(model.declared()) <= filled
        assert all(
            field.description for name, field in model.model_fields.items() if name in model.declared()
        )


def test_every_option_stands_in_the_reference() -> None:
    text = (ROOT / "docs/reference/mailferry-toml.md").read_text("utf-8")
    ini = (ROOT / "docs/reference/uzmanposta-ini.md").read_text("utf-8")
    of_feeds = {option for option in tables.EVENTS.options if f"`{option}`" not in text + ini}
    others = (tables.SERVICE, tables.DATABASE, tables.MAILBOX, tables.MESSAGES, *tables.WITHIN.values())
    others += (tables.COLUMN, tables.ROUTE)
    assert not {option for table in others for option in table.options if f"`{option}`" not in text}
    assert not of_feeds - {"destination", "table", "schedule", "host"}


@functools.cache
def the_schema() -> dict[str, Any]:
    return schema.schema()


def violations(value: Any, rule: Any = None, whole: Any = None) -> list[str]:
    """As much of JSON Schema 2020-12 as the schema uses; a keyword that is not known here fails."""
    whole = whole or the_schema()
    rule = whole if rule is None else rule
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    kinds |= {"boolean": bool}
    found = []
    for word, given_ in rule.items():
        match word:
            case "$ref":
                found += violations(value, whole["$defs"][given_.split("/")[-1]], whole)
            case "type":
                types = given_ if isinstance(given_, list) else [given_]
                right = any(isinstance(value, kinds[one]) for one in types)  # type: ignore[arg-type]  # a table of types
                found += (
                    []
                    if right and (types == ["boolean"] or not isinstance(value, bool))
                    else [f"{value}: {types}"]
                )
            case "properties" if isinstance(value, dict):
                for name, one in given_.items():
                    found += violations(value[name], one, whole) if name in value else []
            case "additionalProperties" if isinstance(value, dict):
                for name in value.keys() - rule.get("properties", {}).keys():
                    found += (
                        [f"{name} is unknown"] if given_ is False else violations(value[name], given_, whole)
                    )
            case "items" if isinstance(value, list):
                for item in value:
                    found += violations(item, given_, whole)
            case "anyOf":
                found += (
                    [] if any(not violations(value, one, whole) for one in given_) else [f"{value}: anyOf"]
                )
            case "enum":
                found += [] if value in given_ else [f"{value}: {given_}"]
            case "const":
                found += [] if value == given_ else [f"{value}: {given_}"]
            case "minimum":
                found += (
                    [] if not isinstance(value, int | float) or value >= given_ else [f"{value} < {given_}"]
                )
            case "exclusiveMinimum":
                found += (
                    [] if not isinstance(value, int | float) or value > given_ else [f"{value} <= {given_}"]
                )
            case "maximum":
                found += (
                    [] if not isinstance(value, int | float) or value <= given_ else [f"{value} > {given_}"]
                )
            case "minLength":
                found += [] if not isinstance(value, str) or len(value) >= given_ else [f"{value}: too short"]
            case "maxLength":
                found += [] if not isinstance(value, str) or len(value) <= given_ else [f"{value}: too long"]
            case "pattern":
                found += (
                    [] if not isinstance(value, str) or re.search(given_, value) else [f"{value}: {given_}"]
                )
            case "default":
                found += violations(
                    given_, {name: one for name, one in rule.items() if name != "default"}, whole
                )
            case "properties" | "additionalProperties" | "items":
                pass
            case _:
                assert word in {"$schema", "$defs", "title", "description", "format", "writeOnly"}, word
    return found


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20).map(str.strip)
OPTIONS = {
    "domain": st.sampled_from(["example.com", "", "münchen.example", "a%b.example"]),
    "type": st.sampled_from(["outgoinglog", "incominglog", ""]),
    "url": st.sampled_from(
        ["", "https://api.example.com/list/", "https://yenipanel-api.uzmanposta.com/api/v2/logs/mail"]
    ),
    "start_time": st.integers(0, 2**40).map(str),
    "log_directory": st.sampled_from(["out", "/srv/100%%/x%y", "a b/ü"]),
    "heartbeat_file": st.sampled_from(
        ["{section}.json", "hb/{section}.json", "{domain}-{section}_{id}.json"]
    ),
    "position_file": st.sampled_from(["p/{section}.pos", "{section}%.pos", "p/{section}-{id}.pos"]),
    "schedule": st.sampled_from(["300", "1.5h", "*/5 * * * *"]),
    "list_timeout": st.sampled_from(["0.5", "300", "1e2"]),
    "max_parallel_details": st.sampled_from(["auto", "8"]),
    "use_session": st.sampled_from(["yes", "off"]),
    "host": st.sampled_from(["", "mail1"]),
    "log_file_name_format": st.just("{section}_%Y-%m-%d_%H.log"),
}
VARIABLES = {
    "APP_NAME": st.sampled_from(["tracking", "ürün takibi/1", 'a "b" \\ c']),
    "APP_BASE_DIR": st.sampled_from(["data", "/srv/x"]),
    "APP_SCHEDULE": st.sampled_from(["15m", "*/5 * * * *"]),
    "SCHEDULE_INTERVAL_HOURS": st.sampled_from(["2", "0.25"]),
    "EMAIL_SUBJECT_FILTER": TEXT,
    "EMAIL_PASSWORD": st.sampled_from(["p a$$ #1'\"\\", "schlüssel-\x7f-1"]),
    "EMAIL_USE_SSL": st.sampled_from(["true", "false"]),
    "EMAIL_PORT": st.sampled_from(["143", "993", "1143"]),
    "EMAIL_MARK": st.sampled_from(["seen", "keyword", "move"]),
    "EMAIL_MAILDIR": st.just("mail"),
    "EMAIL_OAUTH_CLIENT_ID": st.just("id"),
    "DB_TARGET_TABLE": st.sampled_from(["public.x", 'we"ird']),
    "DB_NAME": st.just("x"),
    "DB_PASSWORD": st.just("db-secret"),
    "DB_TEMP_SCHEMA": st.just("staging"),
    "DB_SSLMODE": st.just("verify-full"),
    "LOG_LEVEL": st.just("DEBUG"),
    "MAX_CONCURRENT_JOBS": st.just("4"),
    "MAX_CONCURRENT_FEEDS": st.just("5"),
    "MAILFERRY_HOST": st.just("mail1"),
}


def same(one: Configuration, other: Configuration) -> bool:
    return (one.service, one.database, one.events, one.mailboxes) == (
        other.service,
        other.database,
        other.events,
        other.mailboxes,
    )


@settings(max_examples=60)
@given(
    st.lists(st.fixed_dictionaries({}, optional=OPTIONS), max_size=3),
    st.one_of(st.none(), st.fixed_dictionaries({}, optional=VARIABLES)),
)
def test_converting_the_older_files_loses_nothing(
    sections: list[dict[str, str]], variables: dict[str, str] | None
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        if sections:
            lines = [f"[DEFAULT]\napi_key = {KEY}"]
            for letter, options in zip("abc", sections, strict=False):
                lines += [f"[MailLogger:{letter}]", f"log_file_name_format = {letter}_%H.log"]
                lines += [
                    f"{option} = {value}"
                    for option, value in options.items()
                    if option != "log_file_name_format"
                ]
            paths.append(folder / "uzmanposta.ini")
            paths[-1].write_text("\n".join(lines), "utf-8")
        environ = {}
        if variables is not None or not sections:
            given_ = {"EMAIL_USERNAME": "me@example.com", "EMAIL_PASSWORD": "app-secret", **(variables or {})}
            if "DB_NAME" in given_:
                given_["DB_USERNAME"] = "me"
            else:
                given_.pop("DB_PASSWORD", None)
            if "EMAIL_OAUTH_CLIENT_ID" in given_:
                given_ |= {
                    "EMAIL_OAUTH_CLIENT_SECRET": "cl-secret",
                    "EMAIL_OAUTH_TOKEN_ENDPOINT": "https://x.example/t",
                }
            paths.append(folder / "config.env")
            paths[-1].write_text("", "utf-8")
            environ = given_
        before = service.read(paths, environ)
        after = folder / "elsewhere" / "mailferry.toml"
        after.parent.mkdir()
        text = toml_write.as_toml(before, toml_write.Style.WITH_SECRETS)
        after.write_text(text, "utf-8")
        assert same(before, service.read([after], {})), text
        assert not violations(tomllib.loads(text))


def test_without_its_secrets_a_converted_file_says_where_to_put_them(tmp_path: Path) -> None:
    before = read(tmp_path, EVENTS + IMAP)
    text = toml_write.as_toml(before, toml_write.Style.WITHOUT_SECRETS)
    assert KEY not in text
    assert "app-secret" not in text
    after = tmp_path / "after.toml"
    after.write_text(text, "utf-8")
    variables = set(re.findall(r"the credential (\w+)$", text, re.MULTILINE))
    assert variables == {"MAILFERRY_EVENTS_EXAMPLE_OUTGOING_API_KEY", "MAILFERRY_MAILBOX_TRACKING_PASSWORD"}
    environ = {name: KEY if name.endswith("KEY") else "app-secret" for name in variables}
    assert same(before, service.read([after], environ))


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_text_is_read_as_it_was_written(name: str, value: str) -> None:
    assert tomllib.loads(toml_text.option(name, value)) == {name: value}
