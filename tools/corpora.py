"""`./dev corpora`: run other people's workbooks through the reader. Not part of `./dev test`; needs Debian's apt sources.

Fetches test files out of Debian source packages into .cache/corpora/, reads every spreadsheet in them as a table without a
key would be read, and compares it cell by cell with a second reader: .xlsx with openpyxl, .xls and .ods with calamine (which the
product has for .xlsx and .xlsb alone), .xlsb with pyxlsb. Sheets of .xlsx that can be read as a stream are, and compared with calamine. Exit status 1 when a child was brought down other than by a limit, an
error has no reason, or a cell differs and it is not known why.
"""

from __future__ import annotations

import argparse
import collections
import csv
import datetime as dt
import io
import itertools
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import openpyxl
import python_calamine
import pyxlsb

from mailferry.config.spreadsheet import ErrorCells, Limits
from mailferry.errors import MailferryError, Reject
from mailferry.mailbox.workbook.cells import text_of
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.formats import kind_of
from mailferry.mailbox.workbook.header import Finder, clean_name, named
from mailferry.mailbox.workbook.hidden import HiddenCells
from mailferry.mailbox.workbook.office import OfficeBook
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.reader import Sheet

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".cache" / "corpora"
#: Debian source packages with workbooks among their tests.
PACKAGES = ("libapache-poi-java",)
ENDINGS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".xltx", ".xlt")
#: An own source list, for most machines have none for sources.
SOURCES = "deb-src {mirror} {suite} main\n"


def main() -> int:
    """Fetch, read, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="read the spreadsheets below this folder instead of fetching any"
    )
    folder = parser.parse_args().folder
    if folder is None:
        folder = FOLDER
        for package in PACKAGES:
            fetch(package)
    outcomes: collections.Counter[str] = collections.Counter()
    faults = []
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    with Reader(Limits(cpu_seconds=30, wall_seconds=60)) as reader:
        for path in files:
            outcome, found = examine(reader, path)
            outcomes[outcome] += 1
            faults += [f"{path.relative_to(folder)}: {fault}" for fault in found]
    for outcome, number in outcomes.most_common():
        print(f"{number:5}  {outcome}")
    print(f"{len(files):5}  in all; {len(faults)} faults")
    print("cells compared: " + ", ".join(f"{kind} {number:,}" for kind, number in CELLS.items()))
    print(f"sheets of .xlsx: {STREAMED[True]} as a stream, {STREAMED[False]} by calamine alone")
    for reason, number in EXPLAINED.most_common():
        print(f"{number:5}  explained: {reason}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults or not files else 0


def fetch(package: str) -> None:
    """The spreadsheets of a source package, once."""
    target = FOLDER / package
    if target.exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as work:
        options = source_options(Path(work))
        subprocess.run(["apt-get", *options, "-qq", "update"], check=True, stdout=subprocess.DEVNULL)
        print(f"fetching the source of {package}", file=sys.stderr)
        subprocess.run(
            ["apt-get", *options, "-qq", "source", "--download-only", package],
            cwd=work,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        unpacked = Path(work, "unpacked")
        unpacked.mkdir()
        for archive in sorted(Path(work).glob("*.tar.*")):
            if archive.suffix != ".asc" and ".debian.tar" not in archive.name:
                unpack(archive, unpacked)
        unpacked.rename(target)


def source_options(work: Path) -> list[str]:
    """Options that add the machine's own mirror as a source of sources, without touching its lists."""
    policy = subprocess.run(["apt-cache", "policy"], check=True, capture_output=True, text=True).stdout
    mirror, suite = "", ""
    for line in policy.splitlines():
        words = line.split()
        if (
            len(words) > 3
            and words[1].startswith("http")
            and words[2].endswith("/main")
            and "-" not in words[2]
        ):
            mirror, suite = words[1], words[2].partition("/")[0]
    if not mirror:
        raise SystemExit("corpora: apt knows no mirror; give --folder instead")
    parts = work / "lists"
    parts.mkdir(exist_ok=True)
    (work / "sources.list").write_text(SOURCES.format(mirror=mirror, suite=suite), encoding="utf-8")
    return ["-o", f"Dir::Etc::SourceList={work / 'sources.list'}", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={parts}", "-o", "APT::Sandbox::User=root"]  # fmt: skip


def unpack(archive: Path, folder: Path) -> None:
    """The spreadsheets in a source archive, under their paths' last parts; nothing else is written."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            content = tar.extractfile(member) if member.isfile() and name.suffix.lower() in ENDINGS else None
            if content:
                (folder / "-".join(name.parts[-3:])).write_bytes(content.read())


def examine(reader: Reader, path: Path) -> tuple[str, list[str]]:
    """What became of one file, and what is wrong with that."""
    try:
        kind = kind_of(path)
        key = some_key(reader, path, kind)
        with reader.open(path, kind, RowContract(key=key, errors=ErrorCells.NULL)) as sheet:
            text = b"".join(sheet.chunks).decode()
            rows = list(csv.reader(io.StringIO(text, newline="")))
            if len(rows) + sheet.report.rejected != sheet.report.read:
                return "loaded", [f"{len(rows)} rows of {sheet.report.read}"]
            if kind not in READERS:
                return f"loaded, {kind}", []
            outcome, faults = compare(path, kind, sheet, rows)
            return outcome, [*faults, *(as_a_stream(path) if kind is Kind.XLSX else ())]
    except Reject as reject:
        reason = str(reject)
        faults = [f"rejected: {reason}"] if "brought the reading process down" in reason or not reason else []
        if "row component" in reason:
            EXPLAINED["openpyxl reads cells of a row 0, which no spreadsheet has"] += 1
        elif "damaged" in reason and (name := read_elsewhere(path)):
            faults.append(f"rejected: {reason}, where {name} finds cells")
        return f"rejected: {reason.partition('(')[0].partition(';')[0].partition('found:')[0][:70]}", faults
    except MailferryError as error:
        return "error", [f"{type(error).__name__}: {error}"]


def some_key(reader: Reader, path: Path, kind: Kind) -> str:
    """A name in the first row that has one: taken from the reason why a key that no table has was not found."""
    try:
        with reader.open(path, kind, RowContract(key="no such key 7b1f")):
            return ""
    except Reject as reject:
        _, found, names = str(reject).partition("; found: ")
        for sheet in names.split("; sheet ") if found else ():
            for name in sheet.partition(": ")[2].split(", "):
                if clean_name(name) and name != "nothing" and "..." not in name and len(name) < 40:
                    return name
        raise


def compare(path: Path, kind: Kind, head: Sheet, rows: list[list[str]]) -> tuple[str, list[str]]:
    """Cell by cell with another reader, which shares no code with the one that the product has for the format."""
    name, read = READERS[kind]
    names = [column.name for column in head.columns]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = read(path, head.sheets[0])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"loaded, {kind}; {name} cannot read it", []
    written_row = [written(value) for value in cells.get(head.header_row) or ()]
    header = Finder(is_key=named(names[0])).find([written_row])
    if header is None:
        return f"loaded, {kind}; {name} sees another header", []
    places = {name: place for place, name in enumerate(header.names) if name}
    faults = []
    compared = 0
    for number, *texts in rows:
        if kind is Kind.XLS and int(number) > max(cells):
            EXPLAINED["calamine loses the last row, of formulas alone"] += 1
            continue
        row = cells.get(int(number), [])
        for column, text in zip(names, texts, strict=True):
            place = places.get(column)
            value = row[place] if place is not None and place < len(row) else None
            compared += 1
            if same(value, text):
                continue
            if reason := explained(kind, value, text):
                EXPLAINED[reason] += 1
            else:
                faults.append(f"row {number}, {column}: {text!r}, where {name} has {value!r}")
    CELLS[kind] += compared
    agrees = "as" if not faults else "not as"
    return f"loaded, {kind}, {agrees} {name} reads it", faults[:5]


def as_a_stream(path: Path) -> list[str]:
    """Rows that the fast path reads otherwise than calamine, however small the sheet is."""
    faults = []
    blank: list[str] = []
    with path.open("rb") as file:
        book = OfficeBook(file, path, Kind.XLSX, HiddenCells(skip=False), least=0)
        for sheet in book.sheets:
            try:
                recorded = list(map(as_shown, book.recorded(sheet.name)))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                continue
            streamed = list(map(as_shown, book.rows(sheet.name)))
            STREAMED[book.streams(sheet.name)] += 1
            faults += [
                f"sheet {sheet.name!r}, row {at}: {own}, where calamine has {other}"
                for at, (own, other) in enumerate(
                    itertools.zip_longest(streamed, recorded, fillvalue=blank), 1
                )
                if own != other
            ]
    return faults[:5]


def as_shown(row: list[Cell]) -> list[str]:
    """Cells as Python shows them, without empty ones at the end."""
    cells = list(map(repr, row))
    while cells and cells[-1] == "''":
        cells.pop()
    return cells


def read_elsewhere(path: Path) -> str:
    """The name of the other reader where it finds cells in a file; "" where it finds none, or it is known why."""
    try:
        name, read = READERS[kind_of(path)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = any(filled(row) for sheet in sheets_of(path) for row in read(path, sheet).values())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return ""
    return name if found else ""


def sheets_of(path: Path) -> list[str]:
    """Names of the worksheets, by calamine."""
    with path.open("rb") as file:
        return python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(file.read())).sheet_names


def filled(row: list[object]) -> bool:
    """Whether a cell shows anything."""
    return any(value not in (None, "") for value in row)


def explained(kind: Kind, value: object, text: str) -> str:
    """Why the other reader has something else, where it is known to be the one that is wrong; "" where it is not."""
    if kind is Kind.ODS and isinstance(value, str) and value.startswith("PT") and ":" in text:
        return "calamine leaves a duration of more than a day as it is written"
    if kind is Kind.XLSB and isinstance(value, float) and (text[4:5] == "-" or ":" in text):
        return "pyxlsb knows no number formats: a date is the number behind it"
    if kind is not Kind.XLS:
        return ""
    if isinstance(value, str) and "\0" in value:
        return "calamine reads Unicode by the code page that the file states"
    if isinstance(value, str) and len(value) > 8_000 and text.startswith(value[:8_000]):
        return "calamine cuts the text of a formula"
    if isinstance(value, float) and text[4:5] == "-":
        return "calamine loses the format of a formula's date"
    return ""


def by_openpyxl(path: Path, sheet: str) -> dict[int, list[object]]:
    """Rows by number; errors as None."""
    book = openpyxl.load_workbook(path, data_only=True)
    return {
        row[0].row or 0: [None if cell.data_type == "e" else cell.value for cell in row]
        for row in book[sheet].iter_rows()
        if row
    }


def by_calamine(path: Path, sheet: str) -> dict[int, list[object]]:
    """Rows by number; errors as empty texts."""
    with path.open("rb") as file:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(file.read()))
    return {at: list(row) for at, row in enumerate(book.get_sheet_by_name(sheet).iter_rows(), 1)}


def by_pyxlsb(path: Path, sheet: str) -> dict[int, list[object]]:
    """Rows by number; errors, which are hexadecimal texts, as None."""
    with pyxlsb.open_workbook(str(path)) as book, book.get_sheet(sheet) as cells:
        return {
            row[0].r + 1: [
                None if isinstance(cell.v, str) and _ERROR.fullmatch(cell.v) else cell.v for cell in row
            ]
            for row in cells.rows(sparse=True)
            if row
        }


_ERROR = re.compile(r"0x[0-9a-f]{1,2}")
READERS: dict[Kind, tuple[str, Callable[[Path, str], dict[int, list[object]]]]] = {
    Kind.XLSX: ("openpyxl", by_openpyxl),
    Kind.XLS: ("calamine", by_calamine),
    Kind.XLSB: ("pyxlsb", by_pyxlsb),
    Kind.ODS: ("calamine", by_calamine),
}
#: Cells, or rows, in which the other reader is known to be wrong.
EXPLAINED: collections.Counter[str] = collections.Counter()
#: Cells that were compared, by format.
CELLS: collections.Counter[Kind] = collections.Counter()
#: Sheets of .xlsx, by whether they came as a stream.
STREAMED: collections.Counter[bool] = collections.Counter()


def written(value: object) -> str:
    """A header cell of openpyxl's."""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        value = value.date()
    return (
        text_of(value).strip()
        if isinstance(value, str | float | int | dt.date | dt.time | dt.timedelta)
        else ""
    )


def same(value: object, text: str) -> bool:
    """Whether a cell as openpyxl has it is what was written."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return text == ""
    if isinstance(value, bool):
        return text in {str(value).lower(), str(int(value))}
    if isinstance(value, int | float):
        try:
            return abs(float(text) - value) <= 1e-9 * max(1.0, abs(value))
        except ValueError:
            return False
    if isinstance(value, dt.datetime | dt.date | dt.time | dt.timedelta):
        # openpyxl distinguishes dates from times by another rule; what can be compared is compared by the day or the minute.
        return moment(value) == text[: len(moment(value))] or text.startswith(str(value)[:10]) or ":" in text
    # openpyxl leaves `_x000d_`, a carriage return, as it stands.
    return one_line_end(str(value).replace("_x000d_", "\r")) == one_line_end(text)


def one_line_end(text: str) -> str:
    """Without carriage returns, and trimmed."""
    return text.replace("\r", "").strip()


def moment(value: dt.datetime | dt.date | dt.time | dt.timedelta) -> str:
    """To the minute, for seconds are rounded by both."""
    return str(value)[:16]


if __name__ == "__main__":
    sys.exit(main())
