"""The page's words: every text has its Turkish one, what comes by mail cannot disturb, numbers and times read well."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.monitor.metrics import KINDS
from mailferry.monitor.page import render, words
from mailferry.monitor.page.texts import TURKISH

PAGE = Path(render.__file__).parent
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def said() -> set[str]:
    """Every text that templates and code hand to the translator."""
    texts = {path: path.read_text("utf-8") for path in [*PAGE.glob("templates/*.html"), *PAGE.glob("*.py")]}
    found = {
        match
        for text in texts.values()
        for match in re.findall(r'(?<!\w)(?:_|text|translator\(request\))\(\s*"([^"]+)"', text)
    }
    found |= {
        match
        for text in texts.values()
        for match in re.findall(r'(?:message|_said)\(\s*request, \w+, "([^"]+)"', text)
    }
    found |= set(re.findall(r'"(\{n\} \w+)"', texts[PAGE / "render.py"]))
    tables = (
        words.KINDS,
        words.ADVICE,
        words.STATES,
        words.DAYS,
        words.GAPS,
        words.COUNTS,
        words.QUEUE,
        words.DONE,
    )
    return found | {text for table in tables for text in table.values()} | set(words.VOLUMES.values())


def test_every_text_has_its_turkish_one_with_the_same_values_and_none_is_left_over() -> None:
    assert len(said()) > 150
    assert said() == set(TURKISH)
    for english, turkish in TURKISH.items():
        assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", turkish)), english


def test_every_kind_of_need_has_a_name_and_advice() -> None:
    assert set(words.KINDS) == set(words.ADVICE) - {"jobs"} == set(KINDS)


@pytest.mark.parametrize(
    ("accepted", "lang"),
    [
        ("", "en"),
        ("tr", "tr"),
        ("tr-TR,tr;q=0.9,en-US;q=0.8,en;q=0.7", "tr"),
        ("en-US,en;q=0.9,tr;q=0.8", "en"),
        ("de, tr;q=0.3, en;q=0.2", "tr"),
        ("de-DE,de", "en"),
        ("*", "en"),
        ("tr;q=0", "en"),
        ("tr;q=nan,en;q=x", "en"),
    ],
)
def test_the_language_is_the_browsers_first_wish_that_there_is(accepted: str, lang: str) -> None:
    assert render.language(accepted) == lang


@given(st.text(max_size=600))
def test_no_header_makes_the_language_fail(accepted: str) -> None:
    assert render.language(accepted) in render.LANGUAGES


@given(st.text())
def test_a_value_in_a_text_is_escaped_and_cannot_turn_it_round(value: str) -> None:
    shown = str(render.translator("en")("only on {host}", host=value))
    assert "<" not in shown
    assert '"' not in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_numbers_have_the_marks_of_the_language() -> None:
    assert (render.number("en", 1234567), render.number("tr", 1234567)) == ("1,234,567", "1.234.567")
    assert (render.number("en", 1234.5), render.number("tr", 1234.5)) == ("1,234.5", "1.234,5")
    assert render.number("en", None) == render.DASH


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "now"),
        (5, "5 s ago"),
        (-5, "in 5 s"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7200, "2 h ago"),
        (172_800, "2 d ago"),
    ],
)
def test_a_time_is_said_from_now_with_the_time_itself_as_its_title(seconds: int, shown: str) -> None:
    text = str(render.ago(render.translator("en"), NOW, NOW - timedelta(seconds=seconds)))
    assert f">{shown}</time>" in text
    assert "2026-03-0" in text
