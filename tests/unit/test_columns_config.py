"""Declared columns and routes: read from both formats, every fault at its place, written back as they were."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailferry.config import schema, service, toml_text, toml_write
from mailferry.config.columns import Blanks, Case, ColumnRule, Hidden, Mark, Route, Spaces
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from mailferry.config.mailbox_feed import MailboxFeed

FEED = '[mailbox.tracking]\nmaildir = "mail"\n'
COLUMNS = """
[{place}columns]
hawb = {{ headers = ["HAWB No", "House AWB*"], pattern = '\\d{{8}}', pad = 8 }}
weight_kg = {{ headers = "Weight*", decimal = ",", min = 0, blanks = "keep" }}
eta = {{ formats = ["%d.%m.%Y", "%d/%m/%Y"], required = true }}
status = {{ map = {{ Departed = "DEP", Gelmedi = "" }}, values = ["DEP", ""], trim = true, spaces = "one", case = "upper" }}
customer = {{ value = "{{sender_domain}}" }}
[[{place}routes]]
sheet = "Air*"
stop_at = ["Total*", "Toplam*"]
hidden = "skip"
[{place}routes.columns]
flight = {{ type = "text" }}
[[{place}routes]]
sender = "@example.com"
table = "sea"
"""
RULES = (
    ColumnRule(name="hawb", headers=("HAWB No", "House AWB*"), pattern=r"\d{8}", pad=8),
    ColumnRule(name="weight_kg", headers=("Weight*",), decimal=Mark.COMMA, min=0, blanks=Blanks.KEEP),
    ColumnRule(name="eta", formats=("%d.%m.%Y", "%d/%m/%Y"), required=True),
    ColumnRule(
        name="status",
        map={"Departed": "DEP", "Gelmedi": ""},
        values=("DEP", ""),
        trim=True,
        spaces=Spaces.ONE,
        case=Case.UPPER,
    ),
    ColumnRule(name="customer", value="{sender_domain}"),
)
ROUTES = (
    Route(
        sheet="Air*",
        stop_at="Total*, Toplam*",
        hidden=Hidden.SKIP,
        columns=(ColumnRule(name="flight", type="text"),),
    ),
    Route(sender="@example.com", table="sea"),
)


def feed_of(path: Path) -> MailboxFeed:
    (feed,) = service.read([path], {}).mailboxes
    return feed


def test_columns_and_routes_are_read_from_mailferry_toml_and_from_the_file_that_a_variable_names(
    tmp_path: Path,
) -> None:
    native, older = tmp_path / "mailferry.toml", tmp_path / "config.env"
    native.write_text(FEED + COLUMNS.format(place="mailbox.tracking."), "utf-8")
    (tmp_path / "columns.toml").write_text(COLUMNS.format(place=""), "utf-8")
    older.write_text("EMAIL_MAILDIR=mail\nAPP_COLUMNS_FILE=columns.toml\n", "utf-8")
    for path in (native, older):
        assert (feed_of(path).columns, feed_of(path).routes) == (RULES, ROUTES)


def test_a_feeds_rule_of_a_column_takes_the_place_of_the_shared_one(tmp_path: Path) -> None:
    path = tmp_path / "mailferry.toml"
    shared = "[defaults.mailbox.columns]\nhawb = { pad = 8 }\neta = { required = true }\n"
    path.write_text(f"{shared}{FEED}[mailbox.tracking.columns]\nhawb = {{ trim = true }}\n", "utf-8")
    assert feed_of(path).columns == (
        ColumnRule(name="hawb", trim=True),
        ColumnRule(name="eta", required=True),
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = { header = ['x'] }", "[columns.a] header: unknown option; did you mean headers?"),
        ("a = 'x'", '[columns] a: is a table: write a = { headers = ["..."] }'),
        ("a = { headers = [3] }", "[columns.a] headers = [3]: must be text in quotes"),
        ("a = { headers = [' '] }", "[columns.a] headers: one of them is empty"),
        ("a = { pattern = '(' }", "[columns.a] pattern: is no regular expression (missing ), unterminated"),
        ("a = { decimal = ';' }", "[columns.a] decimal = \";\": must be '', ',' or '.'"),
        ("a = { pad = 101 }", "[columns.a] pad: must be from 0 to 100"),
        ("a = { pad = '8' }", '[columns.a] pad = "8": must be a whole number, without quotes'),
        (
            "a = { value = '{send}' }",
            "[columns.a] value: {send} is not known; there are: sender, sender_domain",
        ),
        ("a = { value = '{job' }", "[columns.a] value: expected '}'"),
        (
            "a = { value = 'x', headers = 'y' }",
            "[columns.a] value: takes the place of a cell; leave out headers",
        ),
        ("a = { formats = ['%Q'] }", "[columns.a] formats: '%Q' cannot be read back"),
        ("a = { formats = ['dd.mm.yyyy'] }", "[columns.a] formats: 'dd.mm.yyyy' has no directive"),
        ("a = { type = 'money; drop' }", "[columns.a] type: cannot be made"),
        ("a = { min = 2, max = 1 }", "[columns.a] min: is greater than max"),
        ("a = { map = { x = 1 } }", '[columns.a] map = {"x": 1}: must be text in quotes'),
        ("'' = { trim = true }", "'' cannot be a column's name"),
        ("[[routes]]\ntable = 'x'", "[routes.1] a route needs at least one of sheet, file, subject, sender"),
        ("[[routes]]\nsheet = 'x'\nheader_rows = 3", "[routes.1] header_rows: must be 1 or 2"),
        ("[[routes]]\nshet = 'x'", "[routes.1] shet: unknown option; did you mean sheet?"),
        ("[routes]\nsheet = 'x'", "routes: write [[routes]] before each"),
        ("[tracking]", "tracking: unknown table; there are: columns, routes"),
        ("x", "is not TOML"),
    ],
)
def test_what_is_wrong_is_reported_with_column_and_option(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "columns.toml").write_text(f"[columns]\n{text}\n", "utf-8")
    path = tmp_path / "config.env"
    path.write_text("EMAIL_MAILDIR=mail\nAPP_COLUMNS_FILE=columns.toml\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        service.read([path], {})
    assert fault in str(caught.value)
    assert str(tmp_path / "columns.toml") in str(caught.value)


def test_a_file_of_columns_that_is_not_there_is_a_fault_of_the_variable(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_text("EMAIL_MAILDIR=mail\nAPP_COLUMNS_FILE=columns.toml\n", "utf-8")
    with pytest.raises(ConfigError, match=r"line 2: APP_COLUMNS_FILE: there is no file .*columns\.toml"):
        service.read([path], {})


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "headers": st.lists(TEXT.filter(str.strip), min_size=1, max_size=3),
    "map": st.dictionaries(TEXT, TEXT, min_size=1, max_size=3),
    "values": st.lists(TEXT, min_size=1, max_size=3),
    "pad": st.integers(1, 100),
    "min": st.floats(-1e9, 1e9).filter(bool),
    "decimal": st.sampled_from([",", "."]),
    "required": st.just(True),
    "case": st.sampled_from(["upper", "lower"]),
    "formats": st.just(["%d.%m.%Y"]),
}


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The options of a column, as the schema has them."""
    return set(schema.schema()["$defs"]["column"]["properties"])


@settings(max_examples=60)
@given(
    columns=st.dictionaries(TEXT.filter(str.strip), st.fixed_dictionaries({}, optional=OPTIONS), max_size=3)
)
def test_what_is_declared_is_written_back_as_it_was(
    known: set[str], columns: dict[str, dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, after = Path(name) / "mailferry.toml", Path(name) / "after.toml"
        lines = [toml_text.option(column, rule) for column, rule in columns.items()]
        path.write_text("\n".join([FEED, "[mailbox.tracking.columns]", *lines]), "utf-8")
        text = toml_write.as_toml(service.read([path], {}), toml_write.Style.WITH_SECRETS)
        after.write_text(text, "utf-8")
        assert feed_of(after).columns == feed_of(path).columns
        assert len(feed_of(after).columns) == len(columns)
        written = tomllib.loads(text)["mailbox"]["tracking"].get("columns", {})
        assert all(option in known for rule in written.values() for option in rule)
