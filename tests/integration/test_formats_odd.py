"""Files that are made oddly, through the reading child: the value that the author sees, or the reason why not."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest
from test_formats import read, reader, written

from mailferry.errors import Reject
from mailferry.testing.workbooks import Error, Tab, xlsx

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.mailbox.workbook.reader import Reader

__all__ = ["reader"]

#: Rows, rejected rows with the column of each, and what the warnings say.
Right = tuple[list[list[str]], list[tuple[int, str]], str]


def check(reader: Reader, path: Path, right: Right) -> None:
    rows, _, report, rejects = read(reader, path)
    assert (rows, [(one.row, one.column) for one in rejects]) == right[:2]
    assert right[2] in " ".join(report.warnings)
    assert bool(right[2]) == bool(report.warnings)


# --- delimited text

TEXTS: dict[str, tuple[str, Right]] = {
    "texts that were joined, each with its mark and its header": (
        "\ufeffhawb;n\n1;a\n\ufeffhawb;n\n2;b\n\ufeff3;c\n",
        ([["1", "a"], ["2", "b"], ["3", "c"]], [], "1 row repeats the header"),
    ),
    "texts that were joined, behind a broken record": (
        'hawb;n\n1;"a"b\n2;c\n\ufeff3;d\n',
        ([["2", "c"], ["3", "d"]], [(2, "hawb")], ""),
    ),
    "zeros that a formula keeps": (
        'hawb;n\n="0012";="a ""b"""\n2;=1\n',
        ([["0012", 'a "b"'], ["2", "=1"]], [], ""),
    ),
    "the end of file of old programs": ("hawb;n\r\n1;a\r\n2;b\r\n\x1a", ([["1", "a"], ["2", "b"]], [], "")),
    "a blank before a quotation mark": (
        'hawb;n;m;o\n1;2; "a;b"\n3;4; "c";\n5;;;\n6;;;\n',
        ([["3", "4", ' "c"', ""], ["5", "", "", ""], ["6", "", "", ""]], [(2, "hawb")], ""),
    ),
    "ends of lines of three kinds": (
        "hawb;n\r\n1;a\n2;b\r3;c",
        ([["1", "a"], ["2", "b"], ["3", "c"]], [], ""),
    ),
    "marks that end a line elsewhere": (
        "hawb;n\n" + "1;a\u2028b\x85c\x0cd\n" * 2 + "2;b\n" * 50,
        ([["1", "a\u2028b\x85c\x0cd"]] * 2 + [["2", "b"]] * 50, [], ""),
    ),
    "a quotation mark in most blocks": (
        "hawb;n\n" + '1;"x\ny"\n2;5" pipe\n' * 3 + "3;" + "z" * 70_000 + "\n" + '4;"q;r"\n5;s\n',
        ([["1", "x\ny"], ["2", '5" pipe']] * 3 + [["3", "z" * 70_000], ["4", "q;r"], ["5", "s"]], [], ""),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_made_oddly_is_read_as_it_is_meant(reader: Reader, tmp_path: Path, name: str) -> None:
    text, right = TEXTS[name]
    check(reader, written(tmp_path / "a.csv", text), right)


def test_a_row_that_repeats_the_header_is_no_data_in_any_format(reader: Reader, tmp_path: Path) -> None:
    header = ("HAWB ", "N")
    path = xlsx(tmp_path / "a.xlsx", Tab(name="S", rows=[header, ("1", 5), header, ("2", 6), ("HAWB ", 7)]))
    rows, sheet, report, _ = read(reader, path)
    assert rows == [["1", "5"], ["2", "6"], ["HAWB", "7"]]
    assert sheet.columns[1].type == "numeric"
    assert report.warnings == ("sheet 'S': 1 row repeats the header, which is no data",)


def test_an_error_that_another_program_made_up_rejects_its_row_alone(reader: Reader, tmp_path: Path) -> None:
    rows = [("HAWB", "N"), ("1", Error("#ERROR!")), ("2", 5), ("3", Error("#N/A"))]
    found, _, _, rejects = read(reader, xlsx(tmp_path / "a.xlsx", Tab(name="S", rows=rows)))
    assert found == [["2", "5"]]
    assert [(one.row, one.value) for one in rejects] == [(2, "#ERROR!"), (4, "#N/A")]


# --- web pages

_HEAD = "<tr><th>hawb<th>n<th>m</tr>"
PAGES: dict[str, tuple[str, Right]] = {
    "a cell over the rest of its group": (
        f"<table>{_HEAD}<tbody><tr><td>1<td rowspan=0>x<td>a<tr><td>2<td>b</tbody><tbody><tr><td>3<td>c<td>d</table>",
        ([["1", "x", "a"], ["2", "", "b"], ["3", "c", "d"]], [], ""),
    ),
    "a table in a cell": (
        f"<table>{_HEAD}<tr><td>1<td>a<table><tr><td>in<td>side<tr><td>x</table>z<td>b</table>",
        ([["1", "a\nin side\nxz", "b"]], [], ""),
    ),
    "a table that the page does not end": (
        f"<table>{_HEAD}<tr><td>1<td>a<td>b</tr>",
        ([["1", "a", "b"]], [], "table 1: the page ends within it"),
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_oddly_is_read_as_a_browser_shows_it(
    reader: Reader, tmp_path: Path, name: str
) -> None:
    page, right = PAGES[name]
    check(reader, written(tmp_path / "a.xls", page), right)


# --- XML of 2003

_SPACE = 'xmlns="urn:schemas-microsoft-com:office:spreadsheet" xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet"'


def xml(rows: str, more: str = "") -> str:
    header = "".join(cell(name) for name in ("hawb", "n", "m"))
    return (
        f'<?xml version="1.0"?><Workbook {_SPACE}><Worksheet ss:Name="S"><Table><Row>{header}</Row>'
        f"{rows}</Table></Worksheet>{more}</Workbook>"
    )


def cell(value: str, kind: str = "String", attributes: str = "", more: str = "") -> str:
    return f'<Cell{attributes}><Data ss:Type="{kind}">{value}</Data>{more}</Cell>'


_NOTE = '<Comment ss:Author="me"><ss:Data xmlns="http://www.w3.org/TR/REC-html40"><B>me:</B> check</ss:Data></Comment>'


def test_a_note_beside_a_cell_is_not_its_value(reader: Reader, tmp_path: Path) -> None:
    rows = f"<Row>{cell('1')}{cell('5', 'Number', more=_NOTE)}<Cell>{_NOTE}</Cell></Row>"
    check(reader, written(tmp_path / "a", xml(rows)), ([["1", "5", ""]], [], ""))


def test_a_cell_that_is_not_of_its_type_rejects_its_row_alone(reader: Reader, tmp_path: Path) -> None:
    rows = "".join(
        f"<Row>{cell(str(number))}{cell(value, kind)}</Row>"
        for number, (kind, value) in enumerate(
            (
                ("Number", "1,5"),
                ("Number", " 2 "),
                ("Number", ""),
                ("DateTime", "1900-02-30T00:00:00"),
                ("Boolean", "perhaps"),
            )
        )
    )
    right: Right = ([["1", "2", ""], ["2", "", ""]], [(2, "n"), (5, "n"), (6, "n")], "")
    check(reader, written(tmp_path / "a", xml(rows)), right)


@pytest.mark.parametrize(
    ("rows", "more", "reason"),
    [
        ("<Row>" + cell("a", attributes=' ss:Index="3"') + cell("1", attributes=' ss:Index="1"') + "</Row>", "", "order"),
        (f'<Row ss:Index="5">{cell("1")}</Row><Row ss:Index="3">{cell("2")}</Row>', "", "row 3 stands below row 5"),
        (f"<Row>{cell('1')}</Row>", f'<Worksheet ss:Name="S"><Table><Row>{cell("x")}</Row></Table></Worksheet>', "two"),
    ],
)  # fmt: skip
def test_places_that_contradict_each_other_are_refused(
    reader: Reader, tmp_path: Path, rows: str, more: str, reason: str
) -> None:
    with pytest.raises(Reject, match=reason):
        read(reader, written(tmp_path / "a", xml(rows, more)))


def test_a_page_that_ends_within_a_cell_was_cut_off(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(Reject, match="it was cut off"):
        read(reader, written(tmp_path / "a.xls", f"<table>{_HEAD}<tr><td>1<td>a<td>b</tr><tr><td>2<td>c"))


# --- OpenDocument


def ods(*cells: str) -> bytes:
    """A sheet of the header and one row."""
    spaces = " ".join(
        f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for short, name in (("office", "office"), ("table", "table"), ("text", "text"), ("draw", "drawing"))
    )
    rows = "".join(
        f"<table:table-row>{''.join(row)}</table:table-row>" for row in (map(text, ("hawb", "n", "m")), cells)
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "content.xml",
            f'<office:document-content {spaces}><office:body><office:spreadsheet><table:table table:name="S">{rows}'
            "</table:table></office:spreadsheet></office:body></office:document-content>",
        )
    return content.getvalue()


def text(content: str) -> str:
    return f'<table:table-cell office:value-type="string"><text:p>{content}</text:p></table:table-cell>'


def date(value: str) -> str:
    return f'<table:table-cell office:value-type="date" office:date-value="{value}"/>'


_BOX = "<draw:frame><draw:text-box><text:p>box</text:p></draw:text-box></draw:frame>"
_READING = (
    "<text:ruby><text:ruby-base>東京</text:ruby-base><text:ruby-text>とうきょう</text:ruby-text></text:ruby>"
)
SHEETS: dict[str, tuple[tuple[str, ...], Right]] = {
    "white space": (
        (text("1"), text(" a\n  b "), text('c<text:s text:c="2"/>d<text:tab/><text:line-break/>e')),
        ([["1", "a b", "c  d\t\ne"]], [], ""),
    ),
    "readings and drawings": (
        (text("1"), text(_READING), f"<table:table-cell>{_BOX}</table:table-cell>"),
        ([["1", "東京", ""]], [], ""),
    ),
    "a date that is none": ((text("1"), date("2026-01-31"), date("2026-02-30")), ([], [(2, "m")], "")),
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet_of_opendocument_is_read_as_its_program_shows_it(
    reader: Reader, tmp_path: Path, name: str
) -> None:
    cells, right = SHEETS[name]
    check(reader, written(tmp_path / "a.ods", ods(*cells)), right)
