"""Who gets in is decided by values alone: names, cookies, marks, origins, tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailferry.config.page_settings import PageSettings
from mailferry.monitor.page.access import SESSION, SPAN, TRIES, Access, Attempts, local_path, same_origin

TOKEN = "f00dfeedf00dfeedf00d"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def access(clock: Clock | None = None, token: str = TOKEN) -> Access:
    return Access(PageSettings(token=SecretStr(token)), clock or Clock())


def test_a_session_lasts_its_time_and_not_a_second_longer_and_ends_with_its_token() -> None:
    clock = Clock()
    cookie = access(clock).new_session()
    # Another process of the same configuration: a restart signs no one out.
    assert access(clock).session_holds(cookie)
    assert not access(clock, token="another-token-of-20c").session_holds(cookie)
    clock.now += SESSION - 1
    assert access(clock).session_holds(cookie)
    clock.now += 1
    assert not access(clock).session_holds(cookie)


@given(st.text())
def test_no_text_that_was_made_up_is_a_session_or_a_mark(text: str) -> None:
    rules = access()
    assert not rules.session_holds(text)
    assert not rules.form_is_ours("a" * 32, text)
    assert not rules.form_is_ours("", text)


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_mark_is_one_visitors_alone(one: str, other: str) -> None:
    rules = access()
    assert rules.form_is_ours(one, rules.form_mark(one))
    assert rules.form_is_ours(other, rules.form_mark(one)) == (
        one.encode("utf-8", "replace") == other.encode("utf-8", "replace")
    )


def test_without_a_token_no_cookie_opens_anything() -> None:
    rules = Access(PageSettings(proxy_header="Remote-User"), Clock())
    assert not rules.session_holds(rules.new_session())
    assert not rules.token_is("127.0.0.1", "")


@given(st.lists(st.floats(0, 200), max_size=40))
def test_no_address_tries_more_often_than_it_may_in_any_span(pauses: list[float]) -> None:
    clock = Clock()
    attempts, tried = Attempts(clock), []
    for pause in pauses:
        clock.now += pause
        if not attempts.wait("192.0.2.1"):
            tried.append(clock.now)
            attempts.failed("192.0.2.1")
    assert all(later - earlier >= SPAN - 0.001 for earlier, later in zip(tried, tried[TRIES:], strict=False))
    assert not attempts.wait("192.0.2.2")


def test_addresses_without_end_do_not_fill_the_memory() -> None:
    attempts = Attempts(Clock())
    for number in range(5000):
        attempts.failed(str(number))
    assert len(attempts._failed) <= 1000


@pytest.mark.parametrize(
    ("origin", "site", "ours"),
    [
        ("", "", True),  # a program
        ("http://127.0.0.1:8417", "same-origin", True),
        ("https://127.0.0.1:8417", "", True),  # behind a proxy with TLS
        ("http://127.0.0.1:8417", "none", True),
        ("http://127.0.0.1:9999", "same-site", False),
        ("http://127.0.0.1:9999", "", False),
        ("http://evil.example", "cross-site", False),
        ("null", "", False),
        ("http://127.0.0.1:8417.evil.example", "", False),
        ("http://[", "", False),
    ],
)
def test_a_change_comes_from_our_own_page_or_from_a_program(origin: str, site: str, ours: bool) -> None:
    assert same_origin("127.0.0.1:8417", origin, site) is ours


@given(st.text())
def test_a_form_never_leads_to_another_site(text: str) -> None:
    there = local_path(text)
    assert there.startswith("/")
    assert not there.startswith(("//", "/\\"))
    assert there.isprintable()


@pytest.mark.parametrize(
    "host",
    ["localhost:1", "127.0.0.1", "[::1]:8417", "192.0.2.9:80", "STATUS.example.com", "status.example.com.:8"],
)
def test_our_names_and_any_address_are_ours(host: str) -> None:
    assert Access(PageSettings(hosts="status.example.com"), Clock()).knows_host(host)
