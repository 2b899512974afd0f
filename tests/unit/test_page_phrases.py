"""Reasons on the Turkish page: the product's own sentences are Turkish, what comes from outside stays, and none is forgotten."""

# ruff: noqa: RUF001 - Turkish text is what is wanted here

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import mailferry
from mailferry.events.progress import falls_behind
from mailferry.events.windows import Gap
from mailferry.mailbox import attachments
from mailferry.mailbox.containers import kinds
from mailferry.mailbox.ledger.jobs import Refusal
from mailferry.monitor.facts import Disk, FeedStatus, Status
from mailferry.monitor.metrics import KINDS
from mailferry.monitor.needs import needs
from mailferry.monitor.page.phrases import turkish
from mailferry.monitor.page.reasons import TURKISH

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SOURCE = Path(mailferry.__file__).parent


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of some code, `{}` in place of each value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w+\}", "{}", node.value)
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)  # type: ignore[misc]


def raised(*names: str) -> Iterator[str]:
    """What cells are refused with."""
    for path in (SOURCE / "mailbox/workbook").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield from list(texts(node.args[0]))[:1]


def test_every_sentence_is_one_that_the_product_still_says() -> None:
    ours = ("reasons.py", "texts.py")
    code = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py") if path.name not in ours)
    said = re.sub(r"""["']\s+f?["']""", "", code).replace("_", " ")
    for english in TURKISH:
        for piece in re.split(r"\{\w+\}", english):
            assert piece.strip().replace("_", " ") in said, english


def test_the_turkish_of_a_sentence_has_no_value_that_the_english_has_not() -> None:
    for english, shown in TURKISH.items():
        assert set(re.findall(r"\{\w+\}", shown)) <= set(re.findall(r"\{\w+\}", english)), english


def troubled() -> Status:
    """Everything is wrong that can be."""

    def feed(**known: Any) -> FeedStatus:
        return FeedStatus(name="out", kind="events", schedule="5m", **known)

    def refused(number: int, error: str) -> Refusal:
        return Refusal(
            id=number, feed="in", subject="S", sender="a@b", error=error, rejected_rows=1234, finished_at=NOW
        )

    worker: dict[str, Any] = {"heartbeat_at": NOW, "reload_error": "no answer in time", "alive": True}
    gaps = [Gap(kind=kind, start=100, end=900) for kind in ("saturated", "expired")]
    error = {"run_error": "[out] no answer in time"}
    return Status(
        at=NOW,
        host="h1",
        feeds=[
            feed(ended="failed", failures=9, **error),
            feed(ended="blocked", **error),
            feed(ended="completed", **error),
            feed(checkpoint_error="no answer in time"),
            feed(overdue=True, next_run=NOW),
            feed(overdue=True, next_run=NOW, host="h2"),
            feed(silent=True, last_good=NOW),
            feed(behind=falls_behind(0, 9 * 86_400, 15 * 86_400), missing=7, gap_list=gaps),
        ],
        refusals=[refused(1, "a.xls: the file is empty"), refused(2, "")],
        more_refusals=1234,
        disks=[Disk(path="/data", free=1 << 20, total=1 << 40)],
        workers=[worker | {"host": "h1"}, worker | {"host": "h2", "alive": False}],
        database_error="The connection to the database was lost: bye",
    )


def test_all_that_needs_a_person_is_said_in_turkish() -> None:
    found = needs(troubled())
    assert {need.kind for need in found} == set(KINDS)
    for need in found:
        for text in (need.subject, need.reason):
            assert turkish(text) != text
            # Words of the English sentences; none is one in Turkish.
            assert not set(turkish(text).split()) & {
                "is",
                "of",
                "the",
                "no",
                "are",
                "to",
                "rows",
                "since",
                "has",
            }


def test_all_that_makes_a_cell_or_a_part_unfit_is_said_in_turkish() -> None:
    named = [*attachments._NEVER_DATA.values(), *attachments._OTHER_TYPES.values()]
    cells = list(raised("Misfit", "Fault"))
    assert len(cells) > 20
    for text in (*named, *(kind.value for kind in kinds.Container), *cells):
        sample = text.replace("{}", "x1")
        assert turkish(sample) != sample or sample in ("winmail.dat", "x1", "x:err"), (
            f"reasons.py has no {sample!r}"
        )


@pytest.mark.parametrize(
    ("english", "shown"),
    [
        (
            "r.xls: no header row with the key 'k' in the first 50 rows; found: sheet 'Export': AWB, Pieces; no header is 'k'; 'ok' comes closest",
            "r.xls: ilk 50 satırda 'k' anahtarını taşıyan başlık satırı yok; bulunan: 'Export' sayfası: AWB, Pieces; 'k' adında başlık yok; en yakını 'ok'",
        ),
        (
            "1,234 of 5,000 rows were rejected, more than the 10% that are allowed; the first: row 7, column eta: a number, where the column takes numbers",
            "5.000 satırdan 1.234 satır reddedildi, izin verilen 10% aşıldı; ilki: satır 7, sütun eta: sayı; sütun sayı alır",
        ),
        (
            "a.xls: the file is empty\nb.xls: not a spreadsheet but a PDF document",
            "a.xls: dosya boş\nb.xls: hesap tablosu değil: PDF belgesi",
        ),
        ("the name does not match 'an image'", "adı 'an image' kalıbına uymuyor"),
        ("the name does not match {0.__class__}", "adı {0.__class__} kalıbına uymuyor"),
        (
            "[out] GET http://h/?a=b: no answer in time, 3 times; the next run tries again",
            "[out] GET http://h/?a=b: süresinde yanıt gelmedi, 3 kez; sonraki çalışma yeniden dener",
        ),
        ("Mailbox is full: please wait; bye", "Mailbox is full: please wait; bye"),
        ("", ""),
    ],
)
def test_a_reason_is_turkish_as_far_as_it_is_ours(english: str, shown: str) -> None:
    assert turkish(english) == shown


_PIECES = st.sampled_from([*TURKISH, ": ", "; ", "\n", "{", "an image", "x"])


@given(st.lists(_PIECES | st.text(max_size=5), max_size=60).map("".join))
@example("; " * 2400)
@example("x: " * 1600)
@example("[x] " * 1200)
@example(", not a date" * 400)
@example("no header is " * 380)
def test_no_text_disturbs_it(text: str) -> None:
    assert turkish(text).count("\n") == text.count("\n")
