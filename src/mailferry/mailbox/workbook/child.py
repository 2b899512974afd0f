"""The child that reads spreadsheets: `python -I -m mailferry.mailbox.workbook.child LIMITS FOLDER`. A sandbox, with limits and no secrets.

Requests come as JSON lines on standard input, one at a time; answers go as frames to standard output, each a letter, four
bytes of length (big endian) and so many bytes:

    R  JSON: ready for a first request (once); the layers of the sandbox that this system lacks
    H  JSON: the columns that will come, sheets, header row, warnings
    C  CSV lines, or pieces of them
    J  JSON lines: rejected rows
    E  JSON: counts, content hash, warnings; the file is done
    X  JSON: the file cannot be read: `class` ("Reject" or "Retry") and `reason`

It reads what the parent puts into its folder, and its own libraries; it can write nothing but frames.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from mailferry.config.spreadsheet import Limits, UnknownColumns
from mailferry.errors import MailferryError, Reject, Retry
from mailferry.mailbox.workbook.contract import (
    HEADER_ROWS,
    Header,
    RowContract,
    RowWriter,
    align,
    filled,
    find_header,
    infer_types,
    lay_out,
    with_types,
)
from mailferry.mailbox.workbook.formats import MIB, open_zip
from mailferry.mailbox.workbook.sandbox import confine, libraries
from mailferry.mailbox.workbook.values import Column, Kind, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from python_calamine import CalamineSheet, CalamineWorkbook

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.contract import Layout

#: Cells that are Python objects at one time; a cell may hold 32,767 characters.
BATCH_CELLS = 8_192
#: A frame's largest content, bytes.
FRAME = 256 * 1024


def main() -> None:
    """Serve requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but frames may get into the pipe
    limits = Limits(**orjson.loads(sys.argv[1]))
    _limit_memory(limits)
    import python_calamine  # noqa: F401 - loaded before the first file waits for it

    missing = confine([*libraries(), Path(sys.argv[2])])
    _send(answers, b"R", orjson.dumps(missing))
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        _limit_cpu(limits)
        try:
            _serve(request, limits, answers)
        except MailferryError as error:
            kind = "Retry" if isinstance(error, Retry) else "Reject"
            _send(answers, b"X", orjson.dumps({"class": kind, "reason": str(error)}))


def _limit_memory(limits: Limits) -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    # Standard error is a file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))


def _limit_cpu(limits: Limits) -> None:
    """So many seconds from now: the soft limit counts from the start of the process."""
    if sys.platform == "win32":
        return
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + limits.cpu_seconds, hard))


def _send(answers: IO[bytes], letter: bytes, content: bytes) -> None:
    answers.write(struct.pack(">cI", letter, len(content)))
    answers.write(content)
    answers.flush()


def contract_from(plain: dict[str, Any]) -> RowContract:
    """The contract as `dataclasses.asdict` and JSON left it."""
    return RowContract(
        **plain
        | {
            "columns": tuple(Column(**column) for column in plain["columns"]),
            "unknown_columns": UnknownColumns(plain["unknown_columns"]),
            "reserved": tuple(plain["reserved"]),
        }
    )


def _serve(request: dict[str, Any], limits: Limits, answers: IO[bytes]) -> None:
    """Read one file; every fault of the file is a Reject."""
    contract = contract_from(request["contract"])
    try:
        path = Path(request["path"])
        # Opened here first: a file that cannot be read is not a workbook that is broken.
        with path.open("rb"):
            if request["kind"] != Kind.XLS:
                open_zip(path, limits).close()
            _read(path, contract, _Output(answers=answers, limit=limits.rejects))
    except BrokenPipeError:
        sys.exit(0)  # the parent has gone
    except OSError as error:
        raise Retry(f"reading failed: {error}") from None
    except MemoryError:
        raise Reject(f"it needs more memory than the limit of {limits.memory / MIB:,.0f} MB") from None


@dataclass(kw_only=True, slots=True)
class _Output:
    """Where a file's rows and rejects go."""

    answers: IO[bytes]
    #: Bytes of rejects that are sent at most.
    limit: int
    unwritten: int = 0
    _waiting: bytearray = field(default_factory=bytearray)

    def rows(self, text: bytes) -> None:
        self._waiting += text
        while len(self._waiting) >= FRAME:
            _send(self.answers, b"C", bytes(self._waiting[:FRAME]))
            del self._waiting[:FRAME]

    def flush(self) -> None:
        if self._waiting:
            _send(self.answers, b"C", bytes(self._waiting))
            self._waiting.clear()

    def reject(self, rows: list[RejectedRow]) -> None:
        lines = bytearray()
        for row in rows:
            line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
            if self.unwritten or len(line) > self.limit:
                self.unwritten += 1
                continue
            self.limit -= len(line)
            lines += line
        for start in range(0, len(lines), FRAME):
            _send(self.answers, b"J", bytes(lines[start : start + FRAME]))


@dataclass(kw_only=True, slots=True)
class _Table:
    """A worksheet in which a header was found."""

    name: str
    header: Header
    #: Kept while it is the only one; several are read again one after the other.
    sheet: CalamineSheet | None


def _read(path: Path, contract: RowContract, output: _Output) -> None:
    with _calamine("it"):
        from python_calamine import CalamineWorkbook

        book = CalamineWorkbook.from_path(path)
    warnings: list[str] = []
    tables = _tables(book, contract, warnings)
    layouts = _layouts(book, tables, contract)
    layout = layouts[0]
    warnings += layout.warnings
    head = {
        "sheets": [table.name for table in tables],
        "header_row": tables[0].header.row,
        "columns": [asdict(column) for column in layout.columns],
        "new": [asdict(column) for column in layout.new],
        "unknown": layout.unknown,
        "missing": layout.missing,
        "warnings": warnings,
    }
    _send(output.answers, b"H", orjson.dumps(head))
    writer = RowWriter(layout=layout, contract=contract)
    offsets = []
    for table, own in zip(tables, layouts, strict=True):
        offsets.append(writer.offset)
        writer.turn_to(own)
        last = table.header.row
        for first, rows in _batches(_load(book, table), table.header.row):
            text, rejects = writer.batch(table.name, first, rows)
            output.rows(text)
            output.reject(rejects)
            last = first + len(rows) - 1
        writer.offset += last
    output.flush()
    if writer.nuls:
        writer.warnings.append(f"{writer.nuls} NUL characters were taken out of the text")
    end = {
        "read": writer.read,
        "rejected": writer.rejected,
        "rejects_unwritten": output.unwritten,
        "blank": writer.blank,
        "content_hash": writer.content_hash,
        "offsets": offsets,
        "warnings": writer.warnings,
    }
    _send(output.answers, b"E", orjson.dumps(end))


class _calamine:  # noqa: N801 - reads as the statement that it is used in
    """Turns what the reader raises on a broken workbook into Reject. A panic in it is no Exception."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> None:
        if error is None or isinstance(error, MailferryError | MemoryError | KeyboardInterrupt | SystemExit):
            return
        from python_calamine import PasswordError

        if isinstance(error, PasswordError):
            raise Reject("protected by a password; send it without") from None
        if isinstance(error, OSError) and "os error" in str(error):
            raise Retry(f"reading failed: {error}") from None
        reason = " ".join(str(error).split())[:300]
        raise Reject(f"{self._what} is damaged and cannot be read ({reason})") from None


def _tables(book: CalamineWorkbook, contract: RowContract, warnings: list[str]) -> list[_Table]:
    """The sheets that will be loaded: one, or with "all" every visible one that has the key in a header."""
    names = _sheet_names(book, contract.sheet)
    found: list[_Table] = []
    seen = []
    for name in names:
        with _calamine(f"sheet {name!r}"):
            sheet = book.get_sheet_by_name(name)
            top = list(islice(sheet.iter_rows(), HEADER_ROWS))
        header = find_header(top, contract.key)
        if header is None:
            seen.append(f"sheet {name!r}: {_first_names(top)}")
            continue
        if found:
            found[0].sheet = None
        found.append(_Table(name=name, header=header, sheet=None if found else sheet))
        if contract.sheet != "all":
            return found
    if not found:
        raise Reject(
            f"no header row with the key {contract.key!r} in the first {HEADER_ROWS} rows; found: {'; '.join(seen[:10])}"
        )
    warnings += [f"not loaded, no header with the key: {sheet}" for sheet in seen]
    return found


def _first_names(top: Sequence[Sequence[Cell]]) -> str:
    """The first row that has anything in it, for a message."""
    from mailferry.mailbox.workbook.cells import text_of

    for number, row in enumerate(top, 1):
        names = filled(
            Header(row=number, names=(), written=tuple(" ".join(text_of(cell)[:40].split()) for cell in row))
        )
        if names:
            return ", ".join(names[:15]) + (" ..." if len(names) > 15 else "")
    return "nothing"


def _sheet_names(book: CalamineWorkbook, wanted: str) -> list[str]:
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    sheets = [sheet for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]
    if wanted not in {"", "all"}:
        named = [sheet.name for sheet in sheets if sheet.name == wanted] or [
            sheet.name for sheet in sheets if sheet.name.strip().casefold() == wanted.strip().casefold()
        ]
        if not named:
            has = ", ".join(repr(sheet.name) for sheet in sheets[:20])
            raise Reject(f"no sheet is called {wanted!r}; the file has: {has or 'no worksheets'}")
        return named[:1]
    visible = [sheet.name for sheet in sheets if sheet.visible == SheetVisibleEnum.Visible]
    if not visible:
        raise Reject("it has only hidden sheets" if sheets else "it has no worksheets")
    return visible


def _load(book: CalamineWorkbook, table: _Table) -> CalamineSheet:
    with _calamine(f"sheet {table.name!r}"):
        return table.sheet or book.get_sheet_by_name(table.name)


def _batches(sheet: CalamineSheet, header_row: int) -> Iterator[tuple[int, list[list[Cell]]]]:
    """The rows below the header, and the number of the first of each batch."""
    rows = sheet.iter_rows()
    for _ in islice(rows, header_row):
        pass
    size = max(1, BATCH_CELLS // max(1, sheet.width))
    first = header_row + 1
    while batch := list(islice(rows, size)):
        yield first, batch
        first += len(batch)


def _layouts(book: CalamineWorkbook, tables: list[_Table], contract: RowContract) -> list[Layout]:
    """One layout a sheet, all with the same columns: one that a sheet lacked would be emptied in the table."""
    first = lay_out(tables[0].header, contract)
    layouts = [first]
    for table in tables[1:]:
        aligned = align(first, lay_out(table.header, contract))
        if aligned is None:
            raise Reject(f"sheets {tables[0].name!r} and {table.name!r} do not have the same columns")
        layouts.append(aligned)
    if all(column.type for column in first.new):
        return layouts
    types = infer_types(
        [(layout, _rows(book, table)) for table, layout in zip(tables, layouts, strict=True)],
    )
    return [with_types(layout, types) for layout in layouts]


def _rows(book: CalamineWorkbook, table: _Table) -> Iterator[list[list[Cell]]]:
    for _, rows in _batches(_load(book, table), table.header.row):
        yield rows


if __name__ == "__main__":
    main()
