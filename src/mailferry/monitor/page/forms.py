"""The endpoints of forms: what was sent, checked, done, and where to go then."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from mailferry.errors import MailferryError, Reject
from mailferry.monitor.page.access import SESSION, local_path
from mailferry.monitor.page.actions import OF_JOBS
from mailferry.monitor.page.gate import MOST_BYTES, SESSION_COOKIE, cookie, int_of
from mailferry.monitor.page.views import translator

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from mailferry.monitor.page.actions import Actions
    from mailferry.monitor.page.views import Pages

#: Jobs of one form.
_MOST_JOBS = 500


class Forms:
    """Every form of the pages."""

    def __init__(self, pages: Pages, actions: Actions) -> None:
        self._pages = pages
        self._actions = actions

    async def jobs(self, request: Request) -> Response:
        """Retry, cancel or acknowledge the chosen jobs."""
        form = await self._form(request)
        if form is None:
            return await self._old(request)
        action, numbers = form.get("action", [""])[0], [int_of(text) for text in form.get("id", [])]
        back = local_path(form.get("back", ["/jobs"])[0])
        if action not in OF_JOBS or not numbers or min(numbers) < 0 or len(numbers) > _MOST_JOBS:
            return await self._said(request, 400, "Choose jobs first", "", back)
        try:
            done, faults = await run_in_threadpool(self._actions.jobs, action, numbers, by(request))
        except MailferryError as error:
            return await self._said(request, 503, "This was not done", str(error), back)
        if faults:
            return await self._said(request, 409, "Not all of this was done", "\n".join(faults), back)
        return _there(back, done=action, count=str(done))

    async def feed(self, request: Request) -> Response:
        """Run a feed now; try its gaps again, or acknowledge them."""
        form = await self._form(request)
        if form is None:
            return await self._old(request)
        action, name, reason = (form.get(key, [""])[0] for key in ("action", "feed", "reason"))
        back = local_path(form.get("back", ["/"])[0])
        actions = self._actions
        known: dict[str, Callable[[], None]] = {
            "run": lambda: actions.run(name, by(request)),
            "retry-gaps": lambda: actions.retry_gaps(name, by(request)),
            "acknowledge-gaps": lambda: actions.acknowledge_gaps(name, reason, by(request)),
        }
        if action not in known:
            return await self._said(request, 400, "This was not done", "", back)
        try:
            await run_in_threadpool(known[action])
        except MailferryError as error:
            code = 409 if isinstance(error, Reject) else 503
            return await self._said(request, code, "This was not done", str(error), back)
        return _there(back, done=action)

    async def sign_in(self, request: Request) -> Response:
        """The form of the token; a right one leads on, with a cookie."""
        passed = request.scope["mailferry"]
        access, address = passed["access"], passed["address"]
        form = await self._form(request)
        if form is None:
            return await self._old(request)
        _, there = translator(request), local_path(form.get("next", ["/"])[0])
        if access.token_is(address, form.get("token", [""])[0].strip()):
            answer: Response = RedirectResponse(there, status_code=303)
            secure = access.is_proxy(address) and request.headers.get("x-forwarded-proto") == "https"
            answer.headers.append(
                "set-cookie", cookie(SESSION_COOKIE, access.new_session(), secure=secure, age=SESSION)
            )
            return answer
        wait = access.attempts.wait(address)
        wrong = _("Too many wrong tokens; wait a minute.") if wait else _("That is not the token.")
        answer = self._pages.page(request, "signin.html", 429 if wait else 401, there=there, wrong=wrong)
        if wait:
            answer.headers["retry-after"] = str(int(wait) + 1)
        return answer

    async def sign_in_page(self, request: Request) -> Response:
        there = local_path(request.query_params.get("next", "/"))
        if request.scope["mailferry"]["user"] is not None:
            return RedirectResponse(there, status_code=303)
        return self._pages.page(request, "signin.html", there=there, wrong="")

    async def sign_out(self, request: Request) -> Response:
        if await self._form(request) is None:
            return await self._old(request)
        answer = RedirectResponse("/signin", status_code=303)
        answer.headers.append("set-cookie", cookie(SESSION_COOKIE, "", secure=False, age=0))
        return answer

    async def _form(self, request: Request) -> dict[str, list[str]] | None:
        """The fields of a form of ours; None: it is another's, or out of date."""
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return None
        body = await body_of(request)
        try:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            return None
        passed = request.scope["mailferry"]
        mark = form.get("mark", [""])[0]
        return form if passed["access"].form_is_ours(passed["visitor"], mark) else None

    async def _old(self, request: Request) -> Response:
        text = translator(request)("Nothing was changed. Go back, load the page again, and repeat it.")
        return await self._said(request, 403, "This form is out of date", text, "/")

    async def _said(self, request: Request, code: int, headline: str, text: str, back: str) -> Response:
        return await run_in_threadpool(self._pages.message, request, code, headline, text, back)


async def body_of(request: Request) -> bytes:
    """The body, cut where it is longer than any form of ours."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            return b""
    return body


def by(request: Request) -> str:
    """Who asked, for the log."""
    passed = request.scope["mailferry"]
    return f"{passed['user'] or 'the page'} ({passed['address']})"


def _there(back: str, **said: str) -> Response:
    """Back to where the form was, with what was done in the address."""
    url = urlsplit(back)
    query = {key: values for key, values in parse_qs(url.query).items() if key not in ("done", "count")}
    return RedirectResponse(url._replace(query=urlencode(query | said, doseq=True)).geturl(), status_code=303)
