"""A site to look at: feeds with a past, jobs that went well and jobs that did not, and the page that shows them."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from support_ledger import claim
from support_service import toml

from mailferry import database
from mailferry.config import service
from mailferry.events import checkpoint
from mailferry.events.coverage import Coverage, Span
from mailferry.events.progress import Progress
from mailferry.events.windows import Gap
from mailferry.mailbox.ledger import records
from mailferry.mailbox.ledger.jobs import FileOutcome, FileState
from mailferry.mailbox.ledger.rows import files_of
from mailferry.mailbox.source.message import MessageRef, PartOutcome, Summary, Verdict
from mailferry.mailbox.workbook.values import Counts, Kind, RejectedRow
from mailferry.monitor.page.serving import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.service import Configuration
    from mailferry.database import Connection

#: A subject and a cell that would do something on a page that does not escape them; and a name that is turned round.
SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
TURNED = "invoice\u202excod.xlsx"
KEY = "0123456789abcdef"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def configured(
    folder: Path,
    settings: DatabaseSettings | None,
    *,
    events: Sequence[str] = (),
    mailboxes: Sequence[str] = (),
    **page: object,
) -> Configuration:
    """A configuration of event feeds that write files, and of mailboxes; `page` as [page] has it."""
    tables: dict[str, dict[str, object]] = {
        "service": {"host": "relay1", "data_dir": "data"},
        "page": {"listen": f"127.0.0.1:{free_port()}", **page},
    }
    if settings:
        where = {"host": settings.host, "port": settings.port, "name": settings.name, "user": settings.user}
        tables["database"] = {**where, "sslmode": "disable"}
        if password := settings.password.get_secret_value():
            tables["database"]["password"] = password
    for name in events:
        tables[f"events.{name}"] = {
            "api_key": KEY,
            "domain": "example.com",
            "url": "http://127.0.0.1:9/",
            "log_directory": f"data/{name}",
        }
    for name in mailboxes:
        tables[f"mailbox.{name}"] = {"target_table": f"{name}_data", "maildir": f"mail-{name}"}
    path = folder / "mailferry.toml"
    path.write_text(toml(tables))
    path.chmod(0o600)
    return service.read([path], {})


def past(
    configuration: Configuration,
    name: str,
    *,
    now: int,
    behind: int = 40,
    rate: int = 60,
    days: int = 20,
    gap: bool = False,
) -> None:
    """A feed's checkpoint, as if it had collected for so many days."""
    end = now - behind
    spans = []
    start = now // 86_400 * 86_400 - days * 86_400
    begun = start
    while start < end:
        # As coverage merges: by the day, and by the hour for the last four.
        width = 3600 if start >= now // 86_400 * 86_400 - 3 * 86_400 else 86_400
        stop = min(start + width, end)
        hour = start // 3600 % 24
        busy = 0.25 + max(0.0, 1 - abs(hour - 13) / 8) if width == 3600 else 0.6
        held = round(rate * busy * (stop - start) / 60)
        spans.append(
            Span(
                start=start,
                end=stop,
                age=max(0, now - stop),
                listed_at=min(now, stop + 90_000),
                events=held,
                held=held,
                late=held // 900,
            )
        )
        start = stop
    gaps = (
        [Gap(kind="expired", start=now - 5 * 86_400, end=now - 5 * 86_400 + 1800, found_at=now - 9000)]
        if gap
        else []
    )
    progress = Progress(
        position=end,
        floor=begun,
        events=sum(span.held for span in spans),
        late=sum(span.late for span in spans),
        gaps=gaps,
        gap_count=len(gaps),
        coverage=Coverage(spans=tuple(spans)),
    )
    feed = next(feed for feed in configuration.events if feed.section == name)
    feed.position_file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(feed.position_file, progress)


def job(
    conn: Connection,
    uid: str,
    *,
    feed: str,
    subject: str,
    sender: str,
    received: datetime,
    name: str = "shipments.xlsx",
    error: str = "",
    counts: Counts | None = None,
    rejected: Sequence[RejectedRow] = (),
    pending: bool = False,
) -> int:
    """One message with one spreadsheet, done as a worker does it: loaded, or refused with `error`."""
    ref = MessageRef(account="ops@example.com", folder="INBOX", uidvalidity=7, uid=uid)
    summary = Summary(
        ref=ref,
        subject=subject,
        sender=sender,
        message_id=f"<{uid}@example.com>",
        received=received,
        size=90_000,
        parts=(),
    )
    parts = [
        PartOutcome(
            verdict=Verdict.TAKEN,
            name=name,
            section="2",
            kind=Kind.XLSX,
            size=48_213,
            sha256=f"{int(uid):064x}",
        ),
        PartOutcome(verdict=Verdict.SKIPPED, name="logo.png", section="3", reason="an image"),
    ]
    made = records.record(conn, feed, summary, f"header {feed} {uid}", target=f"{feed}_data", parts=parts)
    if pending:
        return made.id
    held = claim(conn, job_id=made.id)
    (file,) = files_of(conn, made.id)
    state = FileState.REJECTED if error else FileState.LOADED
    outcome = FileOutcome(
        state=state,
        counts=counts or Counts(),
        error=error or None,
        rejected=rejected,
        content_sha256=f"{int(uid):064x}",
    )
    records.finish_file(conn, held, file.id, outcome)
    records.finish_job(conn, held)
    return made.id


def worker(conn: Connection, host: str = "relay1", *, running: Sequence[str] = ()) -> None:
    conn.execute(
        # Its next sign of life is not waited for.
        "INSERT INTO mailferry.workers (id, host, pid, version, started_at, heartbeat_at, running)"
        " VALUES (gen_random_uuid(), %s, 4711, '0.1.0', now() - interval '3 days', now() + interval '5 minutes', %s)",
        (host, list(running)),
    )


def registered(conn: Connection, configuration: Configuration) -> None:
    """The feeds' rows, as a service has them that is running."""
    kinds = {feed.section: "events" for feed in configuration.events} | {
        feed.name: "mailbox" for feed in configuration.mailboxes
    }
    for number, (name, kind) in enumerate(kinds.items()):
        conn.execute(
            "INSERT INTO mailferry.feeds (name, kind, host, schedule, next_run_at, runner, started_at, ended_at, status, last_good_at)"
            " VALUES (%(name)s, %(kind)s, '', '5m', now() + %(wait)s * interval '1 second', 'relay1:4711', now() - %(ago)s * interval '1 second',"
            " now() - (%(ago)s - 4) * interval '1 second', 'completed', now() - (%(ago)s - 4) * interval '1 second')",
            {"name": name, "kind": kind, "wait": 40 + 37 * number, "ago": 260 - 37 * number % 200},
        )


REJECTED = (
    RejectedRow(sheet="Sheet1", row=14, column="pieces", value="twelve", reason="not a number"),
    RejectedRow(sheet="Sheet1", row=37, column="hawb", value="", reason="no key"),
    RejectedRow(
        sheet="Sheet1", row=41, column="eta", value="31.02.2026", reason="not a date: there is no such day"
    ),
)


def refusals(conn: Connection, feed: str, now: datetime, first: int = 101) -> dict[str, int]:
    """A file that was refused, and one with rejected rows; the numbers of their jobs."""
    return {
        "refused": job(
            conn,
            str(first),
            feed=feed,
            subject="Track and Trace, night run",
            sender="night.desk@carrier.example.com",
            received=now - timedelta(hours=6),
            name="night-run.xlsx",
            error="no header row with the key 'hawb' in the first 50 rows; found: sheet 'Export': AWB No, Status, Pieces",
        ),
        "rows": job(
            conn,
            str(first + 1),
            feed=feed,
            subject="Track and Trace, corrections",
            sender="ops@partner.example.net",
            received=now - timedelta(hours=3),
            name="corrections.xlsx",
            counts=Counts(read=420, inserted=12, updated=380, unchanged=25, rejected=len(REJECTED)),
            rejected=REJECTED,
        ),
    }


def fill(conn: Connection, configuration: Configuration, *, loaded: int = 4) -> dict[str, int]:
    """Last night's mail: most of it loaded, one file refused, one with rejected rows. The numbers of some jobs."""
    registered(conn, configuration)
    worker(conn, running=["collect example-outgoing"])
    feed = configuration.mailboxes[0].name
    now = datetime.now(UTC).replace(microsecond=0)
    for number in range(1, loaded + 1):
        job(
            conn,
            str(number),
            feed=feed,
            subject=f"Track and Trace {now - timedelta(hours=30 - number):%d.%m.%Y %H:00}",
            sender="reports@carrier.example.com",
            received=now - timedelta(hours=30 - number),
            counts=Counts(
                read=1200 + 37 * number, inserted=800 + 11 * number, updated=300, unchanged=100 + 26 * number
            ),
        )
    numbers = refusals(conn, feed, now)
    # Long ago enough to be in other hours of the chart.
    conn.execute(
        "UPDATE mailferry.files AS f SET finished_at = j.received + interval '90 seconds' FROM mailferry.jobs AS j WHERE j.id = f.job_id"
    )
    conn.execute(
        "UPDATE mailferry.jobs SET started_at = received + interval '84 seconds', finished_at = received + interval '90 seconds'"
    )
    return numbers


@contextlib.contextmanager
def served(configuration: Configuration) -> Iterator[str]:
    """The page of a configuration, until the end; its address."""
    site = Site(configuration)
    thread = threading.Thread(target=site.run, daemon=True)
    thread.start()
    try:
        yield f"http://{configuration.page.listen}"
    finally:
        site.stop()
        thread.join(10)
        assert not thread.is_alive()


def in_database(settings: DatabaseSettings) -> Any:
    """One connection that commits."""
    return psycopg.connect(**database.parameters(settings))


def opened(url: str, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    request = urllib.request.Request(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
