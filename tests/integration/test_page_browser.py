"""The status page in a real browser: every page at three widths, by keyboard, without scripts, and while work goes on."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_page import REJECTED, SCRIPT, TURNED, configured, fill, in_database, job, past, served
from support_wait import wait_for

from mailferry.mailbox.workbook.values import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Locator, Page

    from mailferry.config.database import DatabaseSettings

WIDTHS = (1280, 768, 360)
#: A folder for screenshots of whole pages; else there are none.
FOLDER = os.environ.get("MAILFERRY_SCREENSHOTS", "")
WANTED = bool(FOLDER)
#: axe calls these what a person cannot get past; the others are hints.
SERIOUS = {"serious", "critical"}


_USUAL: dict[str, Any] = {
    "locale": "en",
    "reduced_motion": "reduce",
    "viewport": {"width": 1280, "height": 800},
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page that is served, with a past, and a browser."""

    url: str
    database: DatabaseSettings
    numbers: dict[str, int]
    browser: Browser
    #: Screenshots are kept here for people.
    pictures: Path
    #: What most tests share: another one takes Chromium a second.
    context: BrowserContext

    def open(self, path: str = "/", **options: Any) -> Page:
        """A tab; what goes wrong in it fails the test that closes it. With options, of a context of its own."""
        context = self.browser.new_context(**_USUAL | options) if options else self.context
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(self.url + path)
        return page


def expect(what: Locator) -> Any:
    # A tenth of what it costs to collect all tests, in each worker.
    from playwright.sync_api import expect

    return expect(what)


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory, new_shared_database: Callable[[], DatabaseSettings]
) -> Iterator[Shown]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program, "chromium is missing: apt-get install chromium"
    database, folder = new_shared_database(), tmp_path_factory.mktemp("page")
    pictures = Path(FOLDER)
    pictures.mkdir(exist_ok=True)
    names = ["example-outgoing", "example-incoming", "example-quarantine", "example-authentication"]
    configuration = configured(folder, database, events=names, mailboxes=["tracking", "customs"])
    now = int(time.time())
    for number, name in enumerate(names):
        past(
            configuration,
            name,
            now=now,
            behind=12 + 9 * number,
            rate=(60, 140, 4, 22)[number],
            gap=number == 1,
        )
    with in_database(database) as conn:
        numbers = fill(conn, configuration, loaded=18 if WANTED else 4)
    with served(configuration) as url, sync_playwright() as playwright:
        # As root, Chromium has no sandbox of its own; it shows nothing but our page.
        flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        context = browser.new_context(**_USUAL)
        yield Shown(
            url=url,
            database=database,
            numbers=numbers,
            browser=browser,
            pictures=pictures,
            context=context,
        )
        browser.close()


@pytest.fixture(autouse=True)
def _closed(shown: Shown) -> Iterator[None]:
    """No page goes on asking for what is new beside the next test."""
    yield
    for context in shown.browser.contexts:
        if context is not shown.context:
            context.close()
    for page in shown.context.pages:
        page.close()


def shot(page: Page, shown: Shown, name: str) -> None:
    """A screenshot of the whole page, where it is wanted: nothing is asserted of one."""
    if WANTED:
        page.screenshot(path=shown.pictures / f"{name}.png", full_page=True)


def faults(page: Page) -> list[str]:
    """What axe finds seriously wrong for those who cannot see, or not use a mouse."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html']}" for one in found if one["impact"] in SERIOUS for node in one["nodes"]
    ]


@pytest.mark.timeout(300)
def test_every_page_can_be_read_at_every_width_in_both_lights_and_by_a_screen_reader(shown: Shown) -> None:
    pages = {
        "overview": "/",
        "jobs": "/jobs",
        "job": f"/jobs/{shown.numbers['refused']}",
        "rows": f"/jobs/{shown.numbers['rows']}",
        "events": "/feed?name=example-incoming",
        "mailbox": "/feed?name=tracking",
        "workers": "/workers",
        "configuration": "/configuration",
        "missing": "/jobs/999999",
    }
    page = shown.open()
    complaints: list[str] = []
    page.on(
        "console",
        lambda said: complaints.append(f"{page.url}: {said.text}") if said.type == "error" else None,
    )
    for name, path in pages.items():
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme="dark" if width == 768 else "light")
            if width == WIDTHS[0]:
                page.goto(shown.url + path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} at {width}"
            shot(page, shown, f"{name}-{width}")
            if width == WIDTHS[0] or (width == 768 and name in ("overview", "rows", "events")):
                assert faults(page) == [], f"{name} at {width}"
    assert [one for one in complaints if "404" not in one] == []


def test_the_reason_of_last_nights_refusal_is_one_step_from_the_overview_by_keyboard_alone(
    shown: Shown,
) -> None:
    page = shown.open()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.textContent.trim()")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", focused
        if "night run" in focused:
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Why it was refused")).to_be_visible()
    expect(page.get_by_text("no header row with the key 'hawb' in the first")).to_be_visible()


def test_what_came_by_mail_runs_nothing_and_turns_nothing_round(shown: Shown) -> None:
    with in_database(shown.database) as conn:
        number = job(
            conn,
            "900",
            feed="customs",
            subject=SCRIPT,
            sender=f'"{SCRIPT}" <{"long." * 12}name@example.com>',
            received=datetime.now(UTC),
            name=TURNED,
            counts=Counts(read=1, rejected=1),
            rejected=[replace(REJECTED[0], value=SCRIPT, column=SCRIPT, sheet=SCRIPT, reason=SCRIPT)],
        )
    page = shown.open()
    page.on("dialog", lambda _: pytest.fail("a script ran"))
    subject = page.get_by_text("<script>document.title='pwned'</script>").first

    def shows(path: str) -> bool:
        page.goto(shown.url + path)
        return subject.count() > 0

    for path in ("/jobs", f"/jobs/{number}", "/feed?name=customs", "/"):
        # What the page knows may be two seconds old.
        wait_for(path, partial(shows, path), every=0.5)
        expect(subject).to_be_visible()
        assert "pwned" not in page.title() or "script" in page.title()
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    page.goto(f"{shown.url}/jobs/{number}")
    expect(page.get_by_text("invoice\\u202excod.xlsx").first).to_be_visible()


def test_many_jobs_are_chosen_and_acknowledged_at_once_and_the_page_says_so(shown: Shown) -> None:
    with in_database(shown.database) as conn:
        for uid in ("910", "911"):
            job(
                conn,
                uid,
                feed="customs",
                subject="Customs list",
                sender="c@example.com",
                received=datetime.now(UTC),
                error="no sheet",
            )
    page = shown.open("/jobs?state=refused&text=Customs")
    page.get_by_label("Choose all").check()
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_role("status")).to_contain_text("Acknowledged: 2.")
    expect(page.get_by_text("There are no such jobs.")).to_be_visible()


def test_without_scripts_everything_works_as_well(shown: Shown) -> None:
    with in_database(shown.database) as conn:
        number = job(
            conn,
            "920",
            feed="customs",
            subject="Plain",
            sender="c@example.com",
            received=datetime.now(UTC),
            error="no sheet",
        )
    page = shown.open(f"/jobs/{number}", java_script_enabled=False)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status")).to_contain_text("To be done again: 1.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_contain_text("Cancelled: 1.")


def test_an_open_page_follows_the_work_but_not_under_the_hands_of_its_reader(shown: Shown) -> None:
    page = shown.open("/jobs")
    page.clock.install()
    page.reload()

    def arrives(uid: str) -> str:
        subject = f"Arrived meanwhile {uid}"
        with in_database(shown.database) as conn:
            job(
                conn,
                uid,
                feed="tracking",
                subject=subject,
                sender="n@example.com",
                received=datetime.now(UTC),
                pending=True,
            )
        return subject

    first = arrives("930")
    page.clock.run_for(6000)
    expect(page.get_by_role("link", name=first)).to_be_visible()
    page.get_by_label("Choose job").first.check()
    second = arrives("931")
    page.clock.run_for(6000)
    expect(page.get_by_label("Choose job").first).to_be_checked()
    assert page.get_by_role("link", name=second).count() == 0
    page.get_by_label("Choose job").first.uncheck()
    page.get_by_label("Choose job").first.blur()
    page.clock.run_for(6000)
    expect(page.get_by_role("link", name=second)).to_be_visible()
    page.route("**/jobs", lambda route: route.abort())
    page.clock.run_for(6000)
    expect(page.locator("footer")).to_contain_text("Connection lost")


def test_the_sign_in_lets_in_who_has_the_token(shown: Shown, tmp_path: Path) -> None:
    token = "f00dfeedf00dfeedf00d"
    configuration = configured(tmp_path, None, events=["out"], token=token)
    past(configuration, "out", now=int(time.time()))
    with served(configuration) as url:
        page = replace(shown, url=url).open("/workers")
        page.get_by_label("Token").fill("a guess")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("That is not the token.")
        assert faults(page) == []
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Workers")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()


def test_in_turkish_the_page_is_turkish(shown: Shown) -> None:
    page = shown.open(locale="tr-TR")
    expect(page.get_by_role("heading", name="Sizi bekleyenler")).to_be_visible()
    shot(page, shown, "overview-tr")
    assert faults(page) == []
