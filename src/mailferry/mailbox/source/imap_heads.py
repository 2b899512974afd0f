"""Heads of many messages of an IMAP folder: in bulk, and where the server or a header fails, message by message."""

from __future__ import annotations

import imaplib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mailferry.errors import Reject, Retry
from mailferry.mailbox.mime.headers import MAX_HEADER, is_raw, parse_headers
from mailferry.mailbox.source.bodystructure import from_bodystructure
from mailferry.mailbox.source.imap_connection import Dropped, is_passing
from mailferry.mailbox.source.imap_session import UNREADABLE, content
from mailferry.mailbox.source.message import head_of, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.mailbox.source.imap_session import ImapSession
    from mailferry.mailbox.source.message import Head, MessageRef

#: Messages asked about at once.
_BATCH = 500
_FIELDS = "BODY.PEEK[HEADER.FIELDS (SUBJECT FROM DATE MESSAGE-ID CONTENT-TYPE)]"
_WHOLE_HEADER = f"BODY.PEEK[HEADER]<0.{MAX_HEADER}>"
#: So many messages whose headers a server refuses, one by one, are not the messages' fault.
_MOST_REFUSED = 50

_Answers = dict[int, dict[bytes, Any]]


def heads(session: ImapSession, refs: Sequence[MessageRef], charset: str) -> Iterator[Head]:
    """Those of the messages that are there. Retry where the server fails; `charset` as in `headers.text`."""
    for start in range(0, len(refs), _BATCH):
        batch = {int(ref.uid): ref for ref in refs[start : start + _BATCH]}
        answers, refused = _Asking(session, refs[start].uidvalidity).ask(list(batch))
        for uid, fetched in answers.items():
            if uid in batch and (block := _header(fetched)) is not None:
                head = _head(session, batch[uid], fetched, block, charset)
                session.name(head)
                yield head
        for uid, problem in refused.items():
            yield unreadable(batch[uid], problem)


class _Asking:
    """One batch; what fails as a whole is halved until what fails stands alone."""

    def __init__(self, session: ImapSession, uidvalidity: int) -> None:
        self._session = session
        self._uidvalidity = uidvalidity
        self._answers: _Answers = {}
        self._refused: dict[int, str] = {}

    def ask(self, uids: list[int]) -> tuple[_Answers, dict[int, str]]:
        """Answers by UID, and by UID why there is none. Messages that are gone are in neither."""
        self._ask(uids)
        return self._answers, self._refused

    def _ask(self, uids: list[int]) -> None:
        # a server that fails with one message may have answered for those before it
        found, fault = self._fetch(uids, _FIELDS)
        self._answers |= found
        missing = [uid for uid in uids if uid not in found] if fault else []
        if len(uids) == 1:
            self._ask_whole(missing)
            return
        middle = (len(missing) + 1) // 2
        for part in filter(None, (missing[:middle], missing[middle:])):
            self._ask(part)

    def _ask_whole(self, uids: list[int]) -> None:
        """A server that fails with single fields may have the header as a whole."""
        for uid in uids:
            found, fault = self._fetch([uid], _WHOLE_HEADER)
            self._answers |= found
            if fault and not found:
                self._refused[uid] = fault
            if len(self._refused) > _MOST_REFUSED:
                raise Retry(
                    f"the server refuses the headers of more than {_MOST_REFUSED} messages, the last: {fault}"
                )

    def _fetch(self, uids: list[int], item: str) -> tuple[_Answers, str]:
        """What came, and why it is not all."""

        def fetch(client: Any) -> tuple[_Answers, str]:
            if self._session.uidvalidity != self._uidvalidity:
                return {}, ""  # other messages have these numbers by now
            try:
                return dict(client.fetch(uids, ["INTERNALDATE", item])), ""
            except imaplib.IMAP4.abort:
                raise
            except imaplib.IMAP4.error as error:
                if is_passing(str(error)):
                    raise
                # its answers so far would be taken for those to the next question
                client._imap.untagged_responses.pop("FETCH", None)  # noqa: SLF001 - IMAPClient offers no way in
                return {}, f"the server refused its header ({error})"[:300]
            except UNREADABLE as error:
                self._session.hang_up()
                return {}, f"the server's answer cannot be read ({error})"[:300]

        doing = "reading headers"
        try:
            return self._session.once(doing, fetch)
        except Dropped as error:
            # A server that takes new connections drops them at one of these headers.
            self._session.run(doing, lambda client: client.noop())
            return {}, str(error)


def _header(fetched: dict[bytes, Any]) -> bytes | None:
    """The header block; None for an answer without one, as a change of flags that comes unasked is."""
    for key, value in fetched.items():
        if key.startswith(b"BODY[HEADER") and value is not None:
            return content(fetched, b"BODY[HEADER")
    return None


def _head(
    session: ImapSession, ref: MessageRef, fetched: dict[bytes, Any], block: bytes, charset: str
) -> Head:
    charsets = (*_text_charset(session, ref), charset) if is_raw(block) else ()
    return head_of(ref, parse_headers(block, charsets), received(fetched))


def _text_charset(session: ImapSession, ref: MessageRef) -> tuple[str, ...]:
    """The charset of the message's text, for a raw header; such messages are rare."""
    try:
        fetched = session.run(
            f"reading the structure of {session.named(ref)}",
            lambda client: session.fetch_one(client, ref, "BODYSTRUCTURE"),
        )
        named = from_bodystructure((fetched or {}).get(b"BODYSTRUCTURE")).charset()
    except (Reject, Retry):
        return ()  # the configured one is tried, and the structure is asked for again with the parts
    return (named,) if named else ()


def received(fetched: dict[bytes, Any]) -> datetime:
    """INTERNALDATE in UTC; a server that has none, or nonsense, has its messages sorted first."""
    date = fetched.get(b"INTERNALDATE")
    return date.astimezone(UTC) if isinstance(date, datetime) else datetime.fromtimestamp(0, UTC)
