"""Every format that senders use, through the reading child: the value that its author sees, or the reason why not."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msoffcrypto.method.rc4 import DocumentRC4
from msoffcrypto.method.rc4_cryptoapi import DocumentRC4CryptoAPI
from msoffcrypto.method.xor_obfuscation import DocumentXOR
from support_workbooks import ods, protected, recoded, xls, xlsb

from mailferry.config.columns import Hidden
from mailferry.config.spreadsheet import ErrorCells, Limits
from mailferry.errors import Reject
from mailferry.mailbox.workbook.archive import entries, open_zip, unpacked
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.formats import PlainZip, kind_of
from mailferry.mailbox.workbook.passwords import DEFAULT
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Column, Kind
from mailferry.testing.workbooks import Error, Tab, sheet_xml, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.mailbox.workbook.reader import Report, Sheet
    from mailferry.mailbox.workbook.values import RejectedRow

DATA = Path(__file__).parent.parent / "data" / "workbooks"
HAWB = RowContract(key="hawb")


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def read(
    reader: Reader, path: Path, contract: RowContract = HAWB
) -> tuple[list[list[str]], Sheet, Report, list[RejectedRow]]:
    """Rows without their numbers, the sheet, the report and the rejects of a file."""
    with reader.open(path, kind_of(path), contract) as sheet:
        text = b"".join(sheet.chunks).decode()
        rows = [row[1:] for row in csv.reader(io.StringIO(text, newline=""))]
        return rows, sheet, sheet.report, list(sheet.rejects())


def written(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


# --- what senders sent


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("html.xls", Kind.HTML, [["X1"]]),
        ("xml2003.xls", Kind.XML, [["X2"]]),
        ("utf16.txt", Kind.CSV, [["C1", "Gümrükte Şube", "3"]]),
        ("velvetsweatshop.xlsx", Kind.PROTECTED, [["V1", "x"]]),
        ("pretty_printed.ods", Kind.ODS, [["A1", "30:00:00"], ["A2", "07:30:00"]]),
        ("duration_30h.ods", Kind.ODS, [["A1", "30:00:00"], ["A2", "07:30:00"]]),
        ("duration_30h.xlsx", Kind.XLSX, [["A1", "30:00:00"], ["A2", "07:30:00"]]),
        ("title_total.xlsx", Kind.XLSX, None),
        (
            "codepage_1252.xls",
            Kind.XLS,
            [
                ["A1", "İŞÇİ ÇAĞRI ığüşöç", "İstanbul"],
                ["A2", "Łódź €", "plain ascii"],
                ["A3", "Привет", "naïve"],
            ],
        ),
    ],
)
def test_a_file_that_a_sender_sent_is_read_as_its_author_sees_it(
    reader: Reader, name: str, kind: Kind, rows: list[list[str]] | None
) -> None:
    assert kind_of(DATA / name) is kind
    found, sheet, report, _ = read(reader, DATA / name)
    assert rows is None or found == rows
    assert report.rejected == 0
    if name == "codepage_1252.xls":
        assert [column.name for column in sheet.columns] == ["hawb", "musteri", "sehir"]


def test_a_duration_has_one_type_in_both_formats(reader: Reader) -> None:
    types = {
        name: read(reader, DATA / name)[1].columns[1].type
        for name in ("duration_30h.ods", "duration_30h.xlsx")
    }
    assert types == {"duration_30h.ods": "interval", "duration_30h.xlsx": "interval"}


def test_delimited_text_in_an_archive_is_found(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(PlainZip):
        kind_of(DATA / "csv.zip")
    with open_zip(DATA / "csv.zip", Limits()) as archive:
        (entry,) = entries(archive, 1_000_000)
        content = b"".join(unpacked(archive, entry.number, 1_000_000))
    assert entry.name == "rapor.csv"
    rows, _, _, _ = read(reader, written(tmp_path / "rapor", content))
    assert rows == [["C1", "Gümrükte Şube", "3"]]


def test_a_zip_that_only_calls_itself_a_workbook_is_none() -> None:
    with pytest.raises(Reject, match="lost its parts"):
        kind_of(DATA / "without_workbook.xlsx")
    with pytest.raises(PlainZip):
        kind_of(DATA / "zip_named.xlsx")


# --- never silently


def test_rows_with_an_error_or_an_uncalculated_formula_are_rejected_with_that_reason(reader: Reader) -> None:
    columns = tuple(
        Column(name=name, type=kind)
        for name, kind in (
            ("hawb", "text"), ("pieces", "bigint"), ("status", "text"), ("eta", "date"), ("weight", "numeric"),
        )
    )  # fmt: skip
    contract = RowContract(key="hawb", columns=columns)
    rows, _, report, rejects = read(reader, DATA / "errors.xlsx", contract)
    found = {(reject.row, reject.column, reject.value, reject.reason.partition(";")[0]) for reject in rejects}
    uncalculated = "a formula without a stored value"
    assert found == {
        (2, "pieces", "#N/A", "an error (#N/A), not a value"),
        (3, "status", "#REF!", "an error (#REF!), not a value"),
        (4, "eta", "#VALUE!", "an error (#VALUE!), not a value"),
        (5, "weight", "", uncalculated),
        (6, "status", "", uncalculated),
        (7, "pieces", "#DIV/0!", "an error (#DIV/0!), not a value"),
        (8, "pieces", "", uncalculated),
        (9, "hawb", "#N/A", "an error (#N/A), not a value"),
    }
    assert rows == []
    assert report.read == 8
    rows, _, report, rejects = read(
        reader, DATA / "errors.xlsx", RowContract(key="hawb", columns=columns, errors=ErrorCells.NULL)
    )
    assert len(rows) == 7
    assert [(reject.row, reject.reason) for reject in rejects] == [(9, "no key")]
    assert rows[0] == ["E0", "", "DEP", "2026-03-01", "1.5"]


def test_an_error_in_a_column_that_is_not_loaded_rejects_nothing(reader: Reader) -> None:
    contract = RowContract(key="hawb", columns=(Column(name="hawb", type="text"),))
    rows, _, _, rejects = read(reader, DATA / "errors.xlsx", contract)
    assert len(rows) == 7
    assert [reject.row for reject in rejects] == [9]  # where the key shows one


def test_rows_of_nothing_but_uncalculated_formulas_are_not_lost(reader: Reader, tmp_path: Path) -> None:
    cells = (
        '<row r="1"><c r="A1" t="str"><v>hawb</v></c></row><row r="2"><c r="A2" t="str"><f>B1</f><v>K1</v></c></row>'
        '<row r="4"><c r="A4"><f>1+1</f></c></row><row r="5"><c r="A5"><f>2+2</f><v/></c></row>'
        '<row r="6"><c r="A6" t="str"><f>""</f><v></v></c></row>'
    )
    rows, _, report, rejects = read(reader, xlsx(tmp_path / "a.xlsx", Tab(xml=sheet_xml(cells))))
    assert rows == [["K1"]]
    assert [reject.row for reject in rejects] == [4, 5]
    assert report.read == 3


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("two_sheets.xlsx", "not loaded, although the key 'hawb' is in a header there: 'Subat'"),
        (
            "mixed_column.xlsx",
            "column 'pieces' is made as text, for it holds 2 numbers and 1 texts, the first '7 '",
        ),
        ("two_headers.xlsx", "row 2 looks like a second header row (Pieces, Weight)"),
        ("title_total.xlsx", "row 6, key 'TOPLAM', looks like a line of totals and was loaded"),
    ],
)
def test_what_a_person_should_know_of_a_file_is_a_warning(reader: Reader, name: str, warning: str) -> None:
    _, _, report, _ = read(reader, DATA / name)
    assert [said for said in report.warnings if warning in said]


def test_an_orderly_file_has_no_warning(reader: Reader, tmp_path: Path) -> None:
    rows = [["HAWB", "Pieces"], ["K1", 3], ["K2", 4]]
    for path in (
        xlsx(tmp_path / "a.xlsx", Tab(rows=rows)),
        ods(tmp_path / "a.ods", Tab(rows=rows)),
        xls(tmp_path / "a.xls", Tab(rows=rows)),
        written(tmp_path / "a.csv", "HAWB;Pieces\nK1;3\nK2;4\n"),
    ):
        assert read(reader, path)[2].warnings == ()


def xml2003(path: Path, tab: Tab) -> Path:
    """Write an XML spreadsheet of a sheet of texts."""
    space = "urn:schemas-microsoft-com:office:spreadsheet"
    columns = "".join(f'<Column ss:Index="{at + 1}" ss:Hidden="1"/>' for at in sorted(tab.hidden_columns))
    rows = "".join(
        f'<Row ss:Index="{number}" ss:Hidden="{int(number in tab.hidden)}">'
        + "".join(
            f'<Cell ss:Index="{at}"><Data ss:Type="String">{text}</Data></Cell>'
            for at, text in enumerate(row, 1)
            if text is not None
        )
        + "</Row>"
        for number, row in enumerate(tab.rows, 1)
        if row
    )
    return written(
        path,
        f'<?xml version="1.0"?><Workbook xmlns="{space}" xmlns:ss="{space}"><Worksheet ss:Name="Sheet1">'
        f"<Table>{columns}{rows}</Table></Worksheet></Workbook>",
    )


#: Rows and a column without cells come first, so a place that was counted from the first cell would be wrong.
HIDING = Tab(
    rows=[
        [],
        [],
        [None, "HAWB", "Agent", "Cost", "Pieces"],
        *([None, f"K{at}", "a", "x", f"p{at}"] for at in range(1, 4)),
        [None, None, None, "x"],
    ],
    hidden=frozenset({4, 6}),
    hidden_columns=frozenset({2, 3, 9}),
)
WRITERS = pytest.mark.parametrize("write", [xlsx, ods, xls, xlsb, xml2003])


@WRITERS
def test_hidden_rows_and_columns_are_loaded_and_said(
    reader: Reader, tmp_path: Path, write: Callable[[Path, Tab], Path]
) -> None:
    rows, _, report, _ = read(reader, write(tmp_path / "a", HIDING))
    assert rows[:3] == [["K1", "a", "x", "p1"], ["K2", "a", "x", "p2"], ["K3", "a", "x", "p3"]]
    assert report.rejected == 1
    assert report.warnings == (
        "sheet 'Sheet1': 2 rows are hidden (by a filter, or by hand) and loaded all the same",
        "sheet 'Sheet1': columns C to D are hidden and read all the same",
    )


@WRITERS
def test_hidden_rows_and_columns_are_left_out_where_the_feed_says_so(
    reader: Reader, tmp_path: Path, write: Callable[[Path, Tab], Path]
) -> None:
    contract = RowContract(key="hawb", hidden=Hidden.SKIP)
    path = write(tmp_path / "a", HIDING)
    with reader.open(path, kind_of(path), contract) as sheet:
        text = b"".join(sheet.chunks).decode()
    assert [column.name for column in sheet.columns] == ["hawb", "pieces"]
    # The row has the number that it has in the sheet; what only hidden columns hold makes no row.
    assert (text, sheet.report.read, sheet.report.rejected) == ("5,K2,p2\n", 1, 0)
    assert sheet.report.warnings == (
        "sheet 'Sheet1': 2 rows are hidden (by a filter, or by hand) and left out",
        "sheet 'Sheet1': columns C to D are hidden and left out",
    )


@pytest.mark.parametrize("write", [xlsx, xlsb])
def test_errors_in_hidden_cells_reject_nothing_where_those_are_left_out(
    reader: Reader, tmp_path: Path, write: Callable[[Path, Tab], Path]
) -> None:
    tab = Tab(
        rows=[
            [None, "HAWB", "Sum", "Pieces"],
            [None, "K1", "x", Error()],
            [None, "K2", Error(), "y"],
            [None, "K3", "x", Error()],
        ],
        hidden=frozenset({2}),
        hidden_columns=frozenset({2}),
    )
    contract = RowContract(key="hawb", hidden=Hidden.SKIP)
    rows, _, _, rejects = read(reader, write(tmp_path / "a", tab), contract)
    assert rows == [["K2", "y"]]
    assert [(one.row, one.column) for one in rejects] == [(4, "pieces")]


@pytest.mark.parametrize("prefix", ["", "x:"])
def test_a_hidden_row_without_a_number_is_never_loaded_where_it_is_to_be_left_out(
    reader: Reader, tmp_path: Path, prefix: str
) -> None:
    row = '<row {}><c t="str"><v>{}</v></c></row>'
    xml = sheet_xml(row.format("", "hawb") + row.format("hidden='true'", "K1") + row.format("", "K2"))
    if prefix:
        xml = re.sub(r"<(/?)(?=[a-z])", rf"<\1{prefix}", xml).replace(" xmlns=", " xmlns:x=")
    path = xlsx(tmp_path / "a.xlsx", Tab(xml=xml))
    rows, _, report, _ = read(reader, path)
    assert rows == [["K1"], ["K2"]]
    assert report.warnings == ("sheet 'Sheet1': something in it is hidden and read all the same",)
    with pytest.raises(Reject, match="something is hidden, but not at a place that is known"):
        read(reader, path, RowContract(key="hawb", hidden=Hidden.SKIP))


def test_a_web_page_leaves_out_hidden_rows_and_is_refused_for_other_hidden_cells(
    reader: Reader, tmp_path: Path
) -> None:
    skip = RowContract(key="hawb", hidden=Hidden.SKIP)
    page = (
        "<html><table><tr><td>HAWB</td></tr><tr style='height:0; Display: none'><td>K1</td></tr>"
        "<tr><td{}>K2</td></tr><tr style='display:none'><td></td></tr></table></html>"
    )
    rows, _, report, _ = read(reader, written(tmp_path / "a.xls", page.format("")), skip)
    assert rows == [["K2"]]
    assert report.warnings == ("sheet 'table 1': 1 row is hidden (by a filter, or by hand) and left out",)
    path = written(tmp_path / "b.xls", page.format(" hidden"))
    assert read(reader, path)[0] == [["K1"], ["K2"]]
    with pytest.raises(Reject, match="set hidden = load"):
        read(reader, path, skip)


def test_a_hidden_header_is_not_found_and_the_reason_names_the_setting(
    reader: Reader, tmp_path: Path
) -> None:
    path = xlsx(tmp_path / "a.xlsx", Tab(rows=[["HAWB"], ["K1"]], hidden=frozenset({1})))
    with pytest.raises(Reject, match="hidden = skip"):
        read(reader, path, RowContract(key="hawb", hidden=Hidden.SKIP))


@pytest.mark.parametrize("write", [xlsx, xlsb])
def test_an_error_is_in_its_own_column_where_the_first_columns_are_empty(
    reader: Reader, tmp_path: Path, write: Callable[[Path, Tab], Path]
) -> None:
    tab = Tab(rows=[[], [None, None, "HAWB", "Pieces", "Agent"], [None, None, "K1", Error(), "a"]])
    rows, _, _, rejects = read(reader, write(tmp_path / "a", tab))
    assert rows == []
    assert [(one.row, one.column, one.value) for one in rejects] == [(3, "pieces", "#N/A")]


def test_an_error_in_an_xlsb_rejects_its_row_with_that_reason(reader: Reader, tmp_path: Path) -> None:
    path = xlsb(tmp_path / "a", Tab(rows=[["HAWB", "Pieces"], ["K1", 2.5], ["K2", Error()], ["K3", 4]]))
    rows, _, _, rejects = read(reader, path)
    assert rows == [["K1", "2.5"], ["K3", "4"]]
    assert [(one.row, one.column, one.value, one.reason) for one in rejects] == [
        (3, "pieces", "#N/A", "an error (#N/A), not a value")
    ]


# --- packages that are odd


@pytest.mark.parametrize("part", ["sheet1.xml", "workbook.xml", "styles", "rels", "sharedStrings", ".xml"])
def test_parts_in_utf_16_are_read(reader: Reader, tmp_path: Path, part: str) -> None:
    shared = (
        '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>HAWB</t></si>'
        "<si><t>İŞÇİ</t></si></sst>"
    )
    cells = '<row r="1"><c r="A1" t="s"><v>0</v></c></row><row r="2"><c r="A2" t="s"><v>1</v></c></row>'
    plain = xlsx(tmp_path / "a.xlsx", Tab(name="Şube", xml=sheet_xml(cells)), shared=shared)
    odd = recoded(
        plain,
        tmp_path / "b.xlsx",
        lambda name, content: (
            content.decode().replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16")
            if part in name
            else content
        ),
    )
    assert read(reader, odd)[0] == [["İŞÇİ"]]


def test_a_module_sheet_without_a_part_does_not_matter(reader: Reader, tmp_path: Path) -> None:
    plain = xlsx(tmp_path / "a.xlsx", Tab(rows=[["HAWB"], ["K1"]]))
    module = b'<sheet name="Module1" sheetId="9" state="veryHidden" r:id=""/></sheets>'
    odd = recoded(
        plain,
        tmp_path / "b.xlsx",
        lambda name, content: content.replace(b"</sheets>", module) if name == "xl/workbook.xml" else content,
    )
    assert read(reader, odd)[0] == [["K1"]]


@pytest.mark.parametrize("codepage", [1200, 1252, 1254, 0x8000, 10000, 10081])
def test_text_of_an_xls_is_unicode_whatever_its_codepage_says(
    reader: Reader, tmp_path: Path, codepage: int
) -> None:
    path = xls(tmp_path / "a.xls", Tab(rows=[["HAWB", "Müşteri"], ["İŞÇİ", "ığüşöç"]]), codepage=codepage)
    rows, sheet, _, _ = read(reader, path)
    assert rows == [["İŞÇİ", "ığüşöç"]]
    assert [column.name for column in sheet.columns] == ["hawb", "musteri"]


def test_the_text_of_a_formula_in_an_xls_is_whole(reader: Reader, tmp_path: Path) -> None:
    long = "İ" * 20_000
    path = xls(tmp_path / "a.xls", Tab(rows=[["HAWB", "Text"], ["K1", long]]), formulas=True)
    assert read(reader, path)[0] == [["K1", long]]


def test_a_macro_sheet_in_an_xls_does_not_matter(reader: Reader, tmp_path: Path) -> None:
    path = xls(tmp_path / "a.xls", Tab(rows=[["HAWB"], ["K1"]]), macro_sheet=True)
    assert read(reader, path)[0] == [["K1"]]


@pytest.mark.parametrize(
    ("header", "method"),
    [
        (b"\0\0\x11\x22\x33\x44", "XOR"),
        (b"\1\0\1\0\1\0" + b"\0" * 48, r"\(RC4\)"),
        (b"\1\0\2\0\2\0" + b"\0" * 48, "CryptoAPI"),
    ],
)
def test_the_encryption_of_an_xls_is_refused_by_name(
    reader: Reader, tmp_path: Path, header: bytes, method: str
) -> None:
    path = xls(tmp_path / "a.xls", Tab(rows=[["HAWB"], ["K1"]]), protection=header)
    with pytest.raises(Reject, match=f"protected by a password.*{method}.*have it sent without"):
        read(reader, path)


def _xor(stream: bytes) -> bytes:
    """As [MS-OFFCRYPTO] 2.3.7.3 says it, byte by byte, of all but BOF, FilePass and a sheet's place."""
    masks = DocumentXOR.create_xor_array_method1(DEFAULT)
    hidden = bytearray(stream)
    for at, number, size in _records_of(stream):
        kept = size if number in (0x809, 0x2F) else 4 if number == 0x85 else 0
        for place in range(at + 4 + kept, min(at + 4 + size, len(stream))):
            byte = hidden[place]
            hidden[place] = ((byte << 5 | byte >> 3) & 0xFF) ^ masks[(place + size) % 16]
    return bytes(hidden)


def _rc4(decrypt: Callable[[io.BytesIO], io.BytesIO]) -> Callable[[bytes], bytes]:
    """The stream under a cipher that hides as it shows, but for what stays in the clear."""

    def hide(stream: bytes) -> bytes:
        hidden = bytearray(decrypt(io.BytesIO(stream)).getvalue())
        for at, number, size in _records_of(stream):
            kept = 4 + (size if number in (0x809, 0x2F) else 4 if number == 0x85 else 0)
            hidden[at : at + kept] = stream[at : at + kept]
        return bytes(hidden)

    return hide


def _records_of(stream: bytes) -> Iterator[tuple[int, int, int]]:
    at = 0
    while at + 4 <= len(stream):
        number, size = struct.unpack_from("<HH", stream, at)
        yield at, number, size
        at += 4 + size


_SALT, _VERIFIER = bytes(range(16)), bytes(range(16, 32))


def _verified(decrypt: Callable[[io.BytesIO], io.BytesIO], digest: Callable[[bytes], hashlib._Hash]) -> bytes:
    return decrypt(io.BytesIO(_VERIFIER + digest(_VERIFIER).digest())).getvalue()


def _plain_rc4(content: io.BytesIO) -> io.BytesIO:
    return io.BytesIO(DocumentRC4.decrypt(DEFAULT, _SALT, content, blocksize=1024).getvalue())


def _crypto_api(content: io.BytesIO) -> io.BytesIO:
    return io.BytesIO(DocumentRC4CryptoAPI.decrypt(DEFAULT, _SALT, 128, content, blocksize=1024).getvalue())


_API_HEADER = struct.pack("<8I", 4, 0, 0x6801, 0x8004, 128, 1, 0, 0) + "x\0".encode("utf-16-le")


@pytest.mark.parametrize(
    ("protection", "hide"),
    [
        (b"\0\0" + struct.pack("<HH", DocumentXOR.create_xor_key_method1(DEFAULT), 0x9A0A), _xor),
        (b"\1\0\1\0\1\0" + _SALT + _verified(_plain_rc4, hashlib.md5), _rc4(_plain_rc4)),
        (
            b"\1\0\2\0\2\0" + struct.pack("<II", 4, len(_API_HEADER)) + _API_HEADER + struct.pack("<I", 16)
            + _SALT + _verified(_crypto_api, hashlib.sha1)[:16] + struct.pack("<I", 20)
            + _verified(_crypto_api, hashlib.sha1)[16:],
            _rc4(_crypto_api),
        ),
    ],
    ids=["XOR", "RC4", "CryptoAPI"],
)  # fmt: skip
def test_an_xls_under_the_programs_own_password_is_read(
    reader: Reader, tmp_path: Path, protection: bytes, hide: Callable[[bytes], bytes]
) -> None:
    table = Tab(rows=[["HAWB", "Müşteri"], *([f"K{n}", f"İŞÇİ {n}"] for n in range(500))])
    path = xls(tmp_path / "a.xls", table, protection=protection, encrypted=hide)
    assert read(reader, path)[0] == [list(row) for row in table.rows][1:]


# --- passwords


def test_a_password_of_the_feed_opens_a_workbook_and_none_is_a_reason(reader: Reader, tmp_path: Path) -> None:
    path = protected(tmp_path / "a.xlsx", "gizli-parola", Tab(rows=[["HAWB"], ["K1"]]))
    with pytest.raises(
        Reject, match="protected by a password; have it sent without, or write the password into"
    ):
        read(reader, path)
    with pytest.raises(Reject, match="none in the feed's passwords_file opens it"):
        read(reader, path, RowContract(key="hawb", passwords=("other",)))
    assert read(reader, path, RowContract(key="hawb", passwords=("other", "gizli-parola")))[0] == [["K1"]]


# --- delimited text


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1254"])
def test_delimited_text_is_read_whatever_its_delimiter_and_encoding(
    reader: Reader, tmp_path: Path, delimiter: str, encoding: str
) -> None:
    fields = [
        ["Report"],
        [],
        ["Müşteri", "HAWB", "Note"],
        ["Çağrî", "K1", 'say ""hi""'],
        ["", "K2", f"a{delimiter}b\r\nc"],
    ]
    text = "".join(delimiter.join(f'"{field}"' for field in row) + "\r\n" for row in fields)
    rows, sheet, report, _ = read(reader, written(tmp_path / "a.xls", text, encoding))
    assert [column.name for column in sheet.columns] == ["musteri", "hawb", "note"]
    assert rows == [["Çağrî", "K1", 'say "hi"'], ["", "K2", f"a{delimiter}b\r\nc"]]
    assert report.warnings == ()


def test_a_line_that_names_the_delimiter_is_obeyed(reader: Reader, tmp_path: Path) -> None:
    assert read(reader, written(tmp_path / "a", "sep=;\r\nHAWB;N\r\nK1;1,5\r\n"))[0] == [["K1", "1,5"]]


def test_a_record_that_is_broken_is_rejected_and_the_others_load(reader: Reader, tmp_path: Path) -> None:
    text = 'HAWB;N\nK1;1\nK2;2;displaced\nK3;"a"b\nK4;4\nK5\n' + "K6;6\n" * 9
    rows, _, report, rejects = read(reader, written(tmp_path / "a", text))
    assert rows[:4] == [["K1", "1"], ["K4", "4"], ["K5", ""], ["K6", "6"]]
    assert [one.row for one in rejects] == [3, 4]
    assert rejects[0].reason.startswith("more fields than the header has")
    assert rejects[1].reason.startswith("line 4: a quotation mark within a field is not doubled")
    assert report.warnings == ("1 rows have fewer fields than the header; those missing count as empty",)


def test_a_broken_record_is_found_behind_records_of_several_lines(reader: Reader, tmp_path: Path) -> None:
    text = "HAWB;N\n" + 'K1;"1\r\n2\r3"\n' * 300 + '\nK3;"a"b\nK4;4\n' + 'K5;"5\n5"\n' * 300
    rows, _, _, rejects = read(reader, written(tmp_path / "a", text))
    assert [(one.row, one.reason[:9]) for one in rejects] == [(303, "line 903:")]
    assert len(rows) == 601


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'HAWB;N\nK1;"open\nK2;2\n', "quotation mark in line 2 is never closed"),
        ("HAWB;N\nK1;Çağrî\n".encode() + b"K2;\xff\n", "UTF-8 but for a byte about position 22"),
        (b"\xef\xbb\xbfHAWB;N\nK1;\xe7\n", "says that it is UTF-8 and is not"),
        (b"HAWB;N\nK1;\x8f\n", "not cp1254: byte 0x8f"),
    ],
)
def test_text_that_would_be_read_wrong_is_refused(
    reader: Reader, tmp_path: Path, content: bytes, reason: str
) -> None:
    with pytest.raises(Reject, match=reason):
        read(reader, written(tmp_path / "a", content))


def test_the_feeds_charset_counts_where_text_is_not_utf_8(reader: Reader, tmp_path: Path) -> None:
    path = written(tmp_path / "a", "HAWB;N\nK1;Łódź\n", "cp1250")
    assert read(reader, path, RowContract(key="hawb", charset="cp1250"))[0] == [["K1", "Łódź"]]


# --- web pages and XML of 2003


def test_cells_of_a_web_page_stand_where_a_browser_shows_them(reader: Reader, tmp_path: Path) -> None:
    page = (
        "<html><head><meta charset=windows-1254><style>td{}</style></head><body><table><tr><td>layout<table>"
        "<tr><th>HAWB<th>From<th>To<th>N</tr>"
        "<tr><td>K1<td rowspan=2>İzmir<td colspan=2>a&amp;b<br>c&nbsp;</tr><tr><td>K2<td>x<td x:num='12.5'>12,50</table>"
        "</table></body></html>"
    )
    rows, sheet, _, _ = read(reader, written(tmp_path / "a.xls", page, "cp1254"))
    assert sheet.sheets == ("table 2",)
    assert rows == [["K1", "İzmir", "a&b\nc", ""], ["K2", "", "x", "12.5"]]


def test_an_xml_spreadsheet_keeps_types_places_and_hidden_sheets(reader: Reader, tmp_path: Path) -> None:
    space = "urn:schemas-microsoft-com:office:spreadsheet"
    cell = '<Cell{}><Data ss:Type="{}">{}</Data></Cell>'
    page = (
        f'<?xml version="1.0" encoding="windows-1254"?><Workbook xmlns="{space}" xmlns:ss="{space}" '
        'xmlns:x="urn:schemas-microsoft-com:office:excel"><Styles><Style ss:ID="d"><NumberFormat ss:Format="[h]:mm"/></Style></Styles>'
        '<Worksheet ss:Name="Old"><Table><Row><Cell><Data ss:Type="String">HAWB</Data></Cell></Row></Table>'
        "<x:WorksheetOptions><x:Visible>SheetHidden</x:Visible></x:WorksheetOptions></Worksheet>"
        '<Worksheet ss:Name="Şube"><Table><Row ss:Index="2">'
        + "".join(cell.format("", "String", name) for name in ("HAWB", "Day", "Time", "Sum", "Long", "Bad"))
        + "</Row><Row>"
        + cell.format("", "String", "K1")
        + cell.format("", "DateTime", "2026-03-01T00:00:00.000")
        + cell.format("", "DateTime", "1899-12-31T14:30:00.000")
        + cell.format("", "Number", "1.5")
        + cell.format(' ss:StyleID="d"', "DateTime", "1900-01-01T06:00:00.000")
        + '</Row><Row ss:Hidden="1">'
        + cell.format("", "String", "K2")
        + cell.format(' ss:Index="6"', "Error", "#N/A")
        + "</Row></Table></Worksheet></Workbook>"
    )
    rows, sheet, report, rejects = read(reader, written(tmp_path / "a.xls", page, "cp1254"))
    assert (sheet.sheets, sheet.header_row) == (("Şube",), 2)
    assert rows == [["K1", "2026-03-01", "14:30:00", "1.5", "30:00:00", ""]]
    assert [(one.row, one.column, one.value) for one in rejects] == [(4, "bad", "#N/A")]
    assert "1 row is hidden" in report.warnings[0]
