"""The alerts of a run by cron: a ping when it begins, alerts and a ping when it has ended. None of it fails the run."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailferry import logs
from mailferry.clock import local_now
from mailferry.disk import make_folder
from mailferry.errors import MailferryError
from mailferry.monitor.alerts.turn import Pauses, give, memory_beside, turn
from mailferry.monitor.connected import Connected
from mailferry.monitor.facts import FeedStatus
from mailferry.monitor.status import judge, look, look_without
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mailferry.config.alert_settings import AlertSettings
    from mailferry.config.service import Configuration
    from mailferry.events.collector import Result
    from mailferry.mailbox.run_result import Run
    from mailferry.monitor.facts import Status

log = logs.of(__name__)
#: More than the service repeats within seconds: a run by cron is not repeated.
_FINAL = 100


def begin(settings: AlertSettings) -> None:
    """A ping that the run began; not waited for."""
    if settings.ping_url:
        threading.Thread(
            target=ping_quietly, args=(settings, "start"), name="mailferry ping", daemon=True
        ).start()


def collected(
    configuration: Configuration, results: Sequence[Result], checkpoint: Path, *, good: bool
) -> None:
    """Word about event feeds after their run; it is remembered beside that checkpoint."""
    _ended(configuration, good=good, text="; ".join(filter(None, (result.error for result in results))))
    if not (configuration.alerts.mail_to or configuration.alerts.webhook):
        return
    try:
        now = local_now()
        # A section with faults has no feed, and the same result.
        tables = any(feed.destination == "table" for feed in configuration.events)
        status = look(configuration, now) if tables else look_without(configuration, now)
        for result in results:
            _know(status, result, now)
        judge(status)
        # What another process works on, and what was stopped, is judged by the run that ends it.
        judged = frozenset(result.section for result in results if result.status in ("completed", "error"))
        make_folder(checkpoint.parent)
        give(configuration.alerts, status, memory_beside(checkpoint), now, judged)
    except (MailferryError, OSError) as error:
        log.warning("alerts: %s", error)


def loaded(configuration: Configuration, run: Run) -> None:
    """Word about a mailbox feed after its run."""
    _ended(configuration, good=run.exit_status == 0, text=run.error)
    if not (configuration.alerts.mail_to or configuration.alerts.webhook) or run.status in (
        "skipped",
        "stopped",
    ):
        return
    feed = next(one for one in configuration.mailboxes if one.name == run.feed)
    only = replace(configuration, events=(), mailboxes=(feed,))

    def known(status: Status) -> None:
        open_ended = "failed" if run.troubles else "completed"
        ended = run.status if run.status in ("failed", "blocked") else open_ended
        _ran(status.feeds[0], ended, "; ".join(filter(None, [run.error, *run.troubles])))
        judge(status)

    try:
        file = memory_beside(feed.base_dir / "any")
        with Connected() as connected:
            feeds = frozenset({run.feed, ""})
            turn(only, file, local_now(), Pauses(), connected, known=known, feeds=feeds)
    except (MailferryError, OSError) as error:
        log.warning("alerts: %s", error)


def ping_quietly(settings: AlertSettings, what: str, text: str = "") -> None:
    """A ping that may fail: its check notices that nothing came."""
    from mailferry.monitor.alerts.channels import ping

    if settings.ping_url:
        try:
            ping(settings.ping_url.get_secret_value(), what, mask(text))
        except MailferryError as error:
            log.warning("alerts by ping: %s", error)


def _ended(configuration: Configuration, *, good: bool, text: str) -> None:
    ping_quietly(configuration.alerts, "" if good else "fail", text)


def _know(status: Status, result: Result, now: datetime) -> None:
    """What a run of an event feed came to."""
    feed = next((one for one in status.feeds if one.name == result.section), None)
    if feed is None:
        feed = FeedStatus(name=result.section, kind="events", schedule="")
        status.feeds.append(feed)
    if result.status == "completed":
        feed.last_good = now
        _ran(feed, "completed", result.error)
    elif result.status == "error":
        _ran(feed, "blocked" if result.blocked or result.misconfigured else "failed", result.error)
    if result.position is not None and feed.position is None:
        feed.position = datetime.fromtimestamp(result.position, UTC)


def _ran(feed: FeedStatus, ended: str, error: str) -> None:
    feed.ended, feed.run_error, feed.failures = ended, mask(error), _FINAL if ended == "failed" else 0
    feed.overdue = feed.silent = False
