"""The JSON API: what the commands report by `--json`, and the same changes. Described by `openapi.py`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from mailferry import report_jobs
from mailferry.errors import Reject
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.ledger.rows import rejected_rows
from mailferry.monitor import status as monitor
from mailferry.monitor.page.forms import body_of, by
from mailferry.monitor.page.gate import int_of
from mailferry.monitor.page.openapi import MOST, USUAL, document
from mailferry.report_json import dumped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from mailferry.monitor.page.actions import Actions
    from mailferry.monitor.page.looks import Looks


class NotUnderstood(Reject):
    """What was asked for is not understood; nothing was done."""


class Api:
    """Endpoints below /api/v1."""

    def __init__(self, looks: Looks, actions: Actions) -> None:
        self._looks = looks
        self._actions = actions

    def described(self, request: Request) -> Response:  # noqa: ARG002 - the framework's signature
        """The OpenAPI document."""
        return Response(json.dumps(document()), media_type="application/json")

    def status(self, request: Request) -> Response:
        _known(request, ())
        return _answer(**monitor.as_plain(self._looks.status()))

    def needs(self, request: Request) -> Response:
        _known(request, ())
        return _answer(needs=[dataclasses.asdict(need) for need in self._looks.status().needs])

    def feeds(self, request: Request) -> Response:
        _known(request, ())
        return _answer(feeds=[dataclasses.asdict(feed) for feed in self._looks.status().feeds])

    def jobs(self, request: Request) -> Response:
        """Jobs by the filters of `mailferry jobs list`."""
        query = _known(request, ("state", "feed", "table", "sender", "text", "limit", "offset"))
        state = query.get("state")
        if state is not None and state not in [*JobState, "refused"]:
            raise NotUnderstood(f"state is one of {', '.join(JobState)}, refused")
        texts = {name: query.get(name) for name in ("feed", "table", "sender", "text")}
        if any(len(text or "") > 500 for text in texts.values()):
            raise NotUnderstood("a text has 500 characters at most")
        refused = state == "refused"
        with self._looks.transaction() as conn:
            found = admin.jobs(
                conn,
                feed=texts["feed"] or None,
                state=JobState(state) if state and not refused else None,
                refused=refused,
                target=texts["table"] or None,
                sender=texts["sender"] or None,
                text=texts["text"] or None,
                limit=_number(query, "limit", USUAL, 1, MOST),
                offset=_number(query, "offset", 0, 0, 1_000_000),
            )
        return _answer(jobs=[report_jobs.job_plain(job) for job in found])

    def job(self, request: Request) -> Response:
        _known(request, ())
        with self._looks.transaction() as conn:
            details = admin.show(conn, _job_number(request))
        if details is None:
            return fault(404, "There is no such job.")
        return _answer(job=report_jobs.details_plain(details))

    def rejected(self, request: Request) -> Response:
        """The rows of a job that were not loaded, `limit` of each file."""
        limit = _number(_known(request, ("limit",)), "limit", USUAL, 1, MOST)
        with self._looks.transaction() as conn:
            details = admin.show(conn, _job_number(request))
            if details is None:
                return fault(404, "There is no such job.")
            rows = [
                {**dataclasses.asdict(row), "file": file.name, "file_id": file.id}
                for file in details.files
                for row in rejected_rows(conn, file.id, limit)
            ]
        return _answer(rows=rows)

    async def change_job(self, request: Request) -> Response:
        """Retry, cancel or acknowledge."""
        action, number = request.url.path.rpartition("/")[2], _job_number(request)
        if await _body(request):
            raise NotUnderstood("the body is an empty object, {}")
        job = await run_in_threadpool(self._actions.job, action, number, by(request))
        return _answer(job=report_jobs.job_plain(job))

    async def run_feed(self, request: Request) -> Response:
        """Have a worker run a feed at once."""
        body = await _body(request)
        if set(body) != {"feed"} or not isinstance(body["feed"], str):
            raise NotUnderstood('the body is {"feed": "NAME"}')
        await run_in_threadpool(self._actions.run, body["feed"], by(request))
        return _answer(feed=body["feed"])


def fault(code: int, text: str) -> Response:
    """An error as programs get it."""
    return _answer(code, error=text)


def _answer(code: int = 200, **content: Any) -> Response:
    return Response(dumped(**content).encode("utf-8", "replace"), code, media_type="application/json")


def _known(request: Request, names: tuple[str, ...]) -> Mapping[str, str]:
    """The query. Raises NotUnderstood for what would be ignored: a filter that is misspelt finds what it should not."""
    query = request.query_params
    for name in query:
        if name not in names:
            raise NotUnderstood(f"{name[:100]}: there are {', '.join(names) or 'no parameters'}")
        if len(query.getlist(name)) > 1:
            raise NotUnderstood(f"{name} is given more than once")
    return query


def _number(query: Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    found = int_of(query[name]) if name in query else usual
    if not least <= found <= most:
        raise NotUnderstood(f"{name} is a number from {least} to {most}")
    return found


def _job_number(request: Request) -> int:
    number: int = request.path_params["number"]
    if number >= 2**63:
        raise NotUnderstood("no job has so large a number")
    return number


async def _body(request: Request) -> dict[str, Any]:
    """A JSON object: no form of another site can send this content type."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise NotUnderstood("send JSON, with Content-Type: application/json")
    try:
        body = json.loads(await body_of(request))
    except (ValueError, RecursionError):
        raise NotUnderstood("the body is not JSON") from None
    if not isinstance(body, dict):
        raise NotUnderstood("the body is a JSON object")
    return body
