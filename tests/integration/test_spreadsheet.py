"""Workbooks through the reading child: honest ones to rows, hostile ones to one reason each, nothing else disturbed."""

# ruff: noqa: DTZ001, RUF001 - cells have no time zone; Turkish letters are meant

from __future__ import annotations

import csv
import datetime as dt
import io
import math
import os
import random
import signal
import stat
import zipfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from support_workbooks import Bombs, compound, ods, xls

from mailferry.config.spreadsheet import Limits, UnknownColumns
from mailferry.errors import MailferryError, Reject, Retry, Stop
from mailferry.mailbox.workbook import reader as reader_module
from mailferry.mailbox.workbook.cells import is_blank
from mailferry.mailbox.workbook.contract import RowContract, lay_out
from mailferry.mailbox.workbook.formats import kind_of
from mailferry.mailbox.workbook.header import Finder, named
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.row_writer import RowWriter
from mailferry.mailbox.workbook.values import MIB, Column, Kind
from mailferry.testing.workbooks import Number, Tab, sheet_xml, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.database import Connection
    from mailferry.mailbox.workbook.reader import Report, Sheet
    from mailferry.mailbox.workbook.values import RejectedRow

KEY = Column(name="key", type="text")
NEW = RowContract(key="key")


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def load(
    reader: Reader, path: Path, contract: RowContract = NEW, kind: Kind | None = None
) -> tuple[list[list[str]], Sheet, Report, list[RejectedRow]]:
    """Rows, columns, report and rejects of a file."""
    with reader.open(path, kind or kind_of(path), contract) as sheet:
        text = b"".join(sheet.chunks).decode()
        rows = list(csv.reader(io.StringIO(text, newline="")))
        return rows, sheet, sheet.report, list(sheet.rejects())


def child_of(reader: Reader) -> psutil.Process:
    assert reader._child is not None
    return psutil.Process(reader._child._process.pid)


def test_cells_of_every_kind_arrive_by_the_types_of_the_table(reader: Reader, tmp_path: Path) -> None:
    moment = dt.datetime(2024, 1, 31, 14, 30, 5)
    rows: list[list[Any]] = [
        ["Key", "Whole", "Money", "Day", "Moment", "Truth", "Words"],
        ["0001", 12.0, 0.1, moment.date(), moment, True, 'say "hi",\nthen\n\\.\ngo'],
        [12345.0, None, None, None, Number("", 1), None, None],
    ]
    types = ["text", "integer", "numeric(10,2)", "date", "timestamp without time zone", "boolean", "text"]
    columns = tuple(Column(name=name.lower(), type=kind) for name, kind in zip(rows[0], types, strict=True))
    out, _, report, rejects = load(
        reader, xlsx(tmp_path / "a", Tab(rows=rows)), RowContract(key="key", columns=columns)
    )
    assert out == [
        ["2", "0001", "12", "0.1", "2024-01-31", "2024-01-31 14:30:05", "true", 'say "hi",\nthen\n\\.\ngo'],
        ["3", "12345", "", "", "", "", "", ""],
    ]
    assert (report.read, report.rejected, rejects) == (2, 0, [])


def test_every_format_gives_the_same_columns_and_content(reader: Reader, tmp_path: Path) -> None:
    rows = [[None, "Key", "n"], [], ["", "ışık", 12.0], [None, "b", 0.5]]
    tab = Tab(rows=rows)
    writers: list[Callable[[Path, Tab], Path]] = [xlsx, ods, xls]
    read = [load(reader, write(tmp_path / str(at), tab)) for at, write in enumerate(writers)]
    assert [out for out, *_ in read] == [[["3", "ışık", "12"], ["4", "b", "0.5"]]] * 3
    assert len({report.content_hash for *_, report, _ in read}) == 1
    assert {sheet.columns for _, sheet, _, _ in read} == {(KEY, Column(name="n", type="numeric"))}


def test_a_column_that_turns_to_text_at_its_end_is_text(reader: Reader, tmp_path: Path) -> None:
    rows: list[list[Any]] = [["key", "n"], *([str(at), 1.0] for at in range(20_000)), ["last", "12a"]]
    out, sheet, report, _ = load(reader, xlsx(tmp_path / "a", Tab(rows=rows)))
    assert sheet.new == (KEY, Column(name="n", type="text"))
    assert out[-1] == ["20002", "last", "12a"]
    assert out[0] == ["2", "0", "1"]
    assert report.read == 20_001


def test_new_columns_of_an_existing_table_are_reported_with_their_types(
    reader: Reader, tmp_path: Path
) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key", "day"], ["a", dt.date(2024, 1, 2)]]))
    contract = RowContract(key="key", columns=(KEY,), unknown_columns=UnknownColumns.ADD)
    _, sheet, *_ = load(reader, path, contract)
    assert sheet.new == (Column(name="day", type="timestamp without time zone"),)
    assert load(reader, path, replace(contract, unknown_columns=UnknownColumns.IGNORE))[1].unknown == ("day",)
    with pytest.raises(Reject, match="'day'"):
        load(reader, path, replace(contract, unknown_columns=UnknownColumns.REFUSE))


def test_the_first_visible_worksheet_with_the_key_is_taken_or_the_named_one_or_all(
    reader: Reader, tmp_path: Path
) -> None:
    path = xlsx(
        tmp_path / "a",
        Tab(name="hidden", rows=[["key"], ["h"]], state="hidden"),
        Tab(name="deep", rows=[["key"], ["d"]], state="veryHidden"),
        Tab(name="chart", chart=True),
        Tab(name="cover", rows=[["Report"]]),
        Tab(name="One", rows=[["key", "n"], ["a", 1.0]]),
        Tab(name="Two", rows=[[], ["n", "key"], [0.5, "b"]]),
    )
    assert load(reader, path)[0] == [["2", "a", "1"]]
    assert load(reader, path, RowContract(key="key", sheet=" two"))[0] == [["3", "0.5", "b"]]
    assert load(reader, path, RowContract(key="key", sheet="hidden"))[0] == [["2", "h"]]
    out, sheet, report, _ = load(reader, path, RowContract(key="key", sheet="all"))
    assert out == [["2", "a", "1"], ["5", "b", "0.5"]]
    assert sheet.sheets == ("One", "Two")
    assert sheet.new[1] == Column(name="n", type="numeric")
    assert any("cover" in warning for warning in report.warnings)
    with pytest.raises(Reject, match=r"no sheet is called 'three'.*'One'"):
        load(reader, path, RowContract(key="key", sheet="three"))


def test_sheets_with_different_columns_are_not_loaded_together(reader: Reader, tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(name="A", rows=[["key", "n"]]), Tab(name="B", rows=[["key"]]))
    with pytest.raises(Reject, match="'A' and 'B'"):
        load(reader, path, RowContract(key="key", sheet="all"))


def test_rejected_rows_are_reported_with_sheet_row_column_value_and_reason(
    reader: Reader, tmp_path: Path
) -> None:
    path = xlsx(tmp_path / "a", Tab(name="S", rows=[["key", "n"], ["a", "x"], [None, 1.0], ["b", 1.0]]))
    contract = RowContract(key="key", columns=(KEY, Column(name="n", type="integer")))
    out, _, report, rejects = load(reader, path, contract)
    assert out == [["4", "b", "1"]]
    assert (report.read, report.rejected) == (3, 2)
    assert [(row.sheet, row.row, row.column, row.value, row.reason) for row in rejects] == [
        ("S", 2, "n", "x", "not a number"),
        ("S", 3, "key", "", "no key"),
    ]


def test_rejects_beyond_their_limit_are_counted(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key", "n"], *(["a", "x" * 100] for _ in range(100))]))
    contract = RowContract(key="key", columns=(KEY, Column(name="n", type="integer")))
    with Reader(Limits(rejects=2_000)) as reader:
        _, _, report, rejects = load(reader, path, contract)
    assert report.rejected == 100
    assert 0 < len(rejects) < 100
    assert report.rejects_unwritten == 100 - len(rejects)


def test_both_calendars_lead_to_the_same_dates_and_dates_before_1900_are_refused(
    reader: Reader, tmp_path: Path
) -> None:
    rows = [["key", "d"], ["a", dt.date(2024, 2, 29)], ["b", Number("-5", 1)], ["c", "1899-12-31"]]
    contract = RowContract(key="key", columns=(KEY, Column(name="d", type="date")))
    for epoch_1904 in (False, True):
        out, _, _, rejects = load(
            reader, xlsx(tmp_path / "a", Tab(rows=rows), epoch_1904=epoch_1904), contract
        )
        assert out == [["2", "a", "2024-02-29"], ["4", "c", "1899-12-31"]]
        assert "before 1900" in rejects[0].reason


def test_nul_characters_are_taken_out_and_counted(reader: Reader, tmp_path: Path) -> None:
    out, _, report, _ = load(reader, xlsx(tmp_path / "a", Tab(rows=[["key", "t"], ["a\0b", "\0"]])))
    assert out == [["2", "ab", ""]]
    assert "2 NUL" in report.warnings[0]


def test_16384_columns_load_into_a_table_that_has_some_of_them(reader: Reader, tmp_path: Path) -> None:
    path = xlsx(
        tmp_path / "a", Tab(rows=[["key", *(f"c{at}" for at in range(16_383))], ["a", *[1.0] * 16_383]])
    )
    contract = RowContract(key="key", columns=(KEY, Column(name="c16382", type="integer")))
    assert load(reader, path, contract)[0] == [["2", "a", "1"]]
    with pytest.raises(Reject, match="16384 columns"):
        load(reader, path)


def test_1048576_rows_load_within_the_memory_limit(tmp_path: Path) -> None:
    path = Bombs(folder=tmp_path).many_rows(1_048_576)
    with Reader(Limits(memory=1024 * MIB)) as reader, reader.open(path, Kind.XLSX, NEW) as sheet:
        lines = sum(chunk.count(b"\n") for chunk in sheet.chunks)
        assert lines == sheet.report.read == 1_048_575


def broken(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """What cannot be read, and what the reason says."""
    tab = Tab(rows=[["key", "n"], ["a", 1.0]])
    good = xlsx(folder / "good", tab).read_bytes()
    with zipfile.ZipFile(folder / "good") as archive:
        at = archive.getinfo("xl/worksheets/sheet1.xml").header_offset
    bombs = Bombs(folder=folder)
    yield (
        "a package without its key",
        compound(folder / "1", {"EncryptedPackage": b"", "EncryptionInfo": b""}),
        "damaged .*EncryptionInfo",
    )
    yield "protected ods", ods(folder / "2", tab, encrypted=True), "password"
    for name, data, reason in [
        ("truncated", good[: len(good) // 2], "truncated"),
        ("empty", b"", "empty"),
        (
            "flipped bits",
            good[: at + 90] + bytes(255 - byte for byte in good[at + 90 : at + 120]) + good[at + 120 :],
            "damaged",
        ),
        ("csv", b'key;n\n"a;1\n', "quotation mark in line 2 is never closed"),
        ("html", b"<html><body>key</body></html>", "HTML"),
        ("truncated xls", xls(folder / "3", tab).read_bytes()[:1300], "damaged"),
    ]:
        path = folder / f"{name}.xls"
        path.write_bytes(data)
        yield name, path, reason
    yield (
        "no header",
        xlsx(folder / "4", Tab(rows=[["Kay", "n"]])),
        r"no header row with the key 'key'.*Kay, n",
    )
    yield "only hidden", xlsx(folder / "5", Tab(rows=[["key"]], state="hidden")), "only hidden sheets"
    yield "no sheet", xlsx(folder / "6", Tab(chart=True)), "no worksheets"
    yield "far cell", bombs.far_cell(), "more memory than the limit of 1,536 MB"
    yield "string count", bombs.string_count(), "more memory than the limit of 1,536 MB"
    yield "false size", bombs.false_size(50_000_000), "damaged"
    yield "billion laughs", bombs.laughs(), "damaged"
    yield "nested", bombs.nested(), "zip archive"
    yield "not xml", xlsx(folder / "7", Tab(xml=sheet_xml("<row><c r='A1'><v>1</w>"))), "damaged"


def test_each_broken_file_has_one_clear_reason_and_the_next_good_one_loads(
    reader: Reader, tmp_path: Path
) -> None:
    good = xlsx(tmp_path / "fine", Tab(rows=[["key"], ["a"]]))
    for name, path, reason in broken(tmp_path):
        with pytest.raises(Reject, match=reason) as caught:
            load(reader, path)
        assert len(str(caught.value)) < 500, name
        assert "\n" not in str(caught.value), name
        assert load(reader, good)[0] == [["2", "a"]], name


def test_a_bomb_that_inflates_past_the_limit_is_not_opened(reader: Reader, tmp_path: Path) -> None:
    path = Bombs(folder=tmp_path).one_cell(100_000_000)
    with pytest.raises(Reject, match="bomb"):
        load(reader, path)
    with Reader(Limits(inflated=50_000_000)) as strict, pytest.raises(Reject, match="would inflate to 95 MB"):
        load(strict, path, kind=Kind.XLSX)


def test_damage_anywhere_ends_in_rows_or_a_reason(reader: Reader, tmp_path: Path) -> None:
    chance = random.Random(7)
    tab = Tab(rows=[["key", "n"], *([f"k{at}", at / 2] for at in range(40))])
    writers: list[Callable[[Path, Tab], Path]] = [xlsx, ods, xls]
    sources = [write(tmp_path / "source", tab).read_bytes() for write in writers]
    for at in range(60):
        data = bytearray(sources[at % 3])
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path = tmp_path / "book"
        path.write_bytes(data)
        try:
            result = str(load(reader, path)[2])
        except Reject as reject:
            result = str(reject)
        assert result


def slow(folder: Path) -> Path:
    """Takes the child some seconds at least."""
    return Bombs(folder=folder).many_rows(1_000_000)


def test_a_file_that_takes_too_long_is_rejected_by_the_limit_that_it_met(tmp_path: Path) -> None:
    path = slow(tmp_path)
    with Reader(Limits(cpu_seconds=0)) as reader, pytest.raises(Reject, match="processor seconds"):
        load(reader, path)
    # Not even time for the start of the child, which no file's limit counts.
    with (
        Reader(Limits(wall_seconds=0)) as reader,
        pytest.raises(Reject, match="longer than the limit of 0 s"),
    ):
        load(reader, path)


def test_a_child_that_does_not_get_ready_stops_the_run_and_blames_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "_START", 0.0)
    monkeypatch.setattr(reader_module, "_GLANCE", 0.001)
    with Reader() as reader, pytest.raises(Stop, match="does not start: it was not ready within 0 seconds"):
        reader.missing_layers()


def test_a_child_that_is_ended_from_outside_is_no_fault_of_the_file(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key", "t"], *([str(at), "x" * 100] for at in range(20_000))]))
    with Reader() as reader:
        with pytest.raises(Retry, match="SIGKILL"), reader.open(path, Kind.XLSX, NEW) as sheet:  # noqa: PT012 - the kill comes in the middle
            chunks = sheet.chunks
            next(chunks)
            os.kill(child_of(reader).pid, signal.SIGKILL)
            list(chunks)
        assert load(reader, path)[2].read == 20_000


def test_one_child_reads_many_files_and_is_replaced_when_worn(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader(Limits(files=3)) as reader:
        seen = []
        for _ in range(5):
            load(reader, path)
            seen.append(child_of(reader).pid)
        assert len(set(seen[:3])) == 1
        assert len(set(seen[3:])) == 1
        assert seen[0] != seen[4]
        with pytest.raises(Reject):
            load(reader, Bombs(folder=tmp_path).laughs())
        assert child_of(reader).pid == seen[4], "a file that was only refused does not cost a child"
        last = child_of(reader)
    assert not last.is_running()


def test_a_child_that_died_between_files_is_replaced(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader() as reader:
        load(reader, path)
        child = child_of(reader)
        child.kill()
        psutil.wait_procs([child])
        assert load(reader, path)[0] == [["2", "a"]]


def test_a_file_left_half_read_does_not_reach_into_the_next(tmp_path: Path) -> None:
    large = xlsx(tmp_path / "a", Tab(rows=[["key", "t"], *([str(at), "x" * 100] for at in range(20_000))]))
    small = xlsx(tmp_path / "b", Tab(rows=[["key"], ["a"]]))
    with Reader(folder=tmp_path) as reader:
        with reader.open(large, Kind.XLSX, NEW) as sheet:
            next(sheet.chunks)
            with pytest.raises(RuntimeError):
                _ = sheet.report
        assert load(reader, small)[0] == [["2", "a"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_child_has_no_secrets_and_its_files_are_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hush-hush")
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader(folder=tmp_path) as reader, reader.open(path, Kind.XLSX, NEW) as sheet:
        child = child_of(reader)
        try:
            assert "hush-hush" not in Path(f"/proc/{child.pid}/environ").read_text()
        except PermissionError:
            assert os.geteuid() != 0, "the child is closed to all but root"
        assert child.rlimit(psutil.RLIMIT_AS) == (1536 * MIB, 1536 * MIB)
        assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        (folder,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert list(sheet.chunks) == [b"2,a\n"]
        assert list(sheet.chunks) == [], "read once, there is no more"


def test_a_child_that_was_started_before_reads_the_first_file(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader() as reader:
        reader.start()
        child = child_of(reader)
        assert load(reader, path)[0] == [["2", "a"]]
        assert child_of(reader).pid == child.pid
    assert not child.is_running()


def test_a_file_that_is_not_there_is_no_broken_workbook(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(Retry, match="No such file"):
        load(reader, tmp_path / "gone", kind=Kind.XLSX)


def test_a_child_that_cannot_start_stops_the_run(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader(Limits(memory=1)) as reader, pytest.raises(Stop, match="does not start"):
        load(reader, path, kind=Kind.XLSX)


def test_a_hostile_header_is_shown_in_one_short_line(tmp_path: Path) -> None:
    name = "x\n" * 2000
    path = xlsx(tmp_path / "a", Tab(rows=[[name]]))
    with Reader() as reader, pytest.raises(MailferryError) as caught:
        load(reader, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


#: Cells at the edges of what types take.
EDGES: list[Any] = [
    "", " ", "x", "NaN", "Infinity", "1", "-1", "0.5", "1,5", "1.234,5", "1e400", "1e-400", "1e131", "9" * 40, "\\.", "\\N", '"', "a,b\n\\.\nc",
    "true", "evet", "{}", '{"a": [1]}', "1e5", "[1,2", "2024-01-31", "0001-01-01", "9999-12-31", "31.01.2024 23:59:59.999999", "24:00",
    "2024-01-31T10:00+15", "2024-01-31T10:00+99", "2024-01-31T10:00-15:59", "2024-01-31T10:00-16", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "ı" * 5, "\u2028", "\x85", "\x1f",
    0.0, -0.0, 1.0, 0.1, -1.5, 1e-300, 5e-324, 1.7976931348623157e308, 3.4028235e38, 3.5e38, 1e-45, 1e-46, 32767.0, 32768.0, 2147483647.0,
    2147483648.0, 9007199254740992.0, 9223372036854775808.0, 99999999.994, 99999999.995, 99999999.99499999, 1e130, math.nan, math.inf, -math.inf, 7,
    True, False, dt.date(1900, 1, 1), dt.date(9999, 12, 31), dt.datetime(2024, 2, 29, 23, 59, 59, 999999), dt.time(23, 59, 59, 999999),
    dt.timedelta(hours=30), dt.timedelta(seconds=-1), dt.timedelta(days=999_999, microseconds=1),
]  # fmt: skip


@pytest.mark.parametrize(
    "type_name",
    [
        "smallint", "integer", "bigint", "numeric", "numeric(10,2)", "numeric(2,4)", "numeric(4,-2)", "real", "double precision", "boolean",
        "date", "timestamp without time zone", "timestamp(0) without time zone", "timestamp with time zone", "time without time zone",
        "text", "character varying(5)", "character(5)", "uuid", "json", "jsonb",
    ],
)  # fmt: skip
def test_what_the_contract_lets_through_the_server_takes(db: Connection, type_name: str) -> None:
    contract = RowContract(
        key="k", columns=(Column(name="k", type="integer"), Column(name="v", type=type_name))
    )
    header = Finder(is_key=named("k")).find([["k", "v"]])
    assert header is not None
    writer = RowWriter(layout=lay_out(header, contract), contract=contract)
    text, rejects = writer.batch("S", 2, [[float(at), cell] for at, cell in enumerate(EDGES)])
    db.execute(f"CREATE TEMPORARY TABLE staging (_row bigint, k integer, v {type_name})".encode())
    with db.cursor().copy("COPY staging (_row, k, v) FROM STDIN (FORMAT csv)") as copy:
        copy.write(text)
    loaded = db.execute("SELECT count(*), count(v) FROM staging").fetchone()
    assert loaded is not None
    assert loaded[0] == len(EDGES) - len(rejects)
    assert loaded[1] == loaded[0] - sum(map(is_blank, EDGES)), "an empty cell is NULL, and nothing else is"


def test_a_workbook_goes_through_the_pipe_into_the_table_of_its_types(
    db: Connection, reader: Reader, tmp_path: Path
) -> None:
    words = 'say "hi",\n\\.\n\\N'
    rows: list[list[Any]] = [
        ["Key", "n", "d", "t", "w"],
        ["007", 1.5, dt.date(2024, 1, 2), dt.datetime(2024, 1, 2, 3, 4, 5), words],
    ]
    path = xlsx(tmp_path / "a", Tab(rows=rows))
    with reader.open(path, Kind.XLSX, NEW) as sheet:
        columns = ", ".join(f'"{column.name}" {column.type}' for column in sheet.new)
        db.execute(f"CREATE TEMPORARY TABLE staging (_row bigint, {columns})".encode())
        with db.cursor().copy("COPY staging FROM STDIN (FORMAT csv)") as copy:
            for chunk in sheet.chunks:
                copy.write(chunk)
    assert db.execute("SELECT * FROM staging").fetchall() == [
        (2, "007", Decimal("1.5"), dt.datetime(2024, 1, 2), *rows[1][3:])
    ]
