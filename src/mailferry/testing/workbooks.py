"""Spreadsheets for tests, honest and hostile, written byte by byte: what no spreadsheet program would write is the point.

Formats: ECMA-376 (xlsx), OpenDocument 1.3 (ods), [MS-XLS] and [MS-CFB] (xls).
"""

from __future__ import annotations

import datetime as dt
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path


_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_WORKSHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
#: Number formats by style: 0 general, 1 date, 2 date and time, 3 duration.
_FORMATS = (0, 14, 22, 46)


@dataclass(frozen=True, slots=True)
class Error:
    """An error cell."""

    text: str = "#N/A"


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stands in the file, with a style: 1 shows it as a date, 2 as date and time, 3 as a duration."""

    text: str
    style: int = 0


@dataclass(kw_only=True, slots=True)
class Tab:
    """A sheet of a workbook to be written."""

    name: str = "Sheet1"
    #: Row by row, each a sequence of values; the first is row 1.
    rows: Iterable[Any] = ()
    #: "visible", "hidden" or "veryHidden".
    state: str = "visible"
    #: Sheet XML instead of rows.
    xml: str | None = None
    #: A chart sheet has no cells.
    chart: bool = False
    #: Numbers of rows that are hidden, and places (from 0) of columns.
    hidden: frozenset[int] = frozenset()
    hidden_columns: frozenset[int] = frozenset()


def xlsx(
    path: Path,
    *tabs: Tab,
    epoch_1904: bool = False,
    shared: str | None = None,
    more: dict[str, bytes] | None = None,
) -> Path:
    """Write an .xlsx of these sheets; `shared` is the XML of a shared string table, `more` other parts of the package."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("[Content_Types].xml", _content_types(tabs, shared is not None))
        archive.writestr(
            "_rels/.rels", _relations([("rId1", f"{_DOCUMENT}/officeDocument", "xl/workbook.xml")])
        )
        archive.writestr("xl/workbook.xml", _workbook(tabs, epoch_1904=epoch_1904))
        targets = [
            (f"rId{at}", f"{_DOCUMENT}/{'chartsheet' if tab.chart else 'worksheet'}", _target(at, tab))
            for at, tab in enumerate(tabs, 1)
        ]
        targets.append(("rIdStyles", f"{_DOCUMENT}/styles", "styles.xml"))
        if shared is not None:
            targets.append(("rIdStrings", f"{_DOCUMENT}/sharedStrings", "sharedStrings.xml"))
            archive.writestr("xl/sharedStrings.xml", _DECLARATION + shared)
        archive.writestr("xl/_rels/workbook.xml.rels", _relations(targets))
        archive.writestr("xl/styles.xml", _styles())
        for at, tab in enumerate(tabs, 1):
            with archive.open(f"xl/{_target(at, tab)}", "w", force_zip64=True) as part:
                for piece in _sheet_xml(tab, epoch_1904=epoch_1904):
                    part.write(piece.encode())
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return path


def column_letters(index: int) -> str:
    """A, B, ... Z, AA for 0, 1, ... 25, 26."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _target(at: int, tab: Tab) -> str:
    return f"{'chartsheets' if tab.chart else 'worksheets'}/sheet{at}.xml"


def _content_types(tabs: Sequence[Tab], strings: bool) -> str:
    base = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = [("/xl/workbook.xml", f"{base}.sheet.main+xml"), ("/xl/styles.xml", f"{base}.styles+xml")]
    parts += [
        (f"/xl/{_target(at, tab)}", f"{base}.chartsheet+xml" if tab.chart else _WORKSHEET)
        for at, tab in enumerate(tabs, 1)
    ]
    if strings:
        parts.append(("/xl/sharedStrings.xml", f"{base}.sharedStrings+xml"))
    overrides = "".join(f'<Override PartName="{name}" ContentType="{kind}"/>' for name, kind in parts)
    return (
        f'{_DECLARATION}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>'
    )


def _relations(targets: Iterable[tuple[str, str, str]]) -> str:
    inner = "".join(
        f'<Relationship Id="{key}" Type="{kind}" Target="{target}"/>' for key, kind, target in targets
    )
    return f'{_DECLARATION}<Relationships xmlns="{_PACKAGE}">{inner}</Relationships>'


def _workbook(tabs: Sequence[Tab], *, epoch_1904: bool) -> str:
    sheets = "".join(
        f'<sheet name={quoteattr(tab.name)} sheetId="{at}" state="{tab.state}" r:id="rId{at}"/>'
        for at, tab in enumerate(tabs, 1)
    )
    calendar = '<workbookPr date1904="1"/>' if epoch_1904 else ""
    return f'{_DECLARATION}<workbook xmlns="{_MAIN}" xmlns:r="{_DOCUMENT}">{calendar}<sheets>{sheets}</sheets></workbook>'


def _styles() -> str:
    formats = "".join(f'<xf numFmtId="{number}" applyNumberFormat="1"/>' for number in _FORMATS)
    return f'{_DECLARATION}<styleSheet xmlns="{_MAIN}"><cellXfs count="{len(_FORMATS)}">{formats}</cellXfs></styleSheet>'


def _sheet_xml(tab: Tab, *, epoch_1904: bool) -> Iterator[str]:
    if tab.xml is not None:
        yield tab.xml
        return
    if tab.chart:
        yield f'{_DECLARATION}<chartsheet xmlns="{_MAIN}"/>'
        return
    columns = "".join(f'<col min="{at + 1}" max="{at + 1}" hidden="1"/>' for at in sorted(tab.hidden_columns))
    yield f'{_DECLARATION}<worksheet xmlns="{_MAIN}">'
    yield f"<cols>{columns}</cols><sheetData>" if columns else "<sheetData>"
    epoch = dt.datetime(1904, 1, 1) if epoch_1904 else dt.datetime(1899, 12, 30)  # noqa: DTZ001 - cells have no zone
    letters: list[str] = []
    for number, row in enumerate(tab.rows, 1):
        while len(letters) < len(row):
            letters.append(column_letters(len(letters)))
        cells = [
            _cell(f"{letter}{number}", value, epoch)
            for letter, value in zip(letters, row, strict=False)
            if value is not None
        ]
        shown = ' hidden="1"' if number in tab.hidden else ""
        yield f'<row r="{number}"{shown}>{"".join(cells)}</row>'
    yield "</sheetData></worksheet>"


def sheet_xml(cells: str) -> str:
    """Sheet XML around the XML of rows, for what `Tab.rows` cannot say."""
    return f'{_DECLARATION}<worksheet xmlns="{_MAIN}"><sheetData>{cells}</sheetData></worksheet>'


def _cell(place: str, value: object, epoch: dt.datetime) -> str:
    if isinstance(value, bool):
        return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f'<c r="{place}"><v>{value!r}</v></c>'
    if isinstance(value, Number):
        return f'<c r="{place}" s="{value.style}"><v>{value.text}</v></c>'
    if isinstance(value, Error):
        return f'<c r="{place}" t="e"><v>{value.text}</v></c>'
    if isinstance(value, dt.datetime):
        return f'<c r="{place}" s="2"><v>{(value - epoch) / dt.timedelta(days=1)!r}</v></c>'
    if isinstance(value, dt.date):
        return f'<c r="{place}" s="1"><v>{(value - epoch.date()).days}</v></c>'
    # XML has no NUL; a spreadsheet writes it like this (ECMA-376 22.9.2.19).
    text = escape(str(value)).replace("\0", "_x0000_")
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


# --- OpenDocument ------------------------------------------------------------------------------------------------


def ods(path: Path, *tabs: Tab, encrypted: bool = False) -> Path:
    """Write an .ods of these sheets; `encrypted` only says so in the manifest."""
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    spaces = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text", "manifest")
    )
    tables = "".join(
        f"<table:table table:name={quoteattr(tab.name)}>"
        + "".join(_ods_columns(tab.hidden_columns))
        + "".join(_ods_row(row, hidden=number in tab.hidden) for number, row in enumerate(tab.rows, 1))
        + "</table:table>"
        for tab in tabs
    )
    content = (
        f'{_DECLARATION}<office:document-content{spaces} office:version="1.3"><office:body><office:spreadsheet>'
        f"{tables}</office:spreadsheet></office:body></office:document-content>"
    )
    secret = '<manifest:encryption-data manifest:checksum=""/>' if encrypted else ""
    manifest = (
        f"{_DECLARATION}<manifest:manifest{spaces}>"
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/>'
        f'<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml">{secret}'
        "</manifest:file-entry></manifest:manifest>"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", kind, zipfile.ZIP_STORED)
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr("content.xml", content)
    return path


def _ods_columns(hidden: frozenset[int]) -> Iterator[str]:
    before = 0
    for place in sorted(hidden):
        if place > before:
            yield f'<table:table-column table:number-columns-repeated="{place - before}"/>'
        yield '<table:table-column table:visibility="collapse"/>'
        before = place + 1


def _ods_row(row: Iterable[object], *, hidden: bool) -> str:
    shown = ' table:visibility="filter"' if hidden else ""
    return f"<table:table-row{shown}>{''.join(map(_ods_cell, row))}</table:table-row>"


def _ods_cell(value: object) -> str:
    if value is None:
        return "<table:table-cell/>"
    if isinstance(value, bool):
        kind = f'office:value-type="boolean" office:boolean-value="{str(value).lower()}"'
    elif isinstance(value, int | float):
        kind = f'office:value-type="float" office:value="{value!r}"'
    elif isinstance(value, dt.date):
        kind = f'office:value-type="date" office:date-value="{value.isoformat()}"'
    else:
        kind = 'office:value-type="string"'
    return f"<table:table-cell {kind}><text:p>{escape(str(value))}</text:p></table:table-cell>"


# --- xls ---------------------------------------------------------------------------------------------------------


def xls(
    path: Path,
    tab: Tab,
    *,
    codepage: int = 1200,
    formulas: bool = False,
    macro_sheet: bool = False,
    protection: bytes = b"",
    encrypted: Callable[[bytes], bytes] = bytes,
) -> Path:
    """Write an .xls (BIFF8) of one sheet of text and numbers.

    With `formulas` every text is a formula's; with `macro_sheet` an Excel 4 macro sheet comes first; `protection` is the
    content of a FilePass record, behind which the workbook is as `encrypted` makes it: as it was.
    """
    sheets = [(tab.name, 0, _biff_sheet(tab, formulas=formulas))]
    if macro_sheet:
        sheets.insert(
            0,
            (
                "Macro1",
                1,
                _record(0x809, struct.pack("<HHHHII", 0x600, 0x40, 0, 0, 0, 0)) + _record(0x0A, b""),
            ),
        )
    start = _record(0x809, struct.pack("<HHHHII", 0x600, 5, 0, 0, 0, 0))
    if protection:
        start += _record(0x2F, protection)
    start += _record(0x42, struct.pack("<H", codepage))
    bounds = [(kind, struct.pack("<BB", len(name), 1) + name.encode("utf-16-le")) for name, kind, _ in sheets]
    at = len(start) + sum(len(bound) + 10 for _, bound in bounds) + 4
    book = start
    for (kind, bound), (_, _, content) in zip(bounds, sheets, strict=True):
        book += _record(0x85, struct.pack("<IBB", at, 0, kind) + bound)
        at += len(content)
    book += _record(0x0A, b"") + b"".join(content for _, _, content in sheets)
    return compound(path, {"Workbook": encrypted(book)})


def _biff_sheet(tab: Tab, *, formulas: bool) -> bytes:
    sheet = _record(0x809, struct.pack("<HHHHII", 0x600, 0x10, 0, 0, 0, 0))
    for at in sorted(tab.hidden_columns):
        sheet += _record(0x7D, struct.pack("<HHHHHH", at, at, 2_560, 0, 1, 0))
    for number, row in enumerate(tab.rows):
        if number + 1 in tab.hidden:
            sheet += _record(0x208, struct.pack("<HHHHHHI", number, 0, len(row), 0, 0, 0, 0x20))
        for column, value in enumerate(row):
            place = struct.pack("<HHH", number, column, 0)
            if isinstance(value, int | float):
                sheet += _record(0x203, place + struct.pack("<d", value))
            elif value is not None and formulas:
                sheet += _record(
                    0x06, place + struct.pack("<BxxxxxHHIH", 0, 0xFFFF, 0, 0, 3) + b"\x17\x01\x00"
                )
                sheet += _biff_text(0x207, str(value))
            elif value is not None:
                text = str(value)
                sheet += _record(0x204, place + struct.pack("<HB", len(text), 1) + text.encode("utf-16-le"))
    return sheet + _record(0x0A, b"")


def _biff_text(number: int, text: str) -> bytes:
    """A text that goes on in CONTINUE records, each of which says again that it is of two bytes a character."""
    most = 4_000
    records = _record(number, struct.pack("<HB", len(text), 1) + text[:most].encode("utf-16-le"))
    for start in range(most, len(text), most):
        records += _record(0x3C, b"\1" + text[start : start + most].encode("utf-16-le"))
    return records


def _record(number: int, content: bytes) -> bytes:
    return struct.pack("<HH", number, len(content)) + content


# --- compound files ----------------------------------------------------------------------------------------------


def compound(path: Path, streams: dict[str, bytes]) -> Path:
    """Write a compound file of at most three streams; each is filled up to 4,096 bytes, so none goes to the mini stream."""
    sector = 512
    free, chain_end, fat_sector = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
    table = [fat_sector, chain_end]
    entries = [_entry("Root Entry", 5, chain_end, 0, child=1)]
    content = b""
    for at, (name, stream) in enumerate(streams.items(), 1):
        size = -(-max(len(stream), 4096) // sector)
        first = len(table)
        table += [*range(first + 1, first + size), chain_end]
        content += stream.ljust(size * sector, b"\0")
        entries.append(_entry(name, 2, first, size * sector, right=at + 1 if at < len(streams) else free))
    if len(table) > sector // 4:
        raise ValueError("more than one sector of FAT is not written here")
    entries += [_entry("", 0, 0, 0)] * (-len(entries) % 4)
    header = struct.pack(
        "<8s16sHHHHH6sIIIIIIIII",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", 0x3E, 3, 0xFFFE, 9, 6, b"", 0, 1, 1, 0, 4096, chain_end, 0, chain_end, 0,
    )  # fmt: skip
    fat = struct.pack("<128I", *(table + [free] * (128 - len(table))))
    path.write_bytes(header + struct.pack("<109I", 0, *[free] * 108) + fat + b"".join(entries) + content)
    return path


def _entry(
    name: str, kind: int, first: int, size: int, child: int = 0xFFFFFFFF, right: int = 0xFFFFFFFF
) -> bytes:
    text = name.encode("utf-16-le")
    length = len(text) + 2 if name else 0
    return struct.pack(
        "<64sHBBIII16sIQQIQ", text, length, kind, 1, 0xFFFFFFFF, right, child, b"", 0, 0, 0, first, size
    )
