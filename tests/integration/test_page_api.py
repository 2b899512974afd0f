"""The API against its own description: schemathesis asks what the document allows, and what it does not."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support_page import configured, fill, in_database, job, opened, past, served

from mailferry.mailbox.workbook.values import Counts, RejectedRow
from mailferry.monitor.metrics import CONTENT_TYPE
from mailferry.monitor.page.openapi import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.database import DatabaseSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, new_shared_database: Callable[[], DatabaseSettings]
) -> Iterator[tuple[str, dict[str, int]]]:
    folder, database = tmp_path_factory.mktemp("api"), new_shared_database()
    configuration = configured(folder, database, events=["out"], mailboxes=["tracking"])
    past(configuration, "out", now=int(time.time()), gap=True)
    with in_database(database) as conn:
        numbers = fill(conn, configuration)
    with served(configuration) as url:
        yield url, numbers


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_every_answer_is_as_described_whatever_is_asked(site: tuple[str, dict[str, int]], kind: str) -> None:
    # A tenth of what it costs to collect all tests, in each worker.
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.core.result import Ok

    mode = GenerationMode(kind)
    described = schemathesis.openapi.from_url(f"{site[0]}/api/v1/openapi.json")
    operations = [found.ok() for found in described.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == sum(len(methods) for methods in document()["paths"].values())
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
            continue  # nothing can be wrong with a request that has no parts

        # Without a part that varies, every request is the same.
        varied = bool(operation.query or operation.body or operation.path_parameters)

        @settings(
            max_examples=6 if varied else 1,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.call_and_validate()

        check()


def posted(url: str, body: bytes = b"{}", **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    request = urllib.request.Request(url, body, sent, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_programs_change_jobs_by_json_alone_so_that_no_form_of_another_site_can(
    site: tuple[str, dict[str, int]],
) -> None:
    url, numbers = site
    address = f"{url}/api/v1/jobs/{numbers['refused']}/acknowledge"
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert posted(address, Content_Type=kind)[0] == 400
    assert posted(address, Origin="http://evil.example")[0] == 403
    status, body = posted(address)
    assert (status, body["job"]["id"], body["version"]) == (200, numbers["refused"], 1)
    assert body["job"]["acknowledged_at"]
    assert posted(address)[0] == 409
    assert posted(f"{url}/api/v1/jobs/999999/retry") == (
        404,
        {"version": 1, "error": "There is no job 999999."},
    )
    assert posted(f"{url}/api/v1/feeds/run", b'{"feed": "tracking"}') == (
        200,
        {"version": 1, "feed": "tracking"},
    )


def test_a_filter_that_is_misspelt_is_refused_and_not_ignored(site: tuple[str, dict[str, int]]) -> None:
    url, numbers = site
    assert opened(f"{url}/api/v1/jobs?sate=failed")[0] == 400
    assert opened(f"{url}/api/v1/jobs?limit=0")[0] == 400
    found = json.loads(opened(f"{url}/api/v1/jobs?state=failed")[1])["jobs"]
    assert [one["id"] for one in found] == [numbers["refused"]]
    assert [one["id"] for one in json.loads(opened(f"{url}/api/v1/jobs?limit=2&offset=1")[1])["jobs"]] == [
        numbers["refused"],
        numbers["refused"] - 1,
    ]


def test_metrics_are_those_of_the_command(site: tuple[str, dict[str, int]]) -> None:
    with urllib.request.urlopen(f"{site[0]}/metrics", timeout=30) as answer:
        assert answer.headers["content-type"] == CONTENT_TYPE
        text = answer.read().decode()
    assert 'mailferry_build_info{version="' in text
    assert 'feed="out"' in text


def test_the_download_of_rejected_rows_is_no_program_for_a_spreadsheet(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    from datetime import UTC, datetime

    configuration = configured(tmp_path, database_settings, mailboxes=["tracking"])
    rows = [
        RejectedRow(
            sheet="S", row=2, column="a", value='=HYPERLINK("http://evil.example")', reason="no number"
        ),
        RejectedRow(sheet="S", row=3, column="a", value='ü, "quoted"\nline', reason="no number"),
    ]
    with in_database(database_settings) as conn:
        number = job(
            conn,
            "1",
            feed="tracking",
            subject="x",
            sender="a@example.com",
            received=datetime.now(UTC),
            counts=Counts(read=2, rejected=2),
            rejected=rows,
        )
    with served(configuration) as url:
        (link,) = re.findall(r'href="(/jobs/\d+/rejected/\d+)"', opened(f"{url}/jobs/{number}")[1])
        with urllib.request.urlopen(url + link, timeout=30) as answer:
            assert answer.headers["content-disposition"].startswith('attachment; filename="job-')
            lines = answer.read().decode("utf-8-sig").split("\r\n")
        assert opened(f"{url}/jobs/{number}/rejected/999")[0] == 404
    assert lines[0] == "sheet,row,column,value,reason"
    assert lines[1] == 'S,2,a,"\'=HYPERLINK(""http://evil.example"")",no number'
    assert lines[2] == 'S,3,a,"ü, ""quoted""\nline",no number'


def test_every_address_of_the_api_stands_in_the_docs_and_no_other() -> None:
    page = (ROOT / "docs/page.md").read_text("utf-8")
    assert set(re.findall(r"`(/api/v1/[\w/{}.]+)`", page)) == set(document()["paths"]) | {
        "/api/v1/openapi.json"
    }
