"""Workbooks of the older and rarer formats, with a password, changed within their zip, and small ones that want to be large.

Formats: OpenDocument 1.3 (ods), [MS-XLS] and [MS-CFB] (xls), [MS-XLSB].
"""

from __future__ import annotations

import datetime as dt
import io
import random
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from mailferry.testing.workbooks import Error, Tab, sheet_xml, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


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


def protected(path: Path, password: str, *tabs: Tab) -> Path:
    """Write an .xlsx of these sheets that opens by a password."""
    import msoffcrypto

    plain = path.with_suffix(".plain")
    # The library writes no small package that it could read.
    xlsx(plain, *tabs, more={"docProps/filler.bin": random.Random(0).randbytes(8_192)})
    with plain.open("rb") as file, path.open("wb") as target:
        msoffcrypto.OfficeFile(file).encrypt(password, target)
    return path


def recoded(path: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write a copy of a zip whose entries went through `change`, by name."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        for info in archive.infolist():
            copy.writestr(info.filename, change(info.filename, archive.read(info)))
    return target


def xlsb(path: Path, tab: Tab) -> Path:
    """Write an .xlsb of one sheet of text, numbers and the error #N/A ([MS-XLSB] 2.1.7)."""
    base = "application/vnd.ms-excel"
    types = (
        f'{_DECLARATION}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.bin" ContentType="{base}.sheet.binary.macroEnabled.main"/>'
        f'<Override PartName="/xl/worksheets/sheet1.bin" ContentType="{base}.worksheet"/></Types>'
    )
    bundle = struct.pack("<II", 0, 1) + _wide("rId1") + _wide(tab.name)
    rows = list(tab.rows)
    extent = struct.pack("<IIII", 0, len(rows) - 1, 0, max(map(len, rows)) - 1)
    columns = [
        _binary(60, struct.pack("<IIIIH", place, place, 2_560, 0, 1)) for place in sorted(tab.hidden_columns)
    ]
    cells = [_binary(0x81, b""), _binary(0x94, extent), _binary(390, b""), *columns, _binary(391, b"")]
    cells.append(_binary(0x91, b""))
    for number, row in enumerate(rows):
        flags = 0x10 if number + 1 in tab.hidden else 0
        cells.append(_binary(0, struct.pack("<IIHBBB", number, 0, 300, 0, flags, 0) + bytes(4)))
        cells += [_binary_cell(column, value) for column, value in enumerate(row) if value is not None]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("_rels/.rels", _relation("officeDocument", "xl/workbook.bin"))
        archive.writestr(
            "xl/_rels/workbook.bin.rels",
            _relation("worksheet", "worksheets/sheet1.bin"),
        )
        archive.writestr(
            "xl/workbook.bin",
            _binary(131, b"")
            + _binary(143, b"")
            + _binary(156, bundle)
            + _binary(144, b"")
            + _binary(132, b""),
        )
        archive.writestr(
            "xl/worksheets/sheet1.bin", b"".join([*cells, _binary(0x92, b""), _binary(0x82, b"")])
        )
    return path


def _relation(kind: str, target: str) -> str:
    inner = f'<Relationship Id="rId1" Type="{_DOCUMENT}/{kind}" Target="{target}"/>'
    return f'{_DECLARATION}<Relationships xmlns="{_RELATIONS}">{inner}</Relationships>'


def _binary_cell(column: int, value: object) -> bytes:
    place = struct.pack("<II", column, 0)
    if isinstance(value, Error):
        return _binary(3, place + b"\x2a")
    if isinstance(value, int | float):
        return _binary(5, place + struct.pack("<d", value))
    return _binary(6, place + _wide(str(value)))


def _wide(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def _binary(number: int, content: bytes) -> bytes:
    """A record: number and length in groups of seven bits."""
    head = bytes([number & 0x7F | 0x80, number >> 7]) if number > 127 else bytes([number])
    size = len(content)
    while size > 127:
        head += bytes([size & 0x7F | 0x80])
        size >>= 7
    return head + bytes([size]) + content


@dataclass(kw_only=True, slots=True)
class Bombs:
    """Small files that want to be large; each is written when asked for."""

    folder: Path

    def far_cell(self) -> Path:
        """Two cells, A1 and XFD1048576; a reader that allots the rectangle between them needs 17 thousand million."""
        cells = '<row r="1"><c r="A1" t="str"><v>key</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
        return xlsx(self.folder / "far.xlsx", Tab(xml=sheet_xml(cells)))

    def string_count(self) -> Path:
        """A shared string table that states 4 thousand million entries and has one."""
        shared = f'<sst xmlns="{_MAIN}" count="4000000000" uniqueCount="4000000000"><si><t>key</t></si></sst>'
        cells = '<row r="1"><c r="A1" t="s"><v>0</v></c></row>'
        return xlsx(self.folder / "strings.xlsx", Tab(xml=sheet_xml(cells)), shared=shared)

    def one_cell(self, size: int) -> Path:
        """A text of so many bytes in one cell."""
        tab = Tab(rows=[["key"], ["x" * size]])
        return xlsx(self.folder / "cell.xlsx", tab)

    def many_rows(self, rows: int) -> Path:
        """So many times the same short row, without its number."""
        row = '<row><c t="str"><v>{}</v></c></row>'
        return xlsx(
            self.folder / "rows.xlsx", Tab(xml=sheet_xml(row.format("key") + row.format("x") * (rows - 1)))
        )

    def false_size(self, size: int) -> Path:
        """A part of `size` bytes for which the zip directory states 1,000."""
        path = self.one_cell(size)
        data = bytearray(path.read_bytes())
        at = data.find(b"PK\x01\x02")
        while at >= 0:
            if b"sheet1.xml" in data[at + 46 : at + 80] and b"_rels" not in data[at + 46 : at + 80]:
                data[at + 24 : at + 28] = struct.pack("<I", 1000)
            at = data.find(b"PK\x01\x02", at + 4)
        path = self.folder / "false.xlsx"
        path.write_bytes(data)
        return path

    def laughs(self) -> Path:
        """Entities in entities: 10^9 times `lol`."""
        entities = '<!ENTITY l0 "lol">' + "".join(
            f'<!ENTITY l{at} "{f"&l{at - 1};" * 10}">' for at in range(1, 10)
        )
        rows = '<row r="1"><c r="A1" t="str"><v>key</v></c></row><row r="2"><c r="A2" t="str"><v>&l9;</v></c></row>'
        xml = sheet_xml(rows).replace(_DECLARATION, f"{_DECLARATION}<!DOCTYPE worksheet [{entities}]>")
        return xlsx(self.folder / "laughs.xlsx", Tab(xml=xml))

    def nested(self) -> Path:
        """A zip in a zip in a zip."""
        inner = b"0" * 1_000_000
        for at in range(3):
            held = io.BytesIO()
            with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("inner.zip" if at else "zeros.txt", inner)
            inner = held.getvalue()
        path = self.folder / "nested.zip"
        path.write_bytes(inner)
        return path
