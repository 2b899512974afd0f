"""The status page over real HTTP, on a real database: what it shows, whom it lets in, and what it refuses."""

# ruff: noqa: RUF001 - Turkish text is what is wanted here

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import pytest
from support_database import query
from support_events import RECENT, SIGN_INS, a_site, suffix
from support_page import (
    REJECTED,
    SCRIPT,
    TURNED,
    configured,
    fill,
    free_port,
    in_database,
    job,
    opened,
    past,
    refusals,
    served,
)
from support_wait import wait_for

from mailferry.config import service
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.workbook.values import Counts
from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings

TOKEN = "f00dfeedf00dfeedf00d"


class Browser:
    """Keeps cookies, as a browser does, and sends what it is given."""

    def __init__(self, url: str) -> None:
        self.place = urlsplit(url).netloc
        self.cookies: dict[str, str] = {}

    def ask(
        self, path: str, form: Mapping[str, object] | None = None, /, method: str = "", **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        sent = {
            "Host": self.place,
            "Accept": "text/html",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        body = None
        if form is not None:
            body = urlencode(form, doseq=True)
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection = http.client.HTTPConnection(self.place, timeout=30)
        connection.request(method or ("GET" if form is None else "POST"), path, body, sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        for line in answer.headers.get_all("set-cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return answer.status, text, answer.headers

    def mark(self, path: str = "/") -> str:
        """What a form of that page carries."""
        found = re.search(r'name="mark" value="(\w+)"', self.ask(path)[1])
        assert found
        return found[1]


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, new_shared_database: Callable[[], DatabaseSettings]
) -> Iterator[tuple[str, dict[str, int], DatabaseSettings]]:
    """A page with a past, for tests that change nothing."""
    folder, settings = tmp_path_factory.mktemp("page"), new_shared_database()
    configuration = configured(folder, settings, events=["out"], mailboxes=["tracking"])
    past(configuration, "out", now=int(time.time()), gap=True)
    with in_database(settings) as conn:
        numbers = fill(conn, configuration)
    with served(configuration) as url:
        yield url, numbers, settings


def test_the_overview_begins_with_what_needs_a_person_and_why(
    shared: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, numbers, _ = shared
    status, text = opened(url)
    assert status == 200
    assert text.index("What needs you") < text.index("Feeds")
    assert "no header row with the key &#39;hawb&#39; in the first" in text
    assert f'href="/jobs/{numbers["refused"]}"' in text
    assert "the provider no longer has events of that time" in text


def test_a_job_shows_each_rejected_row_with_value_and_reason(
    shared: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, numbers, _ = shared
    text = opened(f"{url}/jobs/{numbers['rows']}")[1]
    for row in REJECTED:
        assert f"<bdi>{row.value}</bdi>" in text
        assert row.reason in text


@pytest.mark.parametrize(
    "path", ["/", "/jobs", "/workers", "/configuration", "/feed?name=out", "/feed?name=tracking"]
)
def test_every_page_is_there_in_both_languages_without_a_secret_or_anything_from_outside(
    shared: tuple[str, dict[str, int], DatabaseSettings], path: str
) -> None:
    english, turkish = (
        opened(f"{shared[0]}{path}", accept_language=lang)[1] for lang in ("en", "tr-TR,tr;q=0.9,en;q=0.5")
    )
    assert '<html lang="en">' in english
    assert '<html lang="tr">' in turkish
    for text in (english, turkish):
        assert "0123456789abcdef" not in text
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', text)
        assert "style=" not in text
        assert not re.findall(r"<script(?! src=)", text)


def test_reasons_are_turkish_on_the_turkish_page(
    shared: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, numbers, _ = shared
    said = {
        "/": ("sağlayıcıda o zamanın olayları artık yok", "anahtarını taşıyan başlık satırı yok"),
        "/jobs": ("anahtarını taşıyan başlık satırı yok",),
        f"/jobs/{numbers['refused']}": ("anahtarını taşıyan başlık satırı yok",),
        f"/jobs/{numbers['rows']}": ("sayı değil", "tarih değil: böyle bir gün yok"),
        "/feed?name=tracking": ("alınmadı – <bdi>resim</bdi>",),
    }
    for path, texts in said.items():
        shown = opened(f"{url}{path}", accept_language="tr")[1]
        for text in texts:
            assert text in shown


def test_answers_forbid_scripts_of_others_frames_and_guessing_of_types(
    shared: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    _, _, headers = Browser(shared[0]).ask("/")
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "HttpOnly; SameSite=" in headers["set-cookie"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8417", "localhost.evil.example", "", "a@b", "[", "127.0.0.1.evil.example"],
)
def test_a_name_that_is_not_ours_is_refused_so_that_no_site_can_pass_itself_off(
    shared: tuple[str, dict[str, int], DatabaseSettings], host: str
) -> None:
    status, text, _ = Browser(shared[0]).ask("/", Host=host)
    assert status in (400, 421)
    assert "What needs you" not in text


def test_jobs_are_found_by_state_table_sender_and_text(
    shared: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, numbers, _ = shared

    def found(**query: str) -> set[int]:
        text = opened(f"{url}/jobs?{urlencode(query)}")[1]
        return {int(number) for number in re.findall(r'name="id" value="(\d+)"', text)}

    assert found(state="refused") == set(numbers.values())
    assert found(state="failed") == {numbers["refused"]}
    assert found(sender="PARTNER.example") == {numbers["rows"]}
    assert found(text="night run") == {numbers["refused"]}
    assert found(table="tracking_data", text="corrections") == {numbers["rows"]}
    assert found(table="another") == set()
    assert found(state="nonsense", page="x") == found()


def test_a_job_or_a_feed_that_is_not_there_is_said_to_be_so(
    shared: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    for path in (
        "/jobs/999999",
        "/jobs/abc",
        "/jobs/-1",
        f"/jobs/{10**30}",
        "/feed?name=nobody",
        "/feed",
        "/nowhere",
        "/jobs/act",
    ):
        assert opened(f"{shared[0]}{path}")[0] == 404, path


def test_readiness_names_what_is_not_ready(shared: tuple[str, dict[str, int], DatabaseSettings]) -> None:
    status, text = opened(f"{shared[0]}/readyz")
    found = json.loads(text)
    assert (status, found["ready"]) == (200, True)
    assert found["workers"] == {"ok": True, "alive": 1}
    assert opened(f"{shared[0]}/healthz")[0] == 200


# --- changes


@pytest.fixture(scope="module")
def changing(
    tmp_path_factory: pytest.TempPathFactory, new_shared_database: Callable[[], DatabaseSettings]
) -> Iterator[tuple[str, DatabaseSettings, Iterator[int]]]:
    """A page for tests that change something, and numbers of messages to come."""
    folder, settings = tmp_path_factory.mktemp("page"), new_shared_database()
    configuration = configured(folder, settings, events=["out"], mailboxes=["tracking"])
    past(configuration, "out", now=int(time.time()), gap=True)
    with in_database(settings) as conn:
        fill(conn, configuration)
    with served(configuration) as url:
        yield url, settings, itertools.count(200, 10)


@pytest.fixture
def own(
    changing: tuple[str, DatabaseSettings, Iterator[int]],
) -> Iterator[tuple[str, dict[str, int], DatabaseSettings]]:
    """With two jobs of the test's own, which hold up those of no later test."""
    url, settings, first = changing
    with in_database(settings) as conn:
        numbers = refusals(conn, "tracking", datetime.now(UTC), next(first))
    yield url, numbers, settings
    with in_database(settings) as conn:
        for number in numbers.values():
            if state_of(settings, number)[0] == "pending":
                admin.cancel(conn, number)


def state_of(settings: DatabaseSettings, number: int) -> tuple[str, bool]:
    text = "SELECT state, acknowledged_at IS NOT NULL FROM mailferry.jobs WHERE id = %s"
    ((state, acknowledged),) = query(settings, text, number)
    return state, acknowledged


def test_buttons_retry_cancel_and_acknowledge_and_nothing_else_does(
    own: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, numbers, settings = own
    browser = Browser(url)
    form = {"mark": browser.mark(), "back": "/", "action": "acknowledge", "id": numbers["rows"]}
    refused: list[tuple[dict[str, object], dict[str, str]]] = [
        ({**form, "mark": "0" * 64}, {}),
        ({key: value for key, value in form.items() if key != "mark"}, {}),
        (form, {"Origin": "http://evil.example"}),
        (form, {"Origin": "null"}),
        (form, {"Origin": "http://127.0.0.1:1"}),
        (form, {"Sec_Fetch_Site": "cross-site"}),
        (form, {"Content_Type": "text/plain"}),
    ]
    for fields, sent in refused:
        assert browser.ask("/jobs/act", fields, **sent)[0] == 403
    assert browser.ask(f"/jobs/act?{urlencode(form)}")[0] == 404
    assert Browser(url).ask("/jobs/act", form)[0] == 403
    assert state_of(settings, numbers["rows"]) == ("completed", False)

    status, _, headers = browser.ask("/jobs/act", form, Origin=url)
    assert (status, headers["location"]) == (303, "/?done=acknowledge&count=1")
    assert state_of(settings, numbers["rows"]) == ("completed", True)
    assert "Acknowledged: 1." in browser.ask(headers["location"])[1]
    assert browser.ask("/jobs/act", {**form, "action": "cancel", "id": numbers["refused"]})[0] == 303
    assert state_of(settings, numbers["refused"])[0] == "cancelled"
    assert browser.ask("/jobs/act", {**form, "action": "retry", "id": numbers["refused"]})[0] == 303
    assert state_of(settings, numbers["refused"])[0] == "pending"


def test_of_many_jobs_each_is_done_by_itself_and_the_rest_is_explained(
    own: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, numbers, settings = own
    browser = Browser(url)
    both = {"mark": browser.mark(), "back": "/jobs", "action": "acknowledge", "id": [1, numbers["rows"]]}
    status, text, _ = browser.ask("/jobs/act", both)
    assert status == 409
    assert "Job 1 is completed" in text
    assert state_of(settings, numbers["rows"])[1]
    assert browser.ask("/jobs/act", {**both, "id": []})[0] == 400
    assert browser.ask("/jobs/act", {**both, "id": ["x"]})[0] == 400


def test_a_form_leads_back_to_this_page_only(own: tuple[str, dict[str, int], DatabaseSettings]) -> None:
    url, numbers, _ = own
    browser = Browser(url)
    for back in ("//evil.example/", "http://evil.example/", "/\\evil.example", "javascript:alert(1)"):
        form = {"mark": browser.mark(), "back": back, "action": "retry", "id": numbers["refused"]}
        assert browser.ask("/jobs/act", form)[2]["location"].startswith("/?")


def test_a_feed_is_run_at_once_and_its_gaps_are_acknowledged_with_a_reason(
    own: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, _, settings = own
    browser = Browser(url)
    form = {"mark": browser.mark(), "back": "/", "feed": "tracking", "action": "run"}
    assert browser.ask("/feed/act", form)[0] == 303
    with in_database(settings) as conn:
        assert conn.execute(
            "SELECT next_run_at <= now() FROM mailferry.feeds WHERE name = 'tracking'"
        ).fetchone() == (True,)
    assert browser.ask("/feed/act", {**form, "feed": "nobody"})[0] == 409
    gaps = {**form, "feed": "out", "action": "acknowledge-gaps"}
    assert browser.ask("/feed/act", {**gaps, "reason": " "})[0] == 409
    assert browser.ask("/feed/act", {**gaps, "reason": "power cut at the provider"})[0] == 303
    text = browser.ask("/feed?name=out")[1]
    assert "power cut at the provider" in text
    assert "the provider no longer has events of that time" not in browser.ask("/")[1]


def test_the_gaps_button_asks_the_provider_again_and_what_it_has_now_is_written(tmp_path: Path) -> None:
    cap, go = [20], threading.Event()
    go.set()

    def limit(_: int) -> int:
        go.wait()
        return cap[0]

    full = Traits(rate=0.02, start=RECENT, end=RECENT + 3600, bursts={RECENT + 100: 30})
    with a_site(tmp_path, {SIGN_INS: full}, Settings(page_cap=limit)) as site:
        site.configure(max_records_per_page=20)
        assert site.collect().status == 4
        site.configure(max_records_per_page=1000)
        name = suffix(SIGN_INS)
        configuration = service.read([site.config], {"PAGE_LISTEN": f"127.0.0.1:{free_port()}"})
        with served(configuration) as url:
            browser = Browser(url)
            mark = browser.mark()
            form = {"mark": mark, "back": f"/feed?name={name}", "feed": name, "action": "retry-gaps"}

            def pressed() -> int:
                return browser.ask("/feed/act", form)[0]

            def shows(text: str) -> bool:
                return text in browser.ask(f"/feed?name={name}")[1]

            assert shows("one second holds more events")
            cap[0] = 1000
            go.clear()
            assert pressed() == 303
            assert pressed() == 409
            assert shows("one second holds more events")
            go.set()
            wait_for("the gap to be filled", lambda: shows("10 events written"))
            wait_for("no need any more", lambda: not shows("one second holds more events"))
        assert site.compared(SIGN_INS).lost == 0


def test_what_came_by_mail_is_text_and_nothing_more(
    own: tuple[str, dict[str, int], DatabaseSettings],
) -> None:
    url, _, settings = own
    row = replace(REJECTED[0], value=SCRIPT, column=SCRIPT, sheet=SCRIPT, reason=SCRIPT)
    with in_database(settings) as conn:
        number = job(
            conn,
            "900",
            feed="tracking",
            subject=SCRIPT,
            sender=f'"{SCRIPT}" <a@example.com>',
            received=datetime.now(UTC),
            name=TURNED,
            counts=Counts(read=1, rejected=1),
            rejected=[row],
        )
    escaped = "&lt;script&gt;document.title"
    # What it knows of before may be two seconds old.
    wait_for("the overview to have it", lambda: escaped in opened(url)[1])
    for path in ("/", "/jobs", f"/jobs/{number}", "/feed?name=tracking"):
        text = opened(f"{url}{path}")[1]
        assert escaped in text
        assert "<script>document" not in text
        assert "<img src=x" not in text
        assert "\u202e" not in text


# --- who may open it


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[str]:
    """A page that asks for a token; without a database."""
    configuration = configured(tmp_path, None, events=["out"], token=TOKEN, hosts="status.example.com")
    past(configuration, "out", now=int(time.time()))
    with served(configuration) as url:
        yield url


def test_without_the_token_nothing_is_shown_and_with_it_everything(signed: str) -> None:
    browser = Browser(signed)
    status, _, headers = browser.ask("/jobs?text=x")
    assert (status, headers["location"]) == (303, "/signin?next=/jobs%3Ftext%3Dx")
    assert browser.ask("/", Accept="application/json")[0] == 401
    assert browser.ask("/healthz")[0] == 200
    assert "out" not in json.dumps(json.loads(browser.ask("/readyz")[1])["feeds"])
    mark = browser.mark("/signin")
    assert browser.ask("/signin", {"mark": mark, "token": "wrong", "next": "/"})[0] == 401
    status, _, headers = browser.ask("/signin", {"mark": mark, "token": TOKEN, "next": "/workers"})
    assert (status, headers["location"]) == (303, "/workers")
    assert TOKEN not in str(browser.cookies)
    assert browser.ask("/")[0] == 200
    assert browser.ask("/", Host="status.example.com")[0] == 200
    assert browser.ask("/signout", {"mark": mark})[0] == 303
    assert browser.ask("/")[0] == 303
    assert Browser(signed).ask("/", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_a_cookie_that_was_made_up_or_changed_lets_no_one_in(signed: str) -> None:
    browser = Browser(signed)
    browser.ask("/signin", {"mark": browser.mark("/signin"), "token": TOKEN, "next": "/"})
    good = browser.cookies["mailferry_session"]
    ends, nonce, mac = good.split(".")
    for bad in (
        "",
        "x",
        f"{int(ends) + 1}.{nonce}.{mac}",
        f"{ends}.{nonce}.{'0' * 64}",
        f"{ends}.{nonce}.ü",
        f"..{mac}",
    ):
        browser.cookies["mailferry_session"] = bad.encode().decode("latin-1")
        assert browser.ask("/")[0] == 303, bad


def test_wrong_tokens_are_counted_by_address_and_then_even_the_right_one_has_to_wait(signed: str) -> None:
    browser = Browser(signed)
    tried = [browser.ask("/", Authorization=f"Bearer {n}", Accept="*/*")[0] for n in range(6)]
    assert tried[0] == 401
    assert tried[-1] == 429
    assert browser.ask("/", Authorization=f"Bearer {TOKEN}", Accept="*/*")[0] == 429
    status, _, headers = browser.ask(
        "/signin", {"mark": browser.mark("/signin"), "token": TOKEN, "next": "/"}
    )
    assert status == 429
    assert 0 < int(headers["retry-after"]) <= 61


def test_a_proxy_names_the_user_and_no_one_else_can(tmp_path: Path) -> None:
    def asked(folder: str, proxies: str) -> list[int]:
        (tmp_path / folder).mkdir()
        configuration = configured(
            tmp_path / folder, None, events=["out"], proxy_header="Remote-User", proxies=proxies
        )
        with served(configuration) as url:
            browser = Browser(url)
            return [
                browser.ask("/")[0],
                browser.ask("/", Remote_User="ada")[0],
                browser.ask("/", Remote_User="")[0],
            ]

    assert asked("trusted", "127.0.0.1") == [401, 200, 401]
    assert asked("other", "192.0.2.1") == [401, 401, 401]


# --- what goes wrong


def test_a_database_that_does_not_answer_is_said_and_the_files_are_shown_all_the_same(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)  # and never answers
        settings = database_settings.model_copy(update={"host": "127.0.0.1", "port": deaf.getsockname()[1]})
        configuration = configured(tmp_path, settings, events=["out"], mailboxes=["tracking"])
        past(configuration, "out", now=int(time.time()))
        with served(configuration) as url:
            status, text = opened(url)
            assert status == 200
            assert "the database cannot be asked" in text
            assert "behind" in text
            for path in ("/jobs", "/jobs/1"):
                status, text = opened(f"{url}{path}")
                assert status == 503
                assert "cannot be shown at the moment" in text
            assert opened(f"{url}/workers")[0] == opened(f"{url}/feed?name=tracking")[0] == 200
            assert opened(f"{url}/readyz")[0] == 503
            assert opened(f"{url}/healthz")[0] == 200
