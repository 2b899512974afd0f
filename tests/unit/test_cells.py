"""Cells become what COPY reads, or a reason why not."""

# ruff: noqa: DTZ001, RUF001 - cells have no time zone; Turkish letters are meant

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.mailbox.workbook.cells import EXACT, text_of
from mailferry.mailbox.workbook.converters import converter
from mailferry.mailbox.workbook.infer import TypeOf
from mailferry.mailbox.workbook.text_values import Misfit, decimal

if TYPE_CHECKING:
    from mailferry.mailbox.workbook.cells import Cell

CELLS = st.one_of(
    st.just(""),
    st.text(max_size=20),
    st.floats(allow_nan=False),
    st.booleans(),
    st.dates(min_value=dt.date(1900, 1, 1)),
    st.datetimes(min_value=dt.datetime(1900, 1, 1)),
    st.times(),
    st.timedeltas(),
)
TYPES = [
    "smallint", "integer", "bigint", "numeric", "numeric(10,2)", "real", "double precision", "boolean", "date", "text",
    "timestamp without time zone", "timestamp with time zone", "timestamp(3) without time zone", "interval", "uuid", "json",
    "jsonb", "time without time zone", "character varying(5)", "character(3)", "inet", "my_schema.my_type", "integer[]",
]  # fmt: skip


def convert(type_name: str, cell: Cell, **more: Any) -> str:
    done = converter(type_name, **more).column([cell])
    assert len(done.texts) == 1
    return done.misfits[0] if done.misfits else done.texts[0]


@pytest.mark.parametrize(
    ("type_name", "cell", "text"),
    [
        ("integer", 12345.0, "12345"),
        ("integer", " 42 ", "42"),
        ("integer", "1.234.567", "1234567"),
        ("bigint", float(EXACT), str(EXACT)),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("numeric", 0.1, "0.1"),
        ("numeric", "1.234,50", "1234.50"),
        ("numeric", "1,234.50", "1234.50"),
        ("numeric", "0,125", "0.125"),
        ("numeric(4,2)", 99.99, "99.99"),
        ("double precision", 1e300, "1e+300"),
        ("text", 12345.0, "12345"),
        ("text", 12.5, "12.5"),
        ("text", float(EXACT), str(EXACT)),
        ("text", -9007199254740991.0, "-9007199254740991"),
        ("numeric", 9.4e21, "9.4e+21"),
        ("text", "00012", "00012"),
        ("text", True, "true"),
        ("text", dt.date(2024, 1, 2), "2024-01-02"),
        ("text", dt.datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04:00"),
        ("text", dt.timedelta(hours=30), "30:00:00"),
        ("interval", dt.timedelta(seconds=-90), "-00:01:30"),
        ("boolean", 1.0, "true"),
        ("boolean", "Evet", "true"),
        ("boolean", "HAYIR", "false"),
        ("boolean", "hayır", "false"),
        ("date", dt.date(2024, 1, 2), "2024-01-02"),
        ("date", dt.datetime(2024, 1, 2), "2024-01-02"),
        ("date", "31.01.2024", "2024-01-31"),
        ("date", "1.2.2024", "2024-02-01"),
        ("date", "31/01/2024", "2024-01-31"),
        ("date", "01/31/2024", "2024-01-31"),
        ("date", "05-05-2024", "2024-05-05"),
        ("date", "20240131", "2024-01-31"),
        ("date", "1899-12-31", "1899-12-31"),
        ("date", "2024-01-31T00:00:00", "2024-01-31"),
        ("timestamp without time zone", "31.01.2024 14:30", "2024-01-31 14:30:00"),
        ("timestamp without time zone", dt.date(2024, 1, 2), "2024-01-02"),
        ("timestamp with time zone", "2024-01-31T14:30:05.25Z", "2024-01-31 14:30:05.250000Z"),
        ("timestamp with time zone", "2024-01-31 14:30+03:00", "2024-01-31 14:30:00+03:00"),
        ("time without time zone", "7:05", "07:05:00"),
        ("time without time zone", dt.timedelta(hours=1), "01:00:00"),
        ("uuid", "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("jsonb", '{"a": 1}', '{"a": 1}'),
        ("jsonb", 1.0, "1"),
        ("character varying(3)", "ışğ", "ışğ"),
        ("inet", "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_cell_that_fits_becomes_text_the_server_reads(type_name: str, cell: Cell, text: str) -> None:
    assert convert(type_name, cell) == text


@pytest.mark.parametrize(
    ("type_name", "cell", "reason"),
    [
        ("smallint", 32768.0, "out of range"),
        ("integer", 1.5, "decimals"),
        ("integer", True, "true or false"),
        ("integer", dt.date(2024, 1, 1), "a date"),
        ("integer", "1.234", "thousands or decimals"),
        ("bigint", 1e17, "lost digits"),
        ("bigint", "9223372036854775808", "out of range"),
        ("integer", "1e9999999999", "not a number"),
        ("integer", "١٢", "not a number"),
        ("numeric", "1,234", "thousands or decimals"),
        ("numeric", "12%", "not a number"),
        ("numeric", "NaN", "not a number"),
        ("numeric", math.inf, "not a number"),
        ("numeric(4,2)", 99.995, "out of range"),
        ("numeric(4,2)", 100.0, "out of range"),
        ("real", 1e39, "out of range"),
        ("boolean", "maybe", "neither"),
        ("boolean", 2.0, "neither"),
        ("date", 45000.0, "a number, not a date"),
        ("date", "01/02/2024", "day or month first"),
        ("date", "1.2.24", "one reading"),
        ("date", "31.02.2024", "not a date"),
        ("date", dt.time(), "before 1900"),
        ("date", dt.datetime(2024, 1, 2, 3), "time of day"),
        ("date", "2024-01-31 10:00", "time of day"),
        ("timestamp without time zone", "2024-01-31 14:30Z", "offset"),
        ("timestamp without time zone", "2024-01-31 25:00", "not a time of day"),
        ("time without time zone", "noon", "not a time"),
        ("character varying(3)", "abcd", "4 characters"),
        ("text", 9400111899223100.0, "lost digits"),
        ("text", -9.4e21, "lost digits"),
        ("text", EXACT + 1, "lost digits"),
        ("character varying(40)", 9.4e21, "lost digits"),
        ("inet", 9.4e21, "lost digits"),
        ("uuid", "x", "not a UUID"),
        ("json", "{", "not JSON"),
        ("jsonb", '"\\u0000"', "NUL"),
    ],
)
def test_a_cell_that_does_not_fit_says_why(type_name: str, cell: Cell, reason: str) -> None:
    assert reason in convert(type_name, cell)


@pytest.mark.parametrize(
    ("cell", "width", "text"),
    [
        ("00000001", 0, "00000001"),
        (12345.0, 0, "12345"),
        (" A1 ", 0, "A1"),
        (12.0, 8, "00000012"),
        ("A12", 8, "A12"),
        ("1234567890", 8, "1234567890"),
    ],
)
def test_a_key_keeps_its_zeros_and_is_padded_when_configured(cell: Cell, width: int, text: str) -> None:
    assert convert("text", cell, key=True, key_width=width) == text


def test_a_key_that_lost_digits_is_refused() -> None:
    assert "lost digits" in convert("text", 1e17, key=True)


@given(st.sampled_from(TYPES), st.lists(CELLS, min_size=1), st.booleans())
def test_a_whole_column_converts_as_its_cells_do_one_by_one(
    type_name: str, cells: list[Cell], key: bool
) -> None:
    conversion = converter(type_name, key=key)
    done = conversion.column(cells)
    assert len(done.texts) == len(cells)
    for at, cell in enumerate(cells):
        alone = conversion.column([cell])
        assert done.misfits.get(at) == alone.misfits.get(0)
        if at not in done.misfits:
            assert done.texts[at] == alone.texts[0]
        assert "\0" not in done.texts[at]


@given(st.sampled_from(TYPES))
def test_empty_cells_are_null_in_every_type(type_name: str) -> None:
    done = converter(type_name).column(["", "  ", "\t", ""])
    assert list(done.texts) == ["", "", "", ""]
    assert not done.misfits


@given(st.lists(st.floats(-1e12, 1e12), min_size=1))
def test_numbers_come_out_as_they_went_in(numbers: list[float]) -> None:
    done = converter("double precision").column(numbers)
    assert [float(text) for text in done.texts] == numbers


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_a_number_as_text_is_read_in_both_notations_or_refused(number: Any) -> None:
    for text in (f"{number:,}", f"{number:,}".translate(str.maketrans(",.", ".,"))):
        assert decimal(text) == number


@given(st.text(max_size=12, alphabet="0123456789.,-+eE "))
def test_number_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        result = str(decimal(text))
    except Misfit as misfit:
        result = str(misfit)
    assert result


@pytest.mark.parametrize(
    ("cells", "type_name"),
    [
        ([1.0, "", 2.0], "numeric"),
        ([1.0, 0.5], "numeric"),
        ([1, 2.0], "numeric"),
        ([1.0, 1e-9], "numeric"),
        ([1e17], "numeric"),
        ([True, ""], "boolean"),
        ([dt.date(2024, 1, 1)], "timestamp without time zone"),
        ([dt.date(2024, 1, 1), dt.datetime(2024, 1, 1, 2)], "timestamp without time zone"),
        ([dt.time(1)], "time without time zone"),
        ([dt.timedelta(1)], "interval"),
        (["007"], "text"),
        ([True, 1.0], "text"),
        ([dt.date(2024, 1, 1), 1.0], "text"),
        (["", ""], "text"),
    ],
)
def test_a_new_column_takes_the_type_of_all_its_cells(cells: list[Cell], type_name: str) -> None:
    type_of = TypeOf()
    for cell in cells:
        type_of.look([cell])
    together = TypeOf()
    together.look(cells)
    assert type_of.name == together.name == type_name


@given(st.lists(CELLS, min_size=1))
def test_an_inferred_type_takes_every_cell_it_was_inferred_from(cells: list[Cell]) -> None:
    type_of = TypeOf()
    type_of.look(cells)
    misfits = converter(type_of.name).column(cells).misfits
    # But for numbers in a column of text whose digits are lost already, and what is no number at all.
    assert all(isinstance(cell := cells[at], float) and abs(cell) > EXACT for at in misfits)


@given(
    st.sampled_from([[1.0], [dt.date(2024, 1, 1)]]),
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False), st.datetimes(min_value=dt.datetime(1900, 1, 1))
    ),
)
def test_a_new_column_takes_the_numbers_or_dates_that_later_files_bring(
    first: list[Cell], later: Cell
) -> None:
    type_of = TypeOf()
    type_of.look(first)
    fits = isinstance(later, float) == isinstance(first[0], float)
    assert bool(converter(type_of.name).column([later]).misfits) is not fits


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_text_of_a_number_is_the_same_number(number: Any) -> None:
    assert Decimal(text_of(number)) == Decimal(repr(number))
    if number.is_integer():
        assert text_of(number).removeprefix("-").isdecimal()


_PLAIN = st.one_of(
    st.sampled_from(["", "0", "-0", "007", "1.234", "12.50", "0.375", "1e5", "EVET", "no", "31.01.2024", "2024-02-30", "2024-01-31",
                     "2024-01-31 14:30:05", "2024-01-31 25:00:00", " 1", "1\n2", "9" * 15, "-32768", "1.2345", "x"]),
    st.from_regex(r"-?[0-9]{1,17}([.][0-9]{1,5})?", fullmatch=True),
)  # fmt: skip


@given(
    kind=st.sampled_from(
        [
            "smallint",
            "integer",
            "bigint",
            "numeric",
            "numeric(6,2)",
            "boolean",
            "date",
            "timestamp without time zone",
        ]
    ),
    cells=st.lists(_PLAIN, min_size=1, max_size=6),
)
def test_a_column_of_text_is_converted_at_once_as_it_is_cell_by_cell(kind: str, cells: list[str]) -> None:
    at_once, slowly = converter(kind), replace(converter(kind), plain=None)
    fast, slow = at_once.column(cells), slowly.column(cells)
    assert fast.misfits == slow.misfits
    assert list(fast.texts) == list(slow.texts)
