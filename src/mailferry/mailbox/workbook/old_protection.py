"""Protection of .xls files by the programs' own password, undone. Imported late: few files have it.

Records are encrypted one by one, and their headers not ([MS-XLS] 2.2.10). The ciphers are msoffcrypto's; it cannot undo a
file in a sandbox, where there are no temporary files.
"""

from __future__ import annotations

import contextlib
import io
import struct
from typing import TYPE_CHECKING, Any

from msoffcrypto.format.xls97 import _parse_header_RC4, _parse_header_RC4CryptoAPI
from msoffcrypto.method.rc4 import DocumentRC4
from msoffcrypto.method.rc4_cryptoapi import DocumentRC4CryptoAPI
from msoffcrypto.method.xor_obfuscation import DocumentXOR

from mailferry.mailbox.workbook.passwords import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable

_BOUND_SHEET = 0x85
#: BOF, FilePass, UsrExcl, FileLock, InterfaceHdr, RRDInfo, RRDHead: never encrypted.
_PLAIN = frozenset({0x809, 0x2F, 0x194, 0x195, 0xE1, 0x196, 0x138})
#: Bytes after which the key changes.
_BLOCK = 1024


def opened(stream: bytes, protection: bytes, records: Iterable[tuple[int, int, int]]) -> bytes | None:
    """The workbook in the clear; None where the programs' own password does not open it.

    `protection` is the content of its FilePass record, `records` are place, number and size of all records.
    """
    with contextlib.suppress(struct.error):  # as a header that is too short makes the library raise
        if protection[:2] == b"\0\0":
            return _unmasked(stream, protection, records)
        return _deciphered(stream, protection, records)
    return None


def _deciphered(stream: bytes, protection: bytes, records: Iterable[tuple[int, int, int]]) -> bytes | None:
    cipher: Any
    arguments: tuple[Any, ...]
    if protection[2:4] == b"\1\0":
        info = _parse_header_RC4(io.BytesIO(protection[6:]))
        cipher, arguments = DocumentRC4, (DEFAULT, info["salt"])
    else:
        info = _parse_header_RC4CryptoAPI(io.BytesIO(protection[6:]))
        cipher, arguments = DocumentRC4CryptoAPI, (DEFAULT, info["salt"], info["keySize"])
    if not cipher.verifypw(*arguments, info["encryptedVerifier"], info["encryptedVerifierHash"]):
        return None
    clear = bytearray(cipher.decrypt(*arguments, io.BytesIO(stream), blocksize=_BLOCK).getvalue())
    for at, number, size in records:
        kept = 4 + _kept(number, size)
        clear[at : at + kept] = stream[at : at + kept]
    return bytes(clear)


def _unmasked(stream: bytes, protection: bytes, records: Iterable[tuple[int, int, int]]) -> bytes | None:
    """Without XOR obfuscation: byte by byte with one of 16 masks, by its place in the stream and its record's size."""
    (verifier,) = struct.unpack_from("<H", protection, 4)
    if not DocumentXOR.verifypw(DEFAULT, verifier):
        return None
    tables = [_table(mask) for mask in DocumentXOR.create_xor_array_method1(DEFAULT)]
    clear = bytearray(stream)
    for at, number, size in records:
        kept, end = _kept(number, size), at + 4 + size
        for first in range(at + 4 + kept, min(end, at + 4 + kept + 16)):
            clear[first:end:16] = clear[first:end:16].translate(tables[(first + size) % 16])
    return bytes(clear)


def _kept(number: int, size: int) -> int:
    """Bytes of a record's content that are never encrypted."""
    if number in _PLAIN:
        return size
    return 4 if number == _BOUND_SHEET else 0


def _table(mask: int) -> bytes:
    """Each byte without the mask, turned right by five bits."""
    masked = (byte ^ mask for byte in range(256))
    return bytes((byte >> 5 | byte << 3) & 0xFF for byte in masked)
