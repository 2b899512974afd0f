"""What the pages call things: kinds of needs and what to do, states, what was done."""

from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any

from mailferry.monitor.page.phrases import turkish
from mailferry.secrets import mask_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mailferry.monitor.facts import FeedStatus, Need

KINDS = {
    "job": "Refused mail",
    "rows": "Rejected rows",
    "gap": "Open gap",
    "failing": "Runs fail",
    "blocked": "Blocked feed",
    "behind": "Far behind",
    "silent": "Not run",
    "missing": "Events are missing",
    "disk": "Disk is low",
    "workers": "No worker",
    "configuration": "Configuration not taken",
    "database": "Database",
}
#: What to do; of a kind that is not known here, the need itself says it.
ADVICE = {
    "job": "Ask the sender for a correct file, or correct what is wrong here and try again; then acknowledge it.",
    "jobs": "See them all; many can be tried again or acknowledged at once.",
    "rows": "The other rows are loaded. Send the rejected ones back for correction, then acknowledge it.",
    "gap": "Try again; if the provider no longer has that time, acknowledge the gap with a reason.",
    "failing": "The next run tries again; see the reason and the log.",
    "blocked": "Correct what the reason says; then run it now.",
    "behind": "See why it is slow, or does not run.",
    "silent": "See that its service, or its cron job, still runs, and its log.",
    "missing": "See what moved or changed the files, then: mailferry verify --repair",
    "disk": "Free space there: when it is full, everything that is written there waits.",
    "workers": "Start it again on that host: mailferry start",
    "configuration": "The old one is still at work; correct the new one, then: mailferry reload",
    "database": "See that it runs and can be reached from this host. Work waits until it answers; nothing is lost.",
}
STATES = {
    "new": "new",
    "running": "running",
    "completed": "good",
    "stopped": "stopped",
    "skipped": "skipped",
    "failed": "failed",
    "blocked": "blocked",
    "cut off": "cut off",
    "unknown": "unknown",
    "pending": "waiting",
    "in_progress": "at work",
    "cancelled": "cancelled",
    "refused": "refused",
    "rows": "rows rejected",
    "loaded": "loaded",
    "duplicate": "duplicate",
    "undone": "undone",
    "rejected": "rejected",
    "watching": "watched",
    "polling": "polled",
    "unreachable": "unreachable",
}
DAYS = {
    "audited": "listed again",
    "whole": "listed",
    "part": "not all listed yet",
    "gap": "open gap",
    "missing": "events are missing",
    "none": "before the feed began",
}
GAPS = {
    "saturated": "a second is too full",
    "expired": "the provider no longer has it",
    "open": "open",
    "filled": "filled",
    "acknowledged": "acknowledged",
}
COUNTS = {
    "read": "read",
    "rows_read": "rows read",
    "inserted": "inserted",
    "updated": "updated",
    "unchanged": "unchanged",
    "superseded": "superseded",
    "rejected": "rejected",
    "completed": "jobs done",
    "failed": "jobs failed",
    "files": "files",
    "errors": "files refused",
    "warnings": "warnings",
    "without_time": "without a time",
    "changed": "changed since",
    "details_missing": "without detail",
    "unreadable": "unreadable values",
}
VOLUMES = {"events": "{count} events", "mailbox": "{count} rows"}
QUEUE = {"todo": "waiting", "doing": "at work", "failed": "failed"}
#: After a form: what was done, by the name of the action.
DONE = {
    "retry": "To be done again: {count}.",
    "cancel": "Cancelled: {count}.",
    "acknowledge": "Acknowledged: {count}.",
    "run": "The feed will be run within seconds.",
    "retry-gaps": "The gaps are being asked for again; those that are filled leave this list.",
    "acknowledge-gaps": "The gaps were acknowledged.",
}


def helpers(_: Callable[..., Any], lang: str) -> dict[str, Any]:
    """What templates call, in the reader's language."""
    return {
        **{
            name: functools.partial(_named, _, texts)
            for name, texts in (
                ("kind_name", KINDS),
                ("state_name", STATES),
                ("day_name", DAYS),
                ("gap_name", GAPS),
                ("count_name", COUNTS),
                ("queue_state", QUEUE),
            )
        },
        "advice": lambda need: _advice(_, need),
        "said": functools.partial(_said, lang),
        "volume": lambda feed: _volume(_, lang, feed),
    }


def done(_: Callable[..., Any], query: Mapping[str, str]) -> Any:
    """The sentence after a form, by the address that it led to; "" for none."""
    action, count = query.get("done", ""), query.get("count", "1")
    if action not in DONE or not count.isascii() or not count.isdecimal():
        return ""
    return _(DONE[action], count=count[:9])


def machine() -> str:
    """What this machine is called."""
    return socket.gethostname()


def _named(_: Callable[..., Any], texts: Mapping[str, str], name: object) -> Any:
    """What a name of the code is called; one that is not known is shown as it is."""
    text = texts.get(str(name))
    return str(name).replace("_", " ") if text is None else _(text)


def _advice(_: Callable[..., Any], need: Need) -> Any:
    kind = "jobs" if need.kind == "job" and not need.job_id else need.kind
    return _(ADVICE[kind]) if kind in ADVICE else need.advice


def _said(lang: str, reason: str) -> str:
    """A reason, in the reader's language where it is ours."""
    shown = mask_lines(reason)
    return turkish(shown) if lang == "tr" else shown


def _volume(_: Callable[..., Any], lang: str, feed: FeedStatus) -> Any:
    from mailferry.monitor.page.render import DASH, number

    if not feed.hours:
        return DASH
    return _(VOLUMES[feed.kind], count=number(lang, sum(feed.hours)))
