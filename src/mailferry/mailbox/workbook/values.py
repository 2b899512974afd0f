"""What a workbook holds, as it travels from the file to the table."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

MIB = 2**20


class Kind(StrEnum):
    """A spreadsheet's format, by its content."""

    XLSX = "xlsx"  # .xlsx and .xlsm: a zip of XML parts
    XLSB = "xlsb"
    XLS = "xls"  # OLE2 compound file, BIFF
    ODS = "ods"
    CSV = "csv"  # delimited text: commas, semicolons, tabs or bars
    HTML = "html"  # a web page with tables, often named .xls
    XML = "xml"  # SpreadsheetML of 2003
    PROTECTED = "protected"  # OLE2 compound file around an encrypted .xlsx, .xlsm or .xlsb


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the target table as the row contract needs it."""

    name: str
    #: PostgreSQL type as `format_type()` writes it: "bigint", "numeric(10,2)", "character varying(50)", ...
    type: str
    nullable: bool = True
    has_default: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRow:
    """A row that was not loaded, and the first reason why."""

    sheet: str
    #: 1-based, as the spreadsheet program shows it.
    row: int
    column: str
    value: str
    reason: str


@dataclass(kw_only=True, slots=True)
class Counts:
    """What became of one file's rows."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    #: Rows that an equal key further down the same file replaced.
    superseded: int = 0
    #: Rows of the table that are absent from the message, and were marked or deleted; none of those read.
    absent: int = 0
    #: Hidden rows of the file that were not to be loaded; none of those read.
    left_out: int = 0
    warnings: list[str] = field(default_factory=list)
