"""What an .xlsx must be for the fast path: usual names of its parts, and sheets large enough to be worth it.

Names of sheets, their parts and what is a date are calamine's: it is asked of a copy without the rows and texts, whose worksheets
have one cell of each style instead.
"""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from functools import cached_property, partial
from typing import IO

from python_calamine import CalamineWorkbook

from mailferry.mailbox.workbook import sheet_parts
from mailferry.mailbox.workbook.plain_xml import Unknown
from mailferry.mailbox.workbook.shared_strings import SharedStrings
from mailferry.mailbox.workbook.sheet_stream import SheetStream, Styles
from mailferry.mailbox.workbook.values import Kind

#: A worksheet with fewer bytes is read as fast by calamine.
LEAST = 1024 * 1024
_STYLES = "xl/styles.xml"
_STRINGS = "xl/sharedStrings.xml"
_BOOK = ("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml", "xl/_rels/workbook.xml.rels", _STYLES)
#: Of a part that is held in memory.
_LARGEST = 4 * 1024 * 1024
_MOST_STYLES = 20_000
_PIECE = 256 * 1024
#: What each style is asked to show: noon of the day 61.
_NUMBER = 61.5
_SHOWN = dt.datetime(1900, 3, 1, 12)  # noqa: DTZ001 - as spreadsheets have them
_DAYS_TO_1904 = 1462


class Package:
    """An .xlsx with a large worksheet."""

    def __init__(self, archive: zipfile.ZipFile, *, least: int = LEAST) -> None:
        """`least`: bytes of a worksheet's part from which it is streamed. Raises Unknown where its parts are not as usual."""
        self._archive = archive
        self._least = least
        self._sizes = {info.filename: info.file_size for info in archive.infolist()}
        if (
            max((size for name, size in self._sizes.items() if name.startswith("xl/worksheets/")), default=0)
            < least
        ):
            raise Unknown("its size")
        folded = {name.lower() for name in self._sizes}
        if len(folded) < len(archive.infolist()) or (
            _STRINGS.lower() in folded and _STRINGS not in self._sizes
        ):
            raise Unknown("the names of its parts")
        self._parts = sheet_parts.parts(archive, Kind.XLSX)
        try:
            self.book = CalamineWorkbook.from_object(self._probe())
        except Exception as error:  # noqa: BLE001 - whatever it is, calamine says so of the file itself
            raise Unknown(str(error)) from None

    def _probe(self) -> IO[bytes]:
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w") as target:
            for name in _BOOK:
                if self._sizes.get(name, _LARGEST) >= _LARGEST:
                    raise Unknown(name)
                content = self._archive.read(name)
                target.writestr(name, content)
            count = content.count(b"<xf") + 1
            if count > _MOST_STYLES:
                raise Unknown(name)
            rows = "".join(
                f'<row r="{row}"><c r="A{row}" s="{row - 1}"><v>{_NUMBER}</v></c></row>'
                for row in range(1, count + 1)
            )
            for number, part in enumerate(self._large()):
                # The last row says which part it is.
                mark = f'<row r="{count + 1}"><c r="A{count + 1}"><v>{number}</v></c></row>'
                target.writestr(
                    part,
                    f'<worksheet xmlns="{sheet_parts.MAIN}"><sheetData>{rows}{mark}</sheetData></worksheet>',
                )
        copy.seek(0)
        return copy

    def _large(self) -> list[str]:
        return [part for part in dict.fromkeys(self._parts.values()) if self._sizes[part] >= self._least]

    def stream(self, sheet: str) -> SheetStream | None:
        """The rows of a sheet, where it can be read so, as far as is seen from its beginning."""
        part = self._parts.get(sheet, "")
        if self._sizes.get(part, 0) < self._least:
            return None
        try:
            return SheetStream(self._archive, part, lambda: self._strings, self._styles(sheet, part))
        except Unknown:
            self.__dict__.pop("_strings", None)  # calamine will need the memory
            return None

    def _styles(self, sheet: str, part: str) -> Styles:
        try:
            *cells, number = (row[0] for row in self.book.get_sheet_by_name(sheet).iter_rows())
        except Exception as error:  # noqa: BLE001 - whatever it is, calamine says so of the file itself
            raise Unknown(str(error)) from None
        if number != self._large().index(part):
            raise Unknown("the part of a sheet")
        moments = {at: cell for at, cell in enumerate(cells) if isinstance(cell, dt.datetime)}
        shift = {(moment - _SHOWN).days for moment in moments.values()} or {0}
        if not shift < {0, _DAYS_TO_1904}:
            raise Unknown("its calendar")
        return Styles(
            moments=frozenset(moments),
            durations=frozenset(at for at, cell in enumerate(cells) if isinstance(cell, dt.timedelta)),
            days_before=shift.pop(),
        )

    @cached_property
    def _strings(self) -> SharedStrings:
        try:
            with self._archive.open(_STRINGS) as file:
                return SharedStrings(iter(partial(file.read, _PIECE), b""))
        except (KeyError, *sheet_parts.BROKEN) as error:
            raise Unknown(str(error)) from None
