"""The status page of a thousand feeds and ten thousand jobs: CPU time of an answer, everything asked again for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg
from harness import Figure, from_tests, postgres

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

    from starlette.applications import Starlette

    from mailferry.monitor.page.looks import Looks

FEEDS, JOBS = 1000, 10_000
#: Pages by name, with the CPU time (ms) that an answer may take.
PAGES = {
    f"overview of {FEEDS:,} feeds": ("/", 100),
    f"jobs, {JOBS:,} in history": ("/jobs", 100),
    f"jobs by text, {JOBS:,} in history": ("/jobs?text=shipment+99", 100),
}
_JOBS = """
INSERT INTO mailferry.jobs (feed, account, folder, uidvalidity, uid, header_sha256, message_id, subject, sender, received, target, state,
                            attempts, finished_at, marked_at)
SELECT 'tracking', 'a', 'INBOX', 1, n, n, n, 'Shipment ' || n, 's' || n % 50 || '@example.com', now() - n * interval '1 minute',
       'tracking_data', 'completed', 1, now() - n * interval '1 minute', now()
FROM generate_series(1, {count}) AS n
"""


def page(folder: Path) -> Iterator[Figure]:
    """As a browser has it that is open: what has not changed since the last answer is not read again."""
    from mailferry import database  # noqa: PLC0415 - the parent of what is measured stays small
    from mailferry.config.database import DatabaseSettings  # noqa: PLC0415
    from mailferry.monitor.page.app import application  # noqa: PLC0415
    from mailferry.monitor.page.looks import Looks  # noqa: PLC0415

    shared = from_tests("support_page")
    with postgres(folder) as where:
        named = {"host": "host", "name": "dbname", "user": "user", "password": "password", "port": "port"}
        settings = DatabaseSettings.model_validate({name: where[key] for name, key in named.items()})
        database.prepare(database.parameters(settings), settings.temp_schema)
        names = [f"feed-{number:04}" for number in range(FEEDS)]
        configuration = shared.configured(folder, settings, events=names, mailboxes=["tracking"])
        for name in names:
            shared.past(configuration, name, now=int(time.time()))
        with psycopg.connect(**database.parameters(settings)) as conn:
            shared.registered(conn, configuration)
            conn.execute(_JOBS.format(count=JOBS).encode())
        looks = Looks(configuration)
        app = application(looks)
        for name, (path, most) in PAGES.items():
            taken = [asyncio.run(_cpu(app, looks, path)) for _ in range(6)]
            yield Figure(
                name=f"page: {name}",
                value=1000 * min(taken[1:]),
                limit=most,
                unit="ms of CPU",
                against="what it may take",
                at_most=1,
            )
        looks.close()


async def _cpu(app: Starlette, looks: Looks, path: str) -> float:
    """CPU seconds of one answer, all threads of this process; the database's are its own."""
    plain, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": plain,
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"text/html")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8417),
        "scheme": "http",
        "root_path": "",
    }
    answers = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message)

    looks.forget()
    begun = time.process_time()
    await app(scope, receive, send)
    taken = time.process_time() - begun
    assert answers[0]["status"] == 200, answers
    return taken


BENCHMARKS = {"page": page}
