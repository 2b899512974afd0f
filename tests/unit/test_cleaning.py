"""Cells of declared columns: cleaned, read and checked as declared; a batch as each cell by itself."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.config.columns import Case, ColumnRule, Form, Mark, Spaces
from mailferry.mailbox.workbook.cells import error_cell
from mailferry.mailbox.workbook.cleaning import Cleaner
from mailferry.mailbox.workbook.contract import RowContract, lay_out
from mailferry.mailbox.workbook.converters import Converted, converter
from mailferry.mailbox.workbook.header import Header
from mailferry.mailbox.workbook.row_writer import RowWriter
from mailferry.mailbox.workbook.values import Column

if TYPE_CHECKING:
    from mailferry.mailbox.workbook.cells import Cell


def cleaner(type_: str, **rule: Any) -> Cleaner:
    return Cleaner(rule=ColumnRule(name="c", **rule), converter=converter(type_), type=type_)


def read(type_: str, *cells: Cell, **rule: Any) -> list[str]:
    """The texts, a misfit as its reason in angle brackets."""
    done: Converted = cleaner(type_, **rule).column(cells)
    return [f"<{done.misfits[at]}>" if at in done.misfits else text for at, text in enumerate(done.texts)]


@pytest.mark.parametrize(
    ("rule", "cell", "text"),
    [
        ({"trim": True}, "\u00a0 a b \t", "a b"),
        ({"spaces": Spaces.ONE}, "a\u00a0\u2009 b\nc", "a b c"),
        ({"spaces": Spaces.NONE}, " 12 34\u202f5", "12345"),
        ({"case": Case.UPPER}, "abc\u0131", "ABCI"),
        ({"case": Case.LOWER}, "\u0130STANBUL", "istanbul"),
        ({"unicode": Form.NFC}, "e\u0301", "\u00e9"),
        ({"unicode": Form.NFKC}, "\uff21\uff11", "A1"),
        ({"pad": 8}, "123", "00000123"),
        ({"pad": 8}, 123.0, "00000123"),
        ({"pad": 8}, "12A", "12A"),
        ({"map": {"Departed": "DEP", "Gelmedi": ""}}, "Departed", "DEP"),
        ({"map": {"Departed": "DEP", "Gelmedi": ""}}, "Gelmedi", ""),
        ({"map": {"1": "one"}}, 1.0, "one"),
        ({"map": {"DEPARTED": "DEP"}, "trim": True, "case": Case.UPPER}, " departed ", "DEP"),
        ({"pattern": r"\d{8}", "pad": 8}, "123", "00000123"),
        ({"pattern": r"\d{8}"}, "123", "<'123' does not match the pattern \\d{8}>"),
        ({"pattern": r"\d+"}, "12\n", "<'12\\n' does not match the pattern \\d+>"),
        ({"values": ("DEP", "")}, "", ""),
        ({"values": ("DEP",)}, "", "<empty, and that is none of 'DEP'>"),
        ({"values": ("DEP", "")}, "ARR", "<'ARR' is none of 'DEP', ''>"),
    ],
)
def test_a_text_is_cleaned_and_checked_as_declared(rule: dict[str, Any], cell: Cell, text: str) -> None:
    assert read("text", cell, **rule) == [text]
    # In a batch with cells of other kinds, and behind an error.
    assert read("text", error_cell("#N/A"), cell, dt.date(2026, 1, 2), **rule)[1] == text


@pytest.mark.parametrize(
    ("mark", "cell", "text"),
    [
        (",", "1.234", "1234"),
        (",", "1,234", "1.2340"),
        (",", "1.234,5", "1234.5"),
        (",", "1.234.567,891", "1234567.8910"),
        (",", "-0,5", "-0.5"),
        (",", "\u22120,5", "-0.5"),
        (",", ",5", "0.5"),
        (",", "12,", "12"),
        (",", "1 234,5", "1234.5"),
        (",", "1'234,5", "1234.5"),
        (",", "5,1e3", "5.1E+3"),
        (",", 1234.5, "1234.5"),
        (",", " ", ""),
        (",", "1.23", "<not a number with the decimal mark ','>"),
        (",", "1.234.5", "<not a number with the decimal mark ','>"),
        (",", "1.234'567", "<not a number with the decimal mark ','>"),
        (",", "abc", "<not a number with the decimal mark ','>"),
        (",", ",", "<not a number with the decimal mark ','>"),
        (".", "1,234", "1234"),
        (".", "1.234", "1.2340"),
        (".", "1,234.50", "1234.50"),
        (".", "1,5", "<not a number with the decimal mark '.'>"),
    ],
)
def test_a_declared_decimal_mark_leaves_one_reading(mark: str, cell: Cell, text: str) -> None:
    assert read("numeric", cell, decimal=Mark(mark)) == [text]
    number = text if text.startswith("<") or not text else float(text)
    assert [
        one if one.startswith("<") or not one else float(one)
        for one in read("double precision", cell, decimal=Mark(mark))
    ] == [number]


def test_whole_numbers_are_read_by_the_declared_mark_as_well() -> None:
    assert read("integer", "1.234", "1.234,000", "1,5", decimal=Mark.COMMA) == [
        "1234",
        "1234",
        "<has decimals, where the column takes whole numbers>",
    ]
    assert read("text", "1.234,567", decimal=Mark.COMMA) == ["1234.567"]


@given(st.decimals(-(10**12), 10**12, places=3), st.sampled_from([".", ","]), st.booleans())
def test_a_number_that_is_written_with_the_declared_mark_is_that_number(
    value: Decimal, mark: str, grouped: bool
) -> None:
    text = f"{value:,f}" if grouped else f"{value:f}"
    if mark == ",":
        text = text.translate(str.maketrans(",.", ".,"))
    assert Decimal(read("numeric", text, decimal=Mark(mark))[0]) == value


DAYS = ("%d.%m.%Y", "%d/%m/%y", "%d %b %Y %H:%M")


@pytest.mark.parametrize(
    ("type_", "cell", "text"),
    [
        ("date", "02.01.2026", "2026-01-02"),
        ("date", "2/1/26", "2026-01-02"),
        ("date", dt.date(2026, 1, 2), "2026-01-02"),
        ("date", "2026-01-02", "<is in none of the forms '%d.%m.%Y', '%d/%m/%y', '%d %b %Y %H:%M'>"),
        ("date", "02 Jan 2026 10:30", "<has a time of day, where the column takes dates>"),
        ("timestamp without time zone", "02 Jan 2026 10:30", "2026-01-02 10:30:00"),
        ("timestamp without time zone", "02.01.2026", "2026-01-02"),
        ("text", "02.01.2026", "2026-01-02"),
        ("date", "31.02.2026", "<is in none of the forms '%d.%m.%Y', '%d/%m/%y', '%d %b %Y %H:%M'>"),
    ],
)
def test_declared_forms_of_dates_are_read_and_no_other(type_: str, cell: Cell, text: str) -> None:
    assert read(type_, cell, formats=DAYS) == [text]


def test_declared_forms_of_times_and_offsets() -> None:
    assert read("time without time zone", "1430", formats=("%H%M",)) == ["14:30:00"]
    assert read("date", "1430", formats=("%H%M",))[0].startswith("<a time of day")
    zoned = read("timestamp with time zone", "2026-01-02 03:04 +0300", formats=("%Y-%m-%d %H:%M %z",))
    assert zoned == ["2026-01-02 03:04:00+03:00"]


def test_bounds_count_as_they_are_written() -> None:
    assert read("numeric", 0.0, -0.5, "10.1", 10.2, "", min=0, max=10.1) == [
        "0",
        "<'-0.5' is not from 0 to 10.1>",
        "10.1",
        "<'10.2' is not from 0 to 10.1>",
        "",
    ]
    assert read("integer", "5", min=6) == ["<'5' is less than 6>"]
    assert read("numeric", "7", max=6.5) == ["<'7' is more than 6.5>"]


CELLS = st.one_of(
    st.text(" \u00a0aAiI\u0130\u01310123.,/-", max_size=8),
    st.floats(-1e6, 1e6).map(lambda value: round(value, 3)),
    st.dates(dt.date(2000, 1, 1), dt.date(2030, 1, 1)),
    st.booleans(),
    st.sampled_from(["Departed", "DEP", "1.234,5", "02.01.2026", "", error_cell("#N/A")]),
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "trim": st.just(True),
        "spaces": st.sampled_from(Spaces),
        "case": st.sampled_from(Case),
        "unicode": st.sampled_from(Form),
        "map": st.just({"Departed": "DEP", "0": ""}),
        "decimal": st.sampled_from(Mark),
        "pad": st.integers(0, 4),
        "pattern": st.sampled_from(["", r"[0-9]+", "[A-Z]*"]),
        "values": st.sampled_from([(), ("DEP", ""), ("1", "2", "DEP")]),
        "min": st.sampled_from([None, 0.0]),
        "max": st.sampled_from([None, 100.0]),
    },
)
TYPES = st.sampled_from(
    ["text", "numeric", "integer", "date", "character varying(5)", "double precision", "boolean"]
)


def test_what_the_map_puts_in_place_of_a_number_is_read_as_declared() -> None:
    rule = {"map": {"1": "1,500", "2": "3"}, "decimal": Mark.COMMA}
    assert read("numeric", 1.0, 2.0, 4.0, **rule) == ["1.5000", "3", "4"]
    assert read("date", 1.0, map={"1": "02.01.2026"}, formats=("%d.%m.%Y",)) == ["2026-01-02"]


@given(TYPES, RULES, st.lists(CELLS, min_size=1, max_size=6))
def test_a_batch_is_what_its_cells_are_one_by_one(
    type_: str, rule: dict[str, Any], cells: list[Cell]
) -> None:
    assert read(type_, *cells, **rule) == [read(type_, cell, **rule)[0] for cell in cells]


@given(RULES, st.lists(st.text(" \u00a0aAbB\u0130", min_size=1, max_size=5), min_size=1, max_size=6))
def test_cleaning_twice_changes_nothing(rule: dict[str, Any], cells: list[str]) -> None:
    only = {name: rule[name] for name in ("trim", "spaces", "case", "unicode") if name in rule}
    once = read("text", *cells, **only)
    assert read("text", *once, **only) == once


# --- whole rows


def rows_of(
    contract: RowContract, names: list[str], rows: list[list[Cell]]
) -> tuple[list[str], list[tuple[int, str, str, str]]]:
    layout = lay_out(Header(row=1, names=tuple(names), written=tuple(names)), contract)
    writer = RowWriter(layout=layout, contract=contract)
    text, rejects = writer.batch("s", 2, rows)
    return text.decode().splitlines(), [(one.row, one.column, one.value, one.reason) for one in rejects]


TABLE = (
    Column(name="hawb", type="text", nullable=False),
    Column(name="status", type="text"),
    Column(name="sent_by", type="text"),
)


def test_blank_rows_stay_blank_whatever_is_filled_in_or_taken() -> None:
    rules = (
        ColumnRule(name="status", values=("DEP",)),
        ColumnRule(name="sent_by", value="{sender_domain} {sheet} {row}"),
    )
    contract = RowContract(key="hawb", columns=TABLE, rules=rules, about={"sender_domain": "example.com"})
    lines, rejects = rows_of(contract, ["hawb", "status"], [["1", "DEP"], ["", " "], ["2", ""], ["", "DEP"]])
    assert lines == ["2,1,DEP,example.com s 2"]
    assert rejects == [
        (4, "status", "", "empty, and that is none of 'DEP'"),
        (5, "hawb", "", "no key"),
    ]


def test_a_key_may_be_filled_in() -> None:
    contract = RowContract(
        key="hawb", columns=TABLE, rules=(ColumnRule(name="hawb", value="{job}-{row}"),), about={"job": "7"}
    )
    lines, rejects = rows_of(contract, ["status"], [["DEP"], [""], ["ARR"]])
    assert lines == ["2,DEP,7-2", "4,ARR,7-4"]
    assert not rejects


def test_what_a_rule_fills_in_is_read_and_checked_as_a_cell_is() -> None:
    rules = (ColumnRule(name="sent_by", value="{sender_domain}", case=Case.UPPER, pattern="[A-Z.]+"),)
    for domain, lines in (("example.com", ["2,1,EXAMPLE.COM"]), ("e1.com", [])):
        contract = RowContract(key="hawb", columns=TABLE, rules=rules, about={"sender_domain": domain})
        found, rejects = rows_of(contract, ["hawb"], [["1"]])
        assert found == lines
        assert bool(rejects) != bool(lines)


def test_keys_that_differ_only_in_what_is_cleaned_are_one_key() -> None:
    rule = ColumnRule(name="hawb", trim=True, spaces=Spaces.NONE, case=Case.UPPER, unicode=Form.NFKC, pad=6)
    contract = RowContract(key="hawb", columns=TABLE, rules=(rule,))
    cells: list[list[Cell]] = [["12 34"], [1234.0], ["\u00a01234 "], ["\uff11\uff12\uff13\uff14"], ["001234"]]
    lines, _ = rows_of(contract, ["hawb"], cells)
    assert {line.partition(",")[2] for line in lines} == {"001234"}
