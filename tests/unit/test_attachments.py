"""Choosing parts, safe names, and the settings of a mailbox."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailferry.config.mailbox import MailboxSettings, OAuthSettings
from mailferry.mailbox.attachments import choose, safe_name
from mailferry.mailbox.mime.tree import Part
from mailferry.mailbox.source.message import MessageRef, Summary, Verdict

SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def _settings(**changes: Any) -> MailboxSettings:
    return MailboxSettings(**{"kind": "maildir", "path": Path("mail"), **changes})


def _part(section: str, mime: str, name: str = "", disposition: str = "") -> Part:
    return Part(section=section, mime=mime, encoding="base64", name=name, disposition=disposition, size=1)


def _summary(
    *parts: Part, subject: str = "Track and Trace 7", sender: str = "Depot <depot@example.com>"
) -> Summary:
    ref = MessageRef(account="a", folder="", uidvalidity=0, uid="1")
    return Summary(
        ref=ref,
        subject=subject,
        sender=sender,
        addresses=("depot@example.com",),
        message_id="",
        received=datetime.now(UTC),
        size=1,
        parts=parts,
    )


def test_every_part_is_either_taken_or_has_a_reason() -> None:
    summary = _summary(
        _part("1", "text/plain"),
        _part("2", "text/html"),
        _part("3", "image/png", "logo.png", "inline"),
        _part("4", "application/octet-stream"),
        _part("5", SHEET, "a.xlsx", "inline"),
        _part("6", "text/plain", "rows.txt"),
        _part("7", "image/png", "mislabelled.XLSX"),
        _part("8", "text/html", "table.xls"),
        _part("9", "text/calendar"),
        _part("10", "message/rfc822"),
    )
    taken, passed = choose(summary, _settings())
    assert [part.section for part in taken] == ["1", "4", "5", "6", "7", "8", "10"]
    assert {one.section: one.reason for one in passed} == {
        "2": "the text of the message",
        "3": "an image",
        "9": "a calendar entry",
    }


def test_a_file_that_the_message_does_not_carry_whole_is_refused_with_what_to_do() -> None:
    parts = [_part("1", "message/partial"), _part("2", "message/external-body", "rows.xlsx")]
    taken, passed = choose(_summary(*parts), _settings())
    assert not taken
    assert [one.verdict for one in passed] == [Verdict.REJECTED] * 2
    assert ["have it sent in one" in passed[0].reason, "as an attachment" in passed[1].reason] == [True] * 2


def test_filters_say_which_of_them_did_not_match() -> None:
    parts = (
        _part("1", SHEET, "Report 7.xlsx"),
        _part("2", SHEET, "other.xlsx"),
        _part("3", "application/zip", "a.zip"),
    )
    taken, passed = choose(_summary(*parts), _settings(name_filter="report*.xlsx"))
    assert [part.section for part in taken] == ["1", "3"]
    assert [one.reason for one in passed] == ["the name does not match 'report*.xlsx'"]
    taken, passed = choose(_summary(*parts), _settings(sender_filter="shop@"))
    assert not taken
    assert {one.reason for one in passed} == {"the sender's address does not match 'shop@'"}
    taken, passed = choose(_summary(*parts, subject="Invoice"), _settings())
    assert not taken
    assert {one.reason for one in passed} == {"the subject does not contain 'Track and Trace'"}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\rows.xlsx", "rows.xlsx"),
        ("a\r\nBcc: b\0.xlsx", "a Bcc_ b.xlsx"),
        ("CON.xlsx", "_CON.xlsx"),
        ("nul", "_nul"),
        (".hidden.xlsx", "hidden.xlsx"),
        ("rows.xlsx. . ", "rows.xlsx"),
        ("", "attachment"),
        ("..", "attachment"),
        ("I\u0307rsaliye.xlsx", "İrsaliye.xlsx"),
        ("\u202excod.xlsx", "xcod.xlsx"),
        ("ş" * 200 + ".xlsx", "ş" * 72 + ".xlsx"),
    ],
)
def test_a_name_is_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@given(st.text(max_size=300))
def test_any_name_becomes_one_plain_component(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= 151
    assert safe == Path(safe).name
    assert not safe.startswith(".")
    assert not set(safe) & set('/\\<>:"|?*\0\r\n')


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"path": None}, "`path` is missing"),
        ({"kind": "imap"}, "`host` and `username` are needed"),
        ({"kind": "imap", "username": "u"}, "`password` is missing"),
        ({"kind": "imap", "username": "u", "auth": "xoauth2"}, "needs the OAuth2 settings"),
        ({"kind": "imap", "username": "u", "password": "top-secret\n"}, "holds a line break"),
        ({"subject_filter": "a\r\nb"}, "control character"),
        ({"mark": "keyword", "mark_completed": "Done"}, "one letter from a to z"),
        ({"mark": "move", "mark_completed": "X", "mark_failed": "X"}, "must differ"),
        ({"mark": "move", "folder": "Processed"}, "the folder that they are read from"),
    ],
)
def test_settings_say_what_is_wrong_and_hide_the_rest(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _settings(**changes)
    assert fault in str(caught.value)
    assert "top-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"client_id": ""}, "`client_id` is missing"),
        ({}, "either `refresh_token` or `client_secret`"),
        ({"client_secret": "s"}, "`token_endpoint` is missing"),
        ({"client_secret": "s", "token_endpoint": "http://id.example.com/"}, "must be an https address"),
        ({"client_secret": "s", "provider": "microsoft"}, "`tenant` is missing"),
        ({"client_secret": "s", "provider": "google"}, "Google needs a `refresh_token`"),
        ({"refresh_token": "r", "token_endpoint": "https://id.example.com/"}, "`token_file` is missing"),
    ],
)
def test_oauth_settings_say_what_is_missing(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        OAuthSettings(**{"client_id": "c", **changes})
