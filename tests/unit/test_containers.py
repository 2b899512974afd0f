"""Files that lie in S/MIME, winmail.dat, forwarded messages and uuencode; and what strangers make of those."""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import struct
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from mailferry.errors import Reject
from mailferry.mailbox.containers.kinds import Container, companion, unopened_archive
from mailferry.mailbox.containers.recognise import container_of, held_by
from mailferry.mailbox.containers.removed import notice
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.transfer_encoding import decoded
from mailferry.mailbox.mime.tree import leaves

MAILS = Path(__file__).parent.parent / "data" / "mails"
BOOK = b"PK\x03\x04" + bytes(range(256)) * 40


def _part(mail: str, number: int) -> bytes:
    """A decoded part of one of the mails."""
    message = (MAILS / f"{mail}.eml").read_bytes()
    part, node = list(leaves(from_message(message)))[number]
    assert node.span
    return b"".join(decoded([message[slice(*node.span)]], part.encoding))


def _held(content: bytes, name: str = "", mime: str = "") -> list[tuple[str, bytes]]:
    """Names and contents of what is in it."""
    container = container_of(content[:4096], name, mime)
    assert container
    return [(inner.name, b"".join(inner.read(content))) for inner in held_by(container, content)]


# --- S/MIME


def _certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ops@example.com")])
    now = dt.datetime.now(dt.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    return built.sign(key, hashes.SHA256()), key


def _signed(content: bytes, *options: pkcs7.PKCS7Options) -> bytes:
    certificate, key = _certificate()
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content).add_signer(certificate, key, hashes.SHA256())
    return builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])


def test_a_signed_message_is_unwrapped() -> None:
    assert _held(_signed(BOOK)) == [("", BOOK)]
    ((_, entity),) = _held(_part("smime_signed", 0))
    assert [name for name, _ in _held(entity, mime="message/rfc822")] == ["", "signed.xlsx"]


def test_a_signature_written_in_pieces_without_lengths_is_unwrapped() -> None:
    def piece(content: bytes) -> bytes:
        return b"\x04\x82" + struct.pack(">H", len(content)) + content

    data = bytes.fromhex("06092a864886f70d010701")
    octets = b"\x24\x80" + b"".join(piece(BOOK[at : at + 1000]) for at in range(0, len(BOOK), 1000)) + b"\0\0"
    encapsulated = b"\x30\x80" + data + b"\xa0\x80" + octets + b"\0\0" + b"\0\0"
    message = bytes.fromhex("308006092a864886f70d010702a08030800201013100")
    message += encapsulated + b"\x31\x00" + b"\0\0" * 3
    assert _held(message) == [("", BOOK)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_part("smime_encrypted", 0), "encrypted .* recipient's key"),
        (_signed(BOOK, pkcs7.PKCS7Options.DetachedSignature), "without content: the signature alone"),
        (_signed(BOOK)[:3000], "damaged or truncated"),
        (bytes.fromhex("308006092a864886f70d010702") + b"\xa0\x80" * 2000, "S/MIME message"),
    ],
    ids=["encrypted", "detached", "cut", "endless"],
)
def test_what_has_no_content_to_read_says_so(content: bytes, reason: str) -> None:
    with pytest.raises(Reject, match=reason):
        _held(content)


# --- winmail.dat


def _attribute(level: int, kind: int, content: bytes) -> bytes:
    checksum = sum(content) & 0xFFFF
    return struct.pack("<BII", level, kind, len(content)) + content + struct.pack("<H", checksum)


def _property(kind: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHII", kind, number, 1, len(value)) + value + b"\0" * (-len(value) % 4)


def _tnef(*attributes: bytes) -> bytes:
    return b"\x78\x9f\x3e\x22\x01\x00" + b"".join(attributes)


def _file(title: str, content: bytes, *properties: bytes) -> bytes:
    found = _attribute(2, 0x00069002, b"\0" * 14) + _attribute(2, 0x00018010, title.encode("cp1254") + b"\0")
    found += _attribute(2, 0x0006800F, content) if content else b""
    packed = struct.pack("<I", len(properties)) + b"".join(properties)
    return found + _attribute(2, 0x00069005, packed)


CODEPAGE = _attribute(1, 0x00069007, struct.pack("<II", 1254, 0))
LONG = _property(0x001F, 0x3707, "Şubat çizelgesi.xlsx\0".encode("utf-16-le"))
FLAG = struct.pack("<HHI", 0x000B, 0x7FFE, 1)
NAMED = (
    struct.pack("<HH", 0x0003, 0x8000)
    + b"g" * 16
    + struct.pack("<II", 1, 6)
    + b"a\0b\0\0\0\0\0"
    + b"\1\0\0\0"
)


def test_the_files_of_a_winmail_dat_have_their_long_names() -> None:
    content = _tnef(CODEPAGE, _file("SUBATI~1.XLS", BOOK, FLAG, NAMED, LONG), _file("Çizelge.xls", b"second"))
    assert _held(content) == [("Şubat çizelgesi.xlsx", BOOK), ("Çizelge.xls", b"second")]
    assert [name for name, _ in _held(_part("tnef", 1))] == ["tt.xlsx"]


def test_a_message_in_a_winmail_dat_is_one_again() -> None:
    inner = _tnef(_file("in.xls", BOOK))
    iid = bytes.fromhex("0703020000000000c000000000000046")
    ((name, content),) = _held(_tnef(_file("Forwarded", b"", _property(0x000D, 0x3701, iid + inner))))
    assert name == "Forwarded"
    assert _held(content) == [("in.xls", BOOK)]


@pytest.mark.parametrize("cut", [20, 60, 2000])
def test_a_winmail_dat_cut_short_is_rejected(cut: int) -> None:
    with pytest.raises(Reject, match=r"damaged or truncated winmail\.dat"):
        _held(_tnef(_file("a.xls", BOOK))[:cut])


# --- messages and text


def test_a_forwarded_message_is_opened_whatever_its_type() -> None:
    for mail, number in (("forwarded_base64", 1), ("forwarded_as_file", 0)):
        content = _part(mail, number)
        for name, mime in (("", "message/rfc822"), ("x.eml", ""), ("", "application/octet-stream")):
            assert any(inner.startswith(b"PK") for _, inner in _held(content, name, mime)), (mail, name, mime)


def test_files_in_a_text_by_uuencode_are_found_with_their_names() -> None:
    def encoded(name: str) -> bytes:
        lines = b"".join(binascii.b2a_uu(BOOK[at : at + 45]) for at in range(0, len(BOOK), 45))
        return f"begin 644 {name}\n".encode() + lines + b"`\nend\n"

    text = b"Let us begin 644 things.\n\n" + encoded("a b.xlsx") + b"and\n" + encoded("c.xlsx") + b"bye\n"
    assert _held(text) == [("a b.xlsx", BOOK), ("c.xlsx", BOOK)]


def test_base64_that_lost_its_header_is_decoded() -> None:
    assert _held(base64.encodebytes(BOOK)) == [("", BOOK)]
    assert _held(_part("no_encoding", 1))[0][1].startswith(b"PK\x03\x04")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"Hello\n", b"From: the depot\nplain words\n", b"UEsDB", b"a;b\n1;2\n", b"0\x82"],
)
def test_what_holds_nothing_is_no_container(content: bytes) -> None:
    assert container_of(content, "rows.txt", "text/plain") is None


def test_what_programs_leave_beside_a_file_is_no_data() -> None:
    assert "AppleDouble" in companion("._rows.xlsx", b"\x00\x05\x16\x07\x00\x02\x00\x00")
    assert "lock" in companion("~$rows.xlsx", b"\x05Ayse " + b" " * 158)
    assert companion("~$rows.xlsx", b"PK\x03\x04") == ""
    assert companion("._rows.xlsx", b"a;b\n") == ""


def test_archives_that_are_not_opened_say_what_to_do() -> None:
    assert "RAR archive, which is not opened: have the file sent" in unopened_archive(b"Rar!\x1a\x07\x01")
    assert "7z" in unopened_archive(b"7z\xbc\xaf\x27\x1c")
    assert "tar" in unopened_archive(b"\0" * 257 + b"ustar")
    assert unopened_archive(b"PK\x03\x04") == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("veri.xlsx.txt", "The attachment veri.xlsx was removed by the gateway."),
        ("veri.xlsx.txt", "Bu metin."),
        ("note.txt", "WARNING: the file rows.xls has been quarantined."),
        ("bilgi.html", "<p>rapor.xlsx dosyas\u0131 g\u00fcvenlik nedeniyle kald\u0131r\u0131ld\u0131.</p>"),
        ("Removed Attachment.txt", "see the administrator"),
        ("DELETED0.TXT", ""),
    ],
)
def test_a_notice_of_a_gateway_is_known(name: str, text: str) -> None:
    assert "took out" in notice(name, text)


@pytest.mark.parametrize(
    ("name", "text"), [("rows.txt", "a;b\n1;2"), ("note.txt", "See the file rows.xlsx.")]
)
def test_other_texts_are_no_notice(name: str, text: str) -> None:
    assert notice(name, text) == ""


# --- strangers

SAMPLES = [
    _signed(BOOK),
    _part("smime_encrypted", 0),
    _part("tnef", 1),
    _tnef(CODEPAGE, _file("a.xls", BOOK[:50], FLAG, NAMED, LONG)),
    _part("forwarded_base64", 1)[:3000],
    b"begin 644 a\n#AAAA\n`\nend\n",
]


@settings(max_examples=300)
@given(
    sample=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_mutilated_containers_are_read_or_rejected(
    sample: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    content = bytearray(sample)
    for place, value in changes:
        content[int(place * min(len(content), 600))] = value
    whole = bytes(content[: int(cut * len(content)) + 1])
    for container in set(Container) - {Container.ZIP}:
        with contextlib.suppress(Reject):
            held = [b"".join(inner.read(whole)) for inner in held_by(container, whole)]
            # A uuencoded line without its trailing spaces is filled up to the length that it states, 63 bytes at most.
            lines = whole.count(b"\n") + whole.count(b"\r") + 1
            assert sum(map(len, held)) <= 2 * len(whole) + 63 * lines


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_rejected(content: bytes) -> None:
    container_of(content, "", "")
    for container in set(Container) - {Container.ZIP}:
        with contextlib.suppress(Reject):
            held_by(container, content)
