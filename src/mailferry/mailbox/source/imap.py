"""A mailbox on an IMAP server (RFC 3501): find, describe, fetch in pieces, mark.

Waiting for new mail (IDLE) belongs beside this, on a connection of its own from `imap_session.connect`.
"""

from __future__ import annotations

import contextlib
import imaplib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from mailferry.config.mailbox import Auth, MarkBy
from mailferry.errors import Reject, Retry, Stop
from mailferry.mailbox.source.headers import MAX_HEADER, contains, parse_headers
from mailferry.mailbox.source.imap_connection import Dropped, connect, hang_up, is_passing, mapped_errors
from mailferry.mailbox.source.message import MessageRef, Outcome, Summary
from mailferry.mailbox.source.mime import from_bodystructure, leaves
from mailferry.mailbox.source.transfer_encoding import PIECE, decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.imap_connection import TokenSource
    from mailferry.mailbox.source.message import Part

T = TypeVar("T")

#: Messages searched at once: imaplib takes no line of over a million bytes, and a UID is up to 11 of them.
_SEARCH_RANGE = 50_000
#: Messages asked about at once.
_BATCH = 500
_UNQUOTED = re.compile(r'[(){}%*"\\\[\]]')
_HEADER_FIELDS = "BODY.PEEK[HEADER.FIELDS (SUBJECT FROM)]"
#: What a description that IMAPClient cannot parse makes it raise.
_UNREADABLE = (TypeError, ValueError, IndexError, AttributeError, AssertionError, RecursionError)


class ImapMailbox:
    """An open folder. A connection that was lost is made anew once per call; then it is Retry."""

    def __init__(
        self, settings: MailboxSettings, *, tokens: TokenSource | None = None, look_only: bool = False
    ) -> None:
        """Connect, sign in, open the folder and check that marks can be set; Stop or Retry when that fails.

        `look_only` opens the folder read-only (EXAMINE), and `mark` then does nothing.
        """
        self._settings = settings
        self._look_only = look_only or settings.mark is MarkBy.LEAVE
        self._account = f"{settings.username}@{settings.host}"
        self._client: Any = None
        self._uidvalidity = 0
        self._exists = 0
        self._permanent: tuple[bytes, ...] | None = None
        if tokens is None and settings.auth is not Auth.PASSWORD:
            from mailferry.mailbox.source.oauth import Tokens

            assert settings.oauth is not None
            tokens = Tokens(settings.oauth)
        self._tokens = tokens
        self._run("opening the folder", lambda _client: None)

    # --- the protocol

    def find(self) -> Sequence[MessageRef]:
        """Messages that match subject and sender and are not marked yet, oldest first (INTERNALDATE, then UID)."""
        return self._run(f"searching {self._settings.folder}", self._find)

    def summary(self, ref: MessageRef) -> Summary | None:
        """Headers and structure; None when it is gone. Reject when the server's description is beyond reading."""
        if (fetched := self._describe(ref)) is None:
            return None
        headers = parse_headers(_content(fetched, b"BODY[HEADER]"))
        size = fetched.get(b"RFC822.SIZE")
        return Summary(
            ref=ref,
            subject=headers.subject,
            sender=headers.sender,
            message_id=headers.message_id,
            received=_received(fetched),
            size=size if isinstance(size, int) else 0,
            parts=tuple(part for part, _ in leaves(from_bodystructure(fetched.get(b"BODYSTRUCTURE")))),
        )

    def raw_header(self, ref: MessageRef) -> bytes:
        """The header block, up to 1 MiB of it. Retry when the message is gone."""
        fetched = self._run(
            f"reading the header of {_named(ref)}",
            lambda client: self._fetch_one(client, ref, f"BODY.PEEK[HEADER]<0.{MAX_HEADER}>"),
        )
        if fetched is None:
            raise Retry(f"{_named(ref)} is no longer there")
        return _content(fetched, b"BODY[HEADER]")

    def fetch(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        """Decoded content in pieces. A connection lost on the way is made anew once, and the fetch goes on there."""
        return decoded(self._pieces(ref, part), part.encoding)

    def mark(self, ref: MessageRef, outcome: Outcome) -> None:
        """Mark as configured; of a message that is gone nothing is left to mark."""
        if not self._look_only:
            self._run(f"marking {_named(ref)}", lambda client: self._mark(client, ref, outcome))

    def close(self) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.logout()
            self._hang_up()

    # --- connection

    def _run(self, doing: str, operation: Callable[[Any], T]) -> T:
        """Do something on the connection; where that was lost, once more on a new one."""
        try:
            return self._once(doing, operation)
        except Dropped:
            return self._once(doing, operation)

    def _once(self, doing: str, operation: Callable[[Any], T]) -> T:
        settings = self._settings
        try:
            with mapped_errors(settings, f"{doing} at {settings.host}"):
                if self._client is None:
                    self._client = connect(settings, self._tokens)
                    self._select(self._client)
                    if not self._look_only:
                        self._check_marks(self._client)
                try:
                    return operation(self._client)
                except _UNREADABLE as error:
                    raise Retry(f"{doing} at {settings.host}: the answer cannot be read ({error})") from error
        except Reject:
            raise
        except BaseException:
            # after an error nobody knows what is still on its way on this connection
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        if self._client is not None:
            hang_up(self._client)
            self._client = None

    def _select(self, client: Any) -> None:
        folder = self._settings.folder
        try:
            answer = client.select_folder(folder, readonly=self._look_only)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error as error:
            if is_passing(str(error)):
                raise
            names = ", ".join(str(name) for _, _, name in client.list_folders()[:30])
            raise Stop(
                f"the folder {folder!r} of {self._account} cannot be opened; folders there: {names}"
            ) from None
        self._uidvalidity = int(answer.get(b"UIDVALIDITY", 0))
        self._exists = int(answer.get(b"EXISTS", 0))
        self._permanent = answer.get(b"PERMANENTFLAGS")

    def _check_marks(self, client: Any) -> None:
        """Stop now rather than after the first load when the marks that are wanted cannot be set."""
        mark, folder = self._settings.mark, self._settings.folder
        flags = {flag.lower() for flag in self._permanent} if self._permanent is not None else None
        if mark is MarkBy.SEEN and flags is not None and b"\\seen" not in flags:
            raise Stop(
                f"messages in {folder!r} of {self._account} cannot be marked as read; set mark = leave or move"
            )
        if mark is MarkBy.KEYWORD and flags is not None and b"\\*" not in flags:
            missing = [k for k in self._settings.marks if k.lower().encode() not in flags]
            if missing:
                raise Stop(
                    f"{self._account} takes no keyword {', '.join(missing)}; set mark = seen, move or leave"
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
                f"the folder {name!r} of {self._account} cannot be made ({error}); make it by hand"
            ) from None

    # --- find

    def _find(self, client: Any) -> list[MessageRef]:
        # opened anew, so that UIDVALIDITY and the number of messages are of now
        self._select(client)
        found: list[tuple[datetime, int]] = []
        uids = self._search(client)
        for start in range(0, len(uids), _BATCH):
            for uid, fetched in client.fetch(
                uids[start : start + _BATCH], ["INTERNALDATE", _HEADER_FIELDS]
            ).items():
                if self._matches(_content(fetched, b"BODY[HEADER.FIELDS")):
                    date = fetched.get(b"INTERNALDATE")
                    found.append(
                        (date if isinstance(date, datetime) else datetime.fromtimestamp(0, UTC), uid)
                    )
        return [self._ref(uid) for _, uid in sorted(found)]

    def _ref(self, uid: int) -> MessageRef:
        return MessageRef(
            account=self._account, folder=self._settings.folder, uidvalidity=self._uidvalidity, uid=str(uid)
        )

    def _matches(self, header: bytes) -> bool:
        """Servers compare encoded words, case and spaces differently, so their answer is checked here."""
        headers = parse_headers(header)
        return contains(headers.subject, self._settings.subject_filter) and contains(
            headers.sender, self._settings.sender_filter
        )

    def _search(self, client: Any) -> list[int]:
        settings = self._settings
        state = {
            MarkBy.SEEN: ["UNSEEN"],
            MarkBy.KEYWORD: [word for keyword in settings.marks for word in ("UNKEYWORD", keyword)],
        }.get(settings.mark, [])
        wanted = []
        for key, value in (("SUBJECT", settings.subject_filter), ("FROM", settings.sender_filter)):
            # IMAPClient does not quote these characters; the rest is enough, as `_matches` looks at the whole
            if plain := max(_UNQUOTED.split(value), key=len).strip():
                wanted += [key, plain]
        try:
            return self._search_ranges(client, [*state, "UNDELETED", *wanted])
        except imaplib.IMAP4.error as error:
            # a refused literal comes as abort, but the connection is as good as before
            lost = isinstance(error, imaplib.IMAP4.abort) and "continuation response" not in str(error)
            if lost or not wanted:
                raise
        # the server cannot search for such text (BADCHARSET): `_matches` alone decides
        return self._search_ranges(client, [*state, "UNDELETED"])

    def _search_ranges(self, client: Any, criteria: list[str]) -> list[int]:
        charset = None if all(word.isascii() for word in criteria) else "UTF-8"
        if self._exists <= _SEARCH_RANGE:
            return list(client.search(criteria, charset)) if self._exists else []
        uids: list[int] = []
        for first in range(1, self._exists + 1, _SEARCH_RANGE):
            last = min(first + _SEARCH_RANGE - 1, self._exists)
            uids += client.search([f"{first}:{last}", *criteria], charset)
        return uids

    # --- describe and fetch

    def _describe(self, ref: MessageRef) -> dict[bytes, Any] | None:
        doing = f"reading the structure of {_named(ref)}"
        items = ("BODYSTRUCTURE", "INTERNALDATE", "RFC822.SIZE", f"BODY.PEEK[HEADER]<0.{MAX_HEADER}>")

        def ask(client: Any) -> dict[bytes, Any] | None:
            try:
                return self._fetch_one(client, ref, *items)
            except imaplib.IMAP4.abort:
                raise
            except (*_UNREADABLE, imaplib.IMAP4.error) as error:
                if str(error).startswith("fetch failed"):
                    raise
                self._hang_up()
                raise Reject(
                    f"{_named(ref)}: the server's description of it cannot be read ({error})"[:500]
                ) from None

        return self._run(doing, ask)

    def _fetch_one(self, client: Any, ref: MessageRef, *items: str) -> dict[bytes, Any] | None:
        """The items of one message; None when it is gone. Only what has no BODY in its name may be missing.

        Of a message that another session deleted, servers tell what they have cached and NIL for the rest (RFC 2180
        4.1.3); and a change of flags that comes unasked is no answer at all.
        """
        if ref.uidvalidity != self._uidvalidity:
            return None
        fetched: dict[bytes, Any] = client.fetch([int(ref.uid)], list(items)).get(int(ref.uid), {})
        for item in items:
            wanted = item.partition("<")[0].replace(".PEEK", "").encode()
            if wanted.startswith(b"BODY") and not any(
                key.startswith(wanted) and value is not None for key, value in fetched.items()
            ):
                return None
        return fetched

    def _pieces(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        offset, renewed = 0, False
        while True:
            try:
                piece = self._piece(ref, part, offset)
            except Dropped:
                if renewed:
                    raise
                renewed = True
                continue
            if not piece:
                return
            yield piece
            offset += len(piece)
            # a stated size may be wrong: only a short piece beyond it spares the last question
            if len(piece) < PIECE and part.size is not None and offset >= part.size:
                return

    def _piece(self, ref: MessageRef, part: Part, offset: int) -> bytes:
        fetched = self._once(
            f"reading part {part.section} of {_named(ref)} from byte {offset}",
            lambda client: self._fetch_one(client, ref, f"BODY.PEEK[{part.section}]<{offset}.{PIECE}>"),
        )
        if fetched is not None:
            return _content(fetched, b"BODY[")
        # NIL before the end is a message that went away, not a shorter file; beyond it some servers say NIL for nothing
        if part.size is not None and 0 < part.size <= offset:
            return b""
        raise Retry(f"{_named(ref)} went away while it was read")

    # --- mark

    def _mark(self, client: Any, ref: MessageRef, outcome: Outcome) -> None:
        if ref.uidvalidity != self._uidvalidity:
            raise Retry(
                f"{_named(ref)} has another number now (UIDVALIDITY changed); it will be found again and marked"
            )
        mark, (completed, failed) = self._settings.mark, self._settings.marks
        uid, done = [int(ref.uid)], outcome is Outcome.COMPLETED
        if mark is MarkBy.SEEN and done:
            client.add_flags(uid, [b"\\Seen"], silent=True)
        elif mark is MarkBy.KEYWORD:
            client.add_flags(uid, [(completed if done else failed).encode()], silent=True)
            client.remove_flags(uid, [(failed if done else completed).encode()], silent=True)
        elif mark is MarkBy.MOVE:
            self._move(client, uid, completed if done else failed)

    def _move(self, client: Any, uid: list[int], folder: str) -> None:
        if client.has_capability("MOVE"):
            client.move(uid, folder)
            return
        # without MOVE a crash in between leaves a copy in both folders, never in none
        client.copy(uid, folder)
        client.add_flags(uid, [b"\\Deleted"], silent=True)
        client.uid_expunge(uid)


def _named(ref: MessageRef) -> str:
    return f"message {ref.uid} in {ref.folder}"


def _received(fetched: dict[bytes, Any]) -> datetime:
    """INTERNALDATE in UTC; a server that gives none, or nonsense, has its messages sorted first."""
    date = fetched.get(b"INTERNALDATE")
    return date.astimezone(UTC) if isinstance(date, datetime) else datetime.fromtimestamp(0, UTC)


def _content(fetched: dict[bytes, Any], key: bytes) -> bytes:
    """The literal under a key that servers write with additions (`<0>`, quoted field names)."""
    for name, value in fetched.items():
        if name.startswith(key):
            return value if isinstance(value, bytes) else str(value or "").encode()
    return b""
