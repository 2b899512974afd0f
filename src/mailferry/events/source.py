"""The provider's REST API: lists and details, tried again until they are whole. See docs/reference/api.md."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from mailferry import retry
from mailferry.errors import MailferryError, Retry, Stop
from mailferry.events import record as records
from mailferry.events.places import Place
from mailferry.events.request import Again, NotThere, Request, Tries, Wait
from mailferry.events.throttle import LONGEST_PAUSE, Ahead, Slots, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multidict import CIMultiDictProxy

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.connections import Connections
    from mailferry.events.journal import Journal
    from mailferry.events.metrics import Metrics
    from mailferry.events.windows import Range

#: A request that the provider only ever asks to wait is given up after so many seconds; the next run goes on.
PATIENCE = 3600.0
#: A pause of more seconds is logged.
LOGGED = 30.0
#: Seconds between the tries of a detail that is not there (yet); and where waiting was in vain `IN_VAIN` times in a row.
NOT_THERE = (0.5, 1.0, 2.0)
STILL_NOT_THERE = (0.1, 0.2)
IN_VAIN = 3
#: With one of these headers a body's size is not its Content-Length.
_OF_OTHER_SIZE = ("Content-Encoding", "Transfer-Encoding")
#: An error's body is quoted up to so many characters.
_QUOTED = 200


_Answer = TypeVar("_Answer")


class Unreachable(Retry):
    """No answer at all came from the provider."""


class Postponed(Retry):
    """The provider asks to wait for longer than a run may take."""


class Expired(Retry):
    """The provider no longer has events of that time."""


class Source:
    """One feed's view of the API.

    Errors of both calls: Stop when the key is refused or the address is wrong; Retry when all tries failed.
    """

    def __init__(
        self,
        feed: EventFeed,
        connections: Connections,
        metrics: Metrics,
        journal: Journal,
        place: Place | None = None,
    ) -> None:
        self._feed = feed
        self._metrics = metrics
        self._journal = journal
        self._place = place or Place()
        try:
            self._url = str(URL(feed.url))
        except ValueError as error:
            raise Stop(f"[{feed.section}] {feed.url} is no address ({error}); correct url") from error
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
        self._detail_timeout = aiohttp.ClientTimeout(
            total=min(feed.detail_timeout, feed.detail_patience), sock_connect=30
        )
        #: Details answered well, and how often in a row waiting for one that was not there was in vain.
        self._answered = 0
        self._in_vain = 0

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
            [_address(self._url, params)],
            self._list_timeout,
            feed.list_retries,
            feed.list_sleep_time,
            math.inf,
            self._list_slots,
            self._list_turn,
        )
        return await self._get(request, _list_answer)

    async def detail(self, listed: dict[str, Any], times: Sequence[str]) -> dict[str, Any]:
        """The full record of a listed mail event, which has a queue id and these spellings of its time."""
        feed = self._feed
        self._metrics.details += 1
        queue_id = records.queue_id(listed) or ""
        path = f"{self._url}/{quote(queue_id, safe='', errors='surrogatepass')}"
        request = Request(
            "detail",
            [_address(path, {"time": time}) for time in times],
            self._detail_timeout,
            feed.detail_retries,
            feed.detail_sleep_time,
            feed.detail_patience,
            self._detail_slots,
            self._detail_slots,
        )

        def whole(answer: Any) -> dict[str, Any]:
            if records.is_detail(answer, listed):
                return dict(answer)
            other = records.queue_id(answer)
            if other not in {None, queue_id}:
                raise Again(f"the answer is the record of another mail, {other:.80}")
            raise Again(f"the answer is no record{_message(answer)}")

        detail = await self._get(request, whole)
        self._answered += 1
        return detail

    async def _get(self, request: Request, accept: Callable[[Any], _Answer]) -> _Answer:
        self._place.asks()
        try:
            answer = await self._answer(request, accept)
            await self._place.back()
        finally:
            self._place.asked()
        return answer

    async def _answer(self, request: Request, accept: Callable[[Any], _Answer]) -> _Answer:
        tries = Tries(self._answered)
        while True:
            started = time.monotonic()
            if wait := self._throttle.left():
                if started - tries.begun + wait > PATIENCE:
                    raise Postponed(
                        f"{self._name(request)}: the provider asks to wait for over an hour; the next run goes on"
                    )
                await self._throttle.ready()
            way = request.ways[tries.not_there % len(request.ways)]
            tries.begin(self._answered)
            try:
                async with request.turn:
                    if self._throttle.left():  # a 429 came while this one waited for its turn
                        await self._throttle.ready()
                    started = time.monotonic()
                    answer = await self._once(request, way, accept)
                    self._metrics.answered(time.monotonic() - started, good=True)
                    request.slots.went_well()
                    if tries.not_there:
                        self._in_vain = 0
                    return answer
            except Wait as asked:
                self._metrics.answered(time.monotonic() - started, good=False)
                self._waits(request, asked, started, tries)
            except Again as failure:
                self._metrics.answered(time.monotonic() - started, good=False)
                if failure.overload:
                    request.slots.overloaded()
                tries.count += 1
                tries.spent += time.monotonic() - started
                self._note(request, f"{failure} (try {tries.count})", started)
                pause = self._pause(request, failure, tries)
                if pause is None:
                    raise self._given_up(request, failure, tries) from None
                tries.spent += pause
                await asyncio.sleep(pause)
            except MailferryError as failure:
                self._metrics.answered(time.monotonic() - started, good=False)
                self._note(request, str(failure), started)
                raise

    def _waits(self, request: Request, asked: Wait, started: float, tries: Tries) -> None:
        """The provider asked to wait. Raises Retry for a detail that alone is refused for too long."""
        self._metrics.throttled += 1
        if asked.status == 429:
            request.slots.refused()
        else:
            request.slots.overloaded()
            if not tries.alone(self._answered):
                tries.spent += asked.pause
        self._note(request, str(asked), started)
        if tries.spent > request.patience:
            raise Retry(f"{self._name(request)}: {asked}, while others are answered")
        if asked.pause > LOGGED:
            self._journal.message(f"the provider: {asked}", logging.WARNING)

    def _pause(self, request: Request, failure: Again, tries: Tries) -> float | None:
        """Seconds until the next try; None where there is none."""
        pause = retry.pause(tries.count, first=request.pause, longest=LONGEST_PAUSE)
        if isinstance(failure, NotThere):
            tries.not_there += 1
            rounds, rest = divmod(tries.not_there, len(request.ways))
            if rest:
                return 0.0  # ask in the other way
            pauses = STILL_NOT_THERE if self._in_vain >= IN_VAIN else NOT_THERE
            return min(pause, pauses[rounds - 1]) if rounds <= min(len(pauses), request.retries) else None
        if tries.count > request.retries or tries.spent + pause > request.patience:
            return None
        return pause

    def _given_up(self, request: Request, failure: Again, tries: Tries) -> Retry:
        if isinstance(failure, NotThere):
            self._in_vain += 1
        unreachable = not failure.reached and (request.kind == "list" or tries.alone(self._answered))
        kind = Unreachable if unreachable else Retry
        return kind(f"{self._name(request)}: {failure}, {tries.count} times; the next run tries again")

    async def _once(self, request: Request, way: URL, accept: Callable[[Any], _Answer]) -> _Answer:
        """One try: what was asked for, or the exception that says how to go on."""
        status, headers, body = await self._exchange(request, way)
        if status != 200:
            raise self._refusal(request, status, headers, _said(body))
        answer = self._decoded(body, request)
        try:
            accepted = accept(answer)
        except Again:
            error = records.error_status(answer)
            if error is None:
                raise
            # The provider says 200, its error object says what is true.
            raise self._refusal(request, error, headers, _message(answer)) from None
        self._throttle.answered()
        return accepted

    async def _exchange(self, request: Request, way: URL) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """Status, headers and body of a whole answer."""
        answered = False
        self._place.sent()
        try:
            async with self._session.get(
                way,
                headers=self._headers,
                timeout=request.timeout,
                allow_redirects=False,
            ) as response:
                answered = True
                return response.status, response.headers, await self._body(request, response)
        except TimeoutError:
            raise Again("no answer in time", reached=False, overload=True) from None
        except aiohttp.ClientPayloadError:
            raise Again("the answer was cut off") from None
        except aiohttp.ClientConnectorError as error:
            raise Again(
                f"cannot connect to {error.host}:{error.port}: {error.os_error.strerror or error.os_error}",
                reached=False,
            ) from None
        except aiohttp.ClientResponseError as error:
            raise Again(f"the answer is no HTTP: {error.message[:_QUOTED]}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Again(f"the connection broke ({type(error).__name__})", reached=False) from None
        finally:
            self._place.received(answer=answered)

    async def _body(self, request: Request, response: aiohttp.ClientResponse) -> bytes:
        """The body, unpacked; in pieces where its size is not announced. Raises Retry for one that is larger than it may be."""
        most = self._feed.max_answer_bytes
        headers = response.headers
        announced = headers.get("Content-Length") if headers.keys().isdisjoint(_OF_OTHER_SIZE) else None
        if announced and int(announced) <= most:
            return await response.read()
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > most:
                response.close()  # the rest is not read
                raise Retry(
                    f"{self._name(request)}: the answer has more than max_answer_bytes = {most:,} bytes; see whether url is the "
                    "provider's. If it is, raise that limit"
                )
            pieces.append(piece)
        return b"".join(pieces)

    def _refusal(self, request: Request, status: int, headers: CIMultiDictProxy[str], said: str) -> Exception:
        """What a status other than 200 means."""
        feed = self._feed
        asked = retry_after(headers.get("Retry-After"), time.time())
        if status == 429 or (status == 503 and asked):
            pause = self._throttle.refused(asked, request.pause)
            return Wait(f"{status}, asked to wait {pause:,.0f} s", pause, status)
        self._throttle.answered()
        if status in {401, 403}:
            return Stop(
                f"[{feed.section}] the provider refuses the api_key {feed.masked_key} ({status}{said}); check that the key "
                f"is right, not revoked, and allowed for domain {feed.domain or '(all)'} and {feed.category}"
            )
        if status == 406 and feed.category == "quarantine":
            return Expired(f"the provider no longer has that time (406{said})")
        if 300 <= status < 400:
            where = headers.get("Location", "?")[:_QUOTED]
            return Stop(
                f"[{feed.section}] {feed.url} answers with a redirect to {where} ({status}); correct url"
            )
        if request.kind == "list" and status in {400, 404, 405, 410}:
            return Stop(
                f"[{feed.section}] the provider does not know this request ({status}{said}); check url, type and domain"
            )
        if request.kind == "detail" and status in {400, 404, 410}:
            return NotThere(f"status {status}{said}")
        return Again(f"status {status}{said}", overload=status == 503)

    def _decoded(self, body: bytes, request: Request) -> Any:
        try:
            decoded = records.decode_leniently(body)
        except ValueError:
            what = (
                "empty"
                if not body.strip()
                else "no JSON"
                if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in b"[{"
                else "cut off or damaged JSON"
            )
            raise Again(f"the answer is {what} ({len(body)} bytes)") from None
        if decoded.unreadable:
            self._metrics.unreadable += decoded.unreadable
            self._journal.error(
                f"{decoded.unreadable} values of an answer cannot be read as JSON; each is kept as its text",
                request=_shown(request),
                level=logging.WARNING,
            )
        return decoded.value

    def _name(self, request: Request) -> str:
        return f"[{self._feed.section}] {_shown(request)}"

    def _note(self, request: Request, failure: str, started: float) -> None:
        self._journal.error(
            failure, request=_shown(request), duration_ms=round((time.monotonic() - started) * 1000)
        )


def _shown(request: Request) -> str:
    return f"GET {request.ways[0].human_repr()}"


def _address(path: str, parameters: dict[str, str]) -> URL:
    # Encoded here: to take an address apart and look for what has to be costs more than the rest of a request's making.
    return URL(f"{path}?{urlencode(parameters)}", encoded=True)


def _list_answer(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise Again(f"the answer is no list{_message(answer)}")
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
