"""`mailferry load`: the steps of the service (`turns`) for one feed, until nothing is due, see `attempts`.

find, choose, store, record (`intake`) -> read, load (`load`) -> put away, mark (`settle`). Any crash is repaired
by running again: the ledger knows every job, a message is marked only after the commit that holds its rows, and what
was stored but not recorded is fetched again under the same name.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.clock import local_now
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.folders import Folders, reading_prefix
from mailferry.mailbox.run_result import Run
from mailferry.mailbox.workbook.reader import Reader
from mailferry.secrets import mask

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from mailferry.config.mailbox_feed import MailboxFeed

log = logs.of(__name__, logs.EMAIL)


def run(
    feed: MailboxFeed,
    *,
    stop: threading.Event | None = None,
    clock: Callable[[], dt.datetime] = local_now,
    watch: Callable[[str, float, int], None] = lambda _feed, _share, _rows: None,
) -> Run:
    """Load everything that has arrived. Faults are in the result, not raised; `stop` ends it after the current step.

    `watch` is called after each job with the share of the known jobs that are done, 0 to 1, and the rows read.

    Passing faults of mailbox or database are tried again after 1, 2 and 4 seconds, as are those of a single job.
    """
    result = Run(feed=feed.name, watch=watch)
    stop = stop or threading.Event()
    folders = Folders(base=feed.base_dir)
    try:
        folders.prepare()
        with folders.alone() as alone, Reader(feed.limits, folders.pending, reading_prefix()) as reader:
            if alone:
                if _has_new(feed):
                    # Beside the imports below, which are most of a small run. What goes wrong is the first file's to report.
                    with contextlib.suppress(Retry):
                        reader.start()
                from mailferry.mailbox import attempts

                attempts.run(feed, result, reader, stop=stop, clock=clock)
            else:
                result.skip(f"another process works in {folders.base}")
    except Retry as error:
        result.status, result.error = "failed", mask(str(error))
    except MailferryError as error:
        result.status, result.error = "blocked", mask(str(error))
    if result.error:
        log.error("%s: %s", feed.name, result.error)
    elif stop.is_set():
        result.status = "stopped"
    return result


def _has_new(feed: MailboxFeed) -> bool:
    """Whether mail lies in a Maildir that no program has looked at yet; of a server that is not known here."""
    if feed.mailbox.path is None:
        return False
    with contextlib.suppress(OSError), os.scandir(feed.mailbox.path / "new") as entries:
        return any(True for _ in entries)
    return False
