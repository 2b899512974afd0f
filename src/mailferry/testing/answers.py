"""What the Uzman Posta API answers to a question, without a socket: parameters, refusals, pages and details."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson

from mailferry.testing.population import TYPES, Event, Feed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailferry.testing.population import Population

#: The paths of the lists; a mail detail is one more step below the first.
LISTS: Mapping[str, str] = MappingProxyType(
    {
        "/api/v2/logs/mail": "mail",
        "/api/v2/quarantines": "quarantine",
        "/api/v2/queue": "quarantine",
        "/api/v2/logs/authentication": "authentication",
    }
)
DETAILS = "/api/v2/logs/mail/"

_QUARANTINE_REACH = 7 * 86_400
_LONGEST_RANGE = 14 * 86_400
_REASONS = MappingProxyType(
    {
        400: "bad_request",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        406: "not_acceptable",
        429: "too_many_requests",
        500: "internal_error",
        503: "unavailable",
    }
)


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the program
    """The API's answer is an error: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def body(self) -> bytes:
        """The API's JSON error object."""
        return error_body(self.status, str(self))


def error_body(status: int, message: str) -> bytes:
    """Return the JSON error object of the API."""
    return orjson.dumps(
        {
            "status": status,
            "code": status,
            "message": message,
            "api-version": "v2",
            "extended-code-text": _REASONS[status],
            "link": f"https://docs.example.com/errors/{status}",
        }
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ListQuestion:
    """A list request as it was asked. `domain` is "" where none was given; the ends are Unix seconds as sent."""

    feed: Feed
    starttime: int
    endtime: int


class Api:
    """The API over a population. `now` is the provider's Unix time, which decides what is visible."""

    def __init__(self, population: Population, *, keeps_days: float | None, endtime_inclusive: bool) -> None:
        """Read `endtime` in one of its two possible ways; `starttime` is inclusive in both."""
        self._population = population
        self._keeps_days = keeps_days
        self._behind_end = 1 if endtime_inclusive else 0
        self._domains: dict[str, set[str]] = {}
        for feed in population.feeds:
            self._domains.setdefault(feed.api_key, set()).add(feed.domain)

    def key(self, authorization: str) -> str:
        """Return the API key of the header; Refusal 401 for none or an unknown one."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or key not in self._domains:
            raise Refusal(401, "The API key is not valid")
        return key

    def question(self, category: str, key: str, query: Mapping[str, str], now: float) -> ListQuestion:
        """Read a list's parameters. Refusal 400 for bad ones, 403 for a domain of another key, 406 for too old ones."""
        start, end = _integer(query, "starttime"), _integer(query, "endtime")
        if end < start:
            raise Refusal(400, "endtime is before starttime")
        if end - start > _LONGEST_RANGE:
            raise Refusal(400, "Can make search for 14 days at most")
        kind = query.get("type", "")
        if kind not in TYPES[category]:
            wanted = " or ".join(TYPES[category]) or "left out"
            raise Refusal(400, f"type has to be {wanted}")
        domain = query.get("domain", "")
        if domain and domain not in self._domains[key]:
            raise Refusal(403, "The domain is not one of this API key")
        if category == "quarantine" and start < now - _QUARANTINE_REACH:
            raise Refusal(406, "Can make search 7 days before at most")
        return ListQuestion(
            feed=Feed(api_key=key, domain=domain, category=category, type=kind), starttime=start, endtime=end
        )

    def page(self, question: ListQuestion, now: float, cap: int) -> list[Event]:
        """Return the newest events of the range that are still kept, newest first, at most `cap`."""
        feeds = self._population.matching(question.feed)
        start, end = question.starttime, question.endtime + self._behind_end
        if self._keeps_days is not None and question.feed.category != "quarantine":
            start = max(start, math.ceil(now - self._keeps_days * 86_400))
        return self._population.page(feeds, start, end, now=now, cap=cap) if feeds and start < end else []

    def detail(self, key: str, queue_id: str, query: Mapping[str, str], now: float) -> tuple[Event, bytes]:
        """Return a mail event and its detail. Refusal 400 without a time, 404 where it is not there (yet, or ever)."""
        event = self._population.find(key, queue_id, _integer(query, "time"))
        if event is None or event.visible_from > now or (detail := event.detail_at(now)) is None:
            raise Refusal(404, "The mail was not found")
        return event, detail


def page_body(events: list[Event], now: float) -> bytes:
    """Return the JSON array of a list, as it is at Unix time `now`."""
    return b"[%b]" % b",".join([event.record_at(now) for event in events])


def _integer(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise Refusal(400, f"{name} has to be given in Unix seconds")
    return int(text)
