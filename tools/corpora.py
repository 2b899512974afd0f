"""`./dev corpora`: run other people's workbooks through the reader. Not part of `./dev test`; needs Debian's apt sources.

Fetches test files out of Debian source packages into .cache/corpora/, reads every spreadsheet in them as a table without a
key would be read, and compares each .xlsx and .xlsm cell by cell with openpyxl where that can read it too. Exit status 1 when a
child was brought down other than by a limit, an error has no reason, or a cell differs.
"""

from __future__ import annotations

import argparse
import collections
import csv
import datetime as dt
import io
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path, PurePosixPath

import openpyxl

from mailferry.config.spreadsheet import Limits
from mailferry.errors import MailferryError, Reject
from mailferry.mailbox.workbook.cells import text_of
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.formats import kind_of
from mailferry.mailbox.workbook.header import clean_name, find_header
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Kind

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
        with reader.open(path, kind, RowContract(key=key)) as sheet:
            text = b"".join(sheet.chunks).decode()
            rows = list(csv.reader(io.StringIO(text, newline="")))
            if len(rows) + sheet.report.rejected != sheet.report.read:
                return "loaded", [f"{len(rows)} rows of {sheet.report.read}"]
            if kind is not Kind.XLSX:
                return f"loaded, {kind}", []
            return compare(
                path, sheet.sheets[0], sheet.header_row, [column.name for column in sheet.columns], rows
            )
    except Reject as reject:
        reason = str(reject)
        faults = [f"rejected: {reason}"] if "brought the reading process down" in reason or not reason else []
        return f"rejected: {reason.partition('(')[0].partition(';')[0].partition('found:')[0][:70]}", faults
    except MailferryError as error:
        return "error", [f"{type(error).__name__}: {error}"]


def some_key(reader: Reader, path: Path, kind: Kind) -> str:
    """A name in the first row that has one: taken from the reason why a key that nobody has was not found."""
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


def compare(
    path: Path, sheet: str, header_row: int, names: list[str], rows: list[list[str]]
) -> tuple[str, list[str]]:
    """Cell by cell with openpyxl."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, data_only=True)
            cells = {row[0].row: row for row in book[sheet].iter_rows() if row}
    except Exception:  # noqa: BLE001 - whatever another reader cannot read
        return "loaded; openpyxl cannot read it", []
    top = [cell.value for cell in cells.get(header_row, ())]
    header = find_header([[written(value) for value in top]], names[0])
    if header is None:
        return "loaded; openpyxl sees another header", []
    places = {name: place for place, name in enumerate(header.names) if name}
    faults = []
    for number, *texts in rows:
        row = cells.get(int(number), ())
        for name, text in zip(names, texts, strict=True):
            place = places.get(name)
            cell = row[place] if place is not None and place < len(row) else None
            value = None if cell is None or cell.data_type == "e" else cell.value
            if not same(value, text):
                faults.append(f"row {number}, {name}: {text!r}, where openpyxl has {value!r}")
    return "loaded, as openpyxl reads it" if not faults else "loaded, not as openpyxl reads it", faults[:5]


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
        # openpyxl tells dates from times by another rule; what can be told is told by the day or the minute.
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
