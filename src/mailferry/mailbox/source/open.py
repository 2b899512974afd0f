"""The right kind of mailbox, or of watcher, for a feed's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry.config.mailbox import MailboxKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.imap_connection import TokenSource
    from mailferry.mailbox.source.message import Mailbox
    from mailferry.mailbox.source.watch import Watcher
    from mailferry.mailbox.workbook.inspector import Inspector


def open_mailbox(
    settings: MailboxSettings,
    *,
    tokens: TokenSource | None = None,
    look_only: bool = False,
    at_first_use: bool = False,
    inspector: Inspector | None = None,
) -> Mailbox:
    """The mailbox, signed in, by `tokens` where it wants OAuth2 and the caller keeps them. Raises Retry or Stop.

    `look_only`: nothing in it can be changed. `at_first_use`: nothing is opened before it is used, and Unreachable is
    raised there where that fails for now. `inspector`: without it one with a reading child of its own.
    """
    if settings.kind is MailboxKind.MAILDIR:
        from mailferry.mailbox.source.maildir import MaildirMailbox

        return MaildirMailbox(settings, look_only=look_only, at_first_use=at_first_use, inspector=inspector)
    from mailferry.mailbox.source.imap import ImapMailbox

    return ImapMailbox(
        settings, tokens=tokens, look_only=look_only, at_first_use=at_first_use, inspector=inspector
    )


def watcher(
    settings: MailboxSettings, on_news: Callable[[], None], tokens: TokenSource | None = None
) -> Watcher:
    """The watcher for this kind of mailbox, not started yet."""
    if settings.kind is MailboxKind.MAILDIR:
        from mailferry.mailbox.source.watch_maildir import MaildirWatcher

        return MaildirWatcher(settings, on_news)
    from mailferry.mailbox.source.watch_imap import ImapWatcher

    return ImapWatcher(settings, on_news, tokens=tokens)
