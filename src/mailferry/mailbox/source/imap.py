"""A mailbox on an IMAP server (RFC 3501): find, describe, fetch in pieces, mark.

A message is described by the server (BODYSTRUCTURE) and by its parts' own headers, which are read here as those of a
message on disk are. Where both cannot be reconciled, the whole message is fetched, and read here alone.

Waiting for new mail (IDLE) has a connection of its own, see `watch_imap`.
"""

from __future__ import annotations

import contextlib
import imaplib
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mailferry.config.mailbox import MarkBy
from mailferry.errors import Reject, Retry
from mailferry.mailbox.mime.file_buffer import FileBuffer
from mailferry.mailbox.mime.headers import MAX_HEADER, is_raw, parse_headers
from mailferry.mailbox.mime.transfer_encoding import PIECE, decoded
from mailferry.mailbox.mime.tree import Part, reconciled, sections, structure
from mailferry.mailbox.source.bodystructure import from_bodystructure
from mailferry.mailbox.source.imap_connection import Dropped, is_passing
from mailferry.mailbox.source.imap_heads import heads, received
from mailferry.mailbox.source.imap_session import UNREADABLE, ImapSession, content
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.source.message import Head, MessageRef, Outcome, Summary, head_of
from mailferry.mailbox.source.senders import refusal
from mailferry.mailbox.workbook.inspector import Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.mime.tree import Node, Structure
    from mailferry.mailbox.source.imap_connection import TokenSource

#: Messages searched at once: imaplib takes no line of over a million bytes, and a UID is up to 11 of them.
_SEARCH_RANGE = 50_000
_HEADER = f"BODY.PEEK[HEADER]<0.{MAX_HEADER}>"
#: Parts whose own headers are asked for; of a message with more the server's description is taken.
_MOST_HEADERS = 100
#: A message that is fetched whole may be larger than the largest file by what encoding adds, and by so many bytes.
_WHOLE_MORE = 32 * 1024 * 1024


class ImapMailbox:
    """An open folder. A connection that was lost is made again once per call; then it is Retry."""

    def __init__(
        self,
        settings: MailboxSettings,
        *,
        tokens: TokenSource | None = None,
        look_only: bool = False,
        at_first_use: bool = False,
        inspector: Inspector | None = None,
    ) -> None:
        """Connect, sign in, open the folder and check that marks can be set; Stop or Retry when that fails.

        `look_only` opens the folder read-only (EXAMINE), and `mark` then does nothing. `at_first_use`: all that is done
        when it is first used, and is Unreachable there instead of Retry.
        """
        self.inspector = inspector or Inspector()
        self._settings = settings
        self._look_only = look_only or settings.mark is MarkBy.LEAVE
        self._session = ImapSession(settings, tokens, look_only=self._look_only, at_first_use=at_first_use)
        #: UIDVALIDITY and UID of a message that was fetched whole, and the message.
        self._whole: tuple[tuple[int, str], FileBuffer] | None = None

    # --- the protocol

    def unmarked(self) -> Sequence[MessageRef]:
        """Messages that are not marked yet, by UID. The server does not search by content: its searches miss encoded text."""
        return self._session.run(f"searching {self._settings.folder}", self._unmarked)

    def heads(self, refs: Sequence[MessageRef]) -> Iterator[Head]:
        """Fetched in bulk; a header that the server does not have is a head with its problem."""
        return heads(self._session, refs, self._settings.charset)

    def find(self) -> Sequence[MessageRef]:
        """Messages that match and are not marked yet, oldest first (INTERNALDATE, then UID)."""
        look = Matcher.of(self._settings).sort(self.heads(self.unmarked()))
        return [head.ref for head in look.wanted]

    def summary(self, ref: MessageRef) -> Summary | None:
        """Headers and structure; None when it is gone. Reject when neither the server's description nor the message can be read."""
        fetched = self._described(ref)
        if fetched is None:
            return None
        block = content(fetched, b"BODY[HEADER]")
        found = self._structure(ref, fetched, block)
        charsets = tuple(filter(None, (found.charset, self._settings.charset)))
        headers = parse_headers(block, charsets if is_raw(block) else ())
        size = fetched.get(b"RFC822.SIZE")
        head = head_of(ref, headers, received(fetched))
        self._session.name(head)
        return Summary(
            ref=ref,
            subject=headers.subject,
            sender=headers.sender,
            addresses=headers.addresses,
            message_id=headers.message_id,
            received=head.received,
            size=size if isinstance(size, int) else 0,
            parts=found.parts,
            refusal=refusal(headers.addresses, block, self._settings),
        )

    def raw_header(self, ref: MessageRef) -> bytes:
        """The header block, up to 1 MiB of it. Retry when the message is gone."""
        fetched = self._ask(f"reading the header of {self._session.named(ref)}", ref, _HEADER)
        if fetched is None:
            raise Retry(f"{self._session.named(ref)} is no longer there")
        return content(fetched, b"BODY[HEADER]")

    def fetch(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        """Decoded content in pieces. A connection lost on the way is made again once, and the fetch goes on there."""
        pieces = self._pieces(ref, part.section) if part.span is None else self._cut(ref, part.span)
        return decoded(pieces, part.encoding)

    def mark(self, ref: MessageRef, outcome: Outcome) -> None:
        """Mark as configured; of a message that is gone nothing is left to mark."""
        if not self._look_only:
            self._session.run(
                f"marking {self._session.named(ref)}", lambda client: self._mark(client, ref, outcome)
            )

    def close(self) -> None:
        """Sign out; never raises."""
        self._forget_whole()
        self._session.close()
        self.inspector.close()

    # --- find

    def _unmarked(self, client: Any) -> list[MessageRef]:
        # opened again, so that UIDVALIDITY and the number of messages are of now
        session = self._session
        session.select(client)
        criteria = {
            MarkBy.SEEN: ["UNSEEN"],
            MarkBy.KEYWORD: [word for keyword in self._settings.marks for word in ("UNKEYWORD", keyword)],
        }.get(self._settings.mark, [])
        uids: set[int] = set()
        for first in range(1, session.exists + 1, _SEARCH_RANGE):
            last = min(first + _SEARCH_RANGE - 1, session.exists)
            numbers = [f"{first}:{last}"] if session.exists > _SEARCH_RANGE else []
            uids |= set(client.search([*numbers, *criteria, "UNDELETED"]))
        return [
            MessageRef(
                account=session.account,
                folder=self._settings.folder,
                uidvalidity=session.uidvalidity,
                uid=str(uid),
            )
            for uid in sorted(uids)
        ]

    # --- describe

    def _ask(self, doing: str, ref: MessageRef, *items: str) -> dict[bytes, Any] | None:
        return self._session.run(doing, lambda client: self._session.fetch_one(client, ref, *items))

    def _described(self, ref: MessageRef) -> dict[bytes, Any] | None:
        """The server's description of a message; without BODYSTRUCTURE where that cannot be read."""
        doing = f"reading the structure of {self._session.named(ref)}"
        items = ("INTERNALDATE", "RFC822.SIZE", _HEADER)

        def ask(client: Any) -> dict[bytes, Any] | None:
            try:
                return self._session.fetch_one(client, ref, *items, "BODYSTRUCTURE")
            except imaplib.IMAP4.abort as error:
                # a line that is too long for imaplib is no lost connection
                if "more than" not in str(error):
                    raise
            except (*UNREADABLE, imaplib.IMAP4.error) as error:
                if is_passing(str(error)):
                    raise
            self._session.hang_up()
            return {}

        fetched = self._session.run(doing, ask)
        return fetched if fetched != {} else self._ask(doing, ref, *items)

    def _structure(self, ref: MessageRef, fetched: dict[bytes, Any], block: bytes) -> Structure:
        """The parts: as the server describes them and their own headers do, else as the whole message has them."""
        charsets = (self._settings.charset,)
        try:
            tree = from_bodystructure(fetched.get(b"BODYSTRUCTURE"))
            tree = reconciled(tree, {"HEADER": block, **self._part_headers(ref, tree)})
        except Reject as fault:
            try:
                whole = self._whole_message(ref)
                return self.inspector.structure(whole.file, len(whole), charsets)
            except _NotWholeError as error:
                raise Reject(f"{self._session.named(ref)}: {fault}, and {error}") from None
        return structure(tree, charsets)

    def _part_headers(self, ref: MessageRef, tree: Node) -> dict[str, bytes]:
        """Header blocks of the parts; none where the server does not have them."""
        wanted = [header for _, header, _ in sections(tree) if header != "HEADER"]
        if not wanted or len(wanted) > _MOST_HEADERS:
            return {}

        def ask(client: Any) -> dict[bytes, Any]:
            try:
                answer: dict[int, dict[bytes, Any]] = client.fetch(
                    [int(ref.uid)], [f"BODY.PEEK[{header}]" for header in wanted]
                )
                return answer.get(int(ref.uid), {})
            except imaplib.IMAP4.abort:
                raise
            except (*UNREADABLE, imaplib.IMAP4.error) as error:
                if is_passing(str(error)):
                    raise
                self._session.hang_up()
                return {}

        fetched = self._session.run(f"reading the parts of {self._session.named(ref)}", ask)
        found = {header: fetched.get(f"BODY[{header}]".encode()) for header in wanted}
        return {header: block for header, block in found.items() if isinstance(block, bytes)}

    # --- the whole message

    def _whole_message(self, ref: MessageRef) -> FileBuffer:
        """The message in a file that has no name; the last one is kept. Raises _NotWholeError."""
        key = (ref.uidvalidity, ref.uid)
        if self._whole is None or self._whole[0] != key:
            self._forget_whole()
            file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by FileBuffer
            try:
                self._receive(ref, file)
                self._whole = key, FileBuffer(file, self._session.named(ref))
            except BaseException:
                file.close()
                raise
        return self._whole[1]

    def _receive(self, ref: MessageRef, file: BinaryIO) -> None:
        most = self._settings.max_file_bytes * 3 // 2 + _WHOLE_MORE
        size = 0
        try:
            for piece in self._pieces(ref, ""):
                size += len(piece)
                if size > most:
                    raise _NotWholeError(f"it is larger than {most:,} bytes")
                file.write(piece)
        except OSError as error:
            raise Retry(
                f"{tempfile.gettempdir()} takes no message: {error.strerror}; free space there"
            ) from None
        file.flush()

    def _forget_whole(self) -> None:
        if self._whole is not None:
            with contextlib.suppress(OSError), self._whole[1]:
                self._whole = None

    def _cut(self, ref: MessageRef, span: tuple[int, int]) -> Iterator[bytes]:
        try:
            whole = self._whole_message(ref)
        except _NotWholeError as error:
            raise Retry(f"{self._session.named(ref)}: {error}") from None
        for at in range(span[0], span[1], PIECE):
            yield whole[at : min(at + PIECE, span[1])]

    # --- fetch

    def _pieces(self, ref: MessageRef, section: str) -> Iterator[bytes]:
        """What comes until the server ends it: stated sizes may be wrong, and pieces shorter than asked for."""
        offset, renewed = 0, False
        while True:
            try:
                piece = self._piece(ref, section, offset)
            except Dropped:
                if renewed:
                    raise
                renewed = True
                continue
            if not piece:
                return
            yield piece
            offset += len(piece)

    def _piece(self, ref: MessageRef, section: str, offset: int) -> bytes:
        doing = f"reading part {section or 'all'} of {self._session.named(ref)} from byte {offset}"
        fetched = self._once(doing, ref, section, offset, PIECE)
        # NIL before the end is a message that was deleted, not a shorter file; beyond it some servers say NIL for nothing
        if fetched is None and offset and self._once(doing, ref, section, 0, 1) is not None:
            return b""
        if fetched is None and not section and self._ask(doing, ref, _HEADER) is not None:
            raise _NotWholeError("the server does not hand out the whole message")
        if fetched is None:
            raise Retry(f"{self._session.named(ref)} was deleted while it was read")
        return content(fetched, b"BODY[")

    def _once(
        self, doing: str, ref: MessageRef, section: str, offset: int, size: int
    ) -> dict[bytes, Any] | None:
        item = f"BODY.PEEK[{section}]<{offset}.{size}>"
        return self._session.once(doing, lambda client: self._session.fetch_one(client, ref, item))

    # --- mark

    def _mark(self, client: Any, ref: MessageRef, outcome: Outcome) -> None:
        if ref.uidvalidity != self._session.uidvalidity:
            raise Retry(
                f"{self._session.named(ref)} has another number now (UIDVALIDITY changed); it will be found again and marked"
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


class _NotWholeError(Exception):
    """The whole message cannot be fetched."""
