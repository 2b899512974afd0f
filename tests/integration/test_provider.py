"""The stand-in provider over real sockets: lists, details, throttling, every trouble, truth and counters."""

from __future__ import annotations

import asyncio
import configparser
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from support_wait import wait_for

from mailferry.errors import ConfigError, Stop
from mailferry.testing.population import Event, Feed, Population, Traits
from mailferry.testing.provider import Provider, Settings, serve
from mailferry.testing.simulate import Simulation, run
from mailferry.testing.troubles import SLOW, RetryAfter, Throttling, Trouble, Troubles
from mailferry.testing.verify import compare, read_truth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

START = 1_700_000_000
MAIL = Feed(api_key="key", domain="example.com", category="mail", type="incominglog")
QUARANTINE = Feed(api_key="key", domain="example.com", category="quarantine", type="quarantine")
SIGN_INS = Feed(api_key="key", domain="example.com", category="authentication", type="")
STRANGER = Feed(api_key="another", domain="example.org", category="mail", type="incominglog")
TRAITS = Traits(
    rate=3,
    no_time=0.05,
    no_queue_id=0.05,
    own_time=0.1,
    not_objects=0.05,
    repeats=0.1,
    big_integers=0.1,
    hostile_text=0.1,
    missing_details=0.05,
    detail_bytes=500,
)
POPULATION = Population(dict.fromkeys([MAIL, QUARANTINE, SIGN_INS, STRANGER], TRAITS))


@dataclass
class Clock:
    """Unix time that a test holds."""

    now: float = START + 10_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Client:
    """A collector's requests, as plain as they can be."""

    provider: Provider
    session: aiohttp.ClientSession

    async def get(
        self, url: str, query: Mapping[str, object] | None = None, *, key: str = "key"
    ) -> tuple[int, bytes, Mapping[str, str]]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        params = {name: str(value) for name, value in (query or {}).items()}
        async with self.session.get(url, params=params, headers=headers) as response:
            return response.status, await response.read(), response.headers

    async def list(self, feed: Feed, start: int, end: int, **changed: object) -> tuple[int, Any]:
        query: dict[str, object] = {"starttime": start, "endtime": end}
        query |= {name: value for name in ("domain", "type") if (value := getattr(feed, name))} | changed
        status, body, _ = await self.get(self.provider.list_url(feed.category), query, key=feed.api_key)
        return status, json.loads(body)

    async def detail(self, queue_id: str, time: int) -> tuple[int, bytes]:
        status, body, _ = await self.get(f"{self.provider.list_url('mail')}/{queue_id}", {"time": time})
        return status, body


@asynccontextmanager
async def a_provider(
    settings: Settings | None = None, population: Population = POPULATION
) -> AsyncIterator[Client]:
    async with Provider(population, settings, clock=Clock()) as provider, aiohttp.ClientSession() as session:
        yield Client(provider, session)


def using(
    work: Callable[[Client], Awaitable[None]],
    settings: Settings | None = None,
    population: Population = POPULATION,
) -> None:
    async def main() -> None:
        async with a_provider(settings, population) as client:
            await work(client)

    asyncio.run(main())


def records(feed: Feed, start: int, end: int) -> list[Any]:
    """What a list of seconds start to end (exclusive) has to hold, newest first."""
    return [json.loads(event.record) for event in POPULATION.events(feed, start, end)][::-1]


def a_mail(start: int = START) -> Event:
    """Give an event that has a detail."""
    return next(event for event in POPULATION.events(MAIL, start, start + 1000) if event.detail)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the provider's counters say."""
    await asyncio.to_thread(wait_for, "the provider's counters", condition)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("feed", [MAIL, QUARANTINE, SIGN_INS], ids=lambda feed: feed.category)
def test_a_list_holds_its_first_second_and_its_last_one_only_under_the_inclusive_reading(
    feed: Feed, inclusive: bool
) -> None:
    async def work(client: Client) -> None:
        last = START + 100 + inclusive
        assert await client.list(feed, START, START + 100) == (200, records(feed, START, last))
        one = next(iter(POPULATION.events(feed, START, START + 100))).second
        assert await client.list(feed, one, one) == (200, records(feed, one, one + inclusive))
        assert [call.records for call in client.provider.stats.lists] == [
            len(records(feed, START, last)),
            len(records(feed, one, one + inclusive)),
        ]

    using(work, Settings(endtime_inclusive=inclusive))


def test_a_full_page_holds_the_newest_records_newest_first() -> None:
    async def work(client: Client) -> None:
        every = records(MAIL, START, START + 101)
        assert len(every) > 50
        assert await client.list(MAIL, START, START + 100) == (200, every[:50])

    using(work, Settings(page_cap=50))


def test_of_a_second_fuller_than_a_page_only_a_page_can_be_had() -> None:
    population = Population({MAIL: Traits(rate=0, bursts={START: 1500})})

    async def work(client: Client) -> None:
        newest = [json.loads(event.record) for event in population.events(MAIL, START, START + 1)][:-1001:-1]
        assert len(newest) == 1000
        assert await client.list(MAIL, START, START) == (200, newest)
        assert await client.list(MAIL, START - 100, START + 100) == (200, newest)

    using(work, population=population)


def test_the_older_quarantine_path_answers_the_same() -> None:
    async def work(client: Client) -> None:
        query = {"starttime": START, "endtime": START + 50, "type": "quarantine"}
        status, body, _ = await client.get(f"{client.provider.url}/api/v2/queue", query)
        assert (status, json.loads(body)) == (200, records(QUARANTINE, START, START + 51))

    using(work)


def test_without_a_domain_all_domains_of_the_key_are_listed() -> None:
    second = replace(MAIL, domain="example.net")

    async def work(client: Client) -> None:
        everywhere = replace(MAIL, domain="")
        _, found = await client.list(everywhere, START, START + 100)
        truth = list(client.provider.truth(everywhere, START, START + 101))
        assert {event.feed for event in truth} == {MAIL, second}
        wanted = [json.dumps(json.loads(event.record), sort_keys=True) for event in truth]
        assert sorted(json.dumps(record, sort_keys=True) for record in found) == sorted(wanted)

    using(work, population=Population({MAIL: TRAITS, second: TRAITS, STRANGER: TRAITS}))


def test_a_detail_is_had_by_queue_id_and_time() -> None:
    async def work(client: Client) -> None:
        event = a_mail()
        assert event.queue_id is not None
        assert await client.detail(event.queue_id, event.second) == (200, event.detail)
        assert (await client.detail(event.queue_id, event.second + 1))[0] == 404
        assert (await client.detail("NONE", event.second))[0] == 404
        assert client.provider.stats.details == {(event.queue_id, event.second): 1}
        missing = next(
            e for e in POPULATION.events(MAIL, START, START + 1000) if e.queue_id and e.time and not e.more
        )
        for _ in range(5):
            assert (await client.detail(missing.queue_id or "", missing.second))[0] == 404

    using(work)


def test_late_events_and_their_details_are_there_only_once_their_time_has_come() -> None:
    population = Population({MAIL: Traits(rate=2, late=0.3, late_by=60)})
    clock = Clock(START + 100.0)

    async def work() -> None:
        async with Provider(population, clock=clock) as provider, aiohttp.ClientSession() as session:
            client = Client(provider, session)
            every = list(population.events(MAIL, START, START + 200))
            late = next(event for event in every if event.visible_from > event.second + 1 > START + 90)
            for clock.now in (
                START - 1.0,
                START + 50.0,
                late.visible_from - 0.5,
                late.visible_from,
                START + 300.0,
            ):
                visible = [json.loads(event.record) for event in every if event.visible_from <= clock.now]
                assert await client.list(MAIL, START, START + 199) == (200, visible[::-1])
                truth = provider.truth(MAIL, START, START + 200, visible_by=clock.now)
                assert [json.loads(event.record) for event in truth] == visible
                there = late.visible_from <= clock.now
                assert (await client.detail(late.queue_id or "", late.second))[0] == (200 if there else 404)

    asyncio.run(work())


def test_bad_questions_are_refused_with_the_apis_error_object() -> None:
    async def work(client: Client) -> None:
        good = {"starttime": START, "endtime": START + 100, "type": "incominglog"}
        mail, sign_ins = client.provider.list_url("mail"), client.provider.list_url("authentication")
        quarantine = client.provider.list_url("quarantine")
        week = 7 * 86_400
        too_old = {"starttime": START + 10_000 - week - 1, "endtime": START, "type": "hold"}
        cases: list[tuple[int, str, str, dict[str, object]]] = [
            (401, mail, "", good),
            (401, mail, "wrong", good),
            (403, mail, "key", good | {"domain": "example.org"}),
            (403, mail, "key", good | {"domain": "nowhere.example"}),
            (400, mail, "key", good | {"starttime": ""}),
            (400, mail, "key", good | {"endtime": "soon"}),
            (400, mail, "key", good | {"starttime": f"{START}.0"}),
            (400, mail, "key", good | {"endtime": START - 1}),
            (400, mail, "key", good | {"endtime": START + 15 * 86_400}),
            (400, mail, "key", good | {"type": "hold"}),
            (400, sign_ins, "key", good),
            (400, f"{mail}/ABC", "key", {}),
            (404, f"{client.provider.url}/api/v3", "key", good),
            (406, quarantine, "key", too_old),
        ]
        for status, url, key, query in cases:
            got, body, _ = await client.get(url, query, key=key)
            error = json.loads(body)
            assert (got, error["status"]) == (status, status), (url, query)
            assert error.keys() == {"status", "code", "message", "api-version", "extended-code-text", "link"}
        edge = too_old | {"starttime": START + 10_000 - week}
        assert (await client.get(quarantine, edge))[0] == 200

    using(work)


def test_more_requests_at_once_than_the_key_may_have_are_refused_and_other_keys_are_not() -> None:
    settings = Settings(
        throttling=Throttling(max_concurrent=2, pause=100),
        list_troubles=Troubles(hang=1),
        max_failures_per_url=1,
    )

    async def work(client: Client) -> None:
        stats = client.provider.stats
        held = [asyncio.create_task(client.list(MAIL, START, START + place)) for place in (1, 2)]
        await until(lambda: stats.troubles[Trouble.HANG] == 2)
        url, query = (
            client.provider.list_url("mail"),
            {"starttime": START, "endtime": START, "type": "incominglog"},
        )
        status, body, headers = await client.get(url, query)
        assert (status, headers["Retry-After"], json.loads(body)["status"]) == (429, "100", 429)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        # The pause goes on for the whole key, details too; a key of its own has its own count.
        assert (await client.detail("ANY", START))[0] == 429
        assert (await client.get(f"{url}/ANY", {"time": START}, key="another"))[0] == 404
        assert stats.throttled == 2
        assert stats.highest_concurrency_per_key == 2

    using(work, settings)


@pytest.mark.parametrize("retry_after", list(RetryAfter))
def test_too_many_requests_in_a_second_are_answered_with_when_to_come_again_or_not(
    retry_after: RetryAfter,
) -> None:
    settings = Settings(throttling=Throttling(max_per_second=1, pause=60, retry_after=retry_after))

    async def work(client: Client) -> None:
        url = f"{client.provider.list_url('mail')}/ANY"
        while (answer := await client.get(url, {"time": START}))[0] != 429:
            assert answer[0] == 404
        # Refused by the rule, then because of the pause.
        for _, _, headers in (answer, await client.get(url, {"time": START})):
            text = headers.get("Retry-After", "")
            match retry_after:
                case RetryAfter.SECONDS:
                    assert text in {"59", "60"}
                case RetryAfter.DATE:
                    assert text.endswith("GMT")
                case RetryAfter.MISSING:
                    assert text == ""

    using(work, settings)


PLAIN_TROUBLES: dict[Trouble, tuple[int, Callable[[bytes, bytes], bool]]] = {
    Trouble.ERROR_500: (500, lambda good, body: json.loads(body)["status"] == 500),
    Trouble.BAD_GATEWAY: (502, lambda good, body: b"<html>" in body),
    Trouble.UNAVAILABLE_503: (503, lambda good, body: json.loads(body)["status"] == 503),
    Trouble.MAINTENANCE_503: (503, lambda good, body: json.loads(body)["status"] == 503),
    Trouble.CUT_JSON: (200, lambda good, body: len(body) < len(good) and good.startswith(body)),
    Trouble.HTML_200: (200, lambda good, body: b"<html>" in body),
    Trouble.EMPTY_200: (200, lambda good, body: body == b""),
    Trouble.ERROR_OBJECT_200: (200, lambda good, body: json.loads(body)["status"] == 500),
    Trouble.THROTTLED_200: (200, lambda good, body: json.loads(body)["status"] == 429),
    Trouble.NOT_THERE_YET: (404, lambda good, body: json.loads(body)["status"] == 404),
    Trouble.WRONG_DETAIL: (
        200,
        lambda good, body: (
            json.loads(body)["queue_id"] != json.loads(good)["queue_id"] and len(body) == len(good)
        ),
    ),
}


@pytest.mark.parametrize("trouble", list(PLAIN_TROUBLES))
def test_a_detail_in_trouble_is_bad_twice_and_then_good(trouble: Trouble) -> None:
    async def work(client: Client) -> None:
        event = a_mail()
        good, queue_id = event.value, event.queue_id or ""
        status, is_bad = PLAIN_TROUBLES[trouble]
        for _ in range(2):
            got, body = await client.detail(queue_id, event.second)
            assert got == status
            assert is_bad(good, body), body
            assert not client.provider.stats.details
        assert await client.detail(queue_id, event.second) == (200, good)
        assert client.provider.stats.troubles == {trouble: 2}
        # Lists have troubles of their own; here none.
        assert (await client.list(MAIL, START, START + 9))[0] == 200

    using(work, Settings(detail_troubles=Troubles(**{trouble.value: 1})))


def test_a_list_in_trouble_is_bad_and_counted_as_such() -> None:
    async def work(client: Client) -> None:
        query = {"starttime": START, "endtime": START + 100, "type": "incominglog"}
        status, body, headers = await client.get(client.provider.list_url("mail"), query)
        assert (status, headers["Content-Length"]) == (200, str(len(body)))
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)
        status, body, _ = await client.get(client.provider.list_url("mail"), query)
        assert json.loads(body) == records(MAIL, START, START + 101)
        assert [call.records for call in client.provider.stats.lists] == [None, len(json.loads(body))]

    using(work, Settings(list_troubles=Troubles(cut_json=1), max_failures_per_url=1))


async def raw(client: Client, received: bytearray) -> None:
    """Ask for a list over a bare socket and put what comes into `received`, to the connection's end."""
    port = int(client.provider.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        target = f"/api/v2/logs/mail?starttime={START}&endtime={START + 100}&type=incominglog"
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n\r\n".encode()
        )
        while data := await reader.read(65536):
            received += data
    finally:
        writer.close()


def test_a_connection_is_reset_before_a_byte_of_the_answer() -> None:
    async def work(client: Client) -> None:
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            await raw(client, received)
        assert received == b""
        await until(lambda: client.provider.stats.requests["mail", 0] == 1)

    using(work, Settings(list_troubles=Troubles(reset_before=1)))


def test_a_connection_is_reset_in_the_middle_of_a_body() -> None:
    async def work(client: Client) -> None:
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            await raw(client, received)
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert head.startswith(b"HTTP/1.1 200")
        assert 0 < len(body) < length
        await until(lambda: client.provider.stats.requests["mail", 0] == 1)

    using(work, Settings(list_troubles=Troubles(reset_midway=1)))


def test_a_hanging_request_ends_when_its_client_goes() -> None:
    async def work(client: Client) -> None:
        stats = client.provider.stats
        received = bytearray()
        task = asyncio.create_task(raw(client, received))
        await until(lambda: stats.troubles[Trouble.HANG] == 1)
        # The hang keeps one request only: others are answered meanwhile.
        assert (await client.detail("ANY", START))[0] == 404
        assert not task.done()
        assert stats.requests["mail", 0] == 0
        task.cancel()
        await until(lambda: stats.requests["mail", 0] == 1)
        assert received == b""

    using(work, Settings(list_troubles=Troubles(hang=1)))


def test_a_provider_that_ends_lets_go_of_hanging_requests() -> None:
    async def main() -> None:
        async with a_provider(Settings(list_troubles=Troubles(hang=1))) as client:
            task = asyncio.create_task(raw(client, bytearray()))
            await until(lambda: client.provider.stats.troubles[Trouble.HANG] == 1)
        await task

    asyncio.run(main())


async def collect(client: Client, feed: Feed, start: int, end: int, *, inclusive: bool) -> list[bytes]:
    """Collect seconds start to end (exclusive) in a simple way that is right: second by second, retried until good."""
    lines: list[bytes] = []
    for second in range(start, end):
        query: dict[str, object] = {"starttime": second, "endtime": second if inclusive else second + 1}
        query |= {"domain": feed.domain} | ({"type": feed.type} if feed.type else {})
        url = client.provider.list_url(feed.category)
        page = await good(client, url, query, lambda value: isinstance(value, list))
        for record in reversed(page or []):
            lines.append(json.dumps(record).encode())
            if feed.category != "mail" or not isinstance(record, dict) or "queue_id" not in record:
                continue
            queue_id = record["queue_id"]
            detail = await good(client, f"{url}/{queue_id}", {"time": second}, partial(is_of, queue_id))
            if detail is not None:
                lines[-1] = json.dumps(detail).encode()
    return lines


def is_of(queue_id: str, detail: Any) -> bool:
    return bool(detail.get("queue_id") == queue_id)


async def good(client: Client, url: str, query: dict[str, object], check: Callable[[Any], bool]) -> Any:
    """Give the first good answer of three, None where there is none."""
    for _ in range(3):
        try:
            status, body, _ = await client.get(url, query)
            value = json.loads(body)
            if status == 200 and check(value):
                return value
        except (aiohttp.ClientError, ValueError):
            continue
    return None


@pytest.mark.parametrize("inclusive", [True, False])
def test_what_a_right_collector_writes_is_the_truth_whatever_the_troubles(inclusive: bool) -> None:
    settings = Settings(
        endtime_inclusive=inclusive,
        list_troubles=Troubles.spread(0.5, details=False),
        detail_troubles=Troubles.spread(0.5, details=True),
    )

    async def work(client: Client) -> None:
        for feed in (MAIL, SIGN_INS, QUARANTINE):
            lines = await collect(client, feed, START, START + 40, inclusive=inclusive)
            result = compare(client.provider.truth(feed, START, START + 40), lines)
            assert result.clean(), result
            assert result.total > 80
            broken = compare(client.provider.truth(feed, START, START + 40), [*lines[1:], lines[-1]])
            assert (broken.lost, broken.twice) == (1, 1)
        stats = client.provider.stats
        assert set(stats.troubles) == set(Trouble) - SLOW
        assert set(stats.details.values()) == {1}

    using(work, settings)


def test_truth_and_counters_are_served_to_other_processes() -> None:
    async def work(client: Client) -> None:
        url, query = client.provider.url, {**vars_of(MAIL), "start": START, "end": START + 500}
        status, body, _ = await client.get(f"{url}/_truth", query, key="")
        assert status == 200
        result = compare(
            read_truth(body.splitlines()), (e.value for e in POPULATION.events(MAIL, START, START + 500))
        )
        assert result.clean(), result
        assert result.total > 1000
        status, body, _ = await client.get(f"{url}/_truth", (query | {"end": START}), key="")
        assert (status, body) == (200, b"")
        for bad in ({"domain": "nowhere.example"}, {"type": "hold"}, {"start": "soon"}):
            assert (await client.get(f"{url}/_truth", (query | bad), key=""))[0] == 400
        event = a_mail()
        await client.detail(event.queue_id or "", event.second)
        await client.list(MAIL, START, START + 10)
        _, body, _ = await client.get(f"{url}/_stats", key="")
        stats = json.loads(body)
        assert stats["requests"] == {"detail 200": 1, "mail 200": 1}
        assert stats["details"] == {"answered": 1, "distinct": 1}
        assert [(call["starttime"], call["endtime"]) for call in stats["lists"]] == [(START, START + 10)]

    using(work)


def vars_of(feed: Feed) -> dict[str, object]:
    return {name: getattr(feed, name) for name in ("api_key", "domain", "category", "type")}


def test_synchronous_code_has_it_in_a_thread() -> None:
    with serve(POPULATION, clock=Clock()) as provider:
        url = f"{provider.list_url('mail')}?starttime={START}&endtime={START + 10}&type=incominglog"
        request = urllib.request.Request(url, headers={"Authorization": "Bearer key"})
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response) == records(MAIL, START, START + 11)
        taken = int(provider.url.rpartition(":")[2])
        with pytest.raises(Stop, match=f"127.0.0.1:{taken}"), serve(POPULATION, Settings(port=taken)):
            pass
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_a_process_it_says_where_it_is_with_a_configuration_and_ends_on_a_signal(
    number: signal.Signals,
) -> None:
    code = (
        "import sys; from mailferry.testing.simulate import Simulation, run\n"
        f"sys.exit(run(Simulation(seed=7, start={START}, end={START + 100}, odd=0.1, troubles=0.1),"
        " lambda line: print(line, flush=True)))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            printed = json.loads(process.stdout.readline())
            ini = configparser.ConfigParser(interpolation=None)
            ini.read_string(printed["ini"])
            assert ini.sections() == [feed["section"] for feed in printed["feeds"]]
            assert len(ini.sections()) == 4
            for feed in printed["feeds"]:
                section = ini[feed["section"]]
                assert (section["url"], section["api_key"]) == (feed["list_url"], feed["api_key"])
                assert section["start_time"] == str(START)
            with urllib.request.urlopen(f"{printed['url']}/_stats", timeout=60) as response:
                assert json.load(response)["requests"] == {}
            process.send_signal(number)
            assert process.stdout.read() == b""
            assert process.stderr.read() == b""
            assert process.wait() == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Simulation(rate=-1), "rate"),
        (Simulation(feeds=("mail/hold",)), "'hold'"),
        (Simulation(domains=()), "at least one domain"),
        (Simulation(start=START, end=START), "not after the start"),
        (Simulation(page_cap=0), "page_cap"),
        (Simulation(troubles=0.9, hangs=0.9), "troubles are shares"),
        (Simulation(max_concurrent=0), "max_concurrent"),
    ],
)
def test_a_simulation_that_cannot_be_is_a_configuration_error(wrong: Simulation, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(wrong, print)
