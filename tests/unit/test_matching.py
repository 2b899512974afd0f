"""Which header means which declared column: compared loosely, ambiguous never, and a reason for each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailferry.config.columns import ColumnRule, Mark
from mailferry.config.spreadsheet import UnknownColumns
from mailferry.errors import Reject
from mailferry.mailbox.workbook.contract import Layout, RowContract, lay_out
from mailferry.mailbox.workbook.header import Finder, Header
from mailferry.mailbox.workbook.matching import Wildcard, fold, match_columns
from mailferry.mailbox.workbook.values import Column

TABLE = (
    Column(name="hawb", type="text", nullable=False),
    Column(name="weight_kg", type="numeric"),
    Column(name="eta", type="date"),
)
HAWB = ColumnRule(name="hawb", headers=("HAWB No", "House AWB*"))


def header(*names: str) -> Header:
    return Header(row=1, names=tuple(names), written=names)


def laid_out(*names: str, rules: tuple[ColumnRule, ...] = (HAWB,), **more: object) -> Layout:
    contract = RowContract(key="hawb", columns=TABLE, rules=rules, **more)  # type: ignore[arg-type]
    found = contract.finder.find([names])
    assert found
    return lay_out(found, contract)


def columns(*names: str, rules: tuple[ColumnRule, ...] = (HAWB,)) -> dict[str, str]:
    return {column: written for column, (written, _) in laid_out(*names, rules=rules).reasons.items()}


@pytest.mark.parametrize(
    "written",
    ["hawb", "HAWB", "H.A.W.B", "HAWB\nNo", "hawb-no.", "House AWB #", "HOUSE AWB", "House\u00a0AWB (no)"],
)
def test_case_accents_white_space_and_punctuation_do_not_count(written: str) -> None:
    assert columns(written, "x") == {"hawb": written}


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ağ\u0131rl\u0131k", "AGIRLIK"), ("VARIŞ", "var\u0131ş"), ("İstanbul", "istanbul"), ("ISI", "\u0131s\u0131"), ("Straße", "STRASSE"),
     ("Café", "Cafe\u0301"), ("\uff28\uff21\uff37\uff22", "hawb"), ("Łódź", "lodz")],
)  # fmt: skip
def test_letters_are_compared_without_their_marks(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@given(st.text(), st.sampled_from([" ", ".", "\n", "\u00a0", "-", "_", "\u0301"]))
@example("ŉ", " ")
@example("\u0345", ".")
def test_a_name_is_the_same_however_it_is_spaced_and_written(name: str, mark: str) -> None:
    form = fold(name)
    assert fold(form) == form
    if any(map(str.isalnum, form)):
        assert fold(mark.join(form)) == form
        assert fold(f"{mark}{name}{mark}") == form or not any(map(str.isalnum, name))


def test_the_tables_own_columns_need_no_declaration() -> None:
    assert columns("House AWB", "Weight (KG)", "E.T.A.") == {
        "hawb": "House AWB",
        "weight_kg": "Weight (KG)",
        "eta": "E.T.A.",
    }


def test_what_is_written_out_goes_before_a_wildcard() -> None:
    weight = ColumnRule(name="weight_kg", headers=("Weight*",))
    eta = ColumnRule(name="eta", headers=("Weight date",))
    assert columns("hawb", "Weight date", "Weight", rules=(weight, eta)) == {
        "hawb": "hawb",
        "eta": "Weight date",
        "weight_kg": "Weight",
    }
    found = laid_out("hawb", "weight_kg", "Weight note", rules=(weight,))
    assert found.reasons["weight_kg"] == ("weight_kg", "its own name")
    assert found.warnings == (
        "header 'Weight note' fits 'Weight*' of column 'weight_kg' as well, but 'weight_kg' is that column; it was ignored",
    )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ("hawb", "HAWB No"),
            "column 'hawb' has two headers, 'hawb' and 'HAWB No'; name the right one in its `headers`",
        ),
        (("hawb", "Weight a", "Weight b"), "column 'weight_kg' has two headers, 'Weight a' and 'Weight b'"),
        (("hawb", "Arrival"), "header 'Arrival' fits two columns, 'eta' ('Arr*') and 'weight_kg' ('*al')"),
    ],
)
def test_what_is_ambiguous_is_refused_with_what_was_found(names: tuple[str, ...], reason: str) -> None:
    rules = (
        HAWB,
        ColumnRule(name="eta", headers=("Arr*",)),
        ColumnRule(name="weight_kg", headers=("Weight*", "*al")),
    )
    with pytest.raises(Reject) as caught:
        laid_out(*names, rules=rules)
    assert reason in str(caught.value)


def test_a_required_column_that_is_missing_is_refused_with_what_comes_closest() -> None:
    rules = (HAWB, ColumnRule(name="weight_kg", headers=("Gross weight",), required=True))
    with pytest.raises(Reject) as caught:
        laid_out("hawb", "Gros wieght", "eta", rules=rules)
    assert str(caught.value) == (
        "required columns are missing: 'weight_kg'; the header has: 'hawb', 'Gros wieght', 'eta';"
        " for 'weight_kg' no header is 'weight_kg' or 'Gross weight'; 'Gros wieght' comes closest"
    )


def test_every_row_needs_a_value_of_a_required_column() -> None:
    found = laid_out("hawb", "weight_kg", rules=(ColumnRule(name="weight_kg", required=True),))
    assert {column.name: column.nullable for column in found.columns} == {"hawb": False, "weight_kg": False}


def test_a_column_that_is_filled_in_takes_no_header() -> None:
    found = laid_out("hawb", "ETA", rules=(ColumnRule(name="eta", value="{received}"),))
    assert [(place, column.name) for place, column in found.placed] == [(0, "hawb"), (None, "eta")]
    assert found.warnings == ("column 'ETA' is ignored: 'eta' is declared with a `value`",)


def test_declared_columns_are_made_under_their_names_and_with_their_types() -> None:
    rules = (
        HAWB,
        ColumnRule(name="eta", type="date"),
        ColumnRule(name="kg", headers=("Weight",), decimal=Mark.COMMA),
    )
    contract = RowContract(key="hawb", rules=rules)
    found = lay_out(header("House AWB", "ETA", "Weight", "note"), contract)
    assert [(column.name, column.type) for column in found.new] == [
        ("hawb", "text"), ("eta", "date"), ("kg", "numeric"), ("note", "")
    ]  # fmt: skip


def test_headers_that_are_not_declared_are_ignored_refused_or_added() -> None:
    assert laid_out("hawb", "note").unknown == ("note",)
    assert [column.name for column in laid_out("hawb", "note", unknown_columns=UnknownColumns.ADD).new] == [
        "note"
    ]
    with pytest.raises(Reject, match="columns that the table does not have: 'note'"):
        laid_out("hawb", "note", unknown_columns=UnknownColumns.REFUSE)


NAMES = st.text("abAB .-*İı", max_size=6)


@given(
    st.lists(NAMES, max_size=6),
    st.lists(st.lists(NAMES.filter(str.strip), max_size=3), min_size=1, max_size=4),
)
def test_no_two_headers_go_to_one_column_nor_one_header_to_two(
    written: list[str], headers: list[list[str]]
) -> None:
    rules = [ColumnRule(name=f"c{at}", headers=tuple(some)) for at, some in enumerate(headers)]
    try:
        matches, ignored = match_columns(header(*written), rules)
    except Reject:
        return
    taken = [match.rule.name for match in matches.values()]
    assert len(set(taken)) == len(taken)
    assert not matches.keys() & ignored.keys()
    for place, name in enumerate(written):
        means = [
            rule
            for rule in rules
            if name.strip()
            and (
                fold(name) == fold(rule.name)
                or any(
                    Wildcard(one).fits(name) if "*" in one else fold(one) == fold(name)
                    for one in rule.headers
                )
            )
        ]
        assert (place in matches or place in ignored) == bool(means)


# --- where the header stands


TWO_ROWS = [
    ["Shipments of March", "", "", ""],
    ["HAWB", "Weight", "", "ETA"],
    ["", "gross", "net", ""],
    ["1", "2", "3", "4"],
]


def test_two_header_rows_are_joined_and_a_name_in_the_upper_stands_over_those_to_its_right() -> None:
    contract = RowContract(key="hawb", columns=TABLE, rules=(HAWB,), header_rows=2)
    for found in (
        contract.finder.find(TWO_ROWS),
        Finder(is_key=contract.finder.is_key, row=2, height=2).find(TWO_ROWS),
    ):
        assert found
        assert (found.row, found.written) == (3, ("HAWB", "Weight gross", "Weight net", "ETA"))
        assert found.alternatives[2] == ("Weight net", "net")


def test_a_key_in_the_lower_row_or_over_both_is_found() -> None:
    contract = RowContract(key="hawb", rules=(HAWB,), header_rows=2)
    lower = contract.finder.find([["Report", ""], ["", "Weight"], ["HAWB", "gross"], ["1", "2"]])
    assert lower
    assert (lower.row, lower.written) == (3, ("HAWB", "Weight gross"))
    over = replace(contract, header_row=2).finder.find(
        [["Report", ""], ["HAWB", "Weight"], ["No", "gross"], ["1", "2"]]
    )
    assert over
    assert (over.row, over.alternatives[0]) == (3, ("HAWB No", "No"))


def test_the_header_stands_where_it_is_declared_or_nowhere() -> None:
    rows = [["hawb", "x"], ["hawb", "y"], ["1", "2"]]
    for row, names in ((1, ("hawb", "x")), (2, ("hawb", "y"))):
        found = RowContract(key="hawb", header_row=row).finder.find(rows)
        assert found
        assert found.written == names
    assert RowContract(key="hawb", header_row=3).finder.find(rows) is None
    far = [["x"]] * 99 + [["hawb"]]
    assert RowContract(key="hawb", header_row=100).finder.find(far)
    assert RowContract(key="hawb").finder.find(far) is None


def test_a_key_that_is_filled_in_leaves_the_other_columns_to_find_the_header_by() -> None:
    rules = (ColumnRule(name="hawb", value="{job}-{row}"), ColumnRule(name="eta", headers=("Arrival",)))
    found = RowContract(key="hawb", rules=rules).finder.find([["Report"], ["Arrival", "x"]])
    assert found
    assert found.row == 2
