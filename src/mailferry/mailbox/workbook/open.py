"""Opens a file by its kind."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from mailferry.mailbox.workbook.archive import open_zip
from mailferry.mailbox.workbook.formats import zip_kind
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from mailferry.mailbox.workbook.book import Book, Options


def open_book(file: IO[bytes], path: Path, kind: Kind, options: Options) -> Book:
    """Open a file, which is open as `file`. Raises Reject; `damaged` makes one of whatever else it raises."""
    plain: Path | None = path
    hidden = options.hidden
    if kind is Kind.PROTECTED:
        from mailferry.mailbox.workbook import passwords

        file, plain = passwords.decrypted(file, options.passwords), None
        with open_zip(file, options.limits) as archive:
            kind = zip_kind(archive)
    elif kind in {Kind.XLSX, Kind.XLSB, Kind.ODS}:
        open_zip(path, options.limits).close()
    if kind in {Kind.XLSX, Kind.XLSB}:
        from mailferry.mailbox.workbook.office import OfficeBook

        return OfficeBook(file, plain, kind, hidden)
    if kind is Kind.XLS:
        from mailferry.mailbox.workbook.biff import BiffBook

        return BiffBook(file, hidden)
    if kind is Kind.ODS:
        from mailferry.mailbox.workbook.opendocument import OpenDocumentBook

        return OpenDocumentBook(file, hidden)
    if kind is Kind.XML:
        from mailferry.mailbox.workbook.xml2003 import Xml2003Book

        return Xml2003Book(file, hidden)
    if kind is Kind.HTML:
        from mailferry.mailbox.workbook.html_table import HtmlBook

        return HtmlBook(file, options.charset, hidden)
    from mailferry.mailbox.workbook.csv_text import CsvBook

    return CsvBook(file, options.finder, options.charset)
