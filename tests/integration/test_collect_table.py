"""Events into a table: what it promises is what files promise, and what it comes to is rows that can be read in order."""

from __future__ import annotations

import json
import signal
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
import pytest
from support_events import (
    ALL_FEEDS,
    OUTGOING,
    RECENT,
    SIGN_INS,
    START,
    command,
    finished,
    ran,
    suffix,
)
from support_table import a_table_site
from support_wait import wait_for
from test_collect_exactly_once import LIST_TROUBLES, ODD, PLAIN

from mailferry import database
from mailferry.config import event_feeds
from mailferry.errors import Retry, Stop
from mailferry.events.destination import Line
from mailferry.events.progress import Progress
from mailferry.events.table import EventTable
from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings
from mailferry.testing.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support_table import TableSite

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Connection, Pool

DAY = 86_400
BOTH_READINGS = pytest.mark.parametrize("inclusive", [True, False], ids=["inclusive", "exclusive"])


# --- whole runs


@BOTH_READINGS
def test_every_category_with_odd_records_late_events_and_small_pages_over_several_runs(
    tmp_path: Path, database_settings: DatabaseSettings, inclusive: bool
) -> None:
    traits = Traits(**{**{name: getattr(ODD, name) for name in ODD.__slots__}, "late": 0.2, "late_by": 250})
    settings = Settings(page_cap=12, endtime_inclusive=inclusive)
    with a_table_site(tmp_path, dict.fromkeys(ALL_FEEDS, traits), database_settings, settings) as site:
        site.configure(max_records_per_page=12, detail_retries=0)
        late = dict.fromkeys(ALL_FEEDS, 0)
        for now in (START + 180, START + 350, START + 520, START + 700, START + 1000):
            site.clock.now = now
            ended = site.collect()
            assert ended.status == 0, ended
            for feed in ALL_FEEDS:
                late[feed] += ended.of(feed).metrics.late
        for feed in ALL_FEEDS:
            site.assert_exactly_once(feed, late=late[feed])
            result = ended.of(feed)
            assert late[feed] == result.late == site.progress(feed)["late"] > 0
            assert (result.position, result.lag_seconds, result.gap_count) == (START + 970, 30, 0)
        assert max(site.provider.stats.details.values()) == 1
        assert sum(result.metrics.events for result in site.collect().results.values()) == 0
        # No folder, no file: a run on any host leaves nothing behind but rows.
        assert [path.name for path in tmp_path.iterdir()] == ["uzmanposta.ini"]


def test_rows_are_read_in_order_of_time_and_in_order_of_arrival(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    traits = Traits(rate=0.3, start=START, end=START + 900, late=0.3, late_by=200, bursts={START + 400: 20})
    with a_table_site(tmp_path, {SIGN_INS: traits}, database_settings) as site:
        site.configure()
        for now in (START + 300, START + 500, START + 1100):
            site.clock.now = now
            site.collect()
        by_time = site.query(
            "SELECT extract(epoch FROM time)::bigint, number FROM mail_events ORDER BY time, number"
        )
        arrived = site.query("SELECT number FROM mail_events ORDER BY number")
        assert [time for time, _ in by_time] == sorted(time for time, _ in by_time)
        assert [number for (number,) in arrived] == list(range(1, len(by_time) + 1))
        # Some became visible late: the two orders differ.
        assert [number for _, number in by_time] != sorted(number for _, number in by_time)
        truth = [event.time for event in site.provider.truth(SIGN_INS, START, START + 900)]
        assert [time for time, _ in by_time] == truth


def test_a_gap_is_on_record_and_makes_the_exit_status_4_once(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    traits = Traits(rate=0.1, start=START, end=START + 600, bursts={START + 300: 30})
    with a_table_site(tmp_path, {SIGN_INS: traits}, database_settings, Settings(page_cap=10)) as site:
        site.configure(max_records_per_page=10)
        ended = site.collect()
        assert ended.status == 4
        (gap,) = site.progress(SIGN_INS)["gaps"]
        assert (gap["kind"], gap["start"]) == ("saturated", START + 300)
        again = site.collect()
        assert (again.status, again.of(SIGN_INS).gap_count, again.of(SIGN_INS).new_gaps) == (0, 1, 0)


def test_troubles_of_the_provider_lose_nothing(tmp_path: Path, database_settings: DatabaseSettings) -> None:
    certain = [Troubles(**{trouble.value: 1 / len(LIST_TROUBLES) for trouble in LIST_TROUBLES})] * 2
    settings = Settings(list_troubles=certain[0], detail_troubles=certain[1], max_failures_per_url=2)
    feeds = {OUTGOING: PLAIN, SIGN_INS: PLAIN}
    with a_table_site(tmp_path, feeds, database_settings, settings) as site:
        site.configure(list_retries=0, detail_retries=3)
        statuses = [site.collect().status]
        while statuses[-1] and len(statuses) < 40:
            statuses.append(site.collect().status)
        assert statuses[0] in {1, 3}
        assert statuses[-1] == 0
        for feed in feeds:
            site.assert_exactly_once(feed)


def test_a_position_set_back_by_hand_brings_no_event_twice_and_fills_what_is_missing(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    with a_table_site(tmp_path, {OUTGOING: PLAIN}, database_settings) as site:
        site.configure()
        site.collect()
        total = len(site.lines(OUTGOING))
        site.query("DELETE FROM mail_events WHERE number BETWEEN 3 AND 9")
        site.query("UPDATE mailferry.event_progress SET position = %s, floor = %s", START, START)
        # Known still is what the last look-back reached, not what came before.
        ended = site.collect()
        assert ended.status == 0
        metrics = ended.of(OUTGOING).metrics
        assert metrics.events == 7
        assert metrics.repeated > 0
        found = site.compared(OUTGOING)
        assert found.clean(late=7), found
        assert found.total == total
        # Written since the feed began, whatever a user deleted meanwhile.
        assert site.progress(OUTGOING)["events"] == total + 7


def test_what_a_reader_takes_out_of_the_table_does_not_come_back(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    with a_table_site(tmp_path, {OUTGOING: PLAIN}, database_settings) as site:
        site.configure()
        site.collect()
        assert site.query("DELETE FROM mail_events RETURNING 1")
        site.clock.now += 60
        assert site.collect().of(OUTGOING).metrics.events == 0
        assert site.lines(OUTGOING) == []


def test_files_and_tables_stand_in_one_configuration_and_a_database_that_is_unreachable_stops_only_the_tables(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    # The command looks at the machine's clock.
    recent = Traits(rate=0.2, start=RECENT, end=RECENT + 600, detail_bytes=300)
    with a_table_site(tmp_path, {OUTGOING: recent, SIGN_INS: recent}, database_settings) as site:
        site.configure(split_interval=3600)
        text = site.config.read_text("utf-8").replace("destination = table\n", "")
        table = f"[MailLogger:{suffix(SIGN_INS)}]"
        text = text.replace(table, f"{table}\ndestination = table")
        site.config.write_text(text)
        collected = ("collect", "--config", site.config, "--all", "--json")
        whole = json.loads(ran(*collected).stdout)
        by_name = {section["section"]: section for section in whole["sections"]}
        assert by_name[suffix(SIGN_INS)]["table"] == "mail_events"
        assert by_name[suffix(SIGN_INS)]["status"] == by_name[suffix(OUTGOING)]["status"] == "completed"
        assert len(site.lines(SIGN_INS)) == by_name[suffix(SIGN_INS)]["metrics"]["total_logs_processed"] > 0
        assert site.data_files(OUTGOING)
        assert not site.position_file(SIGN_INS).exists()
        site.config.write_text(text.replace("host=/", "host=/nowhere/"))
        away = ran(*collected)
        assert away.returncode == 1
        by_name = {section["section"]: section for section in json.loads(away.stdout)["sections"]}
        assert by_name[suffix(OUTGOING)]["status"] == "completed"
        assert "cannot be reached" in by_name[suffix(SIGN_INS)]["error"]


def test_a_run_that_writes_files_alone_never_loads_the_database_driver(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    recent = Traits(rate=0.2, start=RECENT, end=RECENT + 600)
    with a_table_site(tmp_path, {SIGN_INS: recent}, database_settings) as site:
        site.configure(split_interval=3600)
        site.config.write_text(
            site.config.read_text("utf-8").replace("destination = table", "destination = files")
        )
        program = (
            "import sys; from pathlib import Path; from mailferry.commands.events import run_collect; "
            f"run_collect(Path({str(site.config)!r}), None, every=True, workers=1, show=False, as_json=True); "
            "assert 'psycopg' not in sys.modules"
        )
        ended = finished([command()[0], "-c", program])
        assert ended.returncode == 0, ended.stderr


# --- who may write


def test_of_two_runs_at_once_the_second_is_skipped_and_one_that_takes_over_ends_the_first(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    # So slow that the first is surely still at it.
    slow = Settings(latency=0.02)
    with a_table_site(tmp_path, {OUTGOING: PLAIN}, database_settings, slow) as site:
        site.configure(max_parallel_details=1)
        with site.forked(commit_events=5) as first:
            wait_for("the first run's first commit", lambda: held(site))
            second = site.collect()
            assert (second.of(OUTGOING).status, second.status) == ("skipped", 0)
            third = site.collect(take_over=True)
            assert third.of(OUTGOING).status == "completed"
            ended = first.finished()
            assert ended.returncode == 1
            assert "database" in ended.stderr
        site.assert_exactly_once(OUTGOING)


def test_a_frozen_worker_is_taken_over_and_commits_nothing_when_it_comes_back(
    tmp_path: Path, database_settings: DatabaseSettings
) -> None:
    slow = Settings(latency=0.01)
    with a_table_site(tmp_path, {OUTGOING: PLAIN, SIGN_INS: PLAIN}, database_settings, slow) as site:
        site.configure(max_parallel_details=1)
        with site.forked(commit_events=5) as frozen:
            wait_for("its first lines", lambda: len(site.lines(OUTGOING)) > 20)
            frozen.send_signal(signal.SIGSTOP)
            ended = site.collect(take_over=True)
            assert ended.status == 0, ended
            before = site.query("SELECT feed, number, identity FROM mail_events ORDER BY 1, 2")
            fences = site.query("SELECT fence FROM mailferry.event_progress ORDER BY feed")
            frozen.send_signal(signal.SIGCONT)
            back = frozen.finished()
            assert back.returncode in {0, 1}  # its other feed may have been through
            assert "Traceback" not in back.stderr
        assert site.query("SELECT feed, number, identity FROM mail_events ORDER BY 1, 2") == before
        assert site.query("SELECT fence FROM mailferry.event_progress ORDER BY feed") == fences
        for feed in (OUTGOING, SIGN_INS):
            site.assert_exactly_once(feed)


def held(site: TableSite) -> bool:
    """Whether a run holds a feed, with something written."""
    locks = site.query(
        "SELECT 1 FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
        " WHERE l.locktype = 'advisory' AND d.datname = current_database()"
    )
    return bool(locks) and bool(site.lines(OUTGOING))


# --- the destination by itself


@pytest.fixture
def pool(database_settings: DatabaseSettings) -> Iterator[Pool]:
    with database.connect(database_settings) as pool:
        yield pool


def a_feed(folder: Path, name: str = "example", **options: object) -> EventFeed:
    given = {"api_key": "0123456789abcdef", "domain": "example.com", "destination": "table", **options}
    path = folder / "uzmanposta.ini"
    path.write_text(f"[MailLogger:{name}]\n" + "".join(f"{key} = {value}\n" for key, value in given.items()))
    return event_feeds.read(path).choose(None, every=True)[0]


def line(number: int, at: int = START, record: Any = None) -> Line:
    data = record if isinstance(record, bytes) else orjson.dumps({"n": number} if record is None else record)
    return Line(at, f"{number:016}", data)


class Opened:
    """A destination that is held, with the feed begun."""

    def __init__(self, feed: EventFeed, pool: Pool, *, now: float = START, take_over: bool = False) -> None:
        self.destination = EventTable(feed, pool, worker_id="test", take_over=take_over, clock=lambda: now)
        assert self.destination.acquire()
        found, _ = self.destination.open()
        self.progress = found or Progress(position=START, floor=START)
        if found is None:
            self.destination.commit([], self.progress, START)

    def write(self, *lines: Line) -> int:
        for one in lines:
            self.progress.seen.add(one.key, one.time)
        self.progress.events += len(lines)
        return self.destination.commit(lines, self.progress, START).as_text

    def close(self) -> None:
        self.destination.release()


def test_a_worker_without_the_fence_commits_nothing_even_if_its_session_lives(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    feed = a_feed(tmp_path)
    run = Opened(feed, pool)
    run.write(line(1))
    db.execute("UPDATE mailferry.event_progress SET fence = fence + 1")
    db.commit()
    for lines in ([line(2)], []):
        with pytest.raises(Retry, match="taken the feed over; nothing of this commit was written"):
            run.write(*lines)
    run.close()
    assert db.execute("SELECT number FROM mail_events").fetchall() == [(1,)]
    again = Opened(feed, pool)
    assert (again.progress.events, list(again.progress.seen)) == (1, [line(1).key])
    again.close()


def test_events_wait_at_the_provider_while_the_disk_of_the_database_is_nearly_full(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    run = Opened(a_feed(tmp_path, min_free=1 << 60), pool)
    with pytest.raises(Retry, match=r"free on the disk of .*min_free.*Nothing is lost"):
        run.write(line(1))
    run.close()
    assert db.execute("SELECT number FROM mail_events").fetchall() == []
    again = Opened(a_feed(tmp_path, min_free=0), pool)
    again.write(line(1))
    again.close()
    assert db.execute("SELECT number FROM mail_events").fetchall() == [(1,)]


HOSTILE = {
    "NUL": rb'{"a":"x\u0000y"}',
    "NUL in a key": rb'{"a\u0000":1,"a\ufffd":2}',
    "half a pair": rb'{"a":"\ud800","b":"\uDFFF"}',
    "the wrong order": rb'{"a":"\udc00\ud800"}',
    "NUL after a backslash": rb'{"a":"\\\u0000"}',
    "a whole record": rb'"\u0000"',
}
HARMLESS = {
    "a pair": rb'{"a":"\ud83d\ude00"}',
    "no escape": rb'{"a":"\\u0000 \\ud800"}',
    "digits": b'{"a":' + b"9" * 4000 + b',"b":1.10,"c":1e300}',
    "a megabyte": orjson.dumps({"a": "x" * 2**20, "b": ["\u0130", {}]}),
    "nested": b"[" * 400 + b"]" * 400,
    "null": b"null",
}


def exact(text: str | bytes) -> Any:
    """Digits as they are written: 1e300 and its 301 digits are one number."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def test_what_json_can_say_and_jsonb_cannot_is_kept_as_text_beside_it(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    run = Opened(a_feed(tmp_path), pool)
    records = [*HOSTILE.values(), *HARMLESS.values()]
    assert run.write(*(line(n, record=record) for n, record in enumerate(records))) == len(HOSTILE)
    run.close()
    kept = db.execute("SELECT record::text, raw FROM mail_events ORDER BY number").fetchall()
    for (text, raw), record in zip(kept, records, strict=True):
        if raw is None:
            assert exact(text) == exact(record)
        else:
            assert raw.encode() == record
            assert "\ufffd" in text
    assert [raw is not None for _, raw in kept] == [True] * len(HOSTILE) + [False] * len(HARMLESS)


def test_a_record_that_the_server_refuses_altogether_is_kept_as_text_and_stops_no_other(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    deep = b"[" * 30_000 + b"]" * 30_000
    run = Opened(a_feed(tmp_path), pool)
    run.write(line(1))
    assert run.write(line(1), line(2, record=deep), line(3)) == 1
    run.close()
    rows = db.execute("SELECT number, record::text, raw FROM mail_events ORDER BY number").fetchall()
    assert rows == [(1, '{"n": 1}', None), (3, "null", deep.decode()), (4, '{"n": 3}', None)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("CREATE TABLE mail_events (a int)", "not partitioned by range of the column time"),
        ("CREATE VIEW mail_events AS SELECT 1 AS a", "not partitioned"),
        (
            "CREATE TABLE mail_events (time timestamptz, feed text, identity text, number bigint, record json, raw text) PARTITION BY RANGE (time)",
            r"column record is json, not jsonb; it has no primary key \(feed, time, identity\)",
        ),
        (
            "CREATE TABLE mail_events (time timestamptz, feed text, identity text, number bigint, record jsonb, raw text, mine int NOT NULL, PRIMARY KEY (time, identity)) PARTITION BY RANGE (time)",
            "column mine has to be given; it has no primary key",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_and_left_alone(
    tmp_path: Path, pool: Pool, db: Connection, table: str, says: str
) -> None:
    db.execute(table.encode())
    db.commit()
    destination = EventTable(a_feed(tmp_path), pool)
    assert destination.acquire()
    with pytest.raises(Stop, match=says):
        destination.open()
    destination.release()
    assert db.execute("SELECT count(*) FROM mailferry.event_progress").fetchone() == (0,)


def test_a_schema_that_is_not_there_and_a_feed_of_another_source_say_what_to_do(
    tmp_path: Path, pool: Pool
) -> None:
    destination = EventTable(a_feed(tmp_path, table="nowhere.events"), pool)
    assert destination.acquire()
    with pytest.raises(Stop, match=r'nowhere\.events: schema "nowhere" does not exist\. CREATE SCHEMA'):
        destination.open()
    destination.release()
    Opened(a_feed(tmp_path), pool).close()
    other = EventTable(a_feed(tmp_path, domain="example.org"), pool)
    assert other.acquire()
    with pytest.raises(
        Stop, match=r"collects mail/outgoinglog/example.com, not mail/outgoinglog/example.org"
    ):
        other.open()
    other.release()


def test_a_table_of_the_users_own_with_partitions_by_the_day_and_more_columns_is_used_as_it_is(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    db.execute(
        "CREATE SCHEMA logs; CREATE TABLE logs.events (id bigint GENERATED ALWAYS AS IDENTITY, identity text, feed text,"
        " time timestamptz, number bigint, record jsonb, raw text, PRIMARY KEY (time, identity, feed)) PARTITION BY RANGE (time);"
        "CREATE TABLE logs.one PARTITION OF logs.events FOR VALUES FROM ('2025-06-15 00:00+00') TO ('2025-06-16 00:00+00')"
    )
    db.commit()
    run = Opened(a_feed(tmp_path, table="Logs.Events"), pool)
    run.write(line(1), line(2, START + 60 * DAY))
    with pytest.raises(Stop, match="has no partition for some events of 2025-06"):
        run.write(line(3, START + 2 * DAY))
    run.close()
    assert db.execute(
        "SELECT relname FROM pg_class WHERE relname ~ '^events_'  AND relkind = 'r'"
    ).fetchall() == [("events_2025_08",)]
    assert db.execute("SELECT count(*) FROM logs.one").fetchone() == (1,)


def test_hosts_that_need_the_same_table_and_partitions_at_once_all_get_them(
    tmp_path: Path, new_database: Callable[..., DatabaseSettings]
) -> None:
    settings = new_database().model_copy(update={"pool_max": 6})
    feeds = [a_feed(tmp_path, f"feed{n}") for n in range(6)]
    faults: list[BaseException] = []

    def work(feed: EventFeed, pool: Pool) -> None:
        try:
            run = Opened(feed, pool)
            run.write(*(line(n, START + n * 31 * DAY) for n in range(6)))
            run.close()
        except BaseException as error:  # noqa: BLE001 - the test's own thread asserts on it
            faults.append(error)

    with database.connect(settings) as pool:
        threads = [threading.Thread(target=work, args=(feed, pool)) for feed in feeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
    with psycopg.connect(**database.parameters(settings)) as conn:
        assert conn.execute("SELECT count(*) FROM mail_events").fetchone() == (36,)
        assert conn.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'mail_events'::regclass"
        ).fetchone() == (6,)


def test_retention_drops_a_month_when_all_feeds_let_go_and_before_that_one_feeds_events(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    def months() -> list[tuple[str, list[str]]]:
        rows = db.execute(
            "SELECT tableoid::regclass::text, array_agg(DISTINCT feed ORDER BY feed) FROM mail_events GROUP BY 1 ORDER BY 1"
        ).fetchall()
        named = {
            name
            for (name,) in db.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'mail_events'::regclass"
            )
        }
        db.rollback()  # or it would be read for ever
        assert named == {name for name, _ in rows}
        return [(name[-7:], feeds) for name, feeds in rows]

    def expired(feed: EventFeed, day: int) -> list[str]:
        run = Opened(feed, pool, now=START + day * DAY)
        warnings = run.destination.expire()
        run.close()
        return warnings

    short, long, all_ = (
        a_feed(tmp_path, n, log_retention_days=days) for n, days in (("a", 10), ("b", 40), ("c", 0))
    )
    for feed, days in ((short, (0, 30, 60)), (long, (0, 30)), (all_, (60,))):
        run = Opened(feed, pool)
        run.write(*(line(day, START + day * DAY) for day in days))
        run.close()
    # START is in the middle of June.
    assert months() == [("2025_06", ["a", "b"]), ("2025_07", ["a", "b"]), ("2025_08", ["a", "c"])]
    assert expired(short, 20) == []
    assert expired(short, 27) == ["1 events in mail_events_2025_06, older than 10 days"]
    assert months()[0] == ("2025_06", ["b"])
    assert expired(short, 28) == []
    assert expired(all_, 300) == []
    assert expired(long, 50) == []
    assert expired(long, 57) == ["partition mail_events_2025_06, older than 40 days"]
    assert months() == [("2025_07", ["a", "b"]), ("2025_08", ["a", "c"])]
    # Its own are gone too, and of August it lets go alone.
    assert expired(short, 300) == [
        "partition mail_events_2025_07, older than 10 days",
        "1 events in mail_events_2025_08, older than 10 days",
    ]
    assert months() == [("2025_08", ["c"])]


def test_a_feed_that_keeps_events_for_ever_in_days_keeps_no_other_from_deleting(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    keeping = [a_feed(tmp_path, n, log_retention_days=days) for n, days in (("b", 36_500), ("c", 3 * 10**9))]
    short = a_feed(tmp_path, "a", log_retention_days=10)
    for feed in (short, *keeping):
        run = Opened(feed, pool, now=START)
        run.write(line(1))
        assert run.destination.expire() == []
        run.close()
    again = Opened(short, pool, now=START + 100 * DAY)
    assert again.destination.expire() == ["1 events in mail_events_2025_06, older than 10 days"]
    again.close()
    assert db.execute("SELECT count(*) FROM mail_events").fetchone() == (2,)


def test_a_table_that_ends_with_the_session_is_no_place_for_events(tmp_path: Path, pool: Pool) -> None:
    destination = EventTable(a_feed(tmp_path, table="pg_temp.mail_events"), pool)
    assert destination.acquire()
    with pytest.raises(Stop, match="it is temporary"):
        destination.open()
    destination.release()


def test_a_partition_that_is_being_read_is_left_to_a_later_run(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    feed = a_feed(tmp_path, log_retention_days=10)
    run = Opened(feed, pool, now=START + 100 * DAY)
    run.write(line(1))
    db.execute("SELECT count(*) FROM mail_events")
    assert run.destination.expire() == []
    db.rollback()
    assert run.destination.expire() == ["partition mail_events_2025_06, older than 10 days"]
    run.close()


def test_views_do_not_hold_retention_up_and_one_on_a_partition_is_named_with_what_to_do(
    tmp_path: Path, pool: Pool, db: Connection
) -> None:
    feed = a_feed(tmp_path, log_retention_days=10)
    run = Opened(feed, pool, now=START + 100 * DAY)
    run.write(line(1), line(2, START + 31 * DAY))
    db.execute("CREATE VIEW all_events AS SELECT * FROM mail_events")
    for view in ("july", "july_too"):
        db.execute(f"CREATE VIEW {view} AS SELECT * FROM mail_events_2025_07".encode())
    db.commit()
    dropped, emptied = run.destination.expire()
    assert dropped == "partition mail_events_2025_06, older than 10 days"
    assert emptied == (
        "all events in mail_events_2025_07 (the partition stays, empty, as view july depends on table mail_events_2025_07; "
        "view july_too depends on table mail_events_2025_07: define that on public.mail_events, and drop the partition), "
        "older than 10 days"
    )
    for view in ("all_events", "july", "mail_events_flat"):
        assert db.execute(f"SELECT count(*) FROM {view}".encode()).fetchone() == (0,)
    db.rollback()
    assert run.destination.expire() == []  # said once
    # What the message says to do.
    db.execute("DROP VIEW july, july_too; DROP TABLE mail_events_2025_07")
    db.commit()
    run.close()
    run = Opened(feed, pool)
    run.write(line(3, START + 31 * DAY))
    run.close()
    assert db.execute("SELECT number FROM all_events").fetchall() == [(3,)]


def test_the_migration_leaves_a_ledger_of_version_1_as_it_is(
    new_database: Callable[..., DatabaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = database.parameters(new_database(template=False))
    steps = database.migrations()
    with psycopg.connect(**where) as conn:
        with monkeypatch.context() as patch:
            patch.setattr(database, "migrations", lambda: steps[:1])
            database.migrate(conn, "temp_processing")
        conn.execute(
            "INSERT INTO mailferry.jobs (feed, account, folder, uidvalidity, uid, header_sha256, message_id, subject, sender,"
            " received, target) VALUES ('f', 'a', 'INBOX', 1, '1', 'x', 'm', 's', 'o', now(), 't')"
        )
        conn.commit()
        ((before,),) = conn.execute("SELECT to_jsonb(j) FROM mailferry.jobs AS j").fetchall()
        database.migrate(conn, "temp_processing")
        ((after,),) = conn.execute("SELECT to_jsonb(j) FROM mailferry.jobs AS j").fetchall()
        assert before.items() <= after.items()  # later versions add columns
        assert conn.execute("SELECT max(version) FROM mailferry.versions").fetchone() == (len(steps),)
        assert conn.execute("SELECT count(*) FROM mailferry.event_progress").fetchone() == (0,)
