"""Which parts of a message may be spreadsheets, by their description alone; `storing` then looks at the bytes."""

from __future__ import annotations

import fnmatch
import os
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mailferry.config.mailbox import WithoutAttachment
from mailferry.errors import Reject
from mailferry.mailbox.mime.headers import clean, fold
from mailferry.mailbox.source.matcher import Matcher
from mailferry.mailbox.source.message import PartOutcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.mime.tree import Part
    from mailferry.mailbox.source.message import Summary

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
_CONTAINER_TYPES = (
    "message/rfc822",
    "application/ms-tnef",
    "application/vnd.ms-tnef",
    "application/pkcs7-mime",
    "application/x-pkcs7-mime",
)
#: Beginnings of MIME types that never hold data, and what to call them.
_NEVER_DATA = {
    "font/": "a font",
    "text/calendar": "a calendar entry",
    "text/vcard": "a contact",
    "application/pkcs7-signature": "a signature",
    "application/x-pkcs7-signature": "a signature",
    "application/pgp-signature": "a signature",
    "application/pgp-encrypted": "a note that the message is encrypted",
    "message/delivery-status": "a delivery report",
    "message/disposition-notification": "a read receipt",
}
#: Beginnings of MIME types of files that are no spreadsheet, and what to call them.
_OTHER_TYPES = {
    "image/": "an image",
    "audio/": "a sound",
    "video/": "a video",
    "multipart/": "a multipart without parts",
}
#: MIME types of parts whose file is not in the message, and what to do.
_ELSEWHERE = {
    "message/partial": "a piece of a message that was sent in several: have it sent in one",
    "message/external-body": "a file that the message only names, and does not carry: have it sent as an attachment",
}
#: Stands for the section of a message as a whole.
WHOLE = ""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A file as it is described, before it is opened: a part of a message, or what lies in one."""

    name: str
    #: MIME type, or "".
    mime: str = ""
    #: "attachment", "inline" or "".
    disposition: str = ""
    #: Of a text, as its part states it, or "".
    charset: str = ""
    #: As `Part.flowed`.
    flowed: bool = False

    @property
    def is_declared(self) -> bool:
        """Whether name or type call it a spreadsheet, so that its rows are expected."""
        return self._ends_with(*_EXTENSIONS) or self.mime.startswith(_TYPES)

    @property
    def is_archive(self) -> bool:
        """Whether name or type call it a zip archive."""
        return self._ends_with(".zip") or self.mime in ("application/zip", "application/x-zip-compressed")

    @property
    def is_container(self) -> bool:
        """Whether name or type call it something that holds files, other than a zip archive."""
        return self._ends_with(".eml", ".p7m", "winmail.dat") or self.mime in _CONTAINER_TYPES

    @property
    def is_body(self) -> bool:
        """Whether it is text that a person is to read."""
        named = self.name or self.disposition == "attachment"
        return self.mime in ("text/plain", "text/html") and not named

    @property
    def is_text(self) -> bool:
        """Whether it is called a text."""
        return self.mime.startswith("text/") or self._ends_with(".txt", ".htm", ".html")

    def _ends_with(self, *endings: str) -> bool:
        return self.name.lower().rstrip(". ").endswith(endings)


def choose(summary: Summary, settings: MailboxSettings) -> tuple[tuple[Part, ...], tuple[PartOutcome, ...]]:
    """Parts that are worth fetching, and the others with the reason. When in doubt a part is taken.

    Raises Reject for a message that matches and whose sender may not change rows.
    """
    mismatch = Matcher.of(settings).mismatch(summary)
    if summary.refusal and not mismatch:
        raise Reject(summary.refusal)
    chosen: list[Part] = []
    others: list[PartOutcome] = []
    for part in summary.parts:
        one = Candidate(name=part.name, mime=part.mime, disposition=part.disposition)
        verdict, reason = (Verdict.SKIPPED, mismatch) if mismatch else unwanted(one, settings)
        if reason:
            name = clean(part.name)
            others.append(PartOutcome(verdict=verdict, section=part.section, name=name, reason=reason))
        else:
            chosen.append(part)
    return tuple(chosen), tuple(others)


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


def unwanted(one: Candidate, settings: MailboxSettings, *, matched: bool = False) -> tuple[Verdict, str]:
    """Why a file need not be looked at; "" where it may be, or hold, a spreadsheet. `matched`: the name filter let it in."""
    if pattern := _ignored(one.name, one.mime, settings):
        return Verdict.IGNORED, f"{pattern!r} of `{settings.spelled('ignore_attachments')}`"
    if reason := _ELSEWHERE.get(one.mime):
        return Verdict.REJECTED, reason
    if not one.is_declared:
        if one.is_body and one.mime == "text/html":
            return Verdict.IGNORED, "the text of the message"
        if one.name.lower().endswith(".p7s"):
            return Verdict.IGNORED, "a signature"
        for beginning, what in _NEVER_DATA.items():
            if one.mime.startswith(beginning):
                return Verdict.IGNORED, what
        for beginning, what in _OTHER_TYPES.items():
            if one.mime.startswith(beginning):
                is_logo = beginning == "image/" and one.disposition != "attachment"
                return Verdict.IGNORED if is_logo else Verdict.SKIPPED, what
    # what holds files may be called anything: the filter then looks at what is in it
    holds_files = one.is_archive or one.is_container or one.is_body
    if not (matched or holds_files or name_matches(one.name, settings.name_filter)):
        return Verdict.SKIPPED, f"the name does not match {settings.name_filter!r}"
    return Verdict.TAKEN, ""


def _ignored(name: str, mime: str, settings: MailboxSettings) -> str:
    """The pattern of `ignore_attachments` that matches a name or a type; "" where none does."""
    for pattern in filter(None, map(str.strip, settings.ignore_attachments.split(","))):
        if fnmatch.fnmatchcase(fold(mime if "/" in pattern else name), fold(pattern)):
            return pattern
    return ""


def name_matches(name: str, pattern: str) -> bool:
    """Whether a file's name matches the filter, in any case; an empty filter matches all."""
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
