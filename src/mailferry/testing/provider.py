"""A stand-in of the Uzman Posta API over a real socket: for tests, benchmarks and the demo, yours too.

It answers the paths of the real API with a seeded population of events, in all the ways, good and bad, that the
real one may, counts what it was asked, and knows the truth to compare a collector's files with.

In an asyncio program:

    feed = Feed(api_key="key", domain="example.com", category="mail", type="incominglog")
    population = Population({feed: Traits(rate=5, late=0.02)})
    async with Provider(population, Settings(latency=0.05)) as provider:
        ...  # collect from provider.list_url("mail")
        result = compare(provider.truth(feed, start, end), read_lines(files))

From synchronous code, in a thread of its own: `with serve(population, Settings()) as provider: ...`.
As a process of its own: `mailferry simulate`. For it there are, without a key:

    GET /_stats                                                  the counters as one JSON object
    GET /_truth?api_key=&domain=&category=&type=&start=&end=     JSON lines for `verify.read_truth`
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import orjson
from aiohttp import web

from mailferry.errors import Stop
from mailferry.testing.answers import DETAILS, LISTS, Api, ListQuestion, Refusal, error_body, page_body
from mailferry.testing.population import Event, Feed, Population
from mailferry.testing.troubles import Fate, Gate, Throttling, Trouble, Troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_PAGE = b"<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
# SO_LINGER on with time 0: closing sends RST instead of FIN.
_LINGER_0 = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the stand-in answers. ValueError for what cannot be."""

    #: TCP port on 127.0.0.1; 0 takes a free one.
    port: int = 0
    #: Records that a list holds at most; or that by the number of the list request, which counts from 0.
    page_cap: int | Callable[[int], int] = 1000
    #: Days that mail and authentication are kept: lists of older time are empty. None keeps them for ever.
    keeps_days: float | None = None
    #: Whether a list holds the second `endtime` itself. Which is right is not documented: be right under both.
    endtime_inclusive: bool = True
    #: Seconds of real time that every answer takes, refusals by throttling excepted.
    latency: float = 0.0
    throttling: Throttling = field(default_factory=Throttling)
    list_troubles: Troubles = field(default_factory=Troubles)
    detail_troubles: Troubles = field(default_factory=Troubles)
    #: Changes the body of every good answer, by its path (with query): for what no other setting spoils.
    rewrite: Callable[[str, bytes], bytes] | None = None
    #: A URL gets into trouble so many times at most; then it is answered well.
    max_failures_per_url: int = 2

    def __post_init__(self) -> None:
        if not (
            0 <= self.port <= 65_535
            and (callable(self.page_cap) or self.page_cap >= 1)
            and self.latency >= 0
            and self.max_failures_per_url >= 0
        ):
            raise ValueError(
                f"port is 0 to 65535, page_cap 1 or more, latency and failures 0 or more, not {self}"
            )


class ListCall(NamedTuple):
    """A list request with good parameters, in the order of arrival."""

    question: ListQuestion
    #: How many records the answer held; None where a trouble befell it.
    records: int | None


class Stats:
    """What the provider was asked and how it answered. Read it at any time; only the provider writes."""

    def __init__(self) -> None:
        #: (endpoint, HTTP status) -> requests. Endpoints: mail, quarantine, authentication, detail, other. Status 0:
        #: no whole answer, because of a reset or a client that went.
        self.requests: Counter[tuple[str, int]] = Counter()
        self.troubles: Counter[Trouble] = Counter()
        #: (queue id, time) -> answers with the whole right detail.
        self.details: Counter[tuple[str, int]] = Counter()
        self.lists: list[ListCall] = []
        #: The most requests of one key, and of all together, that were in flight at once.
        self.highest_concurrency_per_key = 0
        self.highest_concurrency = 0

    @property
    def throttled(self) -> int:
        """Requests refused with 429."""
        return sum(count for (_, status), count in list(self.requests.items()) if status == 429)

    def as_json(self) -> bytes:
        """Return the counters as a JSON object."""
        return orjson.dumps(
            {
                "requests": {
                    f"{endpoint} {status}": n for (endpoint, status), n in sorted(self.requests.items())
                },
                "throttled": self.throttled,
                "troubles": {trouble.value: n for trouble, n in sorted(self.troubles.items())},
                "details": {
                    "answered": self.details.total(),
                    "distinct": len(self.details),
                },
                "lists": [
                    {
                        "category": question.feed.category,
                        "type": question.feed.type,
                        "domain": question.feed.domain,
                        "starttime": question.starttime,
                        "endtime": question.endtime,
                        "records": records,
                    }
                    for question, records in self.lists
                ],
                "highest_concurrency_per_key": self.highest_concurrency_per_key,
                "highest_concurrency": self.highest_concurrency,
            }
        )


class Provider:
    """The stand-in: listening between `async with` and its end. `clock` returns its Unix time: nothing later is visible."""

    def __init__(
        self,
        population: Population,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take settings for how to answer and a clock that a test may hold."""
        self.population = population
        self.settings = settings = settings or Settings()
        self.stats = Stats()
        #: `http://127.0.0.1:port` once it listens.
        self.url = ""
        self._clock = clock
        # A population's cache is for one thread: the server has its own.
        own = Population(population.feeds, seed=population.seed)
        self._api = Api(own, keeps_days=settings.keeps_days, endtime_inclusive=settings.endtime_inclusive)
        seed, failures = population.seed, settings.max_failures_per_url
        self._list_fate = Fate(settings.list_troubles, seed=seed, max_failures=failures)
        self._detail_fate = Fate(settings.detail_troubles, seed=seed, max_failures=failures)
        self._gates: dict[str, Gate] = {}
        self._in_flight = 0
        self._runner: web.ServerRunner | None = None
        self._closing = asyncio.Event()

    def list_url(self, category: str) -> str:
        """Return the URL of a category's list, as `url` of a section wants it."""
        return self.url + next(path for path, of in LISTS.items() if of == category)

    def truth(self, feed: Feed, start: int, end: int, *, visible_by: float | None = None) -> Iterator[Event]:
        """Return what a collector must have written of seconds `start` (inclusive) to `end` (exclusive), in time order.

        `Event.value` is the JSON. Events visible only after Unix time `visible_by` are left out. May be called
        from any thread. KeyError for a feed that the population does not have.
        """
        own = Population(self.population.feeds, seed=self.population.seed)
        for event in own.events(feed, start, end):
            if visible_by is None or event.visible_from <= visible_by:
                yield event

    async def __aenter__(self) -> Self:
        """Listen; Stop where the port is taken."""
        # The handler of a client that went is cancelled: that ends a hang.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=1)
        await self._runner.setup()
        port = self.settings.port
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise Stop(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another port, or 0"
            ) from error
        self.url = "http://{}:{}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection, hanging ones too."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith(DETAILS):
            endpoint = "detail"
        elif (category := LISTS.get(path)) is not None:
            endpoint = category
        elif path == "/_stats":
            return _response(200, self.stats.as_json())
        elif path == "/_truth":
            return await self._send_truth(request)
        else:
            endpoint = "other"
        status = 0
        self._in_flight += 1
        self.stats.highest_concurrency = max(self.stats.highest_concurrency, self._in_flight)
        try:
            response = await self._answer(request, endpoint)
            status = response.status
        finally:
            self._in_flight -= 1
            self.stats.requests[endpoint, status] += 1
        return response

    async def _answer(self, request: web.BaseRequest, endpoint: str) -> web.StreamResponse:
        """Answer a request of the API: the key first, then throttling, then the question."""
        try:
            if endpoint == "other":
                raise Refusal(404, "There is no such address")
            if request.method != "GET":
                raise Refusal(405, "Only GET is possible")
            key = self._api.key(request.headers.get("Authorization", ""))
        except Refusal as refusal:
            return _response(refusal.status, refusal.body)
        gate = self._gates.get(key) or self._gates.setdefault(key, Gate(self.settings.throttling))
        pause = gate.enter(asyncio.get_running_loop().time())
        if pause is not None:
            # A client waits by the real time, so a date is of the real time too.
            headers = self.settings.throttling.headers(pause, time.time())
            return _response(429, error_body(429, "Too Many Requests"), headers=headers)
        self.stats.highest_concurrency_per_key = max(self.stats.highest_concurrency_per_key, gate.highest)
        try:
            if self.settings.latency:
                await asyncio.sleep(self.settings.latency)
            if endpoint == "detail":
                return await self._answer_detail(request, key)
            return await self._answer_list(request, endpoint, key)
        except Refusal as refusal:
            return _response(refusal.status, refusal.body)
        finally:
            gate.leave()

    async def _answer_list(self, request: web.BaseRequest, category: str, key: str) -> web.StreamResponse:
        now = self._clock()
        question = self._api.question(category, key, request.query, now)
        trouble = self._list_fate.draw(f"{key} {request.path_qs}")
        cap = self.settings.page_cap
        events = self._api.page(question, now, cap(len(self.stats.lists)) if callable(cap) else cap)
        if trouble is None:
            self.stats.lists.append(ListCall(question, len(events)))
            return self._good(request, page_body(events, now))
        self.stats.lists.append(ListCall(question, None))
        return await self._spoil(request, trouble, page_body(events, now))

    async def _answer_detail(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        queue_id = request.path[len(DETAILS) :]
        event, detail = self._api.detail(key, queue_id, request.query, self._clock())
        trouble = self._detail_fate.draw(f"{key} {request.path_qs}")
        if trouble is None:
            self.stats.details[queue_id, event.second] += 1
            return self._good(request, detail)
        return await self._spoil(request, trouble, detail, queue_id)

    def _good(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        rewrite = self.settings.rewrite
        return _response(200, rewrite(request.path_qs, body) if rewrite else body)

    async def _spoil(
        self, request: web.BaseRequest, trouble: Trouble, body: bytes, queue_id: str = ""
    ) -> web.StreamResponse:
        """Return a bad answer where `body` would be the good one."""
        self.stats.troubles[trouble] += 1
        half = body[: max(1, len(body) // 2)]
        match trouble:
            case Trouble.ERROR_500:
                return _response(500, error_body(500, "Internal error"))
            case Trouble.BAD_GATEWAY:
                return _response(502, _PAGE, _HTML)
            case Trouble.UNAVAILABLE_503:
                return _response(503, error_body(503, "Temporarily unavailable"))
            case Trouble.MAINTENANCE_503:
                body = error_body(503, "Down for maintenance")
                return _response(503, body, headers={"Retry-After": "1"})
            case Trouble.CUT_JSON:
                return _response(200, half)
            case Trouble.HTML_200:
                return _response(200, _PAGE, _HTML)
            case Trouble.EMPTY_200:
                return _response(200, b"")
            case Trouble.ERROR_OBJECT_200:
                return _response(200, error_body(500, "Internal error"))
            case Trouble.THROTTLED_200:
                return _response(200, error_body(429, "Too Many Requests"))
            case Trouble.NOT_THERE_YET:
                return _response(404, error_body(404, "The mail was not found"))
            case Trouble.WRONG_DETAIL:
                other = queue_id[::-1] if queue_id != queue_id[::-1] else f"{queue_id}0"
                return _response(200, body.replace(queue_id.encode(), other.encode(), 1))
            case Trouble.RESET_BEFORE:
                _reset(request)
            case Trouble.RESET_MIDWAY:
                response = web.StreamResponse(headers={"Content-Type": _JSON})
                response.content_length = len(body)
                await response.prepare(request)
                await response.write(half)
                _reset(request)
            case Trouble.HANG:
                pass
        # The client's going (or the reset) cancels this; the provider's end wakes it.
        await self._closing.wait()
        return _response(503, error_body(503, "Going down"))

    async def _send_truth(self, request: web.BaseRequest) -> web.StreamResponse:
        query = request.query
        try:
            feed = Feed(
                api_key=query.get("api_key", ""),
                domain=query.get("domain", ""),
                category=query.get("category", "mail"),
                type=query.get("type", ""),
            )
            events = self.truth(feed, int(query.get("start", "")), int(query.get("end", "")))
            first = next(events, None)
        except (ValueError, KeyError) as error:
            return _response(400, error_body(400, f"/_truth: {error}"))
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        lines: list[bytes] = [] if first is None else [_truth_line(first)]
        for event in events:
            lines.append(_truth_line(event))
            if len(lines) == 200:
                await response.write(b"".join(lines))
                lines.clear()
                await asyncio.sleep(0)
        await response.write(b"".join(lines))
        await response.write_eof()
        return response


@contextmanager
def serve(
    population: Population, settings: Settings | None = None, *, clock: Callable[[], float] = time.time
) -> Iterator[Provider]:
    """Run a Provider in a thread of its own, for synchronous code; errors of its start are raised here."""
    started: Future[tuple[Provider, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        async with Provider(population, settings, clock=clock) as provider:
            started.set_result((provider, asyncio.get_running_loop(), stop))
            await stop.wait()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=main, name="provider", daemon=True)
    thread.start()
    provider, loop, stop = started.result()
    try:
        yield provider
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _response(
    status: int, body: bytes, content_type: str = _JSON, *, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(status=status, body=body, headers={"Content-Type": content_type, **(headers or {})})


def _truth_line(event: Event) -> bytes:
    return b'{"time":%b,"value":%b}\n' % (orjson.dumps(event.time), event.value)


def _reset(request: web.BaseRequest) -> None:
    """Reset the connection (TCP RST); its handler is cancelled in the loop's next turn."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        transport.abort()
