"""Declared columns and routes, from the message to the table."""

from __future__ import annotations

import datetime as dt
import io
import tempfile
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from support_database import Queried
from support_mail import Maildir, feed_of, mail

from mailferry import database
from mailferry.config import service
from mailferry.config.columns import ColumnRule, Hidden, Mark, Route
from mailferry.config.spreadsheet import ErrorCells, UnknownColumns
from mailferry.errors import Reject
from mailferry.mailbox import health, run_once
from mailferry.mailbox import preview as trial
from mailferry.mailbox.file_contract import About
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.proposal import propose
from mailferry.mailbox.target.table import Target
from mailferry.mailbox.workbook import archive, formats
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from mailferry.config.database import DatabaseSettings
    from mailferry.mailbox.preview import Preview
    from mailferry.mailbox.run_result import Run

TABLE = "CREATE TABLE shipments (hawb text PRIMARY KEY, weight_kg numeric, eta date, customer text, received_at timestamptz)"
RULES = (
    ColumnRule(name="hawb", headers=("HAWB No", "House AWB*"), pattern=r"\d{8}", pad=8),
    ColumnRule(name="weight_kg", headers=("Weight*", "A\u011f\u0131rl\u0131k"), decimal=Mark.COMMA, min=0),
    ColumnRule(name="eta", headers=("ETA", "Var\u0131ş"), formats=("%d.%m.%Y", "%d/%m/%Y")),
    ColumnRule(name="customer", value="{sender_domain}"),
)


class Setting(Queried):
    """A feed of a Maildir into the table `shipments`."""

    def __init__(self, base: Path, settings: DatabaseSettings) -> None:
        self.base = base
        self.maildir = Maildir(base / "Maildir")
        self.settings = settings

    def send(self, *files: tuple[str, bytes], sender: str = "", subject: str = "Track and Trace") -> None:
        self.maildir.deliver(mail(subject, *files, sender=sender))

    def retry(self, job: int) -> None:
        with psycopg.connect(**database.parameters(self.settings)) as conn:
            admin.retry(conn, job)

    def load(self, **changes: Any) -> Run:
        values = {"target_table": "shipments", "columns": RULES, **changes}
        return run_once.run(feed_of(self.base / "app", self.maildir.root, self.settings, **values))

    def rows(self, table: str = "shipments", columns: str = "hawb, weight_kg, eta, customer") -> list[Any]:
        return self.query(f"SELECT {columns} FROM {table} ORDER BY 1")


@pytest.fixture
def here(tmp_path: Path, database_settings: DatabaseSettings) -> Setting:
    found = Setting(tmp_path, database_settings)
    found.query(TABLE)
    return found


def book(*tabs: Tab) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return xlsx(Path(folder, "book.xlsx"), *tabs).read_bytes()


def outcomes(run: Run) -> list[tuple[str, int, str | None]]:
    return [
        (str(file.state), file.counts.inserted, file.error)
        for _, details in sorted(run.jobs.items())
        for file in details.files
    ]


def test_sheets_of_different_make_land_in_the_right_columns(here: Setting) -> None:
    csv = "House AWB #;A\u011f\u0131rl\u0131k;Var\u0131ş\n123;1.234,5;02.01.2026\n".encode("cp1254")
    here.send(("a.csv", csv), sender="ops@one.example")
    here.send(
        ("b.xlsx", book(Tab(rows=[["H.A.W.B", "Weight (kg)", "ETA"], [124.0, 7.5, dt.date(2026, 1, 3)]]))),
        sender="A <B@Two.Example>",
    )
    assert outcomes(here.load()) == [("loaded", 1, None)] * 2
    assert here.rows() == [
        ("00000123", Decimal("1234.5"), dt.date(2026, 1, 2), "one.example"),
        ("00000124", Decimal("7.5"), dt.date(2026, 1, 3), "two.example"),
    ]


def test_a_row_that_is_not_as_declared_is_rejected_with_column_value_and_reason(here: Setting) -> None:
    here.send(("a.csv", b"hawb;weight;eta\n1;-2,5;\n12345678A;1;\n3;1;2026-01-02\n4;1;3/1/2026\n"))
    run = here.load(max_rejected=1)
    (details,) = run.jobs.values()
    rejected = here.query('SELECT "row", "column", value, reason FROM mailferry.rejected_rows ORDER BY "row"')
    assert rejected == [
        (2, "weight_kg", "-2,5", "'-2.5' is less than 0"),
        (3, "hawb", "12345678A", r"'12345678A' does not match the pattern \d{8}"),
        (4, "eta", "2026-01-02", "is in none of the forms '%d.%m.%Y', '%d/%m/%Y'"),
    ]
    assert [row[0] for row in here.rows()] == ["00000004"]
    assert details.files[0].counts.rejected == 3


def test_a_declared_column_that_the_table_does_not_have_stops_the_feed_with_the_closest_name(
    here: Setting,
) -> None:
    here.send(("a.csv", b"hawb;x\n1;2\n"))
    rules = (*RULES, ColumnRule(name="wieght_kg"))
    run = here.load(columns=rules)
    assert (
        "Column wieght_kg is declared, but table public.shipments does not have it; did you mean weight_kg?"
        in run.error
    )
    assert not here.rows()
    assert here.query("SELECT state FROM mailferry.jobs") == [("pending",)]


def test_check_compares_the_declared_columns_of_a_feed_and_its_routes_with_their_tables(
    here: Setting,
) -> None:
    def checked(**changes: Any) -> tuple[bool, str]:
        values = {"target_table": "shipments", "columns": RULES, **changes}
        feed = feed_of(here.base / "app", here.maildir.root, here.settings, **values)
        (found,) = [one for one in health.checks(feed) if one.name == "database"]
        return found.ok, found.text

    here.query(SEA)
    assert checked()[0]
    # Two routes into one table that is still to be made, and columns to be made with it.
    fresh = [
        Route(sheet=sheet, table="fresh", unique_key="no", columns=(ColumnRule(name="x"),)) for sheet in "ab"
    ]
    assert checked(routes=fresh) == (
        True,
        checked()[1] + "; table public.fresh will be made with the first file",
    )
    misspelt = ColumnRule(name="wieght_kg")
    ok, text = checked(columns=(*RULES, misspelt))
    assert (ok, "shipments does not have it; did you mean weight_kg?" in text) == (False, True)
    ok, text = checked(routes=[Route(sheet="Sea*", table="sea", unique_key="bl", columns=(misspelt,))])
    assert (ok, "table public.sea does not have it" in text) == (False, True)
    assert here.query("SELECT to_regclass('fresh')::text") == [(None,)]


def test_columns_are_made_as_declared(here: Setting) -> None:
    rules = (*RULES, ColumnRule(name="pieces", type="integer"), ColumnRule(name="Note Text"))
    here.send(("a.csv", b"hawb;Pieces;note_text\n1;3;x\n"))
    assert here.load(columns=rules, unknown_columns=UnknownColumns.ADD).exit_status == 0
    assert here.rows(columns="hawb, pieces, note_text") == [("00000001", 3, "x")]


def test_error_cells_reject_the_row_unless_they_are_to_be_empty(here: Setting) -> None:
    rows = "".join(
        f'<row><c t="inlineStr"><is><t>{key}</t></is></c><c{cell}</c></row>'
        for key, cell in (
            ("hawb", ' t="inlineStr"><is><t>weight</t></is>'),
            ("1", ' t="e"><v>#N/A</v>'),
            ("2", "><v>5</v>"),
        )
    )
    xml = f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{rows}</sheetData></worksheet>'
    here.send(("a.xlsx", book(Tab(xml=xml))))
    here.load()
    assert [row[:2] for row in here.rows()] == [("00000002", Decimal(5))]
    here.send(("b.xlsx", book(Tab(name="other", xml=xml))))
    here.load(errors=ErrorCells.NULL)
    assert [row[:2] for row in here.rows()] == [("00000001", None), ("00000002", Decimal(5))]


def test_hidden_rows_and_columns_of_a_feed_or_of_a_route_are_left_out(here: Setting) -> None:
    rows = [["hawb", "weight", "ETA"], ["1", "5", "01.02.2026"], ["2", "6", "02.02.2026"]]
    shown = Tab(name="shown", rows=rows, hidden=frozenset({2}), hidden_columns=frozenset({2}))
    here.send(("a.xlsx", book(shown)))
    here.load(hidden=Hidden.SKIP)
    assert [row[:3] for row in here.rows()] == [("00000002", Decimal(6), None)]
    here.send(("b.xlsx", book(shown)))
    here.load(routes=(Route(sheet="shown", hidden=Hidden.LOAD),), hidden=Hidden.SKIP)
    assert [row[:3] for row in here.rows()] == [
        ("00000001", Decimal(5), dt.date(2026, 2, 1)),
        ("00000002", Decimal(6), dt.date(2026, 2, 2)),
    ]


def test_a_header_of_two_rows_a_row_of_units_and_a_total_are_read_as_declared(here: Setting) -> None:
    rows = [
        ["Shipments", "", "", ""],
        ["House AWB", "Weight", "", "ETA"],
        ["", "gross", "net", ""],
        ["", "kg", "kg", ""],
        ["1", 7.5, 7, "02.01.2026"],
        ["Total:", 7.5, 7, ""],
        ["printed by x", "", "", ""],
    ]
    here.send(("a.xlsx", book(Tab(rows=rows))))
    rules = tuple(
        ColumnRule(name="weight_kg", headers=("Weight gross",)) if rule.name == "weight_kg" else rule
        for rule in RULES
    )
    run = here.load(columns=rules, header_rows=2, skip_after=1, stop_at="Total*, Toplam*")
    assert outcomes(run) == [("loaded", 1, None)]
    assert here.rows()[0][:3] == ("00000001", Decimal("7.5"), dt.date(2026, 1, 2))
    (details,) = run.jobs.values()
    assert details.files[0].counts.warnings == [
        "columns that the table does not have were ignored: 'Weight net'",
        "sheet 'Sheet1': row 6 ('Total:') ends the data; 1 row below it were not loaded",
    ]


# --- routes


SEA = "CREATE TABLE sea (bl text PRIMARY KEY, vessel text, hawb text REFERENCES shipments)"
TWO = [
    Tab(name="Air June", rows=[["HAWB No", "Weight"], ["1", 5], ["2", 6]]),
    Tab(name="Sea June", rows=[["B/L", "Vessel", "HAWB No"], ["B1", "Ada", "00000001"]]),
    Tab(name="Notes", rows=[["x"]]),
]
ROUTES = (
    Route(sheet="Air*"),
    Route(
        sheet="sea*",
        table="sea",
        unique_key="bl",
        columns=(ColumnRule(name="bl"), ColumnRule(name="hawb", headers=("HAWB No",))),
    ),
)


def test_sheets_of_one_workbook_go_to_their_tables_together(here: Setting) -> None:
    here.query(SEA)
    here.send(("a.xlsx", book(*TWO)))
    run = here.load(routes=ROUTES)
    assert outcomes(run) == [("loaded", 2, None), ("loaded", 1, None)]
    assert [row[0] for row in here.rows()] == ["00000001", "00000002"]
    assert here.rows("sea", "bl, vessel, hawb") == [("B1", "Ada", "00000001")]
    (details,) = run.jobs.values()
    assert [(file.route, file.target) for file in details.files] == [
        (0, "public.shipments"),
        (2, "public.sea"),
    ]
    assert "sheets that no route is for were not loaded: 'Notes'" in details.files[0].counts.warnings
    assert len(list((here.base / "app" / "processed").rglob("*.xlsx"))) == 1
    # The same again changes nothing.
    here.send(("a.xlsx", book(*TWO)))
    assert [state for state, _, _ in outcomes(here.load(routes=ROUTES))] == ["duplicate", "duplicate"]


def test_where_one_table_cannot_be_loaded_at_all_the_other_is_not_either(here: Setting) -> None:
    here.query("CREATE TABLE sea (bl text, vessel text, hawb text)")
    here.send(("a.xlsx", book(*TWO)))
    run = here.load(routes=ROUTES)
    assert "Table public.sea has no unique index on bl" in run.error
    assert not here.rows()
    here.query("ALTER TABLE sea ADD PRIMARY KEY (bl)")
    here.query("UPDATE mailferry.jobs SET next_attempt_at = now()")
    assert outcomes(here.load(routes=ROUTES)) == [("loaded", 2, None), ("loaded", 1, None)]


def test_a_table_that_refuses_its_sheet_leaves_that_of_the_other(here: Setting) -> None:
    here.query(SEA)
    bad = [TWO[0], Tab(name="Sea", rows=[["B/L", "HAWB No"], ["B1", "unknown"]])]
    here.send(("a.xlsx", book(*bad)))
    run = here.load(routes=ROUTES)
    assert [state for state, _, _ in outcomes(run)] == ["loaded", "rejected"]
    assert len(here.rows()) == 2
    assert not here.rows("sea", "bl")
    # Refused as a whole for a person: the file lies among those that failed, and can be done again.
    assert len(list((here.base / "app" / "failed").glob("*.xlsx"))) == 1
    here.query("INSERT INTO shipments (hawb) VALUES ('unknown')")
    (job,) = run.jobs
    here.retry(job)
    assert [state for state, _, _ in outcomes(here.load(routes=ROUTES))] == ["loaded", "loaded"]
    assert len(here.rows("sea", "bl")) == 1
    assert not list((here.base / "app" / "failed").glob("*.xlsx"))


@pytest.mark.parametrize(
    ("route", "fits"),
    [
        (Route(sender="@one.example"), True),
        (Route(sender="one.example"), True),
        (Route(sender="two.example"), False),
        (Route(subject="TRACK"), True),
        (Route(subject="other"), False),
        (Route(file="*.csv"), True),
        (Route(file="*.xlsx"), False),
        (Route(sheet="text"), False),
        (Route(sender="one.example", file="b*"), False),
    ],
)
def test_a_route_is_chosen_by_sender_subject_file_and_sheet(here: Setting, route: Route, fits: bool) -> None:
    here.query("CREATE TABLE other (hawb text PRIMARY KEY)")
    here.send(("a.csv", b"hawb;x\n1;2\n"), sender="ops@one.example")
    values = {name: getattr(route, name) for name in ("sender", "subject", "file", "sheet")}
    here.load(routes=(Route(**values, table="other"),))
    assert (len(here.rows("other", "hawb")), len(here.rows())) == ((1, 0) if fits else (0, 1))


def test_a_name_that_looks_like_an_address_opens_no_route(here: Setting) -> None:
    here.query("CREATE TABLE other (hawb text PRIMARY KEY)")
    here.send(("a.csv", b"hawb;x\n1;2\n"), sender="=?utf-8?q?ops=40one=2Eexample=2C?= <evil@evil.example>")
    here.load(routes=(Route(sender="one.example", table="other"),))
    assert here.rows(columns="customer") == [("evil.example",)]


def test_two_routes_into_one_table_load_two_tables_of_one_sheet(here: Setting) -> None:
    rows = [
        ["HAWB No", "Weight"],
        ["1", 5],
        ["Total", 5],
        ["", ""],
        ["House AWB", "A\u011f\u0131rl\u0131k"],
        ["2", 6],
        ["Total", 6],
    ]
    here.send(("a.xlsx", book(Tab(rows=rows))))
    routes = (
        Route(file="*", header_row=1, stop_at="Total*"),
        Route(file="*", header_row=5, stop_at="Total*"),
    )
    run = here.load(routes=routes)
    assert outcomes(run) == [("loaded", 1, None), ("loaded", 1, None)]
    assert [row[:2] for row in here.rows()] == [("00000001", Decimal(5)), ("00000002", Decimal(6))]


# --- preview and columns

ZIPPED = io.BytesIO()
with zipfile.ZipFile(ZIPPED, "w") as packed:
    packed.writestr("a.csv", b"hawb;weight\n1;2\n")


def preview(
    here: Setting, content: bytes, name: str = "a.csv", sender: str = "", **changes: Any
) -> list[Preview]:
    path = here.base / name
    path.write_bytes(content)
    values = {"target_table": "shipments", "columns": RULES, **changes}
    feed = feed_of(here.base / "app", here.maildir.root, here.settings, **values)
    with database.connect(here.settings) as pool:
        return trial.preview(pool, feed, path, name, about=About(file=name, sender=sender))


def test_a_preview_shows_what_a_load_does_and_does_none_of_it(here: Setting) -> None:
    here.query(
        "INSERT INTO shipments VALUES ('00000001', 5, NULL, 'x'), ('00000002', 6, NULL, 'one.example')"
    )
    before = here.rows()
    content = b"House AWB;Weight;note\n1;7,5;n\n2;6;\n3;1.000,5;\n4;-1;\n"
    (found,) = preview(here, content, sender="ops@one.example")
    assert found.loads
    assert here.rows() == before
    assert not here.query("SELECT id FROM mailferry.row_changes UNION ALL SELECT id FROM mailferry.jobs")
    counts = found.counts
    assert (counts.read, counts.inserted, counts.updated, counts.unchanged, counts.rejected) == (
        4,
        1,
        1,
        1,
        1,
    )
    assert [(one.column, one.header, one.reason) for one in found.columns] == [
        ("hawb", "House AWB", "'House AWB*'"),
        ("weight_kg", "Weight", "'Weight*'"),
        ("customer", "", "'{sender_domain}'"),
    ]
    assert (found.header_row, found.unknown, found.missing) == (1, ("note",), ("eta", "received_at"))
    assert found.rows[0] == {"hawb": "00000001", "weight_kg": "7.5", "customer": "one.example"}
    assert [(row.row, row.column, row.reason) for row in found.rejects] == [
        (5, "weight_kg", "'-1' is less than 0")
    ]
    changed = {change.key: (change.old, change.new) for change in found.changes}
    assert changed["00000001"] == (
        {"weight_kg": "5", "customer": "x"},
        {"weight_kg": "7.5", "customer": "one.example"},
    )
    assert changed["00000003"][0] is None
    here.send(("a.csv", content), sender="ops@one.example")
    (details,) = here.load().jobs.values()
    assert details.files[0].counts.inserted == counts.inserted
    assert here.rows()[0][1] == Decimal("7.5")


def test_a_preview_of_what_would_not_load_says_why_and_what_is_made_is_gone(here: Setting) -> None:
    (found,) = preview(here, b"hwb;x\n1;2\n")
    assert not found.loads
    assert "'hwb' comes closest" in found.error
    (found,) = preview(here, b"hawb;weight\n1;x\n2;y\n3;1\n")
    assert not found.loads
    assert len(found.rejects) == 2
    assert not found.changes
    (found,) = preview(here, b"hawb;weight\n1;2\n", target_table="fresh")
    assert found.loads
    assert all(one.new for one in found.columns)
    assert here.query("SELECT to_regclass('fresh')::text") == [(None,)]


def test_a_preview_goes_by_the_routes(here: Setting) -> None:
    here.query(SEA)
    found = preview(here, book(*TWO), "a.xlsx", routes=ROUTES)
    assert [(one.route, one.table, one.loads, one.counts.inserted) for one in found] == [
        (1, "public.shipments", True, 2),
        (2, "public.sea", True, 1),
    ]


def test_a_preview_of_a_message_shows_each_file_in_it(here: Setting) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.csv", b"House AWB;Weight\n1;7,5\n2;6\n")
        archive.writestr("b.xlsx", b"PK\x03\x04 broken")
    message = mail("Weights", ("both.zip", zipped.getvalue()), sender="Ops <ops@one.example>")
    good, bad = preview(here, message, "list.eml")
    assert (good.file, good.loads, good.rows[0]["customer"]) == ("a.csv", True, "one.example")
    assert (bad.file, bad.loads) == ("b.xlsx", False)
    assert "zip archive" in bad.error
    with pytest.raises(Reject, match=r"no spreadsheet in it .*the text of the message"):
        preview(here, mail("Nothing"), "list.eml")
    assert not here.rows()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"Let us begin 644 things.\n", "plain text, not a table"),
    ],
)
def test_preview_and_columns_say_what_a_file_is_that_is_no_spreadsheet(
    here: Setting, content: bytes, what: str
) -> None:
    path = here.base / "a.csv"
    with pytest.raises(Reject, match=what):
        preview(here, content, path.name)
    with pytest.raises(Reject, match=what):
        propose(feed_of(here.base / "app", here.maildir.root, here.settings), path, ())


def test_columns_are_proposed_for_a_spreadsheet_alone(here: Setting) -> None:
    path = here.base / "a.zip"
    path.write_bytes(ZIPPED.getvalue())
    with pytest.raises(Reject, match="not a spreadsheet but an archive"):
        propose(feed_of(here.base / "app", here.maildir.root, here.settings), path, ())


def test_preview_and_columns_leave_every_byte_of_a_file_to_the_reading_child(
    here: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("a file was parsed outside the sandbox")

    for module in (formats, archive):
        monkeypatch.setattr(module, "open_zip", parsed)
    monkeypatch.setattr(formats, "plain_kind", parsed)
    here.query(SEA)
    assert preview(here, book(*TWO), "a.xlsx", routes=ROUTES)
    feed = feed_of(here.base / "app", here.maildir.root, here.settings)
    assert propose(feed, here.base / "a.xlsx", ())
    (here.base / "b.csv").write_bytes(b"hawb;weight\n1;2\n")
    assert propose(feed, here.base / "b.csv", ())


def test_the_columns_of_a_table_are_proposed_for_a_sheet_and_load_it(here: Setting) -> None:
    content = b"Report;;\nHouse AWB (no);Weight [kg];Arrival ETA;Remarks\n1;1.234,5;02.01.2026;x\n2;7,5;31.12.2026;\n"
    path = here.base / "a.csv"
    path.write_bytes(content)
    feed = feed_of(here.base / "app", here.maildir.root, here.settings, target_table="shipments")
    with psycopg.connect(**database.parameters(here.settings)) as conn:
        target = Target.inspect(conn, "shipments", "hawb")
    assert target
    (found,) = propose(feed, path, target.columns)
    assert (found.header_row, found.left) == (2, ("Remarks",))
    assert found.columns == {
        "hawb": {"headers": ["House AWB (no)"]},
        "weight_kg": {"decimal": ","},
        "eta": {"headers": ["Arrival ETA"], "formats": ["%d.%m.%Y"]},
    }
    toml = f'[mailbox.test]\nmaildir = "Maildir"\n{found.as_toml("mailbox.test.columns")}\n'
    (here.base / "mailferry.toml").write_text(toml, "utf-8")
    (read,) = service.read([here.base / "mailferry.toml"], {}).mailboxes
    here.send(("a.csv", content))
    here.load(columns=read.columns)
    assert [row[:3] for row in here.rows()] == [
        ("1", Decimal("1234.5"), dt.date(2026, 1, 2)),
        ("2", Decimal("7.5"), dt.date(2026, 12, 31)),
    ]
