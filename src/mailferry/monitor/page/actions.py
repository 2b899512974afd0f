"""What a person, or a program, may change: jobs, a feed's next run, its gaps. Only by POST."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from mailferry import database, logs
from mailferry.errors import MailferryError, Reject, Retry
from mailferry.mailbox.ledger import admin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.backfill import Backfill
    from mailferry.mailbox.ledger.jobs import Job
    from mailferry.monitor.page.looks import Looks

log = logs.of(__name__)
#: What may be done with a job.
OF_JOBS = {"retry": admin.retry, "cancel": admin.cancel, "acknowledge": admin.acknowledge}
#: Seconds that a person waits while a run holds the feed.
PATIENCE = 20.0


class Actions:
    """Changes of one configuration's feeds and jobs; `by` names who asked, for the log."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        #: Feeds whose gaps are being asked for again.
        self._retrying: set[str] = set()

    def job(self, action: str, number: int, by: str) -> Job:
        """Retry, cancel or acknowledge. Raises Reject where the job is not in a state for it, or there is none."""
        try:
            with self._looks.transaction() as conn:
                job = OF_JOBS[action](conn, number)
        finally:
            self._looks.forget()
        log.info("job %d: %s by %s", number, action, by)
        return job

    def jobs(self, action: str, numbers: Sequence[int], by: str) -> tuple[int, list[str]]:
        """Of many jobs, each in a transaction of its own: how many it was done to, and why not to the rest."""
        done, faults = 0, []
        for number in numbers:
            try:
                self.job(action, number, by)
                done += 1
            except Reject as error:
                faults.append(str(error))
        return done, faults

    def run(self, name: str, by: str) -> None:
        """Have a worker run a feed at once. Raises Reject where no worker has it."""
        with self._looks.transaction() as conn:
            found = conn.execute(
                database.queries("status")["run_now"], {"name": name, "here": self._configured(name)}
            ).fetchone()
        if not found:
            raise Reject(f"No service has run {name} so far; start one: mailferry start")
        self._looks.forget()
        log.info("%s: to be run at once, by %s", name, by)

    def acknowledge_gaps(self, name: str, reason: str, by: str) -> None:
        """Take a feed's open gaps off the list. Raises Reject, Retry or Stop."""
        if not reason.strip():
            raise Reject("Say why that is all right; it stays on record.")

        async def work(filler: Backfill) -> None:
            gaps = (await filler.looked()).open_gaps
            if gaps:
                await asyncio.wait_for(filler.close(gaps, "acknowledged", reason.strip()[:500]), PATIENCE)

        try:
            self._fill(self._event_feed(name), work)
        except TimeoutError:
            raise Retry(f"A run holds {name}; try again when it has ended.") from None
        self._looks.forget()
        log.info("%s: gaps acknowledged by %s", name, by)

    def retry_gaps(self, name: str, by: str) -> None:
        """Ask for a feed's open gaps again, in a thread of its own: that may take long. Raises Reject."""
        feed = self._event_feed(name)
        if name in self._retrying:
            raise Reject(f"The gaps of {name} are being asked for again already.")
        self._retrying.add(name)
        log.info("%s: gaps to be asked for again, by %s", name, by)

        async def work(filler: Backfill) -> None:
            for gap in (await filler.looked()).open_gaps:
                await filler.retry(gap)

        def in_thread() -> None:
            try:
                self._fill(feed, work)
            except MailferryError as error:
                log.warning("%s: gaps were not asked for again: %s", name, error)
            finally:
                self._retrying.discard(name)
                self._looks.forget()

        threading.Thread(target=in_thread, name=f"mailferry gaps {name}", daemon=True).start()

    def _configured(self, name: str) -> bool:
        configuration = self._looks.configuration
        return name in {
            *(feed.section for feed in configuration.events),
            *(feed.name for feed in configuration.mailboxes),
        }

    def _event_feed(self, name: str) -> EventFeed:
        found = next((feed for feed in self._looks.configuration.events if feed.section == name), None)
        if found is None:
            raise Reject(f"There is no event feed {name}.")
        return found

    def _fill(self, feed: EventFeed, work: Callable[[Backfill], Awaitable[None]]) -> None:
        from mailferry.events.backfill import Backfill
        from mailferry.events.connections import Connections

        async def main() -> None:
            connections = Connections()
            filler = Backfill(feed, connections, pool=self._looks.pool, stop=asyncio.Event())
            try:
                await work(filler)
            finally:
                await filler.let_go()
                await connections.close()

        asyncio.run(main())
