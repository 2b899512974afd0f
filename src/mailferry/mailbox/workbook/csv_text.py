"""Delimited text (CSV, TSV) as a book of one sheet, read as a stream.

RFC 4180 with the delimiters that spreadsheet programs write: comma, semicolon, tab and bar. All fields are text.
"""

from __future__ import annotations

import contextlib
import csv
import re
from itertools import chain, islice
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import SheetInfo
from mailferry.mailbox.workbook.cells import Fault, is_blank
from mailferry.mailbox.workbook.text_kind import DELIMITERS, SEPARATOR_LINE, encoding_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.header import Finder

#: Characters of a field; a spreadsheet's cell holds 32,767. More is a quotation mark that was never closed.
_LONGEST = 131_072

#: Records that are read at once.
_BLOCK = 256
_LINE_END = re.compile(r"\r\n?|\n")


class CsvBook:
    """The one table of a text."""

    named = False
    overlong: Fault | None = Fault(
        "more fields than the header has; a delimiter within a field is not quoted", is_empty=False
    )

    def __init__(self, file: IO[bytes], finder: Finder, charset: str) -> None:
        self.sheets: tuple[SheetInfo, ...] = (SheetInfo(name="text"),)
        self._file = file
        self._encoding = encoding_of(file, charset)
        csv.field_size_limit(_LONGEST)
        with self._decoding():
            separator = SEPARATOR_LINE.fullmatch(self._text().readline(10))
        self._skip = 1 if separator else 0
        self._delimiter = separator[1] if separator else self._find_delimiter(finder)

    def warnings(self, sheet: str) -> list[str]:
        """None: what is wrong with a row rejects it."""
        del sheet
        return []

    def rows(self, sheet: str) -> Iterator[list[Cell]]:
        """The records. One that is broken, or longer than the header, is a row of faults."""
        del sheet
        text = self._text()
        for _ in range(self._skip):
            text.readline()
        return self._records(text, self._delimiter)

    @contextlib.contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            odd = error.object[error.start : error.start + 1].hex()
            raise Reject(
                f"its text is not {self._encoding}: byte 0x{odd} has no meaning there; set the feed's charset"
            ) from None

    def _text(self) -> IO[str]:
        self._file.seek(0)
        return open(self._file.fileno(), encoding=self._encoding, newline="", closefd=False)

    def _records(self, text: IO[str], delimiter: str) -> Iterator[list[Cell]]:
        # Python code runs for each block, not for each record.
        return chain.from_iterable(self._blocks(text, delimiter))

    def _blocks(self, text: IO[str], delimiter: str) -> Iterator[list[list[Cell]]]:
        records = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            block: list[list[Cell]] = []
            before = self._skip + records.line_num
            try:
                # What came before an error stays in the list.
                with self._decoding():
                    block.extend(islice(records, _BLOCK))  # type: ignore[arg-type]  # a list of text is a list of cells
            except csv.Error as error:
                first = before + sum(map(_lines_of, block)) + 1
                yield block
                if "unexpected end" in str(error):
                    raise Reject(
                        f"a quotation mark in line {first} is never closed; what follows cannot be read"
                    ) from None
                yield [[Fault(_broken(str(error), first, self._skip + records.line_num), is_empty=False)]]
                continue
            if not block:
                return
            yield block

    def _find_delimiter(self, finder: Finder) -> str:
        """The one by which the key is a column, else the one that divides the first lines most alike."""

        def fitness(delimiter: str) -> tuple[bool, float, int]:
            rows = list(islice(self._sample(delimiter), finder.depth))
            lengths = [len(row) for row in rows if not all(map(is_blank, row))]
            most = max(set(lengths), key=lengths.count, default=0)
            alike = lengths.count(most) / max(1, len(lengths)) if most > 1 else 0.0
            return finder.find(rows) is not None, alike, most

        return max(DELIMITERS, key=fitness)

    def _sample(self, delimiter: str) -> Iterator[list[Cell]]:
        with contextlib.suppress(Reject):
            yield from self._records(self._text(), delimiter)


def _lines_of(record: list[Cell]) -> int:
    return 1 + sum(len(_LINE_END.findall(str(field))) for field in record)


def _broken(error: str, first: int, last: int) -> str:
    lines = f"line {first}" if first >= last else f"lines {first} to {last}"
    if "field larger" in error:
        return f"{lines}: a field of more than {_LONGEST:,} characters; a quotation mark may not be closed"
    return f"{lines}: a quotation mark within a field is not doubled ({error})"
