"""What programs ask to know whether it runs: liveness, readiness, metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from mailferry.monitor.status import has_database

if TYPE_CHECKING:
    from starlette.requests import Request

    from mailferry.config.service import Configuration
    from mailferry.monitor.facts import FeedStatus, Status
    from mailferry.monitor.page.looks import Looks

#: Kinds of needs for which a feed's data is not up to date.
STALE = ("failing", "blocked", "behind", "silent")


class Probes:
    """Endpoints without a page."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    def alive(self, request: Request) -> Response:  # noqa: ARG002 - the framework's signature
        """This process answers; nothing else is asked."""
        return Response('{"version": 1, "status": "ok"}', media_type="application/json")

    def ready(self, request: Request) -> Response:
        """Whether the database answers, a worker is alive and every feed is fresh; names only for those who may see the page."""
        found = readiness(self._looks.status(), self._looks.configuration)
        if request.scope["mailferry"]["user"] is None:
            found["feeds"] = {"ok": found["feeds"]["ok"]}
            found["database"] = {"ok": found["database"]["ok"]}
        code = 200 if found["ready"] else 503
        return Response(json.dumps(found, default=str), code, media_type="application/json")

    def metrics(self, request: Request) -> Response:  # noqa: ARG002 - the framework's signature
        """For Prometheus; see docs/metrics.md."""
        from mailferry.monitor.metrics import CONTENT_TYPE, render

        return Response(render(self._looks.status()), media_type=CONTENT_TYPE)


def readiness(status: Status, configuration: Configuration) -> dict[str, Any]:
    """As /readyz answers. A feed without a run yet is fresh: it has not missed one."""
    asked = has_database(configuration)
    alive = sum(bool(worker["alive"]) for worker in status.workers)
    stale = {need.feed: need.reason for need in status.needs if need.kind in STALE and need.feed}
    unknown = [feed.name for feed in status.feeds if feed.state == "unknown" and not _known(feed)]
    database = {"ok": not status.database_error, "error": status.database_error or None, "used": asked}
    workers = {"ok": alive > 0 or not asked, "alive": alive}
    feeds = {"ok": not stale and not unknown, "stale": stale, "unknown": unknown}
    ready = database["ok"] and workers["ok"] and feeds["ok"]
    return {"version": 1, "ready": bool(ready), "database": database, "workers": workers, "feeds": feeds}


def _known(feed: FeedStatus) -> bool:
    return feed.position is not None
