"""How a message reads: who gets which mail, and nothing that a sender wrote does anything."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.monitor.alerts.decide import Announced, Message
from mailferry.monitor.alerts.wording import APART, headline, payload, split, text
from mailferry.monitor.facts import Need

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
BIDI = "\u202egnp.exe"


def need(key: str, job: int | None = None, subject: str = "", reason: str = "r") -> Need:
    return Need(
        key=key,
        kind="job" if job else "gap",
        subject=subject or f"about {key}",
        reason=reason,
        advice="do it",
        since=NOON,
        job_id=job,
    )


def jobs(count: int) -> tuple[Need, ...]:
    return tuple(need(f"job:{n}", job=n) for n in range(1, count + 1))


def test_a_few_refused_jobs_are_a_mail_each_many_are_one() -> None:
    gap = need("gap:a")
    parts = split(Message(new=(gap, *jobs(APART)), host="h"))
    assert [[one.key for one in part.new] for part in parts] == [
        ["gap:a"],
        *([one.key] for one in jobs(APART)),
    ]
    assert [part.host for part in parts] == ["h"] * (APART + 1)
    many = Message(new=(gap, *jobs(APART + 1)))
    assert split(many) == [many]
    assert split(Message(new=jobs(1))) == [Message(new=jobs(1))]


@given(st.integers(0, 8), st.integers(0, 3), st.integers(0, 3))
def test_a_split_message_says_all_of_it_once(count: int, others: int, over: int) -> None:
    gone = tuple(Announced(key=f"o{n}", kind="gap", subject="s", at=NOON) for n in range(over))
    whole = Message(new=(*(need(f"g{n}") for n in range(others)), *jobs(count)), over=gone)
    parts = split(whole)
    assert sorted(one.key for part in parts for one in part.new) == sorted(one.key for one in whole.new)
    assert [one for part in parts for one in part.over] == list(gone)


def test_the_headline_names_one_thing_and_counts_more() -> None:
    gone = (Announced(key="o", kind="gap", subject="gap of b", at=NOON),)
    assert headline(Message(new=(need("a"),))) == "about a"
    assert headline(Message(new=jobs(1000), over=gone)) == "1,000 things need a person"
    assert headline(Message(over=gone)) == "over: gap of b"


def test_a_storm_is_a_short_text_that_says_how_many_more_there_are() -> None:
    shown = text(Message(new=tuple(need(f"feed:{n}") for n in range(1000))))
    assert len(shown) < 20_000
    assert "950 more" in shown


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("style", ["json", "slack", "teams"])
def test_what_a_sender_wrote_stays_words(style: str) -> None:
    bad = f"<!channel> [click](https://evil.example) *b* {BIDI}\r\nBcc: x@example.com\x1b[31m & <script>"
    said = payload(Message(new=(need("job:1", job=1, subject=bad, reason=bad),)), style, "now")
    if style == "json":
        assert said["new"][0].pop("reason")  # our own sentences have lines
    shown = "".join(texts(said))
    # No line of its own, no colour, no other direction.
    assert "Bcc" in shown
    assert not [line for line in shown.splitlines() if line.startswith("Bcc")]
    assert shown.replace("\n", "").isprintable()
    if style == "slack":
        assert "<" not in shown
        assert "&lt;!channel&gt;" in shown
    if style == "teams":
        assert "[click](" not in shown


def test_our_json_holds_every_need_with_what_to_do() -> None:
    gone = (Announced(key="o", kind="gap", subject="gap of b", at=NOON),)
    body: dict[str, Any] = payload(
        Message(new=jobs(2), still=(need("a"),), over=gone, host="h"), "json", "now"
    )
    assert (body["version"], body["host"], body["at"]) == (1, "h", "now")
    assert [(one["key"], one["advice"], one["since"]) for one in body["new"]] == [
        (f"job:{n}", "do it", NOON.isoformat()) for n in (1, 2)
    ]
    assert body["still"][0]["key"] == "a"
    assert body["over"] == [{"key": "o", "kind": "gap", "subject": "gap of b"}]
