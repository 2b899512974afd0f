"""One look at what needs a person, and the word that is due about it, on every channel."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry import database, logs, retry
from mailferry.errors import MailferryError
from mailferry.mailbox.ledger import admin
from mailferry.mailbox.ledger.rows import rejected_rows
from mailferry.monitor.alerts.channels import channels
from mailferry.monitor.alerts.decide import decide, remember
from mailferry.monitor.alerts.memory import FileStore, TableStore
from mailferry.monitor.alerts.wording import ROWS_ATTACHED, RefusedJob, headline
from mailferry.monitor.status import has_database, look_with, look_without
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from mailferry.config.service import Configuration
    from mailferry.database import Pool
    from mailferry.monitor.alerts.channels import Channel, Lookup
    from mailferry.monitor.alerts.decide import Announced
    from mailferry.monitor.alerts.memory import Store
    from mailferry.monitor.connected import Connected
    from mailferry.monitor.facts import Need, Status

log = logs.of(__name__)
#: The file with the memory of the alerts, beside checkpoints or in a data folder.
MEMORY = "alerts.json"
#: Pauses after a channel did not take a message: half a minute, twice that, at most a quarter of an hour.
_FIRST, _LONGEST = 30.0, 900.0


@dataclass(kw_only=True)
class Pauses:
    """When a channel that failed is tried again."""

    _failures: dict[str, int] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)

    def over(self, channel: str) -> bool:
        """Whether it may be tried."""
        return time.monotonic() >= self._until.get(channel, 0)

    def failed(self, channel: str) -> float:
        """It failed; returns the seconds until it may be tried again."""
        self._failures[channel] = self._failures.get(channel, 0) + 1
        pause = retry.pause(self._failures[channel], first=_FIRST, longest=_LONGEST)
        self._until[channel] = time.monotonic() + pause
        return pause

    def worked(self, channel: str) -> None:
        """It took a message."""
        self._failures.pop(channel, None)


def turn(
    configuration: Configuration,
    file: FileStore,
    now: datetime,
    pauses: Pauses,
    connected: Connected,
    *,
    known: Callable[[Status], None] = lambda _: None,
    feeds: frozenset[str] | None = None,
) -> Status:
    """Give the word that is due, with a database's memory where there is one; returns what was seen.

    An unreachable database is remembered in `file`. `known` adds what the caller knows of its own run; `feeds`: only these
    are judged. What cannot be delivered is logged, and due again the next time.
    """
    if not has_database(configuration):
        status = look_without(configuration, now)
        known(status)
        _give(configuration, status, file, now, pauses, status.needs, lambda _: True)
        return status

    def ours(one: Announced | Need) -> bool:
        return feeds is None or one.feed in feeds

    def judged(one: Announced) -> bool:
        return ours(one) and one.host in ("", status.host)

    try:
        pool = connected.pool(configuration.database)
        status = look_with(pool, configuration, now)
        known(status)
        if status.database_error:
            connected.close()
        else:
            needs = [need for need in status.needs if ours(need)]
            _give(
                configuration,
                status,
                TableStore(pool),
                now,
                pauses,
                needs,
                judged,
                lambda job: _refused(pool, job),
            )
    except MailferryError as error:
        connected.close()
        status = look_without(configuration, now, mask(str(error)))
        known(status)
    unreachable = [need for need in status.needs if need.key == "database"]
    _give(configuration, status, file, now, pauses, unreachable, lambda one: one.key == "database")
    return status


def give(
    configuration: Configuration, status: Status, file: FileStore, now: datetime, feeds: frozenset[str]
) -> None:
    """Give the word that is due about these feeds, and this host, from what a run of theirs knows."""
    needs = [need for need in status.needs if not need.feed or need.feed in feeds]
    _give(configuration, status, file, now, Pauses(), needs, lambda one: not one.feed or one.feed in feeds)


def memory_beside(path: Path) -> FileStore:
    """The memory of alerts in a file's folder."""
    return FileStore(path.parent / MEMORY)


def _give(
    configuration: Configuration,
    status: Status,
    store: Store,
    now: datetime,
    pauses: Pauses,
    needs: list[Need],
    judged: Callable[[Announced], bool],
    lookup: Lookup = lambda _: None,
) -> None:
    for channel in channels(configuration.alerts):
        if pauses.over(channel.name):
            try:
                _send(channel, configuration, status, store, now, needs, judged, lookup)
                pauses.worked(channel.name)
            except MailferryError as error:
                pause = pauses.failed(channel.name)
                log.warning(
                    "alerts by %s: %s; tried again in %g s, or by the next run", channel.name, error, pause
                )


def _send(
    channel: Channel,
    configuration: Configuration,
    status: Status,
    store: Store,
    now: datetime,
    needs: list[Need],
    judged: Callable[[Announced], bool],
    lookup: Lookup,
) -> None:
    rules = {"repeat_after": configuration.alerts.repeats, "judged": judged, "host": status.host}
    if not decide(needs, store.look(channel.name), now, **rules):  # type: ignore[arg-type] # each is of its type
        return
    with store.held(channel.name) as held:
        if held is None:
            return  # another process sends; what is left is due the next time
        memory, remembers = held
        for message in channel.split(decide(needs, memory, now, **rules)):  # type: ignore[arg-type]
            if message:
                to = channel.deliver(message, lookup)
                memory = remember(memory, message, now)
                remembers(memory)
                log.info("alerts by %s to %s: %s", channel.name, to, headline(message))


def _refused(pool: Pool, job_id: int) -> RefusedJob | None:
    with database.transaction(pool) as conn:
        details = admin.show(conn, job_id)
        if details is None:
            return None
        rows = {file.id: rejected_rows(conn, file.id, ROWS_ATTACHED) for file in details.files}
    return RefusedJob(job=details.job, files=details.files, rejected=rows)
