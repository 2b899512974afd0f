"""What a file is that is neither a zip archive nor a compound file. What text is: a table of delimited text, a web page, an XML spreadsheet, or none of them. And in which encoding.

The parent looks at the beginning only, with nothing but regular expressions; all parsing is the child's.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from typing import IO

from mailferry.errors import Reject
from mailferry.mailbox.workbook.values import Kind

#: Bytes from the beginning that say what a text is.
BEGINNING = 64 * 1024
DELIMITERS = ";,\t|"
#: Excel's line above the header that names the delimiter.
SEPARATOR_LINE = re.compile(r"\ufeff?sep=(.)\r?\n?", re.IGNORECASE)

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_PROSE = re.compile(r",\s")
_UTF8_PAIR = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile(rb"[\x80-\xff]+")
_PAGE = ("<!doctype html", "<html", "<table", "<head", "<body", "<style", "<meta")


_MAGIC = (
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x09\x00\x04\x00", "an Excel 2 workbook; save it as .xlsx"),
    (b"\x09\x02\x06\x00", "an Excel 3 workbook; save it as .xlsx"),
    (b"\x09\x04\x06\x00", "an Excel 4 workbook; save it as .xlsx"),
    (b"PK", "a damaged zip archive"),
    (b"-----BEGIN PGP", "a file that PGP encrypted or signed; have it sent without"),
)


def plain_kind(start: bytes) -> Kind:
    """The kind of what is neither a zip nor a compound file. Raises Reject with what it is instead."""
    if not start:
        raise Reject("the file is empty")
    for magic, name in _MAGIC:
        if start.startswith(magic):
            raise Reject(f"not a spreadsheet but {name}")
    if not start.strip(b"\0"):
        raise Reject("not a spreadsheet: the file begins with nothing but zeros")
    return text_kind(start)


def text_kind(start: bytes) -> Kind:
    """The kind of a file that begins like this, in at most `BEGINNING` bytes. Raises Reject with what it is instead."""
    text = _as_text(start)
    if text is None:
        raise Reject(
            "not a spreadsheet that is known here (.xlsx, .xlsm, .xlsb, .xls, .ods, .csv, a table in HTML)"
        )
    head = text.lstrip("\ufeff \t\r\n").lower()
    if "urn:schemas-microsoft-com:office:spreadsheet" in head and "<html" not in head:
        return Kind.XML
    if 'progid="excel.sheet"' in head:
        return Kind.XML
    if head.startswith(_PAGE) or (head.startswith("<") and "<table" in head):
        if "<table" in head or len(start) >= BEGINNING:
            return Kind.HTML
        raise Reject("a web page (HTML) without a table")
    if head.startswith("mime-version:"):
        raise Reject("a web page (MHTML), whatever its name says; save it as .xlsx")
    if head.startswith("<"):
        raise Reject("an XML file, not a spreadsheet")
    if looks_delimited(text):
        return Kind.CSV
    raise Reject("plain text, not a table: no delimiter divides its lines alike")


def _as_text(start: bytes) -> str | None:
    encoding = utf16(start)
    if encoding:
        return start.decode(encoding, errors="replace")
    if b"\0" in start:
        return None
    # The last character is what old programs end a text with.
    text = start.decode("latin-1").removeprefix("\xef\xbb\xbf").removesuffix("\x1a")
    odd = sum(1 for character in text if character < " " and character not in "\t\r\n\f")
    return text if odd * 50 <= len(text) else None


def utf16(start: bytes) -> str:
    """The UTF-16 encoding of a text by its mark, or by where its zeros are; "" for none."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = start[:4096:2], start[1:4096:2]
    # Western text in UTF-16 has a zero in every pair; Turkish letters have none.
    if len(start) > 3 and odd.count(0) > len(odd) * 0.6 and not even.count(0):
        return "utf-16-le"
    if len(start) > 3 and even.count(0) > len(even) * 0.6 and not odd.count(0):
        return "utf-16-be"
    return ""


def looks_delimited(text: str) -> bool:
    """Whether one delimiter divides nearly all lines, below any title, into the same number of fields.

    A person's note has commas too, but not alike in all its lines, and with a blank behind them.
    """
    if SEPARATOR_LINE.match(text):
        return True
    plain = _QUOTED.sub('""', text)
    lines = [line for line in plain.splitlines() if line.strip()]
    torn = not plain.endswith(("\r", "\n"))
    return any(_divides(lines, delimiter, torn=torn) for delimiter in DELIMITERS)


def _divides(lines: list[str], delimiter: str, *, torn: bool) -> bool:
    counts = [line.count(delimiter) for line in lines]
    usual = Counter(count for count in counts if count).most_common(1)
    if not usual:
        return False
    number = usual[0][0]
    table = lines[counts.index(number) :]
    if torn and counts[-1] < number:
        table.pop()  # the beginning of a line
    alike = sum(1 for line in table if line.count(delimiter) == number)
    if alike < 0.8 * len(table) or (alike < 2 and number < 2):
        return False
    if delimiter != ",":
        return True
    commas = sum(line.count(",") for line in table)
    return sum(len(_PROSE.findall(f"{line}\n")) for line in table) < 0.5 * commas


def encoding_of(file: IO[bytes], charset: str) -> str:
    """The encoding of a text: UTF-16, UTF-8 where all of it is, else `charset`. Raises Reject where it is mostly UTF-8."""
    file.seek(0)
    if found := utf16(file.read(4096)):
        return found
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    try:
        while piece := file.read(1024 * 1024):
            decoder.decode(piece)
            at += len(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        file.seek(0)
        if file.read(3) == codecs.BOM_UTF8:
            raise Reject(f"it says that it is UTF-8 and is not, about byte {at + error.start:,}") from None
        file.seek(max(0, at - 32 * 1024))
        around = file.read(BEGINNING + len(piece))
        pairs = sum(map(len, _UTF8_PAIR.findall(around)))
        if pairs > 0.5 * sum(map(len, _HIGH.findall(around))):
            raise Reject(
                f"its text is UTF-8 but for a byte about position {at + error.start:,}: cut off, or of two encodings"
            ) from None
        try:
            codecs.lookup(charset)
        except LookupError:
            raise Reject(
                f"its text is not UTF-8, and {charset!r}, the feed's charset, is not known here"
            ) from None
        return charset
    return "utf-8-sig"
