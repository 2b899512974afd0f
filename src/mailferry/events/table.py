"""A table of PostgreSQL as the destination of an event feed: events, position and identities change in one transaction.

Who may write is settled twice. One session holds the feed's advisory lock from the start of a run to its end, and does
all the run's work; a second run is skipped, or takes over by ending that session. And every run raises a number in the
feed's progress row, the fence, which each commit compares: a worker that comes back from a long sleep commits nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from mailferry import disk
from mailferry.database import advisory_key, data_folder, queries, translated
from mailferry.errors import Retry, Stop
from mailferry.events import order, partitions
from mailferry.events import record as records
from mailferry.events.coverage import Coverage
from mailferry.events.destination import BACKFILL_TURN, Committed, Recovered
from mailferry.events.journal import Journal
from mailferry.events.order import Seen
from mailferry.events.progress import Progress
from mailferry.events.rows import COLUMNS, copied, rows
from mailferry.events.stored import Found
from mailferry.events.windows import Gap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from psycopg import sql

    from mailferry.config.event_feed import EventFeed
    from mailferry.database import Connection, Pool
    from mailferry.events.check import Lines
    from mailferry.events.destination import Line
    from mailferry.events.partitions import Partition, Table
    from mailferry.events.rows import Row

#: Seconds between two tries for the lock while a back-fill works on the feed.
_TURN = 0.1
#: Characters of an identity, see `order.identified`.
_IDENTITY = 16
#: Characters of the digest of a record, see `order.identified`.
_STATE = 8
#: Days that reach back behind every event's time; more may not fit the column.
_FOR_EVER = 36_500
#: Of a batch that holds such a row, none is written by that statement: a key that is there, JSON that jsonb refuses,
#: because it is too deep or too large.
_REFUSED = (
    psycopg.errors.UniqueViolation,
    psycopg.DataError,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.ProgramLimitExceeded,
)


class TakenOver(Retry):
    """Another worker has taken the feed over; nothing of this commit was written."""


class EventTable:
    """The rows of one feed in a table that other feeds may share; see `Destination`."""

    def __init__(
        self,
        feed: EventFeed,
        pool: Pool,
        *,
        worker_id: str = "",
        take_over: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._feed = feed
        self._pool = pool
        self._worker_id = worker_id
        self._take_over = take_over
        self._clock = clock
        self._days = min(feed.log_retention_days, _FOR_EVER)
        self._lock = advisory_key("events", feed.section)
        self._mark = advisory_key("backfill", feed.section)
        self._locked = self._marked = False
        self._held: Connection | None = None
        #: Where the database's data is, if that can be seen: a full disk stops the server.
        self._disk: Path | None = None
        self._table: Table | None = None
        self._partitions: list[Partition] | None = None
        self._identity = order.Identity(feed.identity_fields, feed.ignored_fields)
        self._fence = 0
        self._last_number = 0
        #: Identities as the database has them.
        self._seen = Seen()
        self.committed: Progress | None = None
        self.written: list[str] = []
        self.journal = Journal(feed)
        self.checkpoint = f"position of feed {feed.section} in mailferry.event_progress"

    def acquire(self) -> bool:
        """Take a connection, and on it the feed's lock; False where another session has that."""
        with _translated():
            conn = self._connected()
            locked = _try_lock(conn, self._lock)
            if not locked and self._take_over:
                conn.execute(_sql("evict"), {"key": self._lock})
                # Free when the session that held it is gone.
                conn.execute("SELECT pg_advisory_lock(%s)", (self._lock,))
                locked = True
            until = time.monotonic() + (BACKFILL_TURN if not locked and self._back_filled(conn) else 0)
            while not locked and time.monotonic() < until:
                time.sleep(_TURN)
                locked = _try_lock(conn, self._lock)
        self._locked = locked
        return locked

    def unlock(self) -> None:
        """Unlock the feed; a connection that is lost has no lock."""
        if self._held and self._locked:
            _let_go(self._held, self._lock)
        self._locked = False

    def unmark(self) -> None:
        """Release that lock."""
        if self._held and self._marked:
            _let_go(self._held, self._mark)
        self._marked = False

    def mark(self) -> bool:
        """Take a lock of its own for the back-fill."""
        with _translated():
            self._marked = _try_lock(self._connected(), self._mark)
        return self._marked

    def _back_filled(self, conn: Connection) -> bool:
        """Whether a back-fill of another session works on the feed."""
        if self._marked:
            return False
        free = _try_lock(conn, self._mark)
        if free:
            _let_go(conn, self._mark)
        return not free

    def look(self) -> Progress | None:
        """What the feed's row says, but for identities."""
        with _translated(), self._connected().cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_sql("look"), {"feed": self._feed.section}).fetchone()
        return None if row is None or row["position"] is None else progress_of(row)

    def check(self, lines: Lines) -> None:
        """Pass the rows of its time to `lines`, in the order of arrival."""
        for at, identity in self._rows("in_order", lines.start, lines.end):
            lines.row(at, f"identity {identity}")

    def found(self, start: int, end: int) -> Iterator[Found]:
        """The rows of this time, in the order of arrival."""
        for at, identity, record in self._rows("found", start - 3600, end + 3600):
            decoded = records.decode(record.encode())
            (entry,) = order.identified([decoded], self._identity)
            yield Found(at, timed=True, key=identity, record=decoded, group=order.group(entry))

    def _rows(self, statement: str, start: int, end: int) -> Iterator[tuple[Any, ...]]:
        values = {"feed": self._feed.section, "start": start, "end": end}
        with _translated():
            conn, text = self._connected(), self._statement(statement)
            # A cursor of the server's: a day may be a million rows.
            with conn.transaction(), conn.cursor(name="rows") as cursor:
                cursor.itersize = 5000
                yield from cursor.execute(text, values)

    def open(self) -> tuple[Progress | None, Recovered]:
        """Raise the fence, and read how far the feed got."""
        feed = self._feed
        source = f"{feed.category}/{feed.type}/{feed.domain}"
        with _translated():
            table = self._prepared()
            values: dict[str, Any] = {"feed": feed.section, "source": source, "runner": self._worker_id}
            values |= {"target": table.title, "retention_days": self._days}
            with self._conn.transaction(), self._conn.cursor(row_factory=dict_row) as cursor:
                row = cursor.execute(_sql("begin"), values).fetchone()
                assert row is not None
                if row["source"] != source:
                    raise Stop(
                        f"[{feed.section}] the database knows a feed of this name that collects {row['source']}, not {source}. "
                        f"Give one of them another name; or if it is the same feed, changed: UPDATE mailferry.event_progress "
                        f"SET source = '{source}' WHERE feed = '{feed.section}'"
                    )
                self._fence, self._last_number = row["fence"], row["last_number"]
                for end, identities, states in self._conn.execute(_sql("seen"), {"feed": feed.section}):
                    for number in range(len(identities) // _IDENTITY):
                        key = identities[number * _IDENTITY : (number + 1) * _IDENTITY]
                        state = states[number * _STATE : (number + 1) * _STATE].strip()
                        self._seen.add(key, end, state)
        if row["position"] is None:
            return None, Recovered()
        progress = progress_of(row, self._seen.copy(), feed.look_back)
        self.committed = replace(progress, seen=Seen())
        return progress, Recovered()

    def commit(self, lines: Sequence[Line], progress: Progress, end: int) -> Committed:  # noqa: ARG002 - it is known from what is seen
        """Write rows and progress in one transaction. Raises TakenOver.

        A connection that is lost at its very end leaves open whether it happened: the next run goes by what it finds.
        """
        if self._disk and lines:
            disk.require_room(self._disk, self._feed.min_free, sum(len(line.data) for line in lines))
        made = rows((line for line in lines if not line.changed), self._last_number)
        with _translated():
            if made:
                self._make_room(made)
            with self._conn.transaction():
                repeated = len(made) - self._written(made) if made else 0
                progress.events -= repeated
                if repeated:
                    self._recount(progress, made)
                for line in lines:
                    if line.changed:
                        self._update(line)
                self._advance(progress, self._last_number + len(made))
        self._last_number += len(made)
        self._seen = progress.seen.copy()
        self.committed = replace(progress, seen=Seen())
        return Committed(repeated=repeated, as_text=sum(row.raw is not None for row in made))

    def close(self) -> None:
        """Nothing: a table's rows may change."""

    def expire(self) -> list[str]:
        """Drop partitions, or delete this feed's rows of them; see `partitions.expire`."""
        if not self._days:
            return []
        assert self._table
        with _translated():
            return partitions.expire(self._conn, self._table, self._feed.section, self._days, self._clock())

    def beat(self, status: str, error: str = "", warnings: Sequence[str] = ()) -> None:
        """Nothing: the lock and the progress row say that a worker is alive, and how far it got."""

    def release(self) -> None:
        """Release lock and connection."""
        conn, self._held = self._held, None
        self._locked = self._marked = False
        if conn is None:
            return
        try:
            conn.execute("SELECT pg_advisory_unlock_all()")
            conn.autocommit = False
        except psycopg.Error:
            conn.close()  # it is lost, and with it the lock
        finally:
            self._pool.putconn(conn)

    def _connected(self) -> Connection:
        """The run's connection."""
        if self._held is None:
            self._held = self._pool.getconn()
            self._held.autocommit = True
            row = self._held.execute(_sql("encoding")).fetchone()
            assert row is not None
            if row[0] != "UTF8":
                raise Stop(
                    f"The database's encoding is {row[0]}, which cannot hold every event. Use a database in UTF8."
                )
            self._disk = data_folder(self._held)
        return self._held

    def _prepared(self) -> Table:
        """The table, made where it is missing. Raises Stop for one that does not fit."""
        if self._table is None:
            self._table = partitions.prepared(self._connected(), self._feed.table)
        return self._table

    @property
    def _conn(self) -> Connection:
        assert self._held, "acquire comes first"
        return self._held

    def _make_room(self, made: Sequence[Row]) -> None:
        """The partitions that these rows need; the database is asked once a run, and again when one is missing."""
        assert self._table
        times = {row.time for row in made}
        if self._partitions is None:
            self._partitions = partitions.partitions(self._conn, self._table)
        if partitions.homeless(times, self._partitions):
            self._partitions = partitions.make_room(self._conn, self._table, times)

    def _written(self, made: list[Row]) -> int:
        """Write the rows as fast as they can be; how many were not there before."""
        # No other worker raises the fence between here and the commit.
        if not self._conn.execute(_sql("hold"), self._fenced).fetchone():
            raise TakenOver(f"[{self._feed.section}] {TakenOver()}")
        for way in (self._copy, self._insert):
            with contextlib.suppress(*_REFUSED), self._conn.transaction():
                return way(made)
        return self._insert_each(made)

    def _copy(self, made: Sequence[Row]) -> int:
        """All rows, or none if one of them is there already."""
        with self._conn.cursor() as cursor, cursor.copy(self._statement("copy")) as copy:
            for piece in copied(self._feed.section, made):
                copy.write(piece)
        return len(made)

    def _insert(self, made: Sequence[Row]) -> int:
        """Those rows that are not there already; none if the database refuses one."""
        with self._conn.cursor() as cursor:
            cursor.executemany(self._statement("insert"), [self._values(row) for row in made])
            return cursor.rowcount

    def _insert_each(self, made: list[Row]) -> int:
        """Those rows that are not there already; a record that jsonb refuses becomes null, with its text beside it."""
        count = 0
        insert = self._statement("insert")
        for at, row in enumerate(made):
            try:
                with self._conn.transaction():
                    count += self._conn.execute(insert, self._values(row)).rowcount
            except _REFUSED as error:
                if isinstance(error, psycopg.errors.UniqueViolation):
                    raise
                self.journal.error(
                    f"the database's JSON does not take the event {row.identity}: {error}; kept as text"
                )
                made[at] = row._replace(record=b"null", raw=row.raw or row.record)
                count += self._conn.execute(insert, self._values(made[at])).rowcount
        return count

    def _update(self, line: Line) -> None:
        """Put the newer state of an event into its row; a list record that stands in for the detail, only what it says."""
        (row,) = rows([line], 0)
        values = {**self._values(row), "partly": line.stands_in}
        for name in ("update", "update_anytime"):
            try:
                with self._conn.transaction():
                    done = self._conn.execute(self._statement(name), values).rowcount
            except _REFUSED as error:
                self.journal.error(
                    f"the event {row.identity} has changed to what jsonb does not take: {error}; its row stays"
                )
                return
            if done:
                return

    def _recount(self, progress: Progress, made: Sequence[Row]) -> None:
        """Count the events of covered time as they are there: some of these were there before, and count once."""
        spans = {
            span.start: span for row in made for span in progress.coverage.within(row.time, row.time + 1)
        }
        for span in spans.values():
            values = {"feed": self._feed.section, "start": span.start, "end": span.end}
            row = self._conn.execute(self._statement("count"), values).fetchone()
            assert row is not None
            progress.coverage = progress.coverage.wrote(span.start, row[0] - span.held)

    def _values(self, row: Row) -> dict[str, Any]:
        texts = {"record": row.record.decode(), "raw": row.raw and row.raw.decode()}
        return {"feed": self._feed.section, **row._asdict(), **texts}

    def _advance(self, progress: Progress, last_number: int) -> None:
        """Put on record how far the feed got, and what it must know again: only what has changed since the last commit."""
        learned: defaultdict[int, list[str]] = defaultdict(list)
        states = progress.seen.states
        for key, end in progress.seen.ends.items():
            if self._seen.ends.get(key) != end or self._seen.states.get(key) != states.get(key):
                learned[end].append(key)
        values = {
            name: getattr(progress, name) for name in ("position", "floor", "events", "late", "gap_count")
        }
        values |= {"last_number": last_number, "gaps": Jsonb([asdict(gap) for gap in progress.gaps])}
        values |= {"coverage": Jsonb(progress.coverage.to_json())}
        values |= {"counts": Jsonb(progress.counts), "details_missing": Jsonb(progress.details_missing)}
        values |= {"ends": list(learned), "identities": ["".join(keys) for keys in learned.values()]}
        values["states"] = [
            "".join(states.get(key, "").ljust(_STATE) for key in keys) for keys in learned.values()
        ]
        if not self._conn.execute(_sql("advance"), {**self._fenced, **values}).fetchone():
            raise TakenOver(f"[{self._feed.section}] {TakenOver()}")

    @property
    def _fenced(self) -> dict[str, Any]:
        return {"feed": self._feed.section, "fence": self._fence}

    def _statement(self, name: str) -> sql.Composed:
        from psycopg import sql

        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
        return partitions.statement(name, table=self._prepared().identifier, columns=columns)


def progress_of(row: dict[str, Any], seen: Seen | None = None, look_back: int = 0) -> Progress:
    """How far a feed got by its row of `mailferry.event_progress`, whose position is not null."""
    position, floor = row["position"], row["floor"]
    return Progress(
        position=position,
        # A position that a person has set back lies before what `seen` knows; what the table holds comes once all the same.
        floor=floor if floor <= position else max(0, position - look_back),
        seen=seen or Seen(),
        counts=row["counts"],
        details_missing=row["details_missing"],
        gaps=[Gap(**gap) for gap in row["gaps"]],
        gap_count=row["gap_count"],
        late=row["late"],
        events=row["events"],
        coverage=Coverage.from_json(row["coverage"]),
    )


def _try_lock(conn: Connection, key: int) -> bool:
    row = conn.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
    return bool(row and row[0])


def _let_go(conn: Connection, key: int) -> None:
    with contextlib.suppress(psycopg.Error):
        conn.execute("SELECT pg_advisory_unlock(%s)", (key,))


def _sql(name: str) -> bytes:
    return queries("events")[name]


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The database's errors as Retry, Reject or Stop."""
    try:
        yield
    except psycopg.Error as error:
        raise translated(error) from error
