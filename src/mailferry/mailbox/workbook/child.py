"""The child that reads spreadsheets: `python -I -m mailferry.mailbox.workbook.child LIMITS FOLDER`. A sandbox, with limits and no secrets.

The passwords of protected workbooks come with the request. Besides, it says what files are and hold, see `contents`.

Requests come as JSON lines on standard input, one at a time; answers go as frames to standard output, each a letter, four
bytes of length (big endian) and so many bytes:

    R  JSON: ready for a first request (once); the layers of the sandbox that this system lacks
    H  JSON: the columns that will come, sheets, header row, warnings
    C  CSV lines, or pieces of them; pieces of a file that is unpacked
    J  JSON lines: rejected rows
    E  JSON: counts, content hash, warnings, or what the file is; the file is done
    X  JSON: the file cannot be read: `class` ("Reject" or "Retry") and `reason`

It reads what the parent puts into its folder, and its own libraries; it can write nothing but frames.
"""

from __future__ import annotations

import functools
import gc
import os
import struct
import sys
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from mailferry.config.columns import Blanks, Case, ColumnRule, Form, Hidden, Mark, Spaces
from mailferry.config.spreadsheet import ErrorCells, Limits, UnknownColumns
from mailferry.errors import MailferryError, Reject, Retry
from mailferry.mailbox.workbook.book import Options, damaged
from mailferry.mailbox.workbook.cells import text_of
from mailferry.mailbox.workbook.contract import MAX_COLUMNS, Look, RowContract
from mailferry.mailbox.workbook.header import HEADER_ROWS
from mailferry.mailbox.workbook.hidden import HiddenCells
from mailferry.mailbox.workbook.open import open_book
from mailferry.mailbox.workbook.row_writer import RowWriter, quoted
from mailferry.mailbox.workbook.sandbox import confine, libraries
from mailferry.mailbox.workbook.tables import Reading
from mailferry.mailbox.workbook.values import MIB, Column, Kind, RejectedRow

if TYPE_CHECKING:
    from mailferry.mailbox.workbook.book import Book
    from mailferry.mailbox.workbook.contents import Contents

#: A frame's largest content, bytes.
FRAME = 256 * 1024
#: Objects after which the interpreter looks for unused circles of them.
_ALLOCATIONS = 50_000


def main() -> None:
    """Serve requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but frames may get into the pipe
    limits = Limits(**orjson.loads(sys.argv[1]))
    _limit_memory(limits)
    # Rows hold no circles, and looking for some at every few hundred of them costs a tenth of the reading.
    gc.set_threshold(_ALLOCATIONS)
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
            "errors": ErrorCells(plain["errors"]),
            "hidden": Hidden(plain["hidden"]),
            "passwords": tuple(plain["passwords"]),
            "rules": tuple(map(_rule_from, plain["rules"])),
            "stop_at": tuple(plain["stop_at"]),
            "look": Look(plain["look"]),
        }
    )


def _rule_from(plain: dict[str, Any]) -> ColumnRule:
    return ColumnRule(
        **plain
        | {name: tuple(plain[name]) for name in ("headers", "formats", "values")}
        | {
            "spaces": Spaces(plain["spaces"]),
            "case": Case(plain["case"]),
            "unicode": Form(plain["unicode"]),
            "decimal": Mark(plain["decimal"]),
            "blanks": plain["blanks"] and Blanks(plain["blanks"]),
        }
    )


def _serve(request: dict[str, Any], limits: Limits, answers: IO[bytes]) -> None:
    """Read one file, or say what it is; every fault of the file is a Reject."""
    try:
        path = Path(request["path"])
        if "do" in request:
            with damaged("it"):
                for said in _contents().answer(request):
                    if isinstance(said, bytes):
                        _send(answers, b"C", said)
                    else:
                        _send(answers, b"E", orjson.dumps(said))
            return
        contract = contract_from(request["contract"])
        # Opened here first: a file that cannot be read is not a workbook that is broken.
        with path.open("rb") as file:
            hidden = HiddenCells(skip=contract.hidden is Hidden.SKIP)
            options = Options(
                finder=contract.finder,
                charset=contract.charset,
                hidden=hidden,
                passwords=contract.passwords,
                limits=limits,
            )
            with damaged("it"):
                book = open_book(file, path, Kind(request["kind"]), options)
            output = _Output(answers=answers, limit=limits.rejects)
            if contract.look is not Look.ALL:
                _show(book, output, top=contract.look is Look.TOP)
            else:
                _read(book, contract, hidden, output)
    except BrokenPipeError:
        sys.exit(0)  # the parent has gone
    except OSError as error:
        raise Retry(f"reading failed: {error}") from None
    except MemoryError:
        raise Reject(f"it needs more memory than the limit of {limits.memory / MIB:,.0f} MB") from None


@functools.cache
def _contents() -> Contents:
    from mailferry.mailbox.workbook.contents import Contents

    return Contents()


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


def _show(book: Book, output: _Output, *, top: bool) -> None:
    """The visible sheets, and their first rows as text: number of the sheet, and the cells."""
    nothing: dict[str, Any] = dict.fromkeys(("columns", "new", "unknown", "missing", "warnings"), ())
    names = [sheet.name for sheet in book.sheets if sheet.visible]
    _send(output.answers, b"H", orjson.dumps({**nothing, "sheets": names, "header_row": 0, "reasons": {}}))
    for at, name in enumerate(names if top else ()):
        with damaged(f"sheet {name!r}"):
            for row in islice(book.rows(name), HEADER_ROWS):
                texts = quoted([text_of(cell).replace("\0", "")[:200] for cell in row[:MAX_COLUMNS]])
                output.rows(f"{','.join([str(at), *texts])}\n".encode())
    output.flush()
    counts = dict.fromkeys(("read", "rejected", "left_out", "rejects_unwritten"), 0)
    _send(output.answers, b"E", orjson.dumps({**counts, "content_hash": "", "offsets": (), "warnings": ()}))


def _read(book: Book, contract: RowContract, hidden: HiddenCells, output: _Output) -> None:
    reading = Reading(book, contract, hidden)
    layout = reading.layouts[0]
    head = {
        "sheets": [table.name for table in reading.tables],
        "header_row": reading.tables[0].header.row,
        "columns": [asdict(column) for column in layout.columns],
        "new": [asdict(column) for column in layout.new],
        "unknown": layout.unknown,
        "missing": layout.missing,
        "reasons": layout.reasons,
        "warnings": reading.warnings,
    }
    _send(output.answers, b"H", orjson.dumps(head))
    writer = RowWriter(layout=layout, contract=contract)
    offsets = []
    for table, own in zip(reading.tables, reading.layouts, strict=True):
        offsets.append(writer.offset)
        writer.turn_to(own)
        last = table.header.row
        for first, rows in reading.batches(table, writer.warnings):
            text, rejects = writer.batch(table.name, first, rows)
            output.rows(text)
            output.reject(rejects)
            last = first + len(rows) - 1
        writer.offset += last
    output.flush()
    end = {
        "read": writer.read,
        "rejected": writer.rejected,
        "left_out": reading.left_out,
        "rejects_unwritten": output.unwritten,
        "content_hash": writer.content_hash,
        "offsets": offsets,
        "warnings": [*writer.all_warnings, *reading.not_loaded()],
    }
    _send(output.answers, b"E", orjson.dumps(end))


if __name__ == "__main__":
    main()
