"""The rows that mailbox benchmarks load: twelve columns of a track-and-trace list, as a workbook like Excel writes it."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from mailferry.config.columns import Case, ColumnRule, Form, Mark, Spaces

if TYPE_CHECKING:
    from pathlib import Path

#: Name and PostgreSQL type; the first is the key.
COLUMNS = (
    ("shipment_no", "text"),
    ("order_no", "text"),
    ("customer", "text"),
    ("city", "text"),
    ("status", "text"),
    ("created", "date"),
    ("delivered", "timestamp without time zone"),
    ("pieces", "bigint"),
    ("weight", "numeric"),
    ("price", "numeric(12,2)"),
    ("paid", "boolean"),
    ("note", "text"),
)
KEY = COLUMNS[0][0]
_STATUSES = ("accepted", "in transit", "at the branch", "out for delivery", "delivered", "returned")
#: All of them declared: every cell is cleaned, read or checked, and none is changed.
RULES = (
    ColumnRule(name="shipment_no", headers=("Shipment*",), trim=True, pattern=r"TR\d{10}"),
    ColumnRule(name="order_no", headers=("Order*",), pad=8, pattern=r"\d{8,}"),
    ColumnRule(name="customer", headers=("Client",), trim=True, spaces=Spaces.ONE, unicode=Form.NFC),
    ColumnRule(name="city", headers=("Town",), trim=True, required=True),
    ColumnRule(name="status", map={"gone": "delivered"}, values=("", *_STATUSES)),
    ColumnRule(name="created", formats=("%Y-%m-%d", "%d.%m.%Y")),
    ColumnRule(name="delivered", formats=("%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M")),
    ColumnRule(name="pieces", headers=("Pcs",), min=1, max=1000),
    ColumnRule(name="weight", headers=("Weight*",), decimal=Mark.POINT, min=0),
    ColumnRule(name="price", headers=("Price*",), decimal=Mark.POINT, min=0),
    ColumnRule(name="paid", map={"ja": "true", "nein": "false"}),
    ColumnRule(name="note", trim=True, case=Case.LOWER),
)
_CUSTOMERS = [
    f"Örnek {name} A.Ş., {number}" for name in ("Ölçüm", "Tekstil", "Çelik") for number in range(100)
]
_CITIES = ("İstanbul", "Ankara", "İzmir", "Bursa", "Eskişehir", "Çanakkale", "Muğla")
_NOTE = "left with a neighbour"

_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{_TYPE}.styles+xml"/>'
    f'<Override PartName="/xl/sharedStrings.xml" ContentType="{_TYPE}.sharedStrings+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="List" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="r2" Type="{_OFFICE}/styles" Target="styles.xml"/>'
    f'<Relationship Id="r3" Type="{_OFFICE}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
    # Style 1 is a date, 2 a date with time.
    "xl/styles.xml": f'<styleSheet xmlns="{_MAIN}"><fonts count="1"><font/></fonts><fills count="1"><fill><patternFill/></fill></fills>'
    '<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="3">'
    '<xf/><xf numFmtId="14" applyNumberFormat="1"/><xf numFmtId="22" applyNumberFormat="1"/></cellXfs></styleSheet>',
}


def workbook(path: Path, rows: int, *, first: int = 0, hidden: bool = False) -> Path:
    """Write an .xlsx of a header and so many rows; `first` shifts the keys. `hidden`: with an empty column that is hidden."""
    strings = [name for name, _ in COLUMNS] + [*_CUSTOMERS, *_CITIES, *_STATUSES, _NOTE]
    index = {text: at for at, text in enumerate(strings)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in _PARTS.items():
            archive.writestr(name, _HEAD + content)
        with archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as part:
            columns = '<cols><col min="20" max="20" hidden="1"/></cols>' if hidden else ""
            part.write(f'{_HEAD}<worksheet xmlns="{_MAIN}">{columns}<sheetData>'.encode())
            header = "".join(f'<c r="{chr(65 + at)}1" t="s"><v>{at}</v></c>' for at in range(len(COLUMNS)))
            part.write(f'<row r="1">{header}</row>'.encode())
            for row in range(2, rows + 2):
                part.write(_row(row, first + row, index, strings).encode())
            part.write(b"</sheetData></worksheet>")
        with archive.open("xl/sharedStrings.xml", "w") as part:
            part.write(f'{_HEAD}<sst xmlns="{_MAIN}">'.encode())
            part.writelines(f"<si><t>{text}</t></si>".encode() for text in strings)
            part.write(b"</sst>")
    return path


def _row(row: int, number: int, index: dict[str, int], strings: list[str]) -> str:
    """One row's XML; adds its two strings of its own. A tenth has a note, a sixth is delivered."""
    strings += [f"TR{number:010}", f"{number * 7:08}"]
    status = _STATUSES[number % 6]
    delivered = f'<c r="G{row}" s="2"><v>{45_300 + number % 400 + number % 86_400 / 86_400!r}</v></c>'
    note = f'<c r="L{row}" t="s"><v>{index[_NOTE]}</v></c>'
    return (
        f'<row r="{row}"><c r="A{row}" t="s"><v>{len(strings) - 2}</v></c>'
        f'<c r="B{row}" t="s"><v>{len(strings) - 1}</v></c>'
        f'<c r="C{row}" t="s"><v>{index[_CUSTOMERS[number % 300]]}</v></c>'
        f'<c r="D{row}" t="s"><v>{index[_CITIES[number % 7]]}</v></c>'
        f'<c r="E{row}" t="s"><v>{index[status]}</v></c>'
        f'<c r="F{row}" s="1"><v>{45_200 + number % 400}</v></c>'
        f"{delivered if status == 'delivered' else ''}"
        f'<c r="H{row}"><v>{number % 40 + 1}</v></c>'
        f'<c r="I{row}"><v>{number % 9_973 / 8!r}</v></c>'
        f'<c r="J{row}"><v>{number % 99_991 / 100!r}</v></c>'
        f'<c r="K{row}" t="b"><v>{number % 3 % 2}</v></c>'
        f"{note if number % 10 == 0 else ''}</row>"
    )


def table_sql(table: str) -> str:
    """CREATE TABLE for these columns."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS)
    return f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({KEY}))"


def upsert_sql(table: str, stage: str, *, order: str = "") -> str:
    """The upsert that a person would write: the last row of a key by `order`, where one is given; equal rows untouched."""
    names = [name for name, _ in COLUMNS]
    distinct, by = (f"DISTINCT ON ({KEY})", f"ORDER BY {KEY}, {order} DESC") if order else ("", "")
    old, new = (", ".join(f"{of}.{name}" for name in names[1:]) for of in ("t", "excluded"))
    return (
        f"INSERT INTO {table} AS t ({', '.join(names)}) SELECT {distinct} {', '.join(names)} FROM {stage} {by}"
        f" ON CONFLICT ({KEY}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in names[1:])}"
        f" WHERE ({old}) IS DISTINCT FROM ({new})"
    )
