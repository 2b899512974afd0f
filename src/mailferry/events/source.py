"""The provider's REST API: lists and details, tried again until they are whole. See docs/reference/api.md."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp

from mailferry.errors import MailferryError, Retry, Stop
from mailferry.events import record as records
from mailferry.events.throttle import LONGEST_PAUSE, AdaptiveSlots, Ahead, Slots, Throttle, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.journal import Journal
    from mailferry.events.metrics import Metrics
    from mailferry.events.windows import Range

#: A request that is only ever told to wait is given up after so many seconds; the next run goes on.
PATIENCE = 3600.0
#: Seconds of a pause that people are told of.
TELLING = 30.0
#: An error's body is quoted up to so many characters.
_QUOTED = 200


_Answer = TypeVar("_Answer")


class Unreachable(Retry):
    """No answer at all came from the provider."""


class Postponed(Retry):
    """The provider asks to wait for longer than a run may take."""


class Expired(Retry):
    """The provider no longer has events of that time."""


class _Again(Exception):  # noqa: N818 - control flow between a try and its loop
    """This try failed; the next may not."""

    def __init__(self, reason: str, *, reached: bool = True, overload: bool = False) -> None:
        super().__init__(reason)
        self.reached = reached
        self.overload = overload


class _Wait(Exception):  # noqa: N818 - as above
    """Told to wait so many seconds: does not count as a try."""

    def __init__(self, reason: str, pause: float) -> None:
        super().__init__(reason)
        self.pause = pause


class Request(NamedTuple):
    """What one kind of request needs."""

    kind: str
    url: str
    params: dict[str, str]
    timeout: aiohttp.ClientTimeout
    retries: int
    pause: float
    slots: Slots
    #: The way into a slot.
    turn: Slots | Ahead


class Connections:
    """What sections share: open connections, and per API key what the provider takes of it."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._throttles: dict[str, Throttle] = {}
        self._adaptive: dict[str, AdaptiveSlots] = {}

    def session(self, *, keep: bool) -> aiohttp.ClientSession:
        if keep not in self._sessions:
            proxied = any(name.lower() in {"http_proxy", "https_proxy", "all_proxy"} for name in os.environ)
            self._sessions[keep] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=not keep),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=proxied,
                headers={"Accept": "application/json", "User-Agent": "mailferry"},
            )
        return self._sessions[keep]

    def throttle(self, key: str) -> Throttle:
        return self._throttles.setdefault(key, Throttle())

    def adaptive(self, key: str) -> AdaptiveSlots:
        if key not in self._adaptive:
            self._adaptive[key] = AdaptiveSlots()
        return self._adaptive[key]

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()


class Source:
    """One feed's view of the API.

    Errors of both calls: Stop when the key is refused or the address is wrong; Retry when all tries failed.
    """

    def __init__(self, feed: EventFeed, connections: Connections, metrics: Metrics, journal: Journal) -> None:
        self._feed = feed
        self._metrics = metrics
        self._journal = journal
        key = feed.api_key.get_secret_value()
        self._session = connections.session(keep=feed.use_session)
        self._throttle = connections.throttle(key)
        self._headers = {"Authorization": f"Bearer {key}"}
        if feed.max_parallel_details == "auto":
            # What the provider takes at once holds for lists too; details wait for the list that names the next ones.
            slots = connections.adaptive(key)
            self._detail_slots: Slots = slots
            self._list_slots: Slots = slots
            self._list_turn: Slots | Ahead = Ahead(slots)
        else:
            self._detail_slots = Slots(feed.max_parallel_details)
            self._list_slots = self._list_turn = Slots(1)
        self._list_timeout = aiohttp.ClientTimeout(total=feed.list_timeout, sock_connect=30)
        self._detail_timeout = aiohttp.ClientTimeout(total=feed.detail_timeout, sock_connect=30)

    async def list(self, asked: Range) -> list[Any]:
        """The records of one range, newest first; Expired where it lies before what the provider keeps."""
        feed = self._feed
        params = {"starttime": str(asked.start), "endtime": str(asked.end)}
        if feed.domain:
            params["domain"] = feed.domain
        if feed.category != "authentication":
            params["type"] = feed.type
        self._metrics.lists += 1
        request = Request(
            "list",
            feed.url,
            params,
            self._list_timeout,
            feed.list_retries,
            feed.list_sleep_time,
            self._list_slots,
            self._list_turn,
        )
        return await self._get(request, _list_answer)

    async def detail(self, queue_id: str, event_time: int) -> dict[str, Any]:
        """The full record of one mail event."""
        feed = self._feed
        self._metrics.details += 1
        request = Request(
            "detail",
            f"{feed.url}/{quote(queue_id, safe='', errors='surrogatepass')}",
            {"time": str(event_time)},
            self._detail_timeout,
            feed.detail_retries,
            feed.detail_sleep_time,
            self._detail_slots,
            self._detail_slots,
        )

        def whole(answer: Any) -> dict[str, Any]:
            if not isinstance(answer, dict) or not answer:
                raise _Again("the answer is no record")
            if answer.get("queue_id", queue_id) != queue_id and str(answer["queue_id"]) != queue_id:
                raise _Again(f"the answer is the record of another mail, {answer['queue_id']!s:.80}")
            return answer

        return await self._get(request, whole)

    async def _get(self, request: Request, accept: Callable[[Any], _Answer]) -> _Answer:
        tries = 0
        begun = time.monotonic()
        while True:
            if time.monotonic() - begun + self._throttle.left() > PATIENCE:
                raise Postponed(
                    f"{self._name(request)}: the provider asks to wait for over an hour; the next run goes on"
                )
            await self._throttle.ready()
            started = time.monotonic()
            try:
                async with request.turn:
                    await self._throttle.ready()  # a 429 may have come while this one waited for its turn
                    started = time.monotonic()
                    answer = accept(await self._once(request))
                    self._metrics.answered(time.monotonic() - started, good=True)
                    request.slots.went_well()
                    return answer
            except _Wait as told:
                self._metrics.answered(time.monotonic() - started, good=False)
                self._metrics.throttled += 1
                request.slots.refused()
                self._note(request, str(told), started)
                if told.pause > TELLING:
                    self._journal.message(
                        f"the provider asks to wait {told.pause:,.0f} s (429)", logging.WARNING
                    )
            except _Again as failure:
                self._metrics.answered(time.monotonic() - started, good=False)
                if failure.overload:
                    request.slots.overloaded()
                tries += 1
                self._note(request, f"{failure} (try {tries} of {request.retries + 1})", started)
                if tries > request.retries:
                    kind = Retry if failure.reached else Unreachable
                    raise kind(
                        f"{self._name(request)}: {failure}, {tries} times; the next run tries again"
                    ) from None
                await asyncio.sleep(min(LONGEST_PAUSE, request.pause * 2 ** (tries - 1)))
            except MailferryError as failure:
                self._metrics.answered(time.monotonic() - started, good=False)
                self._note(request, str(failure), started)
                raise

    async def _once(self, request: Request) -> Any:
        """One exchange: its decoded JSON, or the exception that says how to go on."""
        try:
            async with self._session.get(
                request.url,
                params=request.params,
                headers=self._headers,
                timeout=request.timeout,
                allow_redirects=False,
            ) as response:
                body = await response.read()
                if response.status == 200:
                    self._throttle.answered()
                    return _json(body)
                raise self._refusal(request, response, body)
        except TimeoutError:
            raise _Again("no answer in time", reached=False, overload=True) from None
        except aiohttp.ClientPayloadError:
            raise _Again("the answer was cut off") from None
        except aiohttp.ClientConnectorError as error:
            raise _Again(
                f"cannot connect to {error.host}:{error.port}: {error.os_error.strerror or error.os_error}",
                reached=False,
            ) from None
        except aiohttp.ClientResponseError as error:
            raise _Again(f"the answer is no HTTP: {error.message[:_QUOTED]}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(f"the connection broke ({type(error).__name__})", reached=False) from None

    def _refusal(self, request: Request, response: aiohttp.ClientResponse, body: bytes) -> Exception:
        """What a status other than 200 means."""
        status = response.status
        said = _said(body)
        feed = self._feed
        if status == 429:
            pause = self._throttle.refused(
                retry_after(response.headers.get("Retry-After"), time.time()), request.pause
            )
            return _Wait(f"429, asked to wait {pause:.0f} s", pause)
        self._throttle.answered()
        if status in {401, 403}:
            return Stop(
                f"[{feed.section}] the provider refuses the api_key {feed.masked_key} ({status}{said}); check that the key "
                f"is right, not revoked, and allowed for domain {feed.domain or '(all)'} and {feed.category}"
            )
        if status == 406 and feed.category == "quarantine":
            return Expired(f"the provider no longer has that time (406{said})")
        if 300 <= status < 400:
            where = response.headers.get("Location", "?")[:_QUOTED]
            return Stop(
                f"[{feed.section}] {feed.url} answers with a redirect to {where} ({status}); correct url"
            )
        if request.kind == "list" and status in {400, 404, 405, 410}:
            return Stop(
                f"[{feed.section}] the provider does not know this request ({status}{said}); check url, type and domain"
            )
        return _Again(f"status {status}{said}", overload=status == 503)

    def _name(self, request: Request) -> str:
        return f"[{self._feed.section}] {_shown(request)}"

    def _note(self, request: Request, failure: str, started: float) -> None:
        self._journal.error(
            failure, request=_shown(request), duration_ms=round((time.monotonic() - started) * 1000)
        )


def _shown(request: Request) -> str:
    params = "&".join(f"{name}={value}" for name, value in request.params.items())
    return f"GET {request.url}?{params}"


def _json(body: bytes) -> Any:
    try:
        return records.decode(body)
    except ValueError:
        what = (
            "empty"
            if not body.strip()
            else "no JSON"
            if body.lstrip()[:1] not in b"[{"
            else "cut off or damaged JSON"
        )
        raise _Again(f"the answer is {what} ({len(body)} bytes)") from None


def _list_answer(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise _Again(f"the answer is no list{_message(answer)}")
    return answer


def _said(body: bytes) -> str:
    try:
        return _message(records.decode(body[:100_000]))
    except ValueError:
        return ""


def _message(answer: Any) -> str:
    """The provider's own words, from its error object."""
    if not isinstance(answer, dict):
        return ""
    words = [str(answer[name]) for name in ("code", "message", "extended-code-text") if answer.get(name)]
    return f": {', '.join(words)[:_QUOTED]}" if words else ""
