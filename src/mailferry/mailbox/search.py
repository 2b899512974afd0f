"""Which messages are to be taken in: not marked yet, wanted by the filters, and without a job.

The headers of a message that is not wanted are fetched once: the ledger remembers such strangers as long as they stay
unmarked. A message that is marked is forgotten, so one that is set unread again is looked at again; so is every message
when a filter changes, and when the mailbox numbers its messages again (UIDVALIDITY).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.errors import Retry
from mailferry.mailbox.ledger import records, strangers
from mailferry.mailbox.source.matcher import Look, Matcher

if TYPE_CHECKING:
    from mailferry.mailbox.context import Work
    from mailferry.mailbox.source.message import Head

log = logs.of(__name__, logs.EMAIL)


class LeftOpen(Retry):
    """Some messages stay in the mailbox for a later run, as their headers cannot be read or by a limit; all other messages are recorded."""


#: Messages whose headers are fetched before what was decided is on record.
_BATCH = 2000


def search(work: Work) -> Look:
    """The messages without a job that are wanted, and those whose headers cannot be read. Raises Retry or Stop."""
    feed = work.feed.name
    matcher = Matcher.of(work.feed.mailbox)
    unmarked = work.mailbox.unmarked()
    view = strangers.view(unmarked, matcher.fingerprint)
    with work.transaction() as conn:
        known = strangers.known(conn, feed, view)
        strangers.forget(conn, feed, view, known - {ref.uid for ref in unmarked})
        new = records.unknown(conn, feed, [ref for ref in unmarked if ref.uid not in known])
    wanted: list[Head] = []
    unreadable: list[Head] = []
    for start in range(0, len(new), _BATCH):
        look = matcher.sort(work.mailbox.heads(new[start : start + _BATCH]))
        with work.transaction() as conn:
            strangers.add(conn, feed, view, [head.ref for head in look.strangers])
        for head in look.strangers:
            log.debug("%s: %s: %s", feed, head.title, matcher.mismatch(head))
        wanted += look.wanted
        unreadable += look.unreadable
    for head in unreadable:
        log.error("%s: %s: %s; the next run tries again", feed, head.title, head.problem)
    text = "%s: %d messages found, %d of them not looked at before, %d to take in"
    log.info(text, feed, len(unmarked), len(new), len(wanted))
    return matcher.sort([*wanted, *unreadable])
