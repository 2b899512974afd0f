"""One interface to all formats: a file is a book, which has sheets, which have rows of typed cells.

A book is used within `with`, by one reader at a time. Only the reading child opens one, by `open.py`.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from mailferry.errors import MailferryError, Reject
from mailferry.mailbox.workbook.cells import Fault, is_blank

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailferry.config.spreadsheet import Limits
    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.header import Finder
    from mailferry.mailbox.workbook.hidden import HiddenCells

#: Bytes that a streaming reader takes at a time.
PIECE = 128 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a file is to be opened."""

    #: Of the header, by which the columns of delimited text are recognized.
    finder: Finder
    charset: str
    #: What is hidden, and whether it is left out.
    hidden: HiddenCells
    passwords: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetInfo:
    """A worksheet."""

    name: str
    visible: bool = True


class Book(Protocol):
    """An open file."""

    #: Its worksheets, in their order.
    sheets: tuple[SheetInfo, ...]
    #: Whether a person gave the sheets their names; the one table of a text file has none to ask for.
    named: bool
    #: What a row with data beyond the header is, where that means that its fields are displaced.
    overlong: Fault | None

    def rows(self, sheet: str) -> Iterable[list[Cell]]:
        """All rows of a sheet from row 1, of any lengths. Raises whatever the format's library raises."""

    def warnings(self, sheet: str) -> list[str]:
        """What a person should know of a sheet; complete once its rows have been read.

        Raises Reject where hidden cells are to be left out and it is not known which those are.
        """


@contextlib.contextmanager
def damaged(what: str) -> Iterator[None]:
    """Make a Reject of whatever a library raises on a broken file. A panic in a library is no Exception."""
    try:
        yield
    except (MailferryError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit, BrokenPipeError):
        raise
    except OSError as error:
        # EINVAL is a seek to where a broken file points.
        if error.errno not in {None, errno.EINVAL} or "os error" in str(error):
            raise
        raise _reject(what, error) from None
    except BaseException as error:  # noqa: BLE001 - see above
        raise _reject(what, error) from None


def _reject(what: str, error: BaseException) -> Reject:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return Reject(f"{what} is damaged and cannot be read ({reason})")


@dataclass(kw_only=True, slots=True)
class Fitter:
    """Makes all rows of a sheet as long as its header."""

    width: int
    #: What a longer row becomes; None where the rest is data without a header.
    overlong: Fault | None
    #: Whether data was cut off that has no header.
    cut: bool = False
    #: Rows that were shorter.
    short: int = 0

    def fit(self, rows: list[list[Cell]]) -> None:
        """Fit rows in place."""
        if set(map(len, rows)) == {self.width}:
            return
        for row in rows:
            if len(row) < self.width:
                self._lengthen(row)
            elif len(row) > self.width:
                self._shorten(row)

    def _lengthen(self, row: list[Cell]) -> None:
        if len(row) == 1 and isinstance(row[0], Fault) and not row[0].is_empty:
            row *= self.width
            return
        self.short += not all(map(is_blank, row))
        row.extend([""] * (self.width - len(row)))

    def _shorten(self, row: list[Cell]) -> None:
        if not all(map(is_blank, row[self.width :])):
            if self.overlong:
                row[:] = [self.overlong] * self.width
                return
            self.cut = True
        del row[self.width :]


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """A file from its start, in pieces."""
    file.seek(0)
    while piece := file.read(PIECE):
        yield piece
