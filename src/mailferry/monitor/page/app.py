"""The page as an ASGI application: addresses, and what each passes first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mailferry.errors import MailferryError, Reject
from mailferry.mailbox.ledger.admin import NoSuchJob
from mailferry.monitor.page.access import Access
from mailferry.monitor.page.actions import OF_JOBS, Actions
from mailferry.monitor.page.api import Api, NotUnderstood, fault
from mailferry.monitor.page.forms import Forms
from mailferry.monitor.page.gate import Gate
from mailferry.monitor.page.probes import Probes
from mailferry.monitor.page.views import Pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from mailferry.monitor.page.looks import Looks


class Rules:
    """The access rules that count at the moment: made again when the settings change."""

    def __init__(self, looks: Looks, clock: Callable[[], float]) -> None:
        self._looks = looks
        self._clock = clock
        self._settings = looks.configuration.page
        self._access = Access(self._settings, clock)

    def __call__(self) -> Access:
        settings = self._looks.configuration.page
        if settings != self._settings:
            self._settings, self._access = settings, Access(settings, self._clock)
        return self._access


def application(looks: Looks, clock: Callable[[], float] = time.time) -> Starlette:
    """Everything that is served. `clock` returns Unix seconds: sign-ins end by it."""
    pages, actions, probes = Pages(looks), Actions(looks), Probes(looks)
    forms, api = Forms(pages, actions), Api(looks, actions)

    def failed(request: Request, error: Exception) -> Response:
        """An address that is not there, or what could not be done: for people a page, for programs JSON."""
        program = request.url.path.startswith("/api/")
        if isinstance(error, HTTPException):
            code, text = error.status_code, f"{error.detail}: {request.url.path}"
            answer = fault(code, text) if program else pages.missing(request, code)
            answer.headers.update(error.headers or {})
            return answer
        assert isinstance(error, MailferryError)
        return fault(_code(error), str(error)) if program else pages.troubled(request, error)

    return Starlette(
        routes=[
            Route("/", pages.overview),
            Route("/feed", pages.feed),
            Route("/feed/act", forms.feed, methods=["POST"]),
            Route("/jobs", pages.jobs),
            Route("/jobs/act", forms.jobs, methods=["POST"]),
            Route("/jobs/{number}", pages.job),
            Route("/workers", pages.workers),
            Route("/configuration", pages.configuration),
            Route("/signin", forms.sign_in_page),
            Route("/signin", forms.sign_in, methods=["POST"]),
            Route("/signout", forms.sign_out, methods=["POST"]),
            Route("/jobs/{number}/rejected/{file}", pages.rejected),
            Route("/api/v1/openapi.json", api.described),
            Route("/api/v1/status", api.status),
            Route("/api/v1/needs", api.needs),
            Route("/api/v1/feeds", api.feeds),
            Route("/api/v1/feeds/run", api.run_feed, methods=["POST"]),
            Route("/api/v1/jobs", api.jobs),
            Route("/api/v1/jobs/{number:int}", api.job),
            Route("/api/v1/jobs/{number:int}/rejected", api.rejected),
            *(
                Route(f"/api/v1/jobs/{{number:int}}/{action}", api.change_job, methods=["POST"], name=action)
                for action in OF_JOBS
            ),
            Route("/healthz", probes.alive),
            Route("/readyz", probes.ready),
            Route("/metrics", probes.metrics),
            Mount("/static", StaticFiles(packages=[("mailferry.monitor.page", "static")])),
        ],
        middleware=[Middleware(Gate, access=Rules(looks, clock))],
        exception_handlers={HTTPException: failed, MailferryError: failed},
    )


def _code(error: MailferryError) -> int:
    for kind, code in ((NotUnderstood, 400), (NoSuchJob, 404), (Reject, 409)):
        if isinstance(error, kind):
            return code
    return 503
