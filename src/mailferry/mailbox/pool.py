"""The open parts of many mailbox feeds, kept warm and lent out: what a process of the service works with.

    with stations.lend("orders") as work:
        poll(work)

Threads may share it. Each borrower has a connection to the mailbox of its own, and a reading child of its own while it
reads; both stay open for the next. Nothing is opened before it is used, so files that are on record are loaded while
their mailbox is away.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Self

from mailferry import database, logs
from mailferry.clock import local_now
from mailferry.errors import Retry
from mailferry.mailbox.context import Work, open_mailbox
from mailferry.mailbox.folders import Folders, reading_prefix
from mailferry.mailbox.idle import LazyMailbox, Readers, Shelf
from mailferry.mailbox.ledger import leases
from mailferry.mailbox.ledger.jobs import ClaimLost

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.mailbox.ledger.jobs import Claim
    from mailferry.mailbox.source.message import Mailbox, MessageRef
    from mailferry.mailbox.source.oauth import Tokens

log = logs.of(__name__, logs.DATABASE)

#: Seconds after which what nobody borrows is closed: before servers (30 minutes) and firewalls (a few) drop it.
_IDLE = 120.0
#: Seconds between two looks whether the folders of a feed have become free.
_TURN = 0.2
#: Seconds that a mailbox which could not be reached is left alone when messages are to be marked.
_AWAY = 30.0


class Stations:
    """All mailbox feeds of one process. New configuration means a new one."""

    def __init__(
        self,
        feeds: Mapping[str, MailboxFeed],
        pool: database.Pool,
        *,
        runner: str,
        stop: threading.Event,
        clock: Callable[[], dt.datetime] = local_now,
        lease: dt.timedelta = leases.LEASE,
        idle: float = _IDLE,
    ) -> None:
        """`feeds` by name. `pool` needs two connections for each job at a time: one loads, one renews its claim.

        `runner` is who we are, for the ledger. `stop` ends what can be ended after its current step. `lease`: how long
        a claim holds when this process is no longer heard of. `idle`: seconds that unused connections stay open.
        """
        self.feeds = dict(feeds)
        self.pool = pool
        self.lease = lease
        self._runner = runner
        self._stop = stop
        self._clock = clock
        self._lock = threading.Lock()
        self._mailboxes: Shelf[str, LazyMailbox] = Shelf(idle)
        self._readers = Readers(idle)
        self._tokens: dict[tuple[object, ...], Tokens] = {}
        self._failures: dict[str, Counter[MessageRef]] = defaultdict(Counter)
        self._away_until: dict[str, float] = {}
        self._held: dict[int, Claim] = {}
        self._handing_back = False
        #: Folders that are ours, as long as `_locks` is open. A disk may be slow, and holds up nothing else.
        self._folders_lock = threading.Lock()
        self._shared: set[Path] = set()
        self._locks = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is not lent; what is, is closed when it comes back."""
        self._mailboxes.close()
        self._readers.close()
        with self._folders_lock:
            self._locks.close()
            self._shared.clear()

    def rest(self) -> None:
        """Close what nobody has borrowed for long; to be called every minute or so."""
        self._mailboxes.cool()
        self._readers.cool()

    # --- lending

    @contextlib.contextmanager
    def lend(self, feed_name: str) -> Iterator[Work]:
        """The feed's parts, for one thread. Waits, and says so, while a `mailferry load` has the folders to itself.

        Raises Stop where the folders cannot be used, Retry where `stop` comes while it waits.
        """
        feed = self.feeds[feed_name]
        self._wait_for_folders(feed)
        mailbox = self._mailboxes.take(feed_name) or self._new_mailbox(feed)
        folders = Folders(base=feed.base_dir)
        try:
            yield Work(
                feed=feed,
                pool=self.pool,
                mailbox=mailbox,
                reader=self._readers.of(feed.limits, folders.pending, reading_prefix()),
                folders=folders,
                clock=self._clock,
                stop=self._stop,
                runner=self._runner,
                tokens=self.tokens(feed_name),
                lease=self.lease,
                failures=self._failures[feed_name],
            )
        except BaseException:
            mailbox.close()
            raise
        self._mailboxes.give(feed_name, mailbox)

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

    def ready(self, feed_names: Collection[str]) -> list[str]:
        """Those of the feeds whose folders this process has, or gets at once. Raises Stop."""
        return [name for name in feed_names if self._share(self.feeds[name])]

    def _new_mailbox(self, feed: MailboxFeed) -> LazyMailbox:
        def open_() -> Mailbox:
            mailbox = open_mailbox(feed.mailbox, tokens=self.tokens(feed.name))
            self._away_until.pop(feed.name, None)
            return mailbox

        return LazyMailbox(open_)

    def _wait_for_folders(self, feed: MailboxFeed) -> None:
        told = False
        while not self._share(feed):
            if not told:
                log.info("%s: waiting, a `mailferry load` works in %s", feed.name, feed.base_dir)
                told = True
            if self._stop.wait(_TURN):
                raise Retry(f"{feed.name}: asked to stop while a `mailferry load` works in {feed.base_dir}")

    def _share(self, feed: MailboxFeed) -> bool:
        folders = Folders(base=feed.base_dir)
        with self._folders_lock:
            if folders.base in self._shared:
                return True
            folders.prepare()
            with contextlib.ExitStack() as trial:
                if trial.enter_context(folders.shared()):
                    self._shared.add(folders.base)
                    self._locks.push(trial.pop_all())
                    return True
        return False

    # --- mailboxes that are away

    def away(self, feed_name: str) -> bool:
        """Whether the feed's mailbox was found away a moment ago, and not opened since: marking in it had better wait."""
        return time.monotonic() < self._away_until.get(feed_name, 0)

    def found_away(self, feed_name: str) -> None:
        """The mailbox cannot be used at the moment."""
        self._away_until[feed_name] = time.monotonic() + _AWAY

    # --- claims

    def claim(self, target: str, feed_names: Collection[str]) -> Claim | None:
        """The table's next job, where it is due and one of these feeds'. To be worked on within `working`."""
        with database.transaction(self.pool) as conn:
            held = leases.claim(
                conn, runner=self._runner, feeds=feed_names, target=target, by_lease=True, lease=self.lease
            )
        if held is None:
            return None
        with self._lock:
            if not self._handing_back:
                self._held[held.job.id] = held
                return held
        with database.transaction(self.pool) as conn:
            leases.release(conn, held)
        return None

    @contextlib.contextmanager
    def working(self, held: Claim) -> Iterator[None]:
        """As long as the work on a claim goes on."""
        try:
            yield
        finally:
            with self._lock:
                if self._held.get(held.job.id) == held:
                    del self._held[held.job.id]

    @property
    def held(self) -> list[Claim]:
        """The claims under work."""
        with self._lock:
            return list(self._held.values())

    def hand_back(self, within: float = 2.0) -> list[int]:
        """Give up every claim under work, for others to take at once, and claim nothing any more; the jobs' numbers.

        What works on them fails at its next step. Takes `within` seconds at most: what the database has not taken
        back by then is left to its lease.
        """
        with self._lock:
            self._handing_back = True
            given_up = list(self._held.values())
        done: list[int] = []
        if given_up:
            release = functools.partial(self._release, given_up, done, within)
            thread = threading.Thread(target=release, name="hand-back", daemon=True)
            thread.start()
            thread.join(within)
        # After the release, so that the attempts which this ends do not count.
        self._readers.kill()
        return list(done)

    def _release(self, given_up: list[Claim], done: list[int], within: float) -> None:
        """On a connection of its own: those of the pool may all be busy with what is to be ended."""
        import psycopg

        given = self.pool.kwargs
        assert isinstance(given, dict)  # as `database.pooled` made it
        where = {**given, "connect_timeout": max(2, int(within))}
        try:
            with psycopg.connect(**where) as conn:
                for held in given_up:
                    with contextlib.suppress(ClaimLost, Retry):
                        with conn.transaction():
                            leases.release(conn, held)
                        done.append(held.job.id)
        except psycopg.Error as error:
            log.warning("claims could not be handed back: %s", error)
