"""Delimited text (CSV, TSV) as a book of one sheet, read as a stream.

RFC 4180 with the delimiters that spreadsheet programs write: comma, semicolon, tab and bar. All fields are text.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from itertools import chain, islice
from typing import IO, TYPE_CHECKING

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import SheetInfo
from mailferry.mailbox.workbook.cells import Fault, is_blank
from mailferry.mailbox.workbook.text_kind import DELIMITERS, SEPARATOR_LINE, encoding_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.header import Finder

#: Characters of a field; a spreadsheet's cell holds 32,767. More is a quotation mark that was never closed.
_LONGEST = 131_072

#: Characters, records that are read at once.
_CHARACTERS = 64 * 1024
_BLOCK = 256
_MARK = "\ufeff"
_MARKED = re.compile(f"^{_MARK}", re.MULTILINE)
#: What old programs end a text with.
_END_OF_FILE = "\x1a"
_AS_TEXT = re.compile(r'="((?:[^"]|"")*)"')
_TORN = Fault("a blank stands before a quotation mark, which then quotes nothing", is_empty=False)
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
        return self._records(self._delimiter)

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

    def _records(self, delimiter: str) -> Iterator[list[Cell]]:
        # Python code runs for each block, not for each record.
        return chain.from_iterable(self._blocks(delimiter))

    def _blocks(self, delimiter: str) -> Iterator[list[list[Cell]]]:
        text = self._text()
        for _ in range(self._skip):
            text.readline()
        line = self._skip
        while True:
            with self._decoding():
                block = _block(text)
            if not block:
                return
            records = _plain(block, delimiter) or _whole(block, delimiter)
            if records is None:
                # It ends within a field, or holds a broken one.
                yield from self._one_by_one(chain(io.StringIO(block, newline=""), text), delimiter, line)
                return
            yield records
            line += block.count("\n") if "\r" not in block else len(_LINE_END.findall(block))

    def _one_by_one(self, lines: Iterable[str], delimiter: str, before: int) -> Iterator[list[list[Cell]]]:
        """The records of these lines, of which `before` came before; those that are broken are rows of faults."""
        unmarked = (line.removeprefix(_MARK) for line in lines)
        records = csv.reader(unmarked, delimiter=delimiter, strict=True)
        while True:
            found: list[list[str]] = []
            begun = before + records.line_num
            try:
                # What came before an error stays in the list.
                with self._decoding():
                    found.extend(islice(records, _BLOCK))
            except csv.Error as error:
                ends = sum(len(_LINE_END.findall(field)) for record in found for field in record)
                first = begun + len(found) + ends + 1
                yield _cells(found, delimiter)
                if "unexpected end" in str(error):
                    raise Reject(
                        f"a quotation mark in line {first} is never closed; what follows cannot be read"
                    ) from None
                yield [[Fault(_broken(str(error), first, before + records.line_num), is_empty=False)]]
                continue
            if not found:
                return
            yield _cells(found, delimiter)

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
            yield from self._records(delimiter)


def _block(text: IO[str]) -> str:
    """The next lines; "" at the end."""
    block = text.read(_CHARACTERS)
    if not block:
        return ""
    if not block.endswith("\n"):
        block += text.readline()
    for _ in range(_BLOCK):
        if block.count('"') % 2 == 0 or not (line := text.readline()):
            break
        block += line  # it ended within a field, or within an odd one
    if _MARK in block:
        # Texts that were joined keep the mark that each began with.
        block = _MARKED.sub("", block)
    return block


def _plain(block: str, delimiter: str) -> list[list[Cell]] | None:
    """The records of a block without anything special in it, divided as they are; None for another one."""
    if '"' in block or _END_OF_FILE in block:
        return None
    if "\r" in block:
        block = block.replace("\r\n", "\n")
        if "\r" in block:
            return None
    lines = block.split("\n")
    if not lines[-1]:
        del lines[-1]
    if max(map(len, lines)) > _LONGEST:
        return None
    return [line.split(delimiter) for line in lines]  # type: ignore[misc]  # a list of text is a list of cells


def _whole(block: str, delimiter: str) -> list[list[Cell]] | None:
    """The records of a block that ends where a record does; None for another one, and for one with a broken record."""
    try:
        records = list(csv.reader(io.StringIO(block, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return _cells(records, delimiter)


def _cells(records: list[list[str]], delimiter: str) -> list[list[Cell]]:
    """Records as rows: what a program wrote so that a spreadsheet keeps it as text, and fields that fell apart."""
    cells: list[list[Cell]] = records  # type: ignore[assignment]  # a list of text is a list of cells
    for record in cells:
        together = delimiter.join(record)  # type: ignore[arg-type]  # all are texts
        if '"' in together:
            if '="' in together:
                record[:] = map(_shown, record)  # type: ignore[arg-type]
            if any(map(_torn, record)):  # type: ignore[arg-type]
                record[:] = [_TORN]
        elif together == _END_OF_FILE:
            record.clear()
    return cells


def _shown(field: str) -> str:
    """`="0012"` as a spreadsheet program shows it: programs write that to keep the zeros."""
    found = _AS_TEXT.fullmatch(field)
    return found[1].replace('""', '"') if found else field


def _torn(field: str) -> bool:
    """Whether a blank before its quotation mark made a field end at a delimiter within it."""
    return field[:1] == " " and field.lstrip(" ")[:1] == '"' and field.count('"') % 2 == 1


def _broken(error: str, first: int, last: int) -> str:
    lines = f"line {first}" if first >= last else f"lines {first} to {last}"
    if "field larger" in error:
        return f"{lines}: a field of more than {_LONGEST:,} characters; a quotation mark may not be closed"
    return f"{lines}: a quotation mark within a field is not doubled ({error})"
