"""Who may change rows: lists of senders, and the receiving server's word."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry.config.mailbox import MailboxSettings
from mailferry.mailbox.file_contract import About
from mailferry.mailbox.mime.headers import parse_headers
from mailferry.mailbox.source.senders import Result, refusal, results

PASSED = b"Authentication-Results: mx.example.com; dkim=pass header.d=partner.example; spf=fail smtp.mailfrom=x\r\n"
FROM = b"From: Ops <ops@partner.example>\r\nSubject: x\r\n\r\n"
PROOF = {"require_authenticated": True, "authserv_id": "mx.Example.com"}


def refused(header: bytes, **changes: Any) -> str:
    settings = MailboxSettings(kind="maildir", path="/mail", **changes)
    return refusal(parse_headers(header).addresses, header, settings)


@pytest.mark.parametrize(
    "senders", ["ops@partner.example", "partner.example", "@partner.example", "x, EXAMPLE"]
)
def test_an_address_or_a_domain_that_is_listed_is_allowed_or_denied(senders: str) -> None:
    assert refused(FROM, allow_senders=senders) == ""
    assert "is one of `deny_senders`" in refused(FROM, deny_senders=senders)


@pytest.mark.parametrize(
    "sender",
    [
        b'"ops@partner.example" <evil@example.net>',
        b"ops@partner.example, evil@example.net",
        b"ops@partner.example.example.net",
        b"ops@notpartner.example",
        b"",
    ],
)
def test_a_name_beside_an_address_or_a_second_address_allows_nothing(sender: bytes) -> None:
    header = b"From: " + sender + b"\r\n\r\n"
    assert "is none of `allow_senders`" in refused(
        header, allow_senders="ops@partner.example, partner.example"
    )


@pytest.mark.parametrize(
    "results",
    [
        PASSED,
        b'Authentication-Results: MX.example.com 1;\r\n dmarc=pass (p=none) action=none header.from="partner.example"\r\n',
        b"Authentication-Results: mx.example.com; dmarc=none header.from=partner.example\r\n" + PASSED,
        b'Authentication-Results: mx.example.com; dkim/1=pass reason="a; b=c" header.i=@partner.example\r\n',
    ],
)
def test_dkim_or_dmarc_for_the_senders_domain_proves_it(results: bytes) -> None:
    assert refused(results + FROM, **PROOF) == ""


@pytest.mark.parametrize(
    "header",
    [
        FROM,
        PASSED.replace(b"mx.example.com", b"evil.example") + FROM,
        PASSED.replace(b"=pass", b"=fail") + FROM,
        PASSED.replace(b"header.d=partner.example", b"header.d=evil.example") + FROM,
        PASSED.replace(b"header.d=partner.example", b"header.d=example") + FROM,
        PASSED.replace(b"dkim=pass", b"dkim=fail (dkim=pass header.d=partner.example)") + FROM,
        PASSED.replace(b"dkim=pass", b'dkim=fail reason="; dkim=pass header.d=partner.example"') + FROM,
        PASSED.replace(b"dkim=pass", b"spf=pass") + FROM,
        # of the server first, of the sender below it
        PASSED.replace(b"=pass", b"=fail") + b"Received: x\r\n" + PASSED + FROM,
        PASSED + b"From: other@example.net\r\n" + FROM,
        PASSED + b"From: ops@partner.example, evil@example.net\r\n\r\n",
        PASSED,
    ],
)
def test_nothing_else_proves_it(header: bytes) -> None:
    assert "is not authenticated" in refused(header, **PROOF)


def test_a_field_is_read_with_its_comments_and_quotes() -> None:
    found = results('a.b (c (d) "e) ; dkim=Pass (x\\) ; y) header.D="q\\"r" header.d=second ; none')
    assert found.authserv_id == "a.b"
    assert found.results == (Result(method="dkim", result="pass", properties={"header.d": 'q"r'}),)


@given(st.text(alphabet='()"\\;= ab', max_size=60))
def test_any_field_is_read(value: str) -> None:
    results(value)


@pytest.mark.parametrize("value", ["(" * 100_000, '"' * 100_001, '"' + "\\" * 100_001, "a=" * 50_000])
def test_a_long_field_costs_little(value: str) -> None:
    begun = time.process_time()
    results(value)
    assert time.process_time() - begun < 1


def test_the_addresses_of_a_long_sender_cost_little() -> None:
    begun = time.process_time()
    assert About(file="", sender="a" * 50_000 + " <ops@example.com>").addresses == ("ops@example.com",)
    assert time.process_time() - begun < 1
