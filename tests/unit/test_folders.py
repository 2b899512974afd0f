"""A feed's folders: who can read them, what may be moved, and lists that no program runs."""

from __future__ import annotations

import csv
import datetime as dt
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.errors import Stop
from mailferry.mailbox.folders import Folders, _plain, write_rejects
from mailferry.mailbox.workbook.values import RejectedRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = dt.date(2026, 11, 2)
_SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(base=tmp_path / "deep" / "base")
    made.prepare()
    return made


def test_folders_and_lists_are_closed_to_others_whatever_the_umask(tmp_path: Path, open_umask: None) -> None:
    folders = Folders(base=tmp_path / "deep" / "base")
    folders.prepare()
    file = folders.pending / "a.xlsx"
    file.touch()
    moved = folders.put_away(file, good=True, day=DAY)
    assert moved == folders.processed / "2026-11-02" / "a.xlsx"
    write_rejects(moved, [])
    with folders.shared():
        pass
    for above in (folders.base, folders.base.parent):
        assert above.stat().st_mode & 0o027 == 0o001, (
            "the private PostgreSQL of root, another user, may be in it"
        )
    made = [path for path in folders.base.rglob("*") if path.name != "a.xlsx"]
    assert {
        path.name: oct(path.stat().st_mode & 0o027) for path in made if path.stat().st_mode & 0o027 & ~0o004
    } == {}
    assert [path.name for path in made if path.stat().st_mode & 0o007] == [".lock"], "which holds nothing"


def test_only_files_of_the_feeds_own_folders_are_moved(folders: Folders, tmp_path: Path) -> None:
    """A path in the ledger may be anything that was written into that table."""
    outside = tmp_path / "outside"
    outside.write_text("x")
    inside = folders.pending / "a.xlsx"
    inside.write_text("x")
    below = folders.pending / "below"
    below.mkdir()
    (below / "a.xlsx").write_text("x")
    link = folders.pending / "link.xlsx"
    link.symlink_to(outside)
    for path in (
        outside,
        folders.pending / ".." / ".." / ".." / "outside",
        folders.base / ".lock",
        below / "a.xlsx",
        link,
        folders.pending,
    ):
        assert folders.put_away(path, good=False, day=DAY) is None, path
    assert outside.read_text() == "x"
    assert (folders.put_away(inside, good=False, day=DAY)) == folders.failed / "a.xlsx"


def test_a_lock_that_is_a_link_is_refused(folders: Folders, tmp_path: Path) -> None:
    (folders.base / ".lock").symlink_to(tmp_path / "target")
    with pytest.raises(Stop, match="cannot lock"), folders.shared():
        pass
    with pytest.raises(Stop, match="cannot lock"), folders.alone():
        pass
    assert not (tmp_path / "target").exists()


@given(
    text=st.text(st.sampled_from(_SIGNS + "1a;,\t\n\r |'") | st.just('"'), max_size=12) | st.text(max_size=12)
)
def test_no_cell_of_the_list_begins_with_a_formula_however_a_program_splits_it(text: str) -> None:
    cell = _plain(text)
    assert cell.replace("'", "") == text.replace("'", "")
    try:
        float(text)
    except ValueError:
        for at in (at for at, sign in enumerate(cell) if sign in _SIGNS):
            before = cell[:at].rstrip(" ")
            assert before, cell
            assert before[-1] not in ';,|:\t\r\n"', cell


def test_a_long_cell_of_separators_takes_linear_time() -> None:
    text = "\t" * 1_000_000 + "x"
    assert _plain(text) == text


def test_a_list_of_rejected_rows_opens_as_values(folders: Folders) -> None:
    values = ["=cmd", "x;=cmd", "x\t\uff1dcmd", "x\n@cmd", "-5", "-5;+5", "a-b", "+90 212 555 01 02"]
    rows = [
        RejectedRow(sheet="S", row=n, column="c", value=value, reason="r") for n, value in enumerate(values)
    ]
    path = write_rejects(folders.failed / "a.xlsx", rows)
    with path.open(encoding="utf-8-sig", newline="") as file:
        shown = [row[3] for row in csv.reader(file)][1:]
    assert shown == [
        "'=cmd",
        "x;'=cmd",
        "x\t'\uff1dcmd",
        "x\n'@cmd",
        "-5",
        "'-5;'+5",
        "a-b",
        "'+90 212 555 01 02",
    ]
