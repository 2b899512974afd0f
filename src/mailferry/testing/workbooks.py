"""Workbooks for tests (.xlsx, ECMA-376), written byte by byte: what no spreadsheet program would write is the point."""

from __future__ import annotations

import datetime as dt
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
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
