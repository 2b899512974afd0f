"""A mailbox in a Maildir folder: one file a message, flags in its name (https://cr.yp.to/proto/maildir.html).

Other programs (an IMAP server, a mail reader) may rename files at any time, so a message is known by its unique name
alone, and looked up again when it is no longer where it was.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.config.mailbox import MarkBy
from mailferry.disk import sync_folder
from mailferry.errors import Reject, Retry, Stop
from mailferry.mailbox.mime.file_buffer import FileBuffer
from mailferry.mailbox.mime.headers import header_block, is_raw, parse_headers
from mailferry.mailbox.mime.transfer_encoding import PIECE, decoded
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.source.message import Head, MessageRef, Outcome, Summary, head_of, unreadable
from mailferry.mailbox.source.senders import refusal
from mailferry.mailbox.workbook.inspector import Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.mime.headers import Headers
    from mailferry.mailbox.mime.tree import Part, Structure

#: `unique:2,FLAGS`; where file names cannot hold a colon, programs write another character.
_INFO = re.compile(r"^(?P<unique>[^:!;]+)(?P<separator>[:!;])2,(?P<flags>[A-Za-z]*)$")
_SUBFOLDERS = ("new", "cur", "tmp")
#: A file that is renamed under our hands is looked for this often.
_TRIES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """What was read of a message: its headers, and of its file."""

    block: bytes
    headers: Headers
    #: Bytes.
    size: int
    received: datetime


class MaildirMailbox:
    """An open Maildir, or one of its sub-folders."""

    def __init__(
        self,
        settings: MailboxSettings,
        *,
        look_only: bool = False,
        at_first_use: bool = False,
        inspector: Inspector | None = None,
    ) -> None:
        """Open; Stop when it is no Maildir or cannot be written where marks are wanted. `look_only`: `mark` does nothing.

        `at_first_use`: it is opened, with the same errors, when it is first used.
        """
        assert settings.path is not None
        self.inspector = inspector or Inspector()
        self._settings = settings
        self._look_only = look_only or settings.mark is MarkBy.LEAVE
        self._root = settings.path.absolute()
        own = settings.folder.upper() == "INBOX"
        self._folder = "" if own else settings.folder
        self._path = self._root if own else _subfolder(self._root, settings.folder)
        self._known: dict[str, Path] = {}
        self._is_open = False
        if not at_first_use:
            self._open()

    # --- the protocol

    def unmarked(self) -> Sequence[MessageRef]:
        """Messages that are not marked yet, latest last (file time, then name); none of them is opened."""
        found: list[tuple[float, str]] = []
        self._known = {}
        for unique, path, flags in self._listed():
            self._known[unique] = path
            if not self._is_marked(flags):
                with contextlib.suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime, unique))
        return [self._ref(unique) for _, unique in sorted(found)]

    def heads(self, refs: Sequence[MessageRef]) -> Iterator[Head]:
        """Only headers are read; a file that cannot be read is a head with its problem."""
        for ref in refs:
            try:
                if (head := self._head(ref)) is not None:
                    yield head
            except Retry as error:
                yield unreadable(ref, str(error))

    def find(self) -> Sequence[MessageRef]:
        """Messages that match and are not marked yet, oldest first."""
        look = Matcher.of(self._settings).sort(self.heads(self.unmarked()))
        return [head.ref for head in look.wanted]

    def _ref(self, unique: str) -> MessageRef:
        return MessageRef(account=str(self._root), folder=self._folder, uidvalidity=0, uid=unique)

    def _head(self, ref: MessageRef) -> Head | None:
        for path in self._places(ref):
            if (read := self._read_headers(path)) is not None:
                return head_of(ref, read.headers, read.received)
        return None

    def _read_headers(self, path: Path) -> _Read | None:
        """None when it is gone from there."""
        if (message := _open(path)) is None:
            return None
        with message:
            block = header_block(message)[0]
            charsets: tuple[str, ...] = ()
            if is_raw(block):
                # The charset of the message's text is looked for only then.
                charsets = (self._settings.charset,)
                with contextlib.suppress(Reject, FileNotFoundError):
                    if named := self._structure(path, len(message)).charset:
                        charsets = (named, *charsets)
            return _Read(
                block=block,
                headers=parse_headers(block, charsets),
                size=len(message),
                received=datetime.fromtimestamp(message.modified, UTC),
            )

    def _structure(self, path: Path, size: int) -> Structure:
        return self.inspector.structure(path, size, (self._settings.charset,))

    def summary(self, ref: MessageRef) -> Summary | None:
        """Headers and structure; None when it is gone. Reject for a structure without end."""
        for path in self._places(ref):
            with contextlib.suppress(FileNotFoundError):  # it is renamed under our hands
                if (read := self._read_headers(path)) is not None:
                    headers = read.headers
                    return Summary(
                        ref=ref,
                        subject=headers.subject,
                        sender=headers.sender,
                        addresses=headers.addresses,
                        message_id=headers.message_id,
                        received=read.received,
                        size=read.size,
                        parts=self._structure(path, read.size).parts,
                        refusal=refusal(headers.addresses, read.block, self._settings),
                    )
        return None

    def raw_header(self, ref: MessageRef) -> bytes:
        """The header block, up to 1 MiB of it. Retry when the message is gone."""
        for path in self._places(ref):
            if (message := _open(path)) is None:
                continue
            with message:
                return header_block(message)[0]
        raise Retry(f"message {ref.uid} is no longer in {self._path}")

    def fetch(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        """Decoded content in pieces, read from the file as they are asked for."""
        return decoded(self._pieces(ref, part), part.encoding)

    def mark(self, ref: MessageRef, outcome: Outcome) -> None:
        """Mark as configured, by renaming; of a message that is gone nothing is left to mark. Retry when that fails."""
        if self._look_only:
            return
        for path in self._places(ref):
            target = self._marked(path, ref.uid, outcome)
            if target == path:
                return
            try:
                path.rename(target)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Retry(f"message {ref.uid} in {self._path} cannot be marked: {error.strerror}") from None
            with contextlib.suppress(OSError):  # some network file systems sync no folder
                sync_folder(target.parent)
            self._known[ref.uid] = target
            return

    def close(self) -> None:
        self._known.clear()
        self.inspector.close()

    # --- files

    def _open(self) -> None:
        if self._is_open:
            return
        if not ((self._path / "new").is_dir() and (self._path / "cur").is_dir()):
            raise Stop(f"{self._path} is no Maildir: it has no folders new and cur; check path and folder")
        if not os.access(self._path / "new", os.R_OK | os.X_OK):
            raise Stop(f"{self._path} cannot be read by this user")
        if not self._look_only:
            self._check_marks()
        self._is_open = True

    def _check_marks(self) -> None:
        if not all(os.access(self._path / name, os.W_OK) for name in ("new", "cur")):
            raise Stop(
                f"messages in {self._path} cannot be marked: no right to write; give it, or set "
                f"{self._settings.spelled('mark')} = leave"
            )
        if self._settings.mark is MarkBy.MOVE:
            for name in self._settings.marks:
                _make_subfolder(_subfolder(self._root, name))

    def _listed(self) -> Iterator[tuple[str, Path, str]]:
        """Unique name, path and flags of every message; what is in `tmp` is not delivered yet."""
        self._open()
        for subfolder in ("new", "cur"):
            try:
                entries = os.scandir(self._path / subfolder)
            except OSError as error:
                self._is_open = False
                raise Retry(f"{self._path / subfolder} cannot be listed: {error.strerror}") from None
            with entries:
                for entry in entries:
                    if not entry.name.startswith(".") and entry.is_file():
                        unique, flags = _split(entry.name)
                        yield unique, Path(entry.path), flags

    def _is_marked(self, flags: str) -> bool:
        if "T" in flags:
            return True
        if self._settings.mark is MarkBy.SEEN:
            return "S" in flags
        return self._settings.mark is MarkBy.KEYWORD and any(k in flags for k in self._settings.marks)

    def _places(self, ref: MessageRef) -> Iterator[Path]:
        """Where the message is, asked again as long as it is renamed meanwhile; nothing once it is gone."""
        for _ in range(_TRIES):
            path = self._known.get(ref.uid)
            if path is None or not path.exists():
                self._known = {unique: path for unique, path, _ in self._listed()}
                path = self._known.get(ref.uid)
            if path is None:
                return
            yield path

    def _pieces(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        for path in self._places(ref):
            if (message := _open(path)) is None:
                continue
            with message:
                if part.span is None or part.span[1] > len(message):
                    raise Retry(
                        f"message {ref.uid} in {self._path} has changed: part {part.section} is not where it was"
                    )
                start, end = part.span
                for at in range(start, end, PIECE):
                    yield message[at : min(at + PIECE, end)]
            return
        raise Retry(f"message {ref.uid} is no longer in {self._path}")

    def _marked(self, path: Path, unique: str, outcome: Outcome) -> Path:
        """Where the file belongs once it is marked."""
        mark, (completed, failed) = self._settings.mark, self._settings.marks
        done = outcome is Outcome.COMPLETED
        if mark is MarkBy.MOVE:
            return _subfolder(self._root, completed if done else failed) / path.parent.name / path.name
        flags = set(_split(path.name)[1])
        if mark is MarkBy.SEEN and done:
            flags.add("S")
        elif mark is MarkBy.KEYWORD:
            flags = (flags - {completed, failed}) | {completed if done else failed}
        else:
            return path
        # flags stand in ASCII order, and a message that has any is no longer new
        return self._path / "cur" / f"{unique}{_separator(path.name)}2,{''.join(sorted(flags))}"


def _split(name: str) -> tuple[str, str]:
    found = _INFO.match(name)
    return (found["unique"], found["flags"]) if found else (name, "")


def _separator(name: str) -> str:
    found = _INFO.match(name)
    if found:
        return found["separator"]
    return "!" if os.name == "nt" else ":"


def _subfolder(root: Path, name: str) -> Path:
    """Maildir++: a sub-folder is a sibling of `new`, its levels joined by dots."""
    joined = name.replace("/", ".")
    if os.sep in joined or "\\" in joined or joined.startswith(".") or ".." in joined:
        raise Stop(f"{name!r} cannot be the name of a Maildir folder")
    return root / f".{joined}"


def _make_subfolder(path: Path) -> None:
    """With the permissions of the Maildir itself."""
    try:
        mode = path.parent.stat().st_mode & 0o777
        for folder in (path, *(path / name for name in _SUBFOLDERS)):
            folder.mkdir(mode=mode, exist_ok=True)
        (path / "maildirfolder").touch(mode=mode & 0o666)
    except OSError as error:
        raise Stop(f"the Maildir folder {path} cannot be made: {error.strerror}") from None


def _open(path: Path) -> FileBuffer | None:
    """None when the message is gone from there."""
    try:
        return FileBuffer.open(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Retry(f"{path} cannot be read: {error.strerror}") from None
