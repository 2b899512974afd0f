"""Delimited text is divided in blocks, of which only some take the csv module: every block must end where a record does."""

from __future__ import annotations

import csv
import io
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.errors import Reject
from mailferry.mailbox.workbook import csv_text
from mailferry.mailbox.workbook.cells import Fault
from mailferry.mailbox.workbook.csv_text import CsvBook
from mailferry.mailbox.workbook.header import Finder, named

_FIELDS = st.text(alphabet='ab;"\r\n \u2028\x0b', max_size=6)
_PIECES = st.sampled_from(
    ["a;b\n", 'a;"b\nc"\n', 'a;"b;""c"""\r\n', 'a;5" pipe\n', "\n", "a\r", "ab;cd", '"', '"x"y;\n']
)


def records(text: str) -> list[list[str]] | None:
    """What the csv module makes of the whole at once; None where it raises."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True))
    except csv.Error:
        return None


@pytest.fixture(params=[1, 7, 64 * 1024])
def characters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "_CHARACTERS", request.param)


@pytest.mark.usefixtures("characters")
@given(
    rows=st.lists(st.one_of(st.lists(_FIELDS, max_size=3).map(";".join), _PIECES), max_size=8).map("".join)
)
def test_the_records_are_those_of_the_whole_text_however_it_is_divided(rows: str) -> None:
    text = f"k;v\n{rows}"
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        try:
            book = CsvBook(file, Finder(is_key=named("k")), "cp1254")
            found = list(book.rows("text"))
        except Reject:
            assert records(text) is None
            return
    if book._delimiter == ";" and (right := records(text)) is not None:
        kept = [
            row for row in zip(found, right, strict=True) if not isinstance(next(iter(row[0]), ""), Fault)
        ]
        assert [row or [""] for row, _ in kept] == [row or [""] for _, row in kept]
