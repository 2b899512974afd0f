"""Kinds of files that hold others, and what their first bytes are."""

from __future__ import annotations

from enum import Enum

#: How zip archives and OLE2 compound files begin, in their first four bytes.
PACKED = (b"PK\x03\x04", b"PK\x05\x06", b"\xd0\xcf\x11\xe0")

#: Archives that are not opened, and what they are called.
_ARCHIVES = (
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"MSCF", "a cabinet archive"),
    (b"\x60\xea", "an ARJ archive"),
)


class Container(Enum):
    """What holds files."""

    ZIP = "an archive"
    SIGNED = "an S/MIME message"
    TNEF = "winmail.dat"
    MESSAGE = "a message"
    UUENCODED = "text with files in uuencode"
    BASE64 = "base64 without a header that says so"


def may_hold(start: bytes) -> bool:
    """Whether what begins like this may hold files, though it be called text; the reading child knows for certain."""
    return (
        start.startswith((*PACKED, b"\x78\x9f\x3e\x22", b"\x30"))
        or b"begin " in start
        or start.lstrip().startswith((b"UEsDB", b"0M8R4KGx"))
    )


def encrypted(start: bytes) -> str:
    """What to do about a text that PGP encrypted; "" for any other."""
    if start.lstrip().startswith(b"-----BEGIN PGP MESSAGE-----"):
        return "encrypted by PGP, which is not decrypted: have the file sent without"
    return ""


def companion(name: str, start: bytes) -> str:
    """What programs leave beside a file, under nearly its name; "" for anything else. Such files are never data."""
    if start.startswith(b"\x00\x05\x16\x07"):
        return "what a Mac keeps beside a file (AppleDouble)"
    if name.startswith("~$") and not start.startswith(PACKED):
        return "the lock of a spreadsheet that was open"
    return ""


def unopened_archive(start: bytes) -> str:
    """What to do about an archive that is not opened; "" for anything else."""
    if start[257:262] == b"ustar":
        return "a tar archive, which is not opened: have the file sent as it is, or in a .zip"
    for magic, what in _ARCHIVES:
        if start.startswith(magic):
            return f"{what}, which is not opened: have the file sent as it is, or in a .zip"
    return ""
