"""An open IMAP folder: its connection, made again where it is lost, and what can be asked of one message."""

from __future__ import annotations

import contextlib
import imaplib
from typing import TYPE_CHECKING, Any, TypeVar

from mailferry.config.mailbox import MarkBy
from mailferry.errors import Reject, Retry, Stop
from mailferry.mailbox.source.imap_connection import (
    Dropped,
    connect,
    hang_up,
    is_passing,
    mapped_errors,
    token_source,
)
from mailferry.mailbox.source.message import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.imap_connection import TokenSource
    from mailferry.mailbox.source.message import Head, MessageRef

T = TypeVar("T")

#: What an answer that IMAPClient cannot parse makes it raise.
UNREADABLE = (TypeError, ValueError, IndexError, AttributeError, AssertionError, RecursionError)
#: Messages that are remembered by name, for errors.
_MOST_NAMED = 2000


class ImapSession:
    """An open folder. A connection that was lost is made again once per call; then it is Retry."""

    def __init__(
        self, settings: MailboxSettings, tokens: TokenSource | None, *, look_only: bool, at_first_use: bool
    ) -> None:
        """Connect, sign in, open the folder and check that marks can be set; Stop or Retry when that fails.

        `at_first_use`: all that is done when it is first used, and is Unreachable there instead of Retry.
        """
        self._settings = settings
        self.look_only = look_only
        self.account = f"{settings.username}@{settings.host}"
        self.client: Any = None
        self.uidvalidity = 0
        self.exists = 0
        self._permanent: tuple[bytes, ...] | None = None
        self._names: dict[tuple[int, str], str] = {}
        self._tokens = tokens or token_source(settings)
        self._at_first_use = at_first_use
        if not at_first_use:
            self.run("opening the folder", lambda _client: None)

    def close(self) -> None:
        """Sign out; never raises."""
        if self.client is not None:
            with contextlib.suppress(Exception):
                self.client.logout()
            self.hang_up()

    def name(self, head: Head) -> None:
        """Remember what people know a message by."""
        if len(self._names) >= _MOST_NAMED:
            self._names.clear()
        self._names[head.ref.uidvalidity, head.ref.uid] = head.title

    def named(self, ref: MessageRef) -> str:
        """A message, for errors."""
        title = self._names.get((ref.uidvalidity, ref.uid), f"message {ref.uid}")
        return f"{title} in {ref.folder}"

    def run(self, doing: str, operation: Callable[[Any], T]) -> T:
        """Do something on the connection; where that was lost, again on a new one."""
        try:
            return self.once(doing, operation)
        except Dropped:
            return self.once(doing, operation)

    def once(self, doing: str, operation: Callable[[Any], T]) -> T:
        settings = self._settings
        try:
            if self.client is None:
                self._open(doing)
            with mapped_errors(settings, f"{doing} at {settings.host}"):
                try:
                    return operation(self.client)
                except UNREADABLE as error:
                    raise Retry(f"{doing} at {settings.host}: the answer cannot be read ({error})") from error
        except Reject:
            raise
        except BaseException:
            # after an error it is unknown what is still on its way on this connection
            self.hang_up()
            raise

    def _open(self, doing: str) -> None:
        settings = self._settings
        try:
            with mapped_errors(settings, f"{doing} at {settings.host}"):
                self.client = connect(settings, self._tokens)
                self.select(self.client)
                if not self.look_only:
                    self._check_marks(self.client)
        except Retry as error:
            raise (Unreachable(str(error)) if self._at_first_use else error) from None

    def hang_up(self) -> None:
        if self.client is not None:
            hang_up(self.client)
            self.client = None

    def select(self, client: Any) -> None:
        folder = self._settings.folder
        try:
            answer = client.select_folder(folder, readonly=self.look_only)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            if is_passing(str(error)):
                raise
            names = ", ".join(str(name) for _, _, name in client.list_folders()[:30])
            raise Stop(
                f"the folder {folder!r} of {self.account} cannot be opened; folders there: {names}"
            ) from None
        self.uidvalidity = int(answer.get(b"UIDVALIDITY", 0))
        self.exists = int(answer.get(b"EXISTS", 0))
        self._permanent = answer.get(b"PERMANENTFLAGS")

    def _check_marks(self, client: Any) -> None:
        """Stop now rather than after the first load when the marks that are wanted cannot be set."""
        mark, folder = self._settings.mark, self._settings.folder
        flags = {flag.lower() for flag in self._permanent} if self._permanent is not None else None
        if mark is MarkBy.SEEN and flags is not None and b"\\seen" not in flags:
            raise Stop(
                f"messages in {folder!r} of {self.account} cannot be marked as read; "
                f"set {self._settings.spelled('mark')} = leave or move"
            )
        if mark is MarkBy.KEYWORD and flags is not None and b"\\*" not in flags:
            missing = [k for k in self._settings.marks if k.lower().encode() not in flags]
            if missing:
                raise Stop(
                    f"{self.account} takes no keyword {', '.join(missing)}; set mark = seen, move or leave"
                )
        if mark is MarkBy.MOVE:
            if not (client.has_capability("MOVE") or client.has_capability("UIDPLUS")):
                raise Stop(
                    f"{self._settings.host} cannot move messages (no MOVE, no UIDPLUS); set mark = seen"
                )
            for target in self._settings.marks:
                self._make_folder(client, target)

    def _make_folder(self, client: Any, name: str) -> None:
        if client.folder_exists(name):
            return
        try:
            client.create_folder(name)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            raise Stop(
                f"the folder {name!r} of {self.account} cannot be made ({error}); make it by hand"
            ) from None

    def fetch_one(self, client: Any, ref: MessageRef, *items: str) -> dict[bytes, Any] | None:
        """The items of one message; None when it is gone. Only what has no BODY in its name may be missing.

        Of a message that another session deleted, servers return what they have cached and NIL for the rest (RFC 2180
        4.1.3); and a change of flags that comes unasked is no answer at all.
        """
        fetched = self._fetched(client, ref, items)
        if fetched is None:
            # What arrived after the folder was opened may be unknown on this connection: another host's job is such a message.
            self.select(client)
            fetched = self._fetched(client, ref, items)
        return fetched

    def _fetched(self, client: Any, ref: MessageRef, items: tuple[str, ...]) -> dict[bytes, Any] | None:
        if ref.uidvalidity != self.uidvalidity:
            return None
        fetched: dict[bytes, Any] = client.fetch([int(ref.uid)], list(items)).get(int(ref.uid), {})
        for item in items:
            wanted = item.partition("<")[0].replace(".PEEK", "").encode()
            if wanted.startswith(b"BODY") and not any(
                key.startswith(wanted) and value is not None for key, value in fetched.items()
            ):
                return None
        return fetched


def content(fetched: dict[bytes, Any], key: bytes) -> bytes:
    """The literal under a key that servers write with additions (`<0>`, quoted field names)."""
    for name, value in fetched.items():
        if name.startswith(key):
            return value if isinstance(value, bytes) else str(value or "").encode()
    return b""
