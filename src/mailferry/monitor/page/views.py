"""The pages that people read. Each is made of the same statistics as `mailferry status` and `mailferry jobs`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.responses import HTMLResponse, Response

from mailferry import __version__
from mailferry.clock import local_now, local_zone
from mailferry.events.coverage import HOUR
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.ledger.jobs import JobState
from mailferry.mailbox.ledger.rows import rejected_rows
from mailferry.monitor import history
from mailferry.monitor.page import chart, render, words
from mailferry.monitor.page.gate import int_of
from mailferry.monitor.status import HOURS
from mailferry.secrets import mask_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from mailferry.errors import MailferryError
    from mailferry.mailbox.ledger.jobs import Details
    from mailferry.monitor.facts import FeedStatus
    from mailferry.monitor.page.looks import Looks

#: On one page.
FEEDS, NEEDS, JOBS, ROWS, MESSAGES, DAYS = 50, 25, 50, 100, 10, 30
#: Of a file in a download.
MOST_ROWS = 100_000
#: Figures of a run's heartbeat that are shown.
REQUESTS = (
    "api_requests",
    "api_throttled",
    "api_errors",
    "avg_response_seconds",
    "logs_per_second",
    "duration_seconds",
)


class Pages:
    """Endpoints; what they need of the database they ask `looks`."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    def overview(self, request: Request) -> Response:
        """What needs a person, then every feed, those with troubles first."""
        status = self._looks.status()
        find = request.query_params.get("find", "")[:200]
        feeds = [feed for feed in status.feeds if find.casefold() in feed.name.casefold()]
        feeds.sort(key=lambda feed: (not feed.unhealthy, feed.name.casefold()))
        page = max(1, int_of(request.query_params.get("page", "1")))
        first = min((page - 1) * FEEDS, len(feeds))
        needs = max(NEEDS, min(2000, int_of(request.query_params.get("needs", ""))))
        return self.page(
            request,
            "overview.html",
            status=status,
            needs=status.needs[:needs],
            feeds=feeds[first : first + FEEDS],
            first=first,
            matching=len(feeds),
            total=len(status.feeds),
            page_number=page,
            find=find,
            query=f"{urlencode({'find': find})}&" if find else "",
        )

    def workers(self, request: Request) -> Response:
        """The processes of the service, the queue and the disks."""
        return self.page(request, "workers.html", status=self._looks.status())

    def configuration(self, request: Request) -> Response:
        """All settings as they count, secrets masked."""
        from mailferry.config import toml_write

        configuration = self._looks.configuration
        return self.page(
            request,
            "configuration.html",
            text=mask_lines(toml_write.as_toml(configuration, toml_write.Style.WHOLE)),
            paths=[str(path) for path in configuration.paths],
            warnings=configuration.warnings,
        )

    def jobs(self, request: Request) -> Response:
        """Jobs by state, table, sender and text, the latest arrival first."""
        asked = Filter(request)
        with self._looks.transaction() as conn:
            found = admin.jobs(conn, **asked.arguments, limit=JOBS + 1, offset=(asked.page - 1) * JOBS)
        configured = self._looks.configuration.mailboxes
        return self.page(
            request,
            "jobs.html",
            jobs=found[:JOBS],
            more=len(found) > JOBS,
            asked=asked,
            feeds=[feed.name for feed in configured],
            tables=sorted({feed.target_table for feed in configured}),
            states=[*(str(state) for state in JobState), "refused"],
        )

    def job(self, request: Request) -> Response:
        """All about one job."""
        number = int_of(request.path_params["number"])
        with self._looks.transaction() as conn:
            details = admin.show(conn, number) if number >= 0 else None
            if details is None:
                return self.message(request, 404, "There is no such job", f"{request.path_params['number']}")
            rows = {file.id: rejected_rows(conn, file.id, ROWS) for file in details.files}
        return self.page(request, "job.html", job=details.job, details=details, rows=rows, most=ROWS)

    def feed(self, request: Request) -> Response:
        """One feed: how far, what of it is covered, its gaps; or its latest messages and what became of each part."""
        name = request.query_params.get("name", "")
        status = self._looks.status()
        feed = next((feed for feed in status.feeds if feed.name == name), None)
        if feed is None:
            return self.message(request, 404, "There is no such feed", name[:200])
        needs = [need for need in status.needs if need.feed == name]
        shown = self._history(feed) if feed.kind == "events" else self._messages(feed)
        return self.page(
            request,
            "feed.html",
            feed=feed,
            needs=needs[:5],
            more_needs=len(needs[5:]),
            moment=_moment,
            **shown,
        )

    def _history(self, feed: FeedStatus) -> dict[str, Any]:
        configured = next(one for one in self._looks.configuration.events if one.section == feed.name)
        past = history.of_feed(configured, self._looks.pool)
        now, zone = local_now(), local_zone()
        first = int(now.timestamp()) // HOUR - HOURS + 1
        delays = configured.audit_delays
        strip = chart.days(
            past.coverage, past.gaps, now=now, zone=zone, count=DAYS, audited=delays[-1] if delays else None
        )
        return {
            "strip": strip if any(day.state != "none" for day in strip) else [],
            "gaps": sorted(past.gaps, key=lambda gap: (not gap.open, -gap.start)),
            "beat": {name: past.metrics.get(name) for name in REQUESTS} if past.metrics else None,
            "hours": [f"{_moment((first + n) * HOUR).astimezone(zone):%H:%M}" for n in range(HOURS)],
        }

    def _messages(self, feed: FeedStatus) -> dict[str, Any]:
        now, zone = local_now(), local_zone()
        first = int(now.timestamp()) // HOUR - HOURS + 1
        details: list[Details] = []
        if not self._looks.status().database_error:
            with self._looks.transaction() as conn:
                found = [admin.show(conn, job.id) for job in admin.jobs(conn, feed=feed.name, limit=MESSAGES)]
            details = [one for one in found if one]
        return {
            "strip": [],
            "messages": details,
            "tallies": (
                "completed",
                "failed",
                "files",
                "errors",
                "rows_read",
                "inserted",
                "updated",
                "unchanged",
                "rejected",
            ),
            "hours": [f"{_moment((first + n) * HOUR).astimezone(zone):%H:%M}" for n in range(HOURS)],
        }

    def rejected(self, request: Request) -> Response:
        """The rejected rows of a job's file, to be sent back."""
        from mailferry.mailbox.folders import rejects_csv

        number, file_id = (int_of(request.path_params[name]) for name in ("number", "file"))
        with self._looks.transaction() as conn:
            details = admin.show(conn, number) if number >= 0 else None
            if details is None or file_id not in [file.id for file in details.files]:
                return self.missing(request)
            text = rejects_csv(rejected_rows(conn, file_id, MOST_ROWS))
        disposition = {
            "content-disposition": f'attachment; filename="job-{number}-file-{file_id}-rejected.csv"'
        }
        return Response(text, media_type="text/csv; charset=utf-8", headers=disposition)

    def missing(self, request: Request, code: int = 404) -> Response:
        """There is nothing at this address, or nothing of the kind that was asked for."""
        return self.message(request, code, "There is no such page", request.url.path)

    def troubled(self, request: Request, error: MailferryError) -> Response:
        """What cannot be shown at the moment, and why."""
        return self.message(request, 503, "This cannot be shown at the moment", str(error))

    def message(self, request: Request, code: int, headline: str, text: str, back: str = "/") -> Response:
        """A page that says one thing."""
        _ = translator(request)
        return self.page(request, "message.html", code=code, headline=_(headline), text=text, there=back)

    def page(self, request: Request, template: str, code: int = 200, **values: Any) -> Response:
        """A template with what every page shows."""
        lang = render.language(request.headers.get("accept-language", ""))
        passed = request.scope["mailferry"]
        access, user = passed["access"], passed["user"]
        _ = render.translator(lang)
        query = request.url.query
        text = render.page(
            template,
            lang,
            local_now(),
            at=request.url.path,
            back=request.url.path + (f"?{query}" if query else ""),
            menu=user is not None,
            mark=access.form_mark(passed["visitor"]),
            signed_in=user == "token",
            version=__version__,
            host=self._looks.configuration.service.host or words.machine(),
            done=words.done(_, request.query_params),
            light_of=light_of,
            **words.helpers(_, lang),
            **values,
        )
        return HTMLResponse(text, code, headers={"vary": "Accept-Language, Cookie"})


class Filter:
    """Which jobs are asked for, by the query of the address."""

    def __init__(self, request: Request) -> None:
        given = request.query_params
        self.feed, self.table, self.sender, self.text = (
            given.get(name, "")[:500] for name in ("feed", "table", "sender", "text")
        )
        known = [*(str(state) for state in JobState), "refused"]
        self.state = given.get("state", "") if given.get("state") in known else ""
        self.page = max(1, min(int_of(given.get("page", "1")), 1_000_000))

    @property
    def arguments(self) -> dict[str, Any]:
        """For `admin.jobs`."""
        refused = self.state == "refused"
        return {
            "feed": self.feed or None,
            "state": JobState(self.state) if self.state and not refused else None,
            "refused": refused,
            "target": self.table or None,
            "sender": self.sender or None,
            "text": self.text or None,
        }

    def address(self, page: int) -> str:
        """Of the same jobs' other page."""
        values = {name: getattr(self, name) for name in ("feed", "state", "table", "sender", "text")}
        return "/jobs?" + urlencode({name: value for name, value in values.items() if value} | {"page": page})


def translator(request: Request) -> Callable[..., Any]:
    """The reader's language."""
    return render.translator(render.language(request.headers.get("accept-language", "")))


def light_of(feed: FeedStatus) -> str:
    """Which sign stands for it: "bad", "work", "off" or "ok"."""
    if feed.unhealthy:
        return "bad"
    if feed.state == "running":
        return "work"
    return "off" if feed.state in ("new", "unknown") else "ok"


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
