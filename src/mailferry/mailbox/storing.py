"""Bringing the spreadsheets of one part safely into `pending/`, out of whatever they are packed in.

What a file is, its bytes say. Archives and containers are opened, also those within others; every file in them that is
not taken has a reason. All of it is bounded: the size of one file, of all that is unpacked, their number, and the depth.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mailferry.config.spreadsheet import Limits
from mailferry.disk import sync_folder
from mailferry.errors import Reject, Retry
from mailferry.mailbox.attachments import Candidate, name_matches, safe_name, unwanted
from mailferry.mailbox.containers.kinds import (
    PACKED,
    Container,
    companion,
    encrypted,
    may_hold,
    unopened_archive,
)
from mailferry.mailbox.containers.removed import MOST_NOTICE, notice
from mailferry.mailbox.mime.file_buffer import FileBuffer
from mailferry.mailbox.mime.headers import clean, text
from mailferry.mailbox.mime.recode import in_utf8, may_be_broken
from mailferry.mailbox.mime.transfer_encoding import PIECE
from mailferry.mailbox.mime.tree import Part
from mailferry.mailbox.source.message import PartOutcome, Verdict
from mailferry.mailbox.workbook.text_kind import BEGINNING, plain_kind
from mailferry.mailbox.workbook.values import MIB, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.containers.inner import Inner
    from mailferry.mailbox.source.message import MessageRef, Parts
    from mailferry.mailbox.workbook.inspector import Found, Inspector

#: Archives within each other, and containers of all kinds.
_MOST_ARCHIVES, _MOST_DEPTH = 3, 8
#: Files that are looked at in one part.
_MOST_FILES = 2000
#: The text of a message is searched for files up to here, in bytes, where there is no sign of one before.
_MOST_TEXT = MIB

#: So many times CR LF and never LF alone: one file in 2^64 is so by chance.
_MANY_ENDS = 8
_AS_TEXT = (
    "its line ends were changed on the way, which destroys it: it was sent without an encoding (Content-Transfer-Encoding:"
    " binary), or copied as text; have it sent again in base64"
)
_FLOWED = (
    "it was sent as text that mail programs may break into shorter lines (format=flowed), and lines of it begin or end with a"
    " space, as broken ones do: its rows are not certain; have it sent as a file in base64, or as a workbook"
)
_TEXT = "the text of the message"
_INCOMING = ".incoming-"
#: Where the name of the attachment begins in that of its file, see `_Storing._path`.
_NAME_AT = 16 + 1 + 8 + 1
#: What is the file's own fault (name, size), not that of the disk.
_OF_THE_FILE = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG})
#: Seconds after which a file that was never finished is of a process that is gone.
_ABANDONED = 3600


class DiskFault(Retry):
    """The disk takes nothing at the moment, whatever the message."""


class Budget:
    """Bytes that may yet be unpacked, of one message."""

    def __init__(self, most: int) -> None:
        self.most = self.left = most

    def take(self, size: int) -> None:
        """Raises Reject once it is used up."""
        self.left -= size
        if self.left < 0:
            raise _TooLarge(
                f"the message unpacks to more than {self.most / MIB:,.0f} MB, archives within archives counted"
            )


def store(
    mailbox: Parts,
    ref: MessageRef,
    part: Part,
    pending: Path,
    settings: MailboxSettings,
    limits: Limits | None = None,
    budget: Budget | None = None,
) -> tuple[PartOutcome, ...]:
    """Fetch a part; each spreadsheet that it is, or that is in it, ends durably in `pending`.

    The same part leads to the same file names again, so a repetition after a crash leaves nothing over. `budget` is that
    of the message, without it one of this part alone. Raises Retry for the mailbox's faults and a file that cannot be
    written, DiskFault where none can.
    """
    limits = limits or Limits()
    storing = _Storing(
        ref=ref,
        section=part.section,
        pending=pending,
        settings=settings,
        limits=limits,
        inspector=mailbox.inspector,
        budget=budget or Budget(limits.message),
    )
    one = Candidate(
        name=part.name,
        mime=part.mime,
        disposition=part.disposition,
        charset=part.charset,
        flowed=part.flowed,
    )
    try:
        with contextlib.closing(mailbox.fetch(ref, part)) as pieces:  # type: ignore[type-var]  # fetch is a generator in both mailboxes; the protocol promises an iterator
            storing.take(_File(one=one), pieces)
    except OSError as error:
        fault = Retry if error.errno in _OF_THE_FILE else DiskFault
        raise fault(
            f"{pending} cannot be written: {error.strerror or error}; check space and rights"
        ) from None
    return tuple(storing.outcomes)


@dataclass(kw_only=True, slots=True)
class OneFile:
    """A file on disk in place of the part of a message, for `store`."""

    path: Path
    inspector: Inspector

    def fetch(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        del ref, part
        with self.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


def part_named(name: str, section: str = "1") -> Part:
    """A part of which no more is known."""
    mime = "application/octet-stream"
    return Part(section=section, mime=mime, encoding="", name=name, disposition="", size=None)


def original_name(path: Path) -> str:
    """What a file is called that `store` has named."""
    return path.name[_NAME_AT:]


def clear_leftovers(pending: Path, now: float) -> int:
    """Delete what downloads cut short by a crash left; `now` in Unix seconds. Returns the number of files."""
    count = 0
    for path in pending.glob(f"{_INCOMING}*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > _ABANDONED:
                path.unlink()
                count += 1
    return count


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A file on its way: the part itself, or one that lies in it."""

    one: Candidate
    #: Its name within the part, unique there, and the same at every look; "" for the part itself.
    member: str = ""
    #: The name filter matched an archive that it is in.
    matched: bool = False
    archives: int = 0
    depth: int = 0


class _LineEnds:
    """Whether a file has gone through a program that ends all lines alike: in packed bytes few LF follow a CR by chance."""

    def __init__(self) -> None:
        self._ends = self._alone = 0
        self._last = b""

    def look(self, piece: bytes) -> None:
        """The next piece."""
        ends = piece.count(b"\n")
        self._ends += ends
        self._alone += ends - piece.count(b"\r\n") - (self._last == b"\r" and piece.startswith(b"\n"))
        self._last = piece[-1:]

    @property
    def changed(self) -> bool:
        return self._ends >= _MANY_ENDS and not self._alone


class _TooLarge(Reject):
    """It began like a spreadsheet and does not end."""


class _NothingInText(Reject):
    """The text of the message, with no file in it."""


@dataclass(kw_only=True, slots=True)
class _Storing:
    ref: MessageRef
    section: str
    pending: Path
    settings: MailboxSettings
    limits: Limits
    inspector: Inspector
    budget: Budget
    outcomes: list[PartOutcome] = field(default_factory=list)
    _members: set[str] = field(default_factory=set)

    # --- one file

    def take(self, file: _File, pieces: Iterator[bytes]) -> None:
        """Receive it, and do with it what its bytes ask for."""
        if file.one.is_body:
            first = next(pieces, b"")
            second = next(pieces, b"")
            if reason := encrypted(first):
                self._add(file, Verdict.REJECTED, reason)
                return
            if not second and len(first) <= BEGINNING and not may_hold(first):
                self._add(file, Verdict.IGNORED, _TEXT)
                return
            pieces = chain((first, second), pieces)
        sha256 = ""
        with _incoming(self.pending) as incoming:
            path = Path(incoming.name)
            try:
                size, sha256 = self._receive(file, incoming, pieces)
                self._sort(file, path, size, sha256)
            except Reject as error:
                self._refuse(file, error, _beginning(path))
            if not file.depth:
                self._keep_original(file, path, sha256)

    def _sort(self, file: _File, path: Path, size: int, sha256: str) -> None:
        found = self.inspector.look(
            path,
            name=file.one.name,
            mime=file.one.mime,
            is_body=file.one.is_body,
            charset=self.settings.charset,
            largest=self.settings.max_file_bytes,
            limits=self.limits,
        )
        if found.container is Container.ZIP:
            self._unzip(file, path, found)
        elif found.container is not None:
            self._open(file, path, found)
        elif found.kind is None:
            raise _NothingInText
        elif not (file.matched or name_matches(file.one.name, self.settings.name_filter)):
            unlike = f"the name does not match {self.settings.name_filter!r}"
            self._add(file, Verdict.SKIPPED, unlike)
        else:
            if found.kind is Kind.CSV:
                if file.one.flowed and may_be_broken(path):
                    raise Reject(_FLOWED)
                if in_utf8(path, file.one.charset):
                    size, sha256 = path.stat().st_size, _digest(path)
            self._keep(file, path, found.kind, size, sha256)

    def _receive(self, file: _File, incoming: IO[bytes], pieces: Iterable[bytes]) -> tuple[int, str]:
        """Write and hash; size and SHA-256. Ends early, with Reject, for what is not wanted or too large."""
        digest = hashlib.sha256()
        size = 0
        ends = _LineEnds()
        for piece in pieces:
            incoming.write(piece)
            digest.update(piece)
            ends.look(piece)
            looked_at = size >= BEGINNING
            size += len(piece)
            if not looked_at and size >= BEGINNING and not file.archives:
                incoming.flush()
                self._look_early(file, Path(incoming.name))
            if file.depth:
                self.budget.take(len(piece))
            if size > self.settings.max_file_bytes:
                largest = self.settings.max_file_bytes / MIB
                raise _TooLarge(f"larger than {largest:,.1f} MB, the largest attachment that is taken")
            if file.one.is_body and size > _MOST_TEXT and b"begin " not in _beginning(Path(incoming.name)):
                raise _NothingInText
        # Windows renames no open file
        incoming.close()
        if ends.changed and _beginning(Path(incoming.name)).startswith(PACKED):
            raise Reject(_AS_TEXT)
        return size, digest.hexdigest()

    def _look_early(self, file: _File, path: Path) -> None:
        """Spare the rest of what is known not to be wanted."""
        start = _beginning(path)
        if not (file.one.is_container or file.one.mime == "text/plain" or may_hold(start)):
            plain_kind(start)

    # --- what lies in it

    def _open(self, file: _File, path: Path, found: Found) -> None:
        assert found.container
        if not found.inners:
            if file.one.is_body:
                raise _NothingInText
            self._add(file, Verdict.IGNORED, f"{found.container.value} that holds no file")
            return
        with FileBuffer.open(path) as buffer:
            for number, inner in enumerate(found.inners, 1):
                one = self._candidate(file, inner, found.container)
                self._take_inner(self._child(file, one, number, archive=False), inner.read(buffer))

    @staticmethod
    def _candidate(file: _File, inner: Inner, container: Container) -> Candidate:
        if container is Container.BASE64:
            return file.one
        if container is Container.SIGNED and not inner.mime:
            return Candidate(name=file.one.name.removesuffix(".p7m"))
        return Candidate(
            name=inner.name, mime=inner.mime, disposition=inner.disposition, charset=inner.charset
        )

    def _unzip(self, file: _File, path: Path, found: Found) -> None:
        if file.archives >= _MOST_ARCHIVES:
            raise Reject(f"archives within each other more than {_MOST_ARCHIVES} deep, which are not opened")
        number = len(self.outcomes)
        for count, packed in enumerate(found.packed, 1):
            child = self._child(file, Candidate(name=packed.name), count, archive=True, member=packed.member)
            if packed.reason:
                self._refuse(child, Reject(packed.reason), b"")
                continue
            largest = self.settings.max_file_bytes
            pieces = self.inspector.unpack(path, packed.number, largest=largest, limits=self.limits)
            self._take_inner(child, pieces)
        if file.one.is_declared and not any(one.verdict is Verdict.TAKEN for one in self.outcomes[number:]):
            raise Reject("a zip archive without a workbook in it, whatever its name says")
        if all(one.verdict is Verdict.IGNORED for one in self.outcomes[number:]):
            self._add(file, Verdict.SKIPPED, "an archive in which there is no data")

    def _child(self, file: _File, one: Candidate, number: int, *, archive: bool, member: str = "") -> _File:
        matched = file.matched or (
            archive
            and bool(self.settings.name_filter)
            and name_matches(file.one.name, self.settings.name_filter)
        )
        own = member or one.name or f"part {number}"
        return _File(
            one=one,
            member=self._unique(f"{file.member}/{own}" if file.member else own),
            matched=matched,
            archives=file.archives + archive,
            depth=file.depth + 1,
        )

    def _unique(self, member: str) -> str:
        if len(member) > 500:
            member = (
                f"{hashlib.sha256(member.encode(errors='surrogatepass')).hexdigest()[:16]}/{member[-100:]}"
            )
        found, count = member, 1
        while found in self._members:
            count += 1
            found = f"{member} [{count}]"
        self._members.add(found)
        return found

    def _take_inner(self, child: _File, pieces: Iterator[bytes]) -> None:
        self.budget.take(0)  # once it is used up, the rest is not even begun
        if len(self._members) > _MOST_FILES or child.depth > _MOST_DEPTH:
            raise Reject(
                f"more than {_MOST_FILES} files, or packed more than {_MOST_DEPTH} deep, which is not opened"
            )
        verdict, reason = unwanted(child.one, self.settings, matched=child.matched)
        if reason:
            self._add(child, verdict, reason)
        else:
            self.take(child, pieces)

    # --- outcomes

    def _refuse(self, file: _File, error: Reject, start: bytes) -> None:
        """On record: rejected where a table was to be expected, else skipped; the text of a message is no file at all."""
        reason = str(error)
        if isinstance(error, _NothingInText):
            self._add(file, Verdict.IGNORED, _TEXT)
            return
        if beside := companion(file.one.name, start):
            self._add(file, Verdict.IGNORED, beside)
            return
        if archive := unopened_archive(start):
            self._add(file, Verdict.REJECTED, archive)
            return
        is_short_text = 0 < len(start) < MOST_NOTICE and b"\0" not in start and not file.one.is_body
        if is_short_text and file.one.is_text and (said := notice(file.one.name, text(start))):
            self._add(file, Verdict.REJECTED, said)
            return
        expected = isinstance(error, _TooLarge) or file.one.is_declared or file.one.is_container
        packed = start.startswith(PACKED) and file.one.is_archive
        self._add(file, Verdict.REJECTED if expected or packed else Verdict.SKIPPED, reason)

    def _add(self, file: _File, verdict: Verdict, reason: str) -> None:
        name = (
            safe_name(file.one.name) if verdict is Verdict.REJECTED else clean(file.member or file.one.name)
        )
        self.outcomes.append(
            PartOutcome(
                verdict=verdict,
                section=self.section,
                member=file.member,
                name=name,
                reason=reason,
            )
        )

    def _keep(self, file: _File, path: Path, kind: Kind, size: int, sha256: str) -> None:
        name = safe_name(file.one.name, f"attachment.{kind}")
        target = self._path(sha256, name, file.member)
        self._move(path, target)
        self.outcomes.append(
            PartOutcome(
                verdict=Verdict.TAKEN,
                section=self.section,
                member=file.member,
                name=name,
                path=target,
                kind=kind,
                size=size,
                sha256=sha256,
            )
        )

    def _keep_original(self, file: _File, path: Path, sha256: str) -> None:
        """The part is kept as it came, not the files in it: what it inflates to may be a thousand times larger."""
        if not any(one.verdict is Verdict.TAKEN and one.member for one in self.outcomes):
            return
        target = self._path(sha256, safe_name(file.one.name), "")
        self._move(path, target)
        self.outcomes = [
            replace(one, original=target) if one.verdict is Verdict.TAKEN else one for one in self.outcomes
        ]

    def _move(self, path: Path, target: Path) -> None:
        """Move a received file to its name; it is durable once the folder is."""
        with path.open("rb+") as received:
            os.fsync(received.fileno())
        path.replace(target)
        sync_folder(self.pending)

    def _path(self, sha256: str, name: str, member: str) -> Path:
        """By content and by where it came from: two messages with the same file do not share one."""
        ref = self.ref
        origin = (ref.account, ref.folder, str(ref.uidvalidity), ref.uid, self.section, member)
        mark = hashlib.sha256("\0".join(origin).encode(errors="surrogatepass")).hexdigest()
        return self.pending / f"{sha256[:16]}-{mark[:8]}-{name}"  # see _NAME_AT


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BEGINNING)


@contextlib.contextmanager
def _incoming(pending: Path) -> Iterator[IO[bytes]]:
    """A new file in `pending`, gone at the end unless it has got another name."""
    file = tempfile.NamedTemporaryFile(dir=pending, prefix=_INCOMING, delete=False)  # noqa: SIM115 - closed below, before it goes
    try:
        with file:
            yield file
    finally:
        Path(file.name).unlink(missing_ok=True)
