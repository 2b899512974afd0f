"""Keeping a feed's folders in order: what no job needs goes at once, the rest after its time."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.mailbox.ledger import records
from mailferry.mailbox.settle import put_away_left_behind

if TYPE_CHECKING:
    from mailferry.mailbox.context import Work

log = logs.of(__name__, logs.FILES)


def tidy(work: Work) -> None:
    """For a process that shares the folders: every host does it now and then for all its feeds. Raises Retry."""
    sweep(work, alone=False)
    expire(work)


def sweep(work: Work, *, alone: bool) -> None:
    """What lies in `pending` and is not needed there. `alone`: no other process works in these folders. Raises Retry."""
    if waiting := work.folders.waiting(alone=alone):
        with work.transaction() as conn:
            jobs = records.left_behind(conn, waiting)
        for job_id in jobs:
            put_away_left_behind(work.pool, work.folders, job_id, work.clock())
    with work.transaction() as conn:
        work.folders.sweep(lambda paths: records.recorded(conn, paths), alone=alone)


def expire(work: Work) -> None:
    """Retention of files and of rejected rows."""
    days, now = work.feed.retention_days, work.clock()
    if not days:
        return
    files = work.folders.expire(days, now)
    with work.transaction() as conn:
        rows = records.forget(conn, work.feed.name, now - dt.timedelta(days=days))
    if files or rows:
        log.info(
            "%s: %d files and %d rejected rows over %d days old deleted",
            work.feed.name,
            files,
            rows,
            days,
        )
