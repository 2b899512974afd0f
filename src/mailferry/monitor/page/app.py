"""The page as an ASGI application: addresses, and what each passes first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mailferry.errors import MailferryError
from mailferry.monitor.page.access import Access
from mailferry.monitor.page.actions import Actions
from mailferry.monitor.page.forms import Forms
from mailferry.monitor.page.gate import Gate
from mailferry.monitor.page.probes import Probes
from mailferry.monitor.page.views import Pages

if TYPE_CHECKING:
    from collections.abc import Callable

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
    forms = Forms(pages, actions)
    handlers: Any = {
        404: pages.missing,
        405: pages.missing,
        MailferryError: pages.troubled,
        HTTPException: pages.missing,
    }
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
            Route("/healthz", probes.alive),
            Route("/readyz", probes.ready),
            Mount("/static", StaticFiles(packages=[("mailferry.monitor.page", "static")])),
        ],
        middleware=[Middleware(Gate, access=Rules(looks, clock))],
        exception_handlers=handlers,
    )
