"""The row contract: header, columns, keys, rejects, hash."""

# ruff: noqa: RUF001 - Turkish and full-width letters are meant

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.config.spreadsheet import UnknownColumns
from mailferry.errors import Reject
from mailferry.mailbox.workbook.cells import is_blank
from mailferry.mailbox.workbook.contract import Layout, RowContract, align, infer_types, lay_out, with_types
from mailferry.mailbox.workbook.header import Finder, Header, clean_name, named, unique_names
from mailferry.mailbox.workbook.row_writer import RowWriter
from mailferry.mailbox.workbook.values import Column, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.mailbox.workbook.cells import Cell

TEXT = Column(name="hawb", type="text")
AMOUNT = Column(name="amount", type="numeric(10,2)")


def header_of(rows: Sequence[Any], key: str = "hawb") -> Header:
    header = Finder(is_key=named(key)).find(rows)
    assert header is not None
    return header


def write(
    rows: Sequence[Any], contract: RowContract | None = None, sheet: str = "Sheet1"
) -> tuple[list[list[str]], list[RejectedRow], RowWriter]:
    """CSV rows, rejects and the writer of rows that begin with their header."""
    contract = contract or RowContract(key="hawb", columns=(TEXT, AMOUNT))
    header = header_of(rows, contract.key)
    writer = RowWriter(layout=lay_out(header, contract), contract=contract)
    text, rejects = writer.batch(sheet, header.row + 1, rows[header.row :])
    return list(csv.reader(io.StringIO(text.decode(), newline=""))), rejects, writer


@pytest.mark.parametrize(
    ("written", "clean"),
    [
        ("HAWB", "hawb"),
        ("  Tracking No. ", "tracking_no"),
        ("Gönderici İli", "gonderici_ili"),
        ("IŞIK / ÇAĞRI", "isik_cagri"),
        ("Ağırlık (kg)", "agirlik_kg"),
        ("Ｆｕｌｌ　Width", "full_width"),
        ("_row", "row"),
        ("%", "column"),
        ("", ""),
        ("\u00a0 \t", ""),
        ('x"; DROP TABLE t; --', "x_drop_table_t"),
        ("a\0b", "ab"),
        ("é" * 40, "é" * 31),
    ],
)
def test_a_header_becomes_an_identifier(written: str, clean: str) -> None:
    assert clean_name(written) == clean


@given(st.text(max_size=100))
def test_a_clean_name_is_short_lower_case_and_stays_as_it_is(written: str) -> None:
    name = clean_name(written)
    assert len(name.encode()) <= 63
    assert clean_name(name) == name
    assert not name.startswith("_")
    assert not set(name) & set("\0\"'; ")


@given(st.lists(st.sampled_from(["a", "a_2", "a_2_2", "b", "", "x" * 63]), max_size=12))
def test_duplicate_headers_are_distinguished(names: list[str]) -> None:
    out = unique_names(names)
    filled = [name for name in out if name]
    assert len(set(filled)) == len(filled)
    assert [bool(name) for name in out] == [bool(name) for name in names]
    assert all(len(name.encode()) <= 63 for name in out)


def test_duplicates_are_numbered_from_two() -> None:
    assert unique_names(["name", "name", "name"]) == ("name", "name_2", "name_3")


def test_the_header_need_be_neither_first_row_nor_first_column() -> None:
    rows = [["", "Report of today"], ["", ""], ["", "Amount", " HAWB "], ["", 1.0, "k1"]]
    out, rejects, writer = write(rows)
    assert out == [["4", "1", "k1"]]
    assert (rejects, writer.read) == ([], 1)


def test_a_header_is_looked_for_in_the_first_fifty_rows() -> None:
    assert header_of([[""]] * 49 + [["hawb"]]).row == 50
    assert Finder(is_key=named("hawb")).find([[""]] * 50 + [["hawb"]]) is None


def test_blank_rows_are_dropped_and_row_numbers_stay() -> None:
    out, rejects, writer = write(
        [["hawb", "amount", "x"], ["", "", ""], ["a", 1.0, ""], [" ", "\t", ""], ["b", "", ""]]
    )
    assert out == [["3", "a", "1"], ["5", "b", ""]]
    assert (rejects, writer.read) == ([], 2)


def test_a_row_without_key_and_a_cell_that_does_not_fit_are_rejected_with_place_and_reason() -> None:
    rows = [["hawb", "amount"], ["", 1.0], ["a", "much"], ["b", 2.0]]
    out, rejects, writer = write(rows, sheet="S")
    assert out == [["4", "b", "2"]]
    assert [(r.sheet, r.row, r.column, r.value, r.reason) for r in rejects] == [
        ("S", 2, "hawb", "", "no key"),
        ("S", 3, "amount", "much", "not a number"),
    ]
    assert (writer.read, writer.rejected) == (3, 2)


def test_a_row_with_a_value_only_outside_the_table_has_no_key() -> None:
    _, rejects, _ = write([["hawb", "amount", "remark"], ["", "", "total"]])
    assert rejects[0].reason == "no key"


def test_an_empty_cell_in_a_column_that_must_have_a_value_rejects_the_row() -> None:
    contract = RowContract(key="hawb", columns=(TEXT, Column(name="amount", type="numeric", nullable=False)))
    out, rejects, _ = write([["hawb", "amount"], ["a", ""], ["b", 0.0]], contract)
    assert out == [["3", "b", "0"]]
    assert rejects[0].reason.startswith("empty")


def test_a_rejected_value_is_cut() -> None:
    _, rejects, _ = write([["hawb", "amount"], ["a", "9" * 5000 + "x"]])
    assert rejects[0].value == "9" * 200


def test_unknown_columns_are_ignored_with_a_warning_added_or_refused() -> None:
    rows = [["hawb", "amount", "Colour!"], ["a", 1.0, "red"]]
    ignoring = lay_out(header_of(rows, "hawb"), RowContract(key="hawb", columns=(TEXT, AMOUNT)))
    assert ignoring.unknown == ("Colour!",)
    assert "Colour!" in ignoring.warnings[0]
    adding = RowContract(key="hawb", columns=(TEXT, AMOUNT), unknown_columns=UnknownColumns.ADD)
    assert [column.name for column in lay_out(header_of(rows, "hawb"), adding).new] == ["colour"]
    refusing = RowContract(key="hawb", columns=(TEXT, AMOUNT), unknown_columns=UnknownColumns.REFUSE)
    with pytest.raises(Reject, match="Colour!"):
        lay_out(header_of(rows, "hawb"), refusing)


def test_a_required_column_that_is_missing_rejects_the_file_by_name() -> None:
    must = Column(name="must", type="text", nullable=False)
    may = Column(name="may", type="text", nullable=False, has_default=True)
    with pytest.raises(Reject, match="'must'"):
        lay_out(header_of([["hawb"]], "hawb"), RowContract(key="hawb", columns=(TEXT, must, may)))
    layout = lay_out(
        header_of([["hawb", "must"]], "hawb"), RowContract(key="hawb", columns=(TEXT, must, may))
    )
    assert layout.missing == ("may",)


def test_columns_match_by_clean_name_and_keep_the_tables_own() -> None:
    contract = RowContract(
        key="AWB No", columns=(Column(name="AWB No", type="text"), Column(name="_ağırlık", type="real"))
    )
    layout = lay_out(header_of([["Ağırlık", "awb no."]], "AWB No"), contract)
    assert [(place, column.name) for place, column in layout.placed] == [(0, "_ağırlık"), (1, "AWB No")]


def names_by_place(layout: Layout) -> dict[int | None, str]:
    return {place: column.name for place, column in layout.placed}


def test_where_columns_of_the_table_share_a_clean_name_the_key_comes_first_and_exact_spelling_tells_others() -> (
    None
):
    columns = tuple(Column(name=name, type="text") for name in ("HAWB", "hawb", "Net", "NET", "note"))
    contract = RowContract(key="hawb", columns=columns)

    def layout(*header: str) -> Layout:
        return lay_out(header_of([header]), contract)

    assert names_by_place(layout("HAWB", "NET", "Note")) == {0: "hawb", 1: "NET", 2: "note"}
    assert names_by_place(layout("HAWB", "hawb", "NET", "Net")) == {0: "HAWB", 1: "hawb", 2: "NET", 3: "Net"}
    unclear = layout("Hawb", "net")
    assert names_by_place(unclear) == {0: "hawb"}
    assert unclear.unknown == ("net",)
    assert "more than one" in unclear.warnings[0]
    assert set(unclear.missing) == {"HAWB", "Net", "NET", "note"}
    adding = lay_out(header_of([["hawb", "net"]]), replace(contract, unknown_columns=UnknownColumns.ADD))
    assert adding.new == ()
    with pytest.raises(Reject, match=r"more than one.*'net'"):
        lay_out(header_of([["hawb", "net"]]), replace(contract, unknown_columns=UnknownColumns.REFUSE))


def test_rows_are_distinguished_by_the_keys_own_column_where_another_has_its_clean_name() -> None:
    columns = (Column(name="HAWB", type="text"), Column(name="hawb", type="text"))
    out, rejects, _ = write(
        [["HAWB", "hawb"], ["", " a "], ["x", ""]], RowContract(key="hawb", columns=columns)
    )
    assert out == [["2", "", "a"]]
    assert [(reject.row, reject.column, reject.reason) for reject in rejects] == [(3, "hawb", "no key")]


def test_a_column_that_the_loader_fills_is_not_taken_from_the_sheet() -> None:
    layout = lay_out(
        header_of([["hawb", "processed_at"]], "hawb"), RowContract(key="hawb", reserved=("processed_at",))
    )
    assert [column.name for column in layout.columns] == ["hawb"]
    assert "processed_at" in layout.warnings[0]


def test_a_missing_table_gets_types_from_all_rows_and_a_text_key() -> None:
    rows: list[Any] = (
        [["hawb", "n", "late", "none"]]
        + [[float(at), 1.0, 1.0, ""] for at in range(99)]
        + [[1.0, 2.0, "x", ""]]
    )
    layout = lay_out(header_of(rows, "hawb"), RowContract(key="hawb"))
    typed = with_types(layout, infer_types([(layout, [rows[1:50], rows[50:]])]))
    assert [(column.name, column.type) for column in typed.new] == [
        ("hawb", "text"), ("n", "numeric"), ("late", "text"), ("none", "text"),
    ]  # fmt: skip


def test_a_data_column_without_header_is_warned_of_once() -> None:
    _, _, writer = write([["hawb", "", "amount", ""], ["a", 5.0, 1.0, ""], ["b", 5.0, 1.0, ""]])
    assert len(writer.warnings) == 1


def test_more_rows_than_allowed_reject_the_file() -> None:
    contract = RowContract(key="hawb", columns=(TEXT,), max_rows=2)
    write([["hawb"], ["a"], [""], ["b"]], contract)
    with pytest.raises(Reject, match="more than 2 rows"):
        write([["hawb"], ["a"], ["b"], ["c"]], contract)


def test_another_sheet_may_have_its_columns_elsewhere_but_not_others() -> None:
    contract = RowContract(key="hawb", columns=(TEXT, AMOUNT))
    first = lay_out(header_of([["hawb", "amount"]], "hawb"), contract)
    turned = lay_out(header_of([["", "amount", "hawb"]], "hawb"), contract)
    aligned = align(first, turned)
    assert aligned is not None
    assert aligned.placed == ((2, TEXT), (1, AMOUNT))
    assert align(first, lay_out(header_of([["hawb"]], "hawb"), contract)) is None


def test_the_hash_is_of_the_content_not_of_its_place() -> None:
    base = write([["hawb", "amount"], ["a", 1.0], ["b", "x"]])[2].content_hash
    assert (
        write([[""], ["amount", "HAWB", "more"], ["1", " a", "y"], ["", "", ""], ["x", "b", ""]])[
            2
        ].content_hash
        != base
    )
    assert write([["Hawb", "Amount"], ["", ""], ["a", "1"], ["b", "x"]])[2].content_hash == base
    assert write([["hawb", "amount"], ["b", "x"], ["a", 1.0]])[2].content_hash == base
    assert write([["hawb", "amount"], ["a", 2.0], ["b", "x"]])[2].content_hash != base
    assert write([["hawb", "amount"], ["a", 1.0]])[2].content_hash != base


CELL = st.one_of(
    st.just(""),
    st.text(max_size=8),
    st.text(max_size=5, alphabet='",\n\r\\.\0ab'),
    st.floats(),
    st.booleans(),
)


@given(st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=30), st.integers(1, 7))
def test_every_row_is_written_rejected_or_blank_whatever_it_holds_and_however_it_is_cut(
    rows: list[list[Cell]], size: int
) -> None:
    contract = RowContract(
        key="k",
        columns=(
            Column(name="k", type="text"),
            Column(name="n", type="integer"),
            Column(name="t", type="text"),
        ),
    )
    layout = lay_out(header_of([["k", "n", "t"]], "k"), contract)
    whole = RowWriter(layout=layout, contract=contract)
    text, rejects = whole.batch("S", 2, rows)
    pieces = RowWriter(layout=layout, contract=contract)
    parts = [pieces.batch("S", 2 + at, rows[at : at + size]) for at in range(0, len(rows), size)]
    assert b"".join(part for part, _ in parts) == text
    assert [reject for _, some in parts for reject in some] == rejects
    assert pieces.content_hash == whole.content_hash
    written = list(csv.reader(io.StringIO(text.decode(errors="strict"), newline="")))
    assert whole.read == len(written) + len(rejects)
    assert whole.read == sum(not all(map(is_blank, row)) for row in rows)
    numbers = sorted([int(row[0]) for row in written] + [reject.row for reject in rejects])
    assert len(set(numbers)) == len(numbers)
    for row in written:
        cell = rows[int(row[0]) - 2][2]
        if isinstance(cell, str):
            kept = cell.replace("\0", "")
            assert row[3] == ("" if not kept or kept.isspace() else kept)
