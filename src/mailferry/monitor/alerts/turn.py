"""One look at what needs a person, and the messages that are due about it, on every channel."""

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
    from datetime import datetime, timedelta
    from pathlib import Path

    from mailferry.config.alert_settings import AlertSettings
    from mailferry.config.service import Configuration
    from mailferry.database import Pool
    from mailferry.monitor.alerts.channels import Channel, Lookup
    from mailferry.monitor.alerts.decide import Announced, Memory, Message
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What one memory is compared with."""

    host: str
    needs: list[Need]
    #: Whether `needs` would hold this one if it were still there.
    judged: Callable[[Announced], bool]
    lookup: Lookup = lambda _: None


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
    """Send the messages that are due, with a database's memory where there is one; returns what was seen.

    An unreachable database is remembered in `file`. `known` adds what the caller knows of its own run; `feeds`: only these
    are judged. What cannot be delivered is logged, and due again the next time.
    """
    settings = configuration.alerts
    if not has_database(configuration):
        status = look_without(configuration, now)
        known(status)
        seen = _Seen(host=status.host, needs=status.needs, judged=lambda _: True)
        _give(settings, seen, file, now, pauses)
        return status

    def ours(one: Announced | Need) -> bool:
        return feeds is None or one.feed in feeds

    try:
        pool = connected.pool(configuration.database)
        status = look_with(pool, configuration, now)
        known(status)
        if status.database_error:
            connected.close()
        else:
            seen = _Seen(
                host=status.host,
                needs=[need for need in status.needs if ours(need)],
                judged=lambda one: ours(one) and one.host in ("", status.host),
                lookup=lambda job: _refused(pool, job),
            )
            _give(settings, seen, TableStore(pool), now, pauses)
    except MailferryError as error:
        connected.close()
        status = look_without(configuration, now, mask(str(error)))
        known(status)
    unreachable = [need for need in status.needs if need.key == "database"]
    seen = _Seen(host=status.host, needs=unreachable, judged=lambda one: one.key == "database")
    _give(settings, seen, file, now, pauses)
    return status


def give(
    settings: AlertSettings, status: Status, file: FileStore, now: datetime, feeds: frozenset[str]
) -> None:
    """Send the messages that are due about these feeds, and this host, from what a run of theirs knows."""

    def ours(one: Announced | Need) -> bool:
        return not one.feed or one.feed in feeds

    seen = _Seen(host=status.host, needs=[need for need in status.needs if ours(need)], judged=ours)
    _give(settings, seen, file, now, Pauses())


def memory_beside(path: Path) -> FileStore:
    """The memory of alerts in a file's folder."""
    return FileStore(path.parent / MEMORY)


def _give(settings: AlertSettings, seen: _Seen, store: Store, now: datetime, pauses: Pauses) -> None:
    for channel in channels(settings):
        if pauses.over(channel.name):
            try:
                _send(channel, settings.repeats, seen, store, now)
                pauses.worked(channel.name)
            except MailferryError as error:
                pause = pauses.failed(channel.name)
                log.warning("alerts by %s: %s; again in %g s, or by the next run", channel.name, error, pause)


def _send(channel: Channel, repeats: timedelta | None, seen: _Seen, store: Store, now: datetime) -> None:
    def due(memory: Memory) -> Message:
        return decide(seen.needs, memory, now, repeat_after=repeats, judged=seen.judged, host=seen.host)

    if not due(store.look(channel.name)):
        return
    with store.held(channel.name) as held:
        if held is None:
            return  # another process sends; what is left is due the next time
        memory, remembers = held
        for message in channel.split(due(memory)):
            if message:
                to = channel.deliver(message, seen.lookup)
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
