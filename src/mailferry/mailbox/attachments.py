"""Which parts of a message may be spreadsheets, and bringing those that are safely into `pending/`.

`choose` looks at the description alone (pure); `store` fetches, and goes by the bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import tempfile
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mailferry.config.mailbox import WithoutAttachment
from mailferry.config.spreadsheet import Limits
from mailferry.disk import sync_folder
from mailferry.errors import Reject, Retry
from mailferry.mailbox.source.headers import clean, fold
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.source.message import PartOutcome, Verdict
from mailferry.mailbox.source.transfer_encoding import PIECE
from mailferry.mailbox.workbook.formats import MIB, PlainZip, kind_of, spreadsheets_in_zip
from mailferry.mailbox.workbook.text_kind import BEGINNING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.message import Mailbox, MessageRef, Part, Summary
    from mailferry.mailbox.workbook.formats import Entry
    from mailferry.mailbox.workbook.values import Kind

_EXTENSIONS = (".xlsx", ".xlsm", ".xltx", ".xltm", ".xlsb", ".xls", ".xlt", ".ods", ".csv", ".tsv")
_TYPES = (
    "application/vnd.ms-excel",
    "application/vnd.openxmlformats-officedocument.spreadsheetml",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/msexcel",
    "application/x-msexcel",
    "application/x-excel",
    "application/excel",
    "text/csv",
    "text/tab-separated-values",
)
#: Beginnings of MIME types that never hold data, and what to call them.
_NEVER_DATA = {
    "font/": "a font",
    "text/calendar": "a calendar entry",
    "text/vcard": "a contact",
    "application/pkcs7-signature": "a signature",
    "application/x-pkcs7-signature": "a signature",
    "application/pgp-signature": "a signature",
    "message/delivery-status": "a delivery report",
    "message/disposition-notification": "a read receipt",
}
#: Beginnings of MIME types of files that are no spreadsheet, and what to call them.
_OTHER_TYPES = {
    "image/": "an image",
    "audio/": "a sound",
    "video/": "a video",
    "message/rfc822": "a forwarded message in an encoding that is not opened; forward it as it is",
    "application/ms-tnef": "Outlook's winmail.dat, which is not opened; have it sent as an ordinary attachment",
    "multipart/": "a multipart without parts",
}
#: How zip archives and OLE2 compound files begin: every format that is read here is one of them.
_CONTAINERS = (b"PK", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
#: Enough to tell what a file is.
_START = BEGINNING

#: Stands for the section of a message as a whole.
WHOLE = ""
_INCOMING = ".incoming-"
#: What is the file's own fault (name, size), not that of the disk.
_OF_THE_FILE = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG})
#: Seconds after which a file that was never finished belongs to nobody.
_ABANDONED = 3600

_MAX_NAME = 150
_RESERVED = frozenset(
    [
        "CON",
        "PRN",
        "AUX",
        "NUL",
        "CONIN$",
        "CONOUT$",
        *(f"{d}{n}" for d in ("COM", "LPT") for n in "0123456789¹²³"),
    ]
)


# --- choosing


def choose(summary: Summary, settings: MailboxSettings) -> tuple[tuple[Part, ...], tuple[PartOutcome, ...]]:
    """Parts that are worth fetching, and the others with the reason. When in doubt a part is taken."""
    unwanted = Matcher.of(settings).mismatch(summary)
    candidates: list[Part] = []
    others: list[PartOutcome] = []
    for part in summary.parts:
        verdict, reason = (Verdict.SKIPPED, unwanted) if unwanted else _unwanted_part(part, settings)
        if reason:
            name = clean(part.name)
            others.append(PartOutcome(verdict=verdict, section=part.section, name=name, reason=reason))
        else:
            candidates.append(part)
    return tuple(candidates), tuple(others)


def accounted(parts: Sequence[PartOutcome], summary: Summary, settings: MailboxSettings) -> list[PartOutcome]:
    """No message ends in silence: where it carries files and none could be taken, each of them is rejected, for its reason.

    So is a message without any file, where `without_attachment` says so.
    """
    if any(part.verdict is Verdict.TAKEN for part in parts):
        return list(parts)
    # Of an archive that is refused, the files need not be.
    refused = {part.section for part in parts if part.verdict is Verdict.REJECTED}
    found = [
        _refused(part) if part.verdict is Verdict.SKIPPED and part.section not in refused else part
        for part in parts
    ]
    if settings.without_attachment is WithoutAttachment.REFUSE and all(
        part.verdict is Verdict.IGNORED for part in found
    ):
        reason = (
            "the message carries no file; have it sent with one, or set"
            f" `{settings.spelled('without_attachment')}` to done"
        )
        name = safe_name(summary.subject, "message")
        found.append(PartOutcome(verdict=Verdict.REJECTED, section=WHOLE, name=name, reason=reason))
    return found


def _refused(part: PartOutcome) -> PartOutcome:
    return replace(part, verdict=Verdict.REJECTED, name=safe_name(part.name))


def _unwanted_part(part: Part, settings: MailboxSettings) -> tuple[Verdict, str]:
    """Why a part need not be fetched; "" where it may be a spreadsheet."""
    if pattern := _ignored(part.name, part.mime, settings):
        return Verdict.IGNORED, f"{pattern!r} of `{settings.spelled('ignore_attachments')}`"
    name_filter = settings.name_filter
    if not _is_declared(part.name, part.mime):
        if part.mime in ("text/plain", "text/html") and not part.name and part.disposition != "attachment":
            return Verdict.IGNORED, "the text of the message"
        for beginning, what in _NEVER_DATA.items():
            if part.mime.startswith(beginning):
                return Verdict.IGNORED, what
        for beginning, what in _OTHER_TYPES.items():
            if part.mime.startswith(beginning):
                is_logo = beginning == "image/" and part.disposition != "attachment"
                return Verdict.IGNORED if is_logo else Verdict.SKIPPED, what
    # an archive may be called anything: the filter then looks at what is in it
    if not _is_archive(part) and not _name_matches(part.name, name_filter):
        return Verdict.SKIPPED, f"the name does not match {name_filter!r}"
    return Verdict.TAKEN, ""


def _ignored(name: str, mime: str, settings: MailboxSettings) -> str:
    """The pattern of `ignore_attachments` that matches a name or a type; "" where none does."""
    for pattern in filter(None, map(str.strip, settings.ignore_attachments.split(","))):
        if fnmatch.fnmatchcase(fold(mime if "/" in pattern else name), fold(pattern)):
            return pattern
    return ""


def _is_declared(name: str, mime: str) -> bool:
    """Whether name or type call it a spreadsheet, so that somebody expects its rows."""
    return name.lower().rstrip(". ").endswith(_EXTENSIONS) or mime.startswith(_TYPES)


def _is_archive(part: Part) -> bool:
    return part.name.lower().endswith(".zip") or part.mime in (
        "application/zip",
        "application/x-zip-compressed",
    )


def _name_matches(name: str, pattern: str) -> bool:
    return not pattern or fnmatch.fnmatchcase(fold(name), fold(pattern))


def safe_name(name: str, default: str = "attachment") -> str:
    """A file name that is one on every system, at most 150 bytes of UTF-8; its extension survives cutting."""
    name = clean(unicodedata.normalize("NFC", name)).replace("\\", "/").rpartition("/")[2]
    name = "".join("_" if character in '<>:"|?*' else character for character in name).strip(". ")
    if name.partition(".")[0].rstrip().upper() in _RESERVED:
        name = f"_{name}"
    stem, extension = os.path.splitext(name)  # noqa: PTH122 - Path strips more
    if len(extension.encode()) > 20:
        stem, extension = name, ""
    stem = stem.encode()[: _MAX_NAME - len(extension.encode())].decode(errors="ignore").rstrip(". ")
    return f"{stem}{extension}" if stem else default + extension


# --- storing


class DiskFault(Retry):
    """The disk takes nothing at the moment, whatever the message."""


def store(
    mailbox: Mailbox,
    ref: MessageRef,
    part: Part,
    pending: Path,
    settings: MailboxSettings,
    limits: Limits | None = None,
) -> tuple[PartOutcome, ...]:
    """Fetch a part; what is a spreadsheet, or is one within a .zip, ends durably in `pending`.

    The same part gives the same file names again, so a repetition after a crash leaves nothing over. Raises Retry
    for the mailbox's faults and a file that cannot be written, DiskFault where none can.
    """
    job = _Job(
        ref=ref, part=part, pending=pending, largest=settings.max_file_bytes, limits=limits or Limits()
    )
    try:
        with _incoming(pending) as file, contextlib.closing(mailbox.fetch(ref, part)) as pieces:  # type: ignore[type-var]  # fetch is a generator in both mailboxes; the protocol promises an iterator
            return _take_in(job, file, pieces, settings.name_filter)
    except OSError as error:
        fault = Retry if error.errno in _OF_THE_FILE else DiskFault
        raise fault(
            f"{pending} cannot be written: {error.strerror or error}; check space and rights"
        ) from None


def clear_leftovers(pending: Path, now: float) -> int:
    """Delete what downloads cut short by a crash left; `now` in Unix seconds. The number of files that went."""
    count = 0
    for path in pending.glob(f"{_INCOMING}*"):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > _ABANDONED:
                path.unlink()
                count += 1
    return count


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    ref: MessageRef
    part: Part
    pending: Path
    #: Bytes of one file.
    largest: int
    limits: Limits

    def rejected(self, reason: str, entry: Entry | None = None) -> PartOutcome:
        name, member = (entry.name, entry.member) if entry else (self.part.name, "")
        return PartOutcome(
            verdict=Verdict.REJECTED,
            section=self.part.section,
            name=safe_name(name),
            member=member,
            reason=reason,
        )

    def skipped(self, reason: str, entry: Entry | None = None) -> PartOutcome:
        member = entry.member if entry else ""
        return PartOutcome(
            verdict=Verdict.SKIPPED,
            section=self.part.section,
            member=member,
            name=clean(member or self.part.name),
            reason=reason,
        )

    def path(self, sha256: str, name: str, member: str) -> Path:
        """Told apart by content and by where it came from: two messages with the same file do not share one."""
        ref = self.ref
        origin = (ref.account, ref.folder, str(ref.uidvalidity), ref.uid, self.part.section, member)
        mark = hashlib.sha256("\0".join(origin).encode(errors="surrogatepass")).hexdigest()
        return self.pending / f"{sha256[:16]}-{mark[:8]}-{name}"


class _TooLarge(Reject):
    """It began like a spreadsheet and does not end."""


def _take_in(
    job: _Job, file: IO[bytes], pieces: Iterable[bytes], name_filter: str
) -> tuple[PartOutcome, ...]:
    path = Path(file.name)
    try:
        size, sha256 = _receive(file, pieces, job.largest)
        kind = kind_of(path, job.limits)
    except PlainZip:
        return _unpack(job, path, name_filter)
    except Reject as error:
        expected = isinstance(error, _TooLarge) or _is_declared(job.part.name, job.part.mime)
        if expected or (_is_archive(job.part) and _begins_like_a_container(path)):
            return (job.rejected(str(error)),)
        return (job.skipped(str(error)),)
    if not _name_matches(job.part.name, name_filter):
        return (job.skipped(f"the name does not match {name_filter!r}"),)
    return (_keep(job, path, kind, size, sha256),)


def _receive(file: IO[bytes], pieces: Iterable[bytes], max_bytes: int) -> tuple[int, str]:
    """Write, hash and fsync; size and SHA-256. Ends early, with Reject, for what is no spreadsheet or too large."""
    digest = hashlib.sha256()
    size = 0
    for piece in pieces:
        file.write(piece)
        digest.update(piece)
        looked_at = size >= _START
        size += len(piece)
        if not looked_at and size >= _START:
            file.flush()
            if not _begins_like_a_container(Path(file.name)):
                kind_of(Path(file.name))
        if size > max_bytes:
            raise _TooLarge(f"larger than {max_bytes / MIB:,.1f} MB, the largest attachment that is taken")
    file.flush()
    os.fsync(file.fileno())
    # Windows renames no open file
    file.close()
    return size, digest.hexdigest()


def _begins_like_a_container(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(_CONTAINERS)


def _unpack(job: _Job, archive: Path, name_filter: str) -> tuple[PartOutcome, ...]:
    """Every spreadsheet in a .zip as a file of its own."""
    found: list[PartOutcome] = []
    others: list[tuple[Entry, str]] = []
    wanted = _name_matches(job.part.name, name_filter)
    try:
        for entry, content in spreadsheets_in_zip(archive, job.largest, job.limits, others):
            if not (wanted or _name_matches(entry.name, name_filter)):
                found.append(job.skipped(f"the name does not match {name_filter!r}", entry))
                continue
            with _incoming(job.pending) as file:
                path = Path(file.name)
                try:
                    size, sha256 = _receive(file, iter(lambda: content.read(PIECE), b""), job.largest)  # noqa: B023 - used up within this turn
                    found.append(_keep(job, path, kind_of(path, job.limits), size, sha256, entry))
                except PlainZip:
                    others.append((entry, "an archive in an archive, which is not opened"))
                except Reject as error:
                    others.append((entry, str(error)))
    except Reject as error:
        found.append(job.rejected(str(error)))
    for entry, reason in others:
        judge = job.rejected if _is_declared(entry.name, "") else job.skipped
        found.append(judge(reason, entry))
    taken = any(one.verdict is Verdict.TAKEN for one in found)
    if not taken and _is_declared(job.part.name, job.part.mime):
        found.append(job.rejected("a zip archive without a workbook in it, whatever its name says"))
    return tuple(found) or (job.skipped("an empty archive"),)


def _keep(
    job: _Job, path: Path, kind: Kind, size: int, sha256: str, entry: Entry | None = None
) -> PartOutcome:
    """Give a received file its name; it is durable once the folder is."""
    member = entry.member if entry else ""
    name = safe_name(entry.name if entry else job.part.name, f"attachment.{kind}")
    target = job.path(sha256, name, member)
    path.replace(target)
    sync_folder(job.pending)
    return PartOutcome(
        verdict=Verdict.TAKEN,
        section=job.part.section,
        member=member,
        name=name,
        path=target,
        kind=kind,
        size=size,
        sha256=sha256,
    )


@contextlib.contextmanager
def _incoming(pending: Path) -> Iterator[IO[bytes]]:
    """A new file in `pending`, gone at the end unless it has got another name."""
    file = tempfile.NamedTemporaryFile(dir=pending, prefix=_INCOMING, delete=False)  # noqa: SIM115 - closed below, before it goes
    try:
        with file:
            yield file
    finally:
        Path(file.name).unlink(missing_ok=True)
