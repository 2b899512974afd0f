"""The fast path of large .xlsx reads what calamine reads, or leaves it to calamine."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.errors import Reject
from mailferry.mailbox.workbook import shared_strings, sheet_stream
from mailferry.mailbox.workbook.hidden import HiddenCells
from mailferry.mailbox.workbook.office import OfficeBook
from mailferry.mailbox.workbook.plain_xml import Unknown
from mailferry.mailbox.workbook.shared_strings import SharedStrings
from mailferry.mailbox.workbook.values import Kind
from mailferry.testing.workbooks import Tab, column_letters, sheet_xml, xlsx

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from mailferry.mailbox.workbook.cells import Cell

DATA = Path(__file__).parent.parent / "data" / "workbooks"
SHARED = (
    '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>plain</t></si>'
    '<si><t xml:space="preserve"> spaces </t></si><si><t>a &lt;b&gt; &amp;amp; c</t></si><si><t/></si>'
    '<si><r><rPr><b/></rPr><t>in </t></r><r><t xml:space="preserve">runs </t></r></si>'.replace(
        "<t>in ", '<t xml:space="preserve">in '
    )
    + '<si><t>İzmir\n2</t><phoneticPr fontId="1" type="noConversion"/></si></sst>'
)
TEXTS = ["plain", " spaces ", "a <b> &amp; c", "", "in runs ", "İzmir\n2"]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[OfficeBook]:
    """A book whose sheets are streamed however small they are."""
    with path.open("rb") as file:
        yield OfficeBook(file, path, Kind.XLSX, HiddenCells(skip=False), least=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a workbook that each example writes."""
    return tmp_path_factory.mktemp("stream") / "book.xlsx"


def written(path: Path, rows: str, *, shared: str = SHARED, epoch_1904: bool = False) -> Path:
    return xlsx(path, Tab(xml=sheet_xml(rows)), shared=shared, epoch_1904=epoch_1904)


def row(number: int, *cells: str) -> str:
    """XML of a row; `{}` in a cell is its place."""
    filled = (cell.format(f"{column_letters(at)}{number}") for at, cell in enumerate(cells))
    return f'<row r="{number}" spans="1:9">{"".join(filled)}</row>'


def read(rows: Iterator[list[Cell]]) -> list[list[str]] | None:
    """Cells as Python shows them, without what is empty at the ends; None where reading fails."""
    found: list[list[str]] = []
    empty = 0
    try:
        for cells in rows:
            # There may be a million of them before one that is not.
            if cells.count("") == len(cells):
                empty += 1
                continue
            shown = list(map(repr, cells))
            while shown[-1] == "''":
                shown.pop()
            found += [[]] * empty
            found.append(shown)
            empty = 0
    except Exception:  # noqa: BLE001 - the two readers raise alike, in their own words
        return None
    return found


NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers(-(10**18), 10**18).map(str)
    | st.sampled_from(("1E5", "-0", ".5", "5.", "+7", "1e-7", "0.1000", "007"))
)
MOMENTS = (
    st.floats(61, 2_957_000).map(repr)
    | st.integers(61, 2_957_000).map(str)
    | st.floats(0, 0.9999999).map(repr)
    | st.builds(
        lambda day, part: repr(day + part / 172_800_000), st.integers(61, 60_000), st.integers(0, 172_799_999)
    )
)
ESCAPED = (
    st.text(st.sampled_from("aé <>&'\"ğ\n_x0"), min_size=1)
    .filter(lambda text: not re.search(r"_x[0a]{4}_", text))  # which calamine alone reads
    .map(lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
)
KNOWN = (
    st.just("")
    | st.just('<c r="{}" s="1"/>')
    | st.integers(0, 5).map(lambda index: f'<c r="{{}}" t="s"><v>{index}</v></c>')
    | st.integers(0, 5).map(lambda index: f'<c r="{{}}" s="2" t="s"><v>{index}</v></c>')
    | st.sampled_from((0, 1)).map(lambda value: f'<c r="{{}}" t="b" s="1"><v>{value}</v></c>')
    | NUMBERS.map(lambda number: f'<c r="{{}}"><v>{number}</v></c>')
    | NUMBERS.map(lambda number: f'<c r="{{}}" t="n" s="0"><f>SUM(A1:A9)</f><v>{number}</v></c>')
    | NUMBERS.map(lambda number: f'<c r="{{}}" s="99"><v>{number}</v></c>')
    | MOMENTS.map(lambda number: f'<c r="{{}}" s="1"><v>{number}</v></c>')
    | MOMENTS.map(lambda number: f'<c r="{{}}" s="2"><v>{number}</v></c>')
    | st.floats(0, 40_000).map(lambda number: f'<c r="{{}}" s="3"><v>{number!r}</v></c>')
    | ESCAPED.map(lambda text: f'<c r="{{}}" t="str"><f t="shared" si="0"/><v>{text}</v></c>')
    | ESCAPED.map(lambda text: f'<c r="{{}}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>')
)
#: Known or not; some of them make the file one that cannot be read.
ODD = tuple(
    f'<c r="{{}}"{rest}'
    for rest in (
        ' t="e"><v>#N/A</v></c>', "><f>A1</f></c>", "><v></v></c>", "><v> 5 </v></c>", "><v>1_0</v></c>", "><v>NaN</v></c>",
        ' s="1"><v>5</v></c>', ' s="1"><v>-5</v></c>', ' s="1"><v>2958466</v></c>', ' s="3"><v>-1.5</v></c>',
        ' t="d"><v>2024-01-31</v></c>', ' t="s"><v>99</v></c>', ' t="s"><v>x</v></c>', ' t="b"><v>true</v></c>', ' t="x"><v>1</v></c>',
        ' t="str"><v>a&#65;</v></c>', ' t="str"><v>_x0041_</v></c>', ' t="str"><v>a\r\nb</v></c>', ' t="str"><v></v></c>',
        ' t="inlineStr"><is><t> a </t></is></c>', ' t="inlineStr"><is><r><t>a</t></r></is></c>', ' t="inlineStr"><v>a</v></c>',
        ' t="str"><is><t>a</t></is></c>', ' cm="1"><v>5</v></c>', "><v>5</v><!-- --></c>", " ><v>5</v></c>", "><v>5</v></c>\n",
    )
)  # fmt: skip


@given(st.lists(st.lists(KNOWN, max_size=6), max_size=40), st.integers(0, 3), st.booleans())
def test_a_sheet_of_usual_forms_is_streamed_and_has_the_cells_that_calamine_has(
    path: Path, rows: Sequence[Sequence[str]], gap: int, epoch_1904: bool
) -> None:
    xml = "".join(row(1 + at * (gap + 1), *cells) for at, cells in enumerate(rows))
    with opened(written(path, xml, epoch_1904=epoch_1904)) as book:
        mine = read(book.rows("Sheet1"))
        assert mine is not None
        assert mine == read(book.recorded("Sheet1"))
        assert book.streams("Sheet1")


@given(st.lists(st.lists(KNOWN | st.sampled_from(ODD), min_size=1, max_size=4), min_size=1, max_size=8))
def test_a_sheet_with_any_form_has_the_cells_that_calamine_has(
    path: Path, rows: Sequence[Sequence[str]]
) -> None:
    xml = "".join(row(at, *cells) for at, cells in enumerate(rows, 1))
    with opened(written(path, xml)) as book:
        assert read(book.rows("Sheet1")) == read(book.recorded("Sheet1"))


@pytest.mark.parametrize("cell", ODD)
def test_a_form_that_is_not_usual_is_left_to_calamine(path: Path, cell: str) -> None:
    with opened(written(path, row(1, '<c r="{}"><v>1</v></c>') + row(2, cell))) as book:
        read(book.rows("Sheet1"))
        assert not book.streams("Sheet1")


@pytest.mark.parametrize(
    "rows",
    [
        '<row r="2"><c r="A2"><v>1</v></c></row><row r="1"><c r="A1"><v>1</v></c></row>',
        '<row r="2"><c r="A2"><v>1</v></c></row><row r="2"><c r="B2"><v>1</v></c></row>',
        '<row r="1"><c r="A2"><v>1</v></c></row>',
        '<row r="1"><c r="B1"><v>1</v></c><c r="A1"><v>1</v></c></row>',
        '<row r="1" hidden="1"><c r="A1"><v>1</v></c></row>',
        '<row r="1"><c><v>1</v></c></row>',
        '<row><c r="A1"><v>1</v></c></row>',
        '<row r="1048577"><c r="A1048577"><v>1</v></c></row>',
        '<row r="1"><c r="A1"><v>1</v></c></row><!-- <row r="2"/> -->',
        '<row r="1"><c r="SZZ1"><v>1</v></c></row>',
    ],
)
def test_rows_and_cells_out_of_order_hidden_or_without_a_place_are_left_to_calamine(
    path: Path, rows: str
) -> None:
    with opened(written(path, rows)) as book:
        assert read(book.rows("Sheet1")) == read(book.recorded("Sheet1"))
        assert not book.streams("Sheet1")


@pytest.mark.parametrize(
    "name", ["duration_30h", "errors", "mixed_column", "title_total", "two_headers", "two_sheets"]
)
def test_the_workbooks_of_the_tests_read_alike(name: str) -> None:
    with opened(DATA / f"{name}.xlsx") as book:
        for sheet in book.sheets:
            assert read(book.rows(sheet.name)) == read(book.recorded(sheet.name))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little of a sheet is looked at before its first row."""
    monkeypatch.setattr(sheet_stream, "PIECE", 512)
    monkeypatch.setattr(sheet_stream, "AHEAD", 1024)


@pytest.mark.usefixtures("looked_at")
def test_the_rows_from_the_first_that_is_not_usual_come_from_calamine(path: Path) -> None:
    xml = "".join(row(at, '<c r="{}"><v>1</v></c>', '<c r="{}" t="s"><v>0</v></c>') for at in range(1, 300))
    late = row(300, ODD[0]) + row(301, *['<c r="{}"><v>1</v></c>'] * 5)
    with opened(written(path, xml + late)) as book:
        rows = book.rows("Sheet1")
        first = next(rows)
        assert book.streams("Sheet1")
        assert read(iter([first, *rows])) == read(book.recorded("Sheet1"))
        assert not book.streams("Sheet1")


@pytest.mark.usefixtures("looked_at")
def test_a_cell_that_stands_behind_rows_that_were_handed_on_already_is_refused(path: Path) -> None:
    xml = "".join(row(at, '<c r="{}"><v>1</v></c>') for at in range(1, 300))
    with (
        opened(written(path, xml + row(7, '<c r="{}"><v>2</v></c>'))) as book,
        pytest.raises(Reject, match="row 7 stand in the file behind"),
    ):
        list(book.rows("Sheet1"))


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(str.strip), min_size=1), st.randoms()
)
def test_shared_texts_are_found_by_their_index_however_few_are_kept(
    texts: list[str], rng: random.Random
) -> None:
    escaped = [text.replace("&", "&amp;").replace("<", "&lt;").replace("_x", "_y") for text in texts]
    xml = f"<sst>{''.join(f'<si><t>{text}</t></si>' for text in escaped)}</sst>".encode()
    pieces = [xml[at : at + 7] for at in range(0, len(xml), 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_strings, "_READY", 3)
        strings = SharedStrings(pieces)
    indexes = rng.choices(range(len(texts)), k=3 * len(texts))
    assert strings.texts([b"%d" % at for at in indexes]) == [texts[at].replace("_x", "_y") for at in indexes]
    for index in (b"%d" % len(texts), b"-1", b"x", b""):
        with pytest.raises(Unknown):
            strings.texts([index])


def test_the_texts_of_the_table_are_those_that_it_shows() -> None:
    strings = SharedStrings([SHARED.encode()])
    assert strings.texts([b"%d" % at for at in range(len(TEXTS))]) == TEXTS
