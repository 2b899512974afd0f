"""How spreadsheets are read. Without pydantic: the reading child imports this module."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_MIB = 1024 * 1024


class UnknownColumns(StrEnum):
    """What to do with a column that the table does not have."""

    IGNORE = "ignore"
    ADD = "add"
    REFUSE = "refuse"


class ErrorCells(StrEnum):
    """What to do with a row in which a cell shows an error (`#N/A`) or a formula that was never calculated."""

    REJECT = "reject"
    #: The cell counts as empty.
    NULL = "null"


class Sandbox(StrEnum):
    """What to do where this system lacks a layer of the reading child's sandbox."""

    #: Go on with the others; `mailferry check` names those that are missing.
    BEST = "best"
    REQUIRE = "require"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one spreadsheet or archive may take, and what holds the child that reads it."""

    #: Address space of the reading child, bytes; about 1 GB is needed for 1,048,576 rows of 12 columns that are not read as a stream.
    memory: int = 1536 * _MIB
    #: Processor seconds a file.
    cpu_seconds: int = 120
    #: Seconds of waiting for the child, a file; the time that the database takes does not count.
    wall_seconds: float = 300.0
    #: Rejected rows are written down up to this many bytes; beyond it they are only counted.
    rejects: int = 16 * _MIB
    #: Entries of a zip, and the sum of the sizes that it states for them, bytes.
    entries: int = 10_000
    inflated: int = 2048 * _MIB
    #: Bytes that all archives and containers of one message may unpack to.
    message: int = 1024 * _MIB
    #: How much larger than its compressed bytes an archive over `ratio_from` bytes may be; deflate can do 1,032.
    ratio: int = 200
    ratio_from: int = 64 * _MIB
    #: A child reads this many files before a new one takes its place.
    files: int = 500
    sandbox: Sandbox = Sandbox.BEST
