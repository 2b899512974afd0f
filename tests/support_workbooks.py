"""Workbooks that only tests need: .xlsb, with a password, changed within their zip, and small ones that want to be large.

Format: [MS-XLSB].
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.testing.workbooks import Error, Tab, sheet_xml, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


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
