"""The open parts of the mailbox feeds of one process: mailboxes and reading children in a pool, folders, claims.

    with mail.acquire("orders") as work:
        ...

Threads may share it. Each `acquire` has a connection to the mailbox of its own, and a reading child of its own while it
reads; both stay open for the next. Nothing is opened before it is used, so files that are on record are loaded while
their mailbox is unreachable.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from mailferry import database, logs
from mailferry.clock import local_now
from mailferry.errors import Retry
from mailferry.mailbox.context import Work
from mailferry.mailbox.folders import Folders, reading_prefix
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.ledger.jobs import ClaimLost
from mailferry.mailbox.source.open import open_mailbox
from mailferry.mailbox.workbook.inspector import Inspector
from mailferry.mailbox.workbook.reader import Reader

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
    from pathlib import Path

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.config.spreadsheet import Limits
    from mailferry.mailbox.ledger.jobs import Claim
    from mailferry.mailbox.source.message import Mailbox, MessageRef
    from mailferry.mailbox.source.oauth import Tokens
    from mailferry.mailbox.workbook.contract import RowContract
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import Kind

log = logs.of(__name__, logs.DATABASE)

#: Seconds after which what is idle is closed: before servers (30 minutes) and firewalls (a few) drop it.
_IDLE = 120.0
#: Seconds between two looks whether the folders of a feed have become free.
_GLANCE = 0.2
#: Seconds that a mailbox which could not be reached is left alone when messages are to be marked.
_UNREACHABLE = 30.0


class _Closable(Protocol):
    def close(self) -> None:
        """End it; never raises."""


K = TypeVar("K", bound="Hashable")
T = TypeVar("T", bound=_Closable)


class IdlePool(Generic[K, T]):
    """Open things that are not in use, by key. Threads may share it."""

    def __init__(self, idle: float) -> None:
        """`idle`: seconds after which one is closed rather than used again."""
        self._idle = idle
        self._lock = threading.Lock()
        self._closed = False
        #: With the monotonic time at which each was released, the latest last.
        self._things: dict[K, list[tuple[float, T]]] = {}

    def acquire(self, key: K) -> T | None:
        """The one used last, or None; it belongs to the caller."""
        self.close_idle()
        with self._lock:
            kept = self._things.get(key)
            return kept.pop()[1] if kept else None

    def release(self, key: K, thing: T) -> None:
        """Back into the pool."""
        with self._lock:
            if not self._closed:
                self._things.setdefault(key, []).append((time.monotonic(), thing))
                return
        thing.close()

    def close_idle(self) -> None:
        """Close those that were not used for long."""
        self._drop(before=time.monotonic() - self._idle)

    def close(self) -> None:
        """Close all; those in use when they are released."""
        with self._lock:
            self._closed = True
        self._drop(before=float("inf"))

    def _drop(self, before: float) -> None:
        with self._lock:
            stale = [thing for kept in self._things.values() for since, thing in kept if since < before]
            for kept in self._things.values():
                kept[:] = [(since, thing) for since, thing in kept if since >= before]
        for thing in stale:
            thing.close()


class MailPool:
    """All mailbox feeds of one process. New configuration means a new one."""

    def __init__(
        self,
        feeds: Mapping[str, MailboxFeed],
        pool: database.Pool,
        *,
        worker_id: str,
        stop: threading.Event,
        clock: Callable[[], dt.datetime] = local_now,
        lease: dt.timedelta = leases.LEASE,
        idle: float = _IDLE,
        failures: defaultdict[str, Counter[MessageRef]] | None = None,
        alone: bool = False,
    ) -> None:
        """`feeds` by name. `pool` needs two connections for each job at a time: one loads, one renews its claim.

        `worker_id` is who we are, for the ledger. `stop` ends what can be ended after its current step. `lease`: how
        long a claim holds when this process is no longer heard of. `idle`: seconds that unused connections stay open.
        `failures`: how often messages could not be fetched, by feed, where that is kept for longer than this.
        `alone`: the caller has made sure that these feeds and their folders are used by this process alone, so that
        what another single run has in progress is left over from a crash.
        """
        self.feeds = dict(feeds)
        self.pool = pool
        self.stop = stop
        self.alone = alone
        self.lease = lease
        self._worker_id = worker_id
        self._clock = clock
        self._lock = threading.Lock()
        self._mailboxes: IdlePool[str, Mailbox] = IdlePool(idle)
        self._readers: IdlePool[tuple[Limits, Path], Reader] = IdlePool(idle)
        self._reading: set[Reader] = set()
        self._tokens: dict[tuple[object, ...], Tokens] = {}
        self._failures = defaultdict(Counter) if failures is None else failures
        self._unreachable_until: dict[str, float] = {}
        self._claims: dict[int, Claim] = {}
        self._releasing = False
        #: Folders that are ours, as long as `_locks` is open. A disk may be slow, and holds up nothing else.
        self._folders_lock = threading.Lock()
        self._shared: set[Path] = set()
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is released."""
        self._mailboxes.close()
        self._readers.close()
        with self._folders_lock:
            self._locks.close()
            self._shared.clear()

    def close_idle(self) -> None:
        """Close what was not used for long; to be called every minute or so."""
        self._mailboxes.close_idle()
        self._readers.close_idle()

    # --- parts

    def keep(self, feed_name: str, reader: Reader) -> None:
        """A reading child for the feed's next file."""
        feed = self.feeds[feed_name]
        self._readers.release((feed.limits, Folders(base=feed.base_dir).pending), reader)

    @contextlib.contextmanager
    def acquire(self, feed_name: str) -> Iterator[Work]:
        """The feed's parts, for one thread. Waits, and says so, while a `mailferry load` has the folders to itself.

        Raises Stop where the folders cannot be used, Retry where `stop` comes while it waits.
        """
        feed = self.feeds[feed_name]
        self._wait_for_folders(feed)
        tokens = self.tokens(feed_name)
        folders = Folders(base=feed.base_dir)
        mailbox = self._mailboxes.acquire(feed_name) or open_mailbox(
            feed.mailbox,
            tokens=tokens,
            at_first_use=True,
            inspector=Inspector(feed.limits, functools.partial(self._reader, feed.limits, folders.pending)),
        )
        try:
            yield Work(
                feed=feed,
                pool=self.pool,
                mailbox=mailbox,
                read=functools.partial(self._read, feed.limits, folders.pending),
                folders=folders,
                clock=self._clock,
                stop=self.stop,
                tokens=tokens,
                failures=self._failures[feed_name],
            )
        except BaseException:
            mailbox.close()
            raise
        self._mailboxes.release(feed_name, mailbox)

    @contextlib.contextmanager
    def _read(
        self, limits: Limits, folder: Path, path: Path, kind: Kind, contract: RowContract
    ) -> Iterator[Sheet]:
        """Open a spreadsheet in a reading child."""
        with self._reader(limits, folder) as reader, reader.open(path, kind, contract) as sheet:
            yield sheet

    @contextlib.contextmanager
    def _reader(self, limits: Limits, folder: Path) -> Iterator[Reader]:
        """A reading child that is idle, or a new one."""
        reader = self._readers.acquire((limits, folder)) or Reader(limits, folder, reading_prefix())
        with self._lock:
            self._reading.add(reader)
        try:
            yield reader
        finally:
            with self._lock:
                self._reading.discard(reader)
            # Whole or not: it replaces a broken child by itself.
            self._readers.release((limits, folder), reader)

    def tokens(self, feed_name: str) -> Tokens | None:
        """The access tokens of the feed's account, the only ones in this process; None where it has a password."""
        settings = self.feeds[feed_name].mailbox
        if settings.oauth is None:
            return None
        from mailferry.mailbox.source.oauth import Tokens

        account = (settings.host, settings.username, settings.oauth)
        with self._lock:
            if account not in self._tokens:
                self._tokens[account] = Tokens(settings.oauth)
            return self._tokens[account]

    def usable(self, feed_names: Collection[str]) -> list[str]:
        """Those of the feeds whose folders this process has, or gets at once. Raises Stop."""
        return [name for name in feed_names if self._share(self.feeds[name])]

    def _wait_for_folders(self, feed: MailboxFeed) -> None:
        logged = False
        while not self._share(feed):
            if not logged:
                log.info("%s: waiting, a `mailferry load` works in %s", feed.name, feed.base_dir)
                logged = True
            if self.stop.wait(_GLANCE):
                raise Retry(f"{feed.name}: asked to stop while a `mailferry load` works in {feed.base_dir}")

    def _share(self, feed: MailboxFeed) -> bool:
        folders = Folders(base=feed.base_dir)
        with self._folders_lock:
            if self.alone or folders.base in self._shared:
                return True
            folders.prepare()
            with contextlib.ExitStack() as trial:
                if trial.enter_context(folders.shared()):
                    self._shared.add(folders.base)
                    self._locks.push(trial.pop_all())
                    return True
        return False

    # --- mailboxes that are unreachable

    def is_unreachable(self, feed_name: str) -> bool:
        """Whether the feed's mailbox could not be reached a moment ago: marking in it had better wait."""
        return time.monotonic() < self._unreachable_until.get(feed_name, 0)

    def note_reached(self, feed_name: str, *, reached: bool) -> None:
        """The mailbox can, or cannot, be used at the moment."""
        self._unreachable_until[feed_name] = 0 if reached else time.monotonic() + _UNREACHABLE

    # --- claims

    def claim(self, target: str, feed_names: Collection[str]) -> Claim | None:
        """The table's next job, where it is due and one of these feeds'. To be worked on within `working`."""
        with database.transaction(self.pool) as conn:
            held = leases.claim(
                conn,
                worker_id=self._worker_id,
                feeds=feed_names,
                target=target,
                reclaim=self.alone,
                by_lease=not self.alone,
                lease=self.lease,
            )
        if held is None:
            return None
        with self._lock:
            if not self._releasing:
                self._claims[held.job.id] = held
                return held
        with database.transaction(self.pool) as conn:
            leases.release(conn, held)
        return None

    @contextlib.contextmanager
    def working(self, held: Claim) -> Iterator[None]:
        """As long as the work on a claim goes on: it is renewed."""
        try:
            with leases.renewed(self.pool, held, self.lease):
                yield
        finally:
            with self._lock:
                if self._claims.get(held.job.id) == held:
                    del self._claims[held.job.id]

    @property
    def claims(self) -> list[Claim]:
        """The claims under work."""
        with self._lock:
            return list(self._claims.values())

    def release_claims(self, within: float = 2.0) -> list[int]:
        """Release every claim under work, for other workers at once, and claim nothing any more; the jobs' numbers.

        What works on them fails at its next step. Takes `within` seconds at most: what the database has not released
        by then is left to its lease.
        """
        with self._lock:
            self._releasing = True
            claims = list(self._claims.values())
        done: list[int] = []
        if claims:
            release = functools.partial(self._release, claims, done, within)
            thread = threading.Thread(target=release, name="release-claims", daemon=True)
            thread.start()
            thread.join(within)
        # After the release, so that the attempts which this ends do not count.
        with self._lock:
            for reader in self._reading:
                reader.kill()
        return list(done)

    def _release(self, claims: list[Claim], done: list[int], within: float) -> None:
        """On a connection of its own: those of the pool may all be busy with what is to be ended."""
        import psycopg

        given = self.pool.kwargs
        assert isinstance(given, dict)  # as `database.pooled` made it
        where = {**given, "connect_timeout": max(2, int(within))}
        try:
            with psycopg.connect(**where) as conn:
                for held in claims:
                    with contextlib.suppress(ClaimLost, Retry):
                        with conn.transaction():
                            leases.release(conn, held)
                        done.append(held.job.id)
        except psycopg.Error as error:
            log.warning("claims could not be released: %s", error)
