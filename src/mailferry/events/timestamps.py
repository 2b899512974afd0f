"""RFC 3161 time stamps of a manifest's lines: an authority signs that a line existed at a time. Kept beside the manifest.

The stamp of a line covers all lines before it, as each holds the hash of the one before. An authority that is unreachable
holds up nothing: a later run asks again.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from mailferry import disk
from mailferry.errors import Retry
from mailferry.events.seal import SealFault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rfc3161_client import TimeStampResponse

    from mailferry.config.event_feed import EventFeed

#: Seconds for one answer, bytes that it may have, and stamps that one run asks for.
TIMEOUT, LARGEST, AT_ONCE = 20.0, 1024 * 1024, 50


def folder_of(manifest: Path) -> Path:
    """The folder of a manifest's stamps; that of line 3 is `00000003.tsr` in it."""
    return manifest.with_suffix(".timestamps")


def stamp(feed: EventFeed) -> int:
    """Ask for the stamps of lines that have none, the oldest first; how many were had.

    Raises:
        Retry: the authority is unreachable or refuses, or the disk does.
    """
    had = 0
    folder = folder_of(feed.manifest_file)
    for number, line in _lines(feed.manifest_file):
        path = folder / f"{number:08d}.tsr"
        if path.exists():
            continue
        answer = _ask(feed.timestamp_url, line)
        with disk.explained("write", path):
            disk.make_folder(folder)
            disk.replace_file(path, answer)
        had += 1
        if had == AT_ONCE:
            break
    return had


def check(feed: EventFeed) -> Iterator[SealFault]:
    """Stamps that are missing, or are not the authority's for their line. Raises Retry."""
    from cryptography import x509
    from rfc3161_client import VerificationError, VerifierBuilder

    assert feed.timestamp_ca_file is not None  # the configuration says so
    builder = VerifierBuilder()
    with disk.explained("read", feed.timestamp_ca_file):
        roots = x509.load_pem_x509_certificates(feed.timestamp_ca_file.read_bytes())
    for root in roots:
        builder = builder.add_root_certificate(root)
    verifier = builder.build()
    for number, line in _lines(feed.manifest_file):
        path = folder_of(feed.manifest_file) / f"{number:08d}.tsr"
        try:
            fault = "" if verifier.verify_message(_decoded(path.read_bytes()), line) else "it does not fit"
        except FileNotFoundError:
            fault = f"line {number} has no time stamp yet"
        except (VerificationError, ValueError) as error:
            fault = f"it is not the authority's for line {number}: {error}"
        if fault:
            yield SealFault(kind="time stamp", file=path.name, what=fault)


def _lines(manifest: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines with their numbers, from 1 on."""
    with disk.explained("read", manifest):
        data = manifest.read_bytes() if manifest.exists() else b""
    yield from enumerate(data.split(b"\n")[:-1], 1)


def _ask(url: str, line: bytes) -> bytes:
    from rfc3161_client import HashAlgorithm, PKIStatus, TimestampRequestBuilder

    query = TimestampRequestBuilder().data(line).hash_algorithm(HashAlgorithm.SHA256).build()
    headers = {"Content-Type": "application/timestamp-query"}
    request = urllib.request.Request(url, query.as_bytes(), headers)  # noqa: S310 - the configuration takes http(s) alone
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            answer: bytes = response.read(LARGEST)
        decoded = _decoded(answer)
        granted = PKIStatus(decoded.status) in (PKIStatus.GRANTED, PKIStatus.GRANTED_WITH_MODS)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise Retry(f"time stamp authority {url}: {error}; the next run asks again") from error
    if not granted or decoded.tst_info.nonce != query.nonce:
        raise Retry(f"time stamp authority {url}: it did not grant the stamp; the next run asks again")
    return answer


def _decoded(answer: bytes) -> TimeStampResponse:
    """Raises ValueError for what is no answer of the protocol."""
    from rfc3161_client import decode_timestamp_response

    try:
        return decode_timestamp_response(_in_order(answer))
    except IndexError:
        raise ValueError("it is cut off") from None


def _in_order(answer: bytes) -> bytes:
    """The answer with its certificates in the order of DER: OpenSSL writes them as they come, and the library is strict.

    They are not part of what is signed. TimeStampResp of RFC 3161 2.4.2, SignedData of RFC 5652 5.1.
    """
    start, end = _content(answer, 0)
    token = _content(answer, start)[1]
    if token >= end:
        return answer  # refused: there is no token
    content_type = _content(answer, _content(answer, token)[0])[1]
    place = _content(answer, _content(answer, content_type)[0])[0]
    for _version_digests_content in range(3):
        place = _content(answer, place)[1]
    if answer[place] != 0xA0:
        return answer
    first, end = _content(answer, place)
    certificates = []
    place = first
    while place < end:
        following = _content(answer, place)[1]
        certificates.append(answer[place:following])
        place = following
    return answer[:first] + b"".join(sorted(certificates)) + answer[end:]


def _content(data: bytes, place: int) -> tuple[int, int]:
    """Where the content of the DER element at `place` begins and ends."""
    length, begin = data[place + 1], place + 2
    if length >= 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[place + 2 : begin])
    return begin, begin + length
