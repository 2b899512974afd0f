"""Spreadsheets in whatever they are packed in, out of a message into `pending/`; and what is refused, with what to do."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import time
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support_mail import workbook

from mailferry.config.mailbox import MailboxSettings
from mailferry.config.spreadsheet import Limits
from mailferry.errors import Reject
from mailferry.mailbox.attachments import choose
from mailferry.mailbox.source.maildir import MaildirMailbox
from mailferry.mailbox.source.message import PartOutcome, Verdict
from mailferry.mailbox.storing import Budget, store

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("closed_mailboxes")

MAILS = Path(__file__).parent.parent / "data" / "mails"
BOOK = workbook(("HAWB", "Status"), ("1", "out"))


@pytest.fixture
def taken(tmp_path: Path) -> Callable[..., list[PartOutcome]]:
    """Takes a message; what became of all its parts."""
    for name in ("mail/new", "mail/cur", "mail/tmp", "pending"):
        (tmp_path / name).mkdir(parents=True)

    def take(message: bytes, limits: Limits | None = None, **changes: Any) -> list[PartOutcome]:
        (tmp_path / "mail" / "new" / "1.a.host").write_bytes(message)
        for path in (tmp_path / "pending").iterdir():
            path.unlink()
        settings = MailboxSettings(
            **{"kind": "maildir", "path": tmp_path / "mail", "subject_filter": "", **changes}
        )
        mailbox = MaildirMailbox(settings)
        (ref,) = mailbox.unmarked()
        summary = mailbox.summary(ref)
        assert summary
        parts, outcomes = choose(summary, settings)
        found = list(outcomes)
        for part in parts:
            found += store(mailbox, ref, part, tmp_path / "pending", settings, limits)
        paths = {path for one in found for path in (one.path, one.original) if path}
        assert paths == set((tmp_path / "pending").iterdir())
        return found

    return take


def _zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


def _mail(name: str, content: bytes, mime: str = "application/octet-stream", text: str = "Hello.\n") -> bytes:
    message = EmailMessage()
    message["Subject"] = "Track and Trace"
    message.set_content(text)
    kind, _, subtype = mime.partition("/")
    message.add_attachment(content, maintype=kind, subtype=subtype, filename=name or None)
    return message.as_bytes()


def _verdicts(outcomes: list[PartOutcome]) -> list[tuple[str, str, str]]:
    return [
        (one.verdict.value, one.member, one.name) for one in outcomes if one.verdict is not Verdict.IGNORED
    ]


def test_archives_in_archives_are_opened_three_deep(taken: Callable[..., list[PartOutcome]]) -> None:
    three = _zip(b_zip=_zip(c_zip=_zip(rows_xlsx=BOOK)), top_xlsx=BOOK)
    assert _verdicts(taken(_mail("a.zip", three))) == [
        ("taken", "b.zip/c.zip/rows.xlsx", "rows.xlsx"),
        ("taken", "top.xlsx", "top.xlsx"),
    ]
    four = _zip(a_zip=three)
    found = taken(_mail("z.zip", four))
    assert [one.member for one in found if one.verdict is Verdict.TAKEN] == ["a.zip/top.xlsx"]
    (refused,) = [one for one in found if one.verdict is Verdict.REJECTED]
    assert (refused.member, "more than 3 deep" in refused.reason) == ("a.zip/b.zip/c.zip", True)


def test_what_a_mac_or_an_open_spreadsheet_leaves_in_an_archive_is_no_data(
    taken: Callable[..., list[PartOutcome]],
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows.xlsx", BOOK)
        archive.writestr("__MACOSX/._rows.xlsx", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + b"\0" * 100)
        archive.writestr("~$rows.xlsx", b"\x04Ayse" + b" " * 160)
    assert _verdicts(taken(_mail("a.zip", packed.getvalue()))) == [("taken", "rows.xlsx", "rows.xlsx")]
    alone = io.BytesIO()
    with zipfile.ZipFile(alone, "w") as archive:
        archive.writestr("~$rows.xlsx", b"\x04Ayse" + b" " * 160)
    (outcome,) = [one for one in taken(_mail("a.zip", alone.getvalue())) if one.verdict is Verdict.SKIPPED]
    assert outcome.reason == "an archive in which there is no data"


@pytest.mark.parametrize(
    ("charset", "content", "kept"),
    [
        ("windows-1251", "hawb;n\n1;Москва\n".encode("cp1251"), "hawb;n\n1;Москва\n".encode()),
        ("iso-8859-9", "hawb;n\n1;Şube €\n".encode("cp1254"), "hawb;n\n1;Şube €\n".encode()),
        (
            "windows-1251",
            "hawb;n\n1;Şube\n".encode(),
            "hawb;n\n1;Şube\n".encode(),
        ),  # it is UTF-8 all the same
        ("iso-8859-1", "hawb;n\n1;Şube\n".encode("cp1254"), "hawb;n\n1;Şube\n".encode("cp1254")),
        ("zlib", "hawb;n\n1;Şube\n".encode("cp1254"), "hawb;n\n1;Şube\n".encode("cp1254")),
        ("shift_jis", b"hawb;n\n1;\xff\xff\n", b"hawb;n\n1;\xff\xff\n"),
    ],
)
def test_text_is_kept_as_its_part_states_it(
    taken: Callable[..., list[PartOutcome]], charset: str, content: bytes, kept: bytes
) -> None:
    head = f'Content-Type: text/csv; charset="{charset}"; name="a.csv"\nContent-Transfer-Encoding: base64\n\n'
    (outcome,) = taken(b"Subject: x\nMIME-Version: 1.0\n" + head.encode() + base64.encodebytes(content))
    assert outcome.path
    assert outcome.path.read_bytes() == kept
    assert (outcome.size, outcome.sha256) == (len(kept), hashlib.sha256(kept).hexdigest())


def test_a_text_that_pgp_encrypted_is_refused(taken: Callable[..., list[PartOutcome]]) -> None:
    text = "-----BEGIN PGP MESSAGE-----\n\nhQEMAxyz\n-----END PGP MESSAGE-----\n"
    message = EmailMessage()
    message.set_content(text)
    (outcome,) = taken(message.as_bytes())
    assert (outcome.verdict, "encrypted by PGP" in outcome.reason) == (Verdict.REJECTED, True)


@pytest.mark.parametrize("encoding", ["utf-8", "cp857"])
def test_names_in_an_archive_that_states_no_charset_are_read_and_filtered(
    taken: Callable[..., list[PartOutcome]], encoding: str
) -> None:
    name = "Şubé.xlsx".encode(encoding)
    plain = "x" * len(name)
    packed = _zip(**{plain: BOOK}).replace(plain.encode(), name)
    (outcome,) = _verdicts(taken(_mail("a.zip", packed), name_filter="ŞUBÉ*.xlsx"))
    assert outcome == ("taken", "Şubé.xlsx", "Şubé.xlsx")


def test_what_archives_unpack_to_is_bounded_in_all(taken: Callable[..., list[PartOutcome]]) -> None:
    bomb = _zip(**{f"n{number}_zip": _zip(big_dat=b"PK\x03\x04" + b"\0" * 3_000_000) for number in range(9)})
    found = taken(_mail("a.zip", bomb), Limits(message=10_000_000))
    assert any("unpacks to more than 10 MB" in one.reason for one in found if one.verdict is Verdict.REJECTED)
    assert len(found) < 12


def test_files_in_the_text_by_uuencode_are_taken(taken: Callable[..., list[PartOutcome]]) -> None:
    lines = b"".join(binascii.b2a_uu(BOOK[at : at + 45]) for at in range(0, len(BOOK), 45)).decode()
    message = EmailMessage()
    message["Subject"] = "Track and Trace"
    message.set_content(f"{'A long word before. ' * 5000}\n\nbegin 644 rows.xlsx\n{lines}`\nend\n")
    assert _verdicts(taken(message.as_bytes())) == [("taken", "rows.xlsx", "rows.xlsx")]


@pytest.mark.parametrize("mime", ["text/plain", "text/html", "application/octet-stream", "image/x-unknown"])
@pytest.mark.parametrize("name", ["", "rows.xlsx"])
def test_a_workbook_is_taken_whatever_its_part_is_called(
    taken: Callable[..., list[PartOutcome]], mime: str, name: str
) -> None:
    found = taken(_mail(name, BOOK, mime))
    # an image that nothing calls a spreadsheet is one
    expected = [] if mime.startswith("image/") and not name else [name or "attachment.xlsx"]
    assert [one.name for one in found if one.verdict is Verdict.TAKEN] == expected


def test_a_workbook_in_a_part_that_calls_itself_the_text_is_taken(
    taken: Callable[..., list[PartOutcome]],
) -> None:
    message = EmailMessage()
    message["Subject"] = "Track and Trace"
    message.set_content(BOOK, maintype="text", subtype="plain", cte="base64")
    assert _verdicts(taken(message.as_bytes())) == [("taken", "", "attachment.xlsx")]


@pytest.mark.parametrize("rows", [1, 20_000], ids=["small", "large"])
def test_a_table_as_plain_text_is_taken_even_where_its_words_look_like_uuencode(
    taken: Callable[..., list[PartOutcome]], rows: int
) -> None:
    message = EmailMessage()
    message["Subject"] = "Track and Trace"
    message.set_content("The list.")
    content = b"hawb;note\n" + b"1;begin 644 things\n" * rows
    message.add_attachment(content, maintype="text", subtype="plain", filename="list.csv")
    assert _verdicts(taken(message.as_bytes()))[-1] == ("taken", "", "list.csv")


def test_a_message_of_words_alone_has_nothing_to_take_or_refuse(
    taken: Callable[..., list[PartOutcome]],
) -> None:
    message = EmailMessage()
    message["Subject"] = "Track and Trace"
    message.set_content("a;b\n1;2\nLet us begin 644 things.\n")
    message.add_alternative("<table><tr><td>1</td></tr></table>", subtype="html")
    assert {one.verdict for one in taken(message.as_bytes())} == {Verdict.IGNORED}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            (MAILS / "smime_encrypted.eml").read_bytes(),
            "encrypted .*unencrypted, or decrypted by the gateway",
        ),
        ((MAILS / "removed_by_gateway.eml").read_bytes(), "gateway took out .*released there, or sent again"),
        (_mail("rapor.rar", b"Rar!\x1a\x07\x01\x00" + b"x" * 200), "RAR archive, which is not opened: have"),
        (_mail("rapor.dat", b"7z\xbc\xaf\x27\x1c" + b"x" * 90_000), "7z archive, which is not opened: have"),
        (
            _mail("winmail.dat", b"\x78\x9f\x3e\x22\1\0" + b"\1\2\3\4\5" * 3),
            "damaged .*have it sent as an ordinary",
        ),
    ],
    ids=["encrypted", "removed", "rar", "7z", "winmail"],
)
def test_what_cannot_be_opened_says_what_to_do(
    taken: Callable[..., list[PartOutcome]], message: bytes, reason: str
) -> None:
    found = taken(message)
    assert all(one.verdict is not Verdict.TAKEN for one in found)
    (refused,) = [one for one in found if one.verdict is Verdict.REJECTED]
    assert re.search(reason, refused.reason)


def test_a_signed_file_is_taken_under_its_own_name(taken: Callable[..., list[PartOutcome]]) -> None:
    data = bytes.fromhex("06092a864886f70d010701")
    octets = b"\x24\x80\x04\x82" + len(BOOK).to_bytes(2, "big") + BOOK + b"\0\0"
    signed = bytes.fromhex("308006092a864886f70d010702a08030800201013100")
    signed += b"\x30\x80" + data + b"\xa0\x80" + octets + b"\0\0" * 2 + b"\x31\x00" + b"\0\0" * 3
    assert _verdicts(taken(_mail("rows.xlsx.p7m", signed))) == [("taken", "rows.xlsx", "rows.xlsx")]


def test_the_name_filter_looks_into_containers(taken: Callable[..., list[PartOutcome]]) -> None:
    raw = (MAILS / "smime_signed.eml").read_bytes()
    assert [one.name for one in taken(raw, name_filter="signed*") if one.verdict is Verdict.TAKEN] == [
        "signed.xlsx"
    ]
    assert [one for one in taken(raw, name_filter="other*") if one.verdict is Verdict.TAKEN] == []
    turkish = (MAILS / "raw_1254_name.eml").read_bytes()
    assert [one.verdict for one in taken(turkish, name_filter="*ŞUBAT*")][-1] is Verdict.TAKEN


def test_a_file_whose_line_ends_were_changed_says_so(taken: Callable[..., list[PartOutcome]]) -> None:
    large = workbook(("HAWB", "Status"), *((str(n), os.urandom(20).hex()) for n in range(400)))
    assert _verdicts(taken(_binary(large))) == [("taken", "", "rows.xlsx")]
    found = taken(_binary(re.sub(rb"\r?\n", b"\r\n", large)))
    (refused,) = [one for one in found if one.verdict is Verdict.REJECTED]
    assert "line ends were changed" in refused.reason
    assert "base64" in refused.reason


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (b"HAWB;Status\n1;delivered\n2;returned\n", "flowed"),
        (b"HAWB;Status\n1;left \n2;returned\n", "fixed"),
        (b"HAWB;Status\r\n1;left \r\n2;returned\r\n", "flowed"),
        (b"HAWB;Status\n From 1;delivered\n", "flowed"),
    ],
)
def test_flowed_text_is_taken_where_no_line_can_have_been_broken(
    taken: Callable[..., list[PartOutcome]], rows: bytes, kind: str
) -> None:
    raw = b"Subject: Track and Trace\nContent-Type: text/plain; format=%b; name=rows.csv\n" % kind.encode()
    (found,) = taken(raw + b"Content-Disposition: attachment; filename=rows.csv\n\n" + rows)
    broken = kind == "flowed" and re.search(rb"^ | \r?$", rows, re.MULTILINE)
    assert found.verdict is (Verdict.REJECTED if broken else Verdict.TAKEN)
    assert ("format=flowed" in found.reason) == bool(broken)


def _binary(content: bytes) -> bytes:
    """A message with a workbook as it is; it begins with LF, so that nothing changes its lines."""
    head = "Subject: Track and Trace\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\nContent-Type: application/x; "
    head += "name=rows.xlsx\nContent-Disposition: attachment\nContent-Transfer-Encoding: binary\n\n"
    return head.encode() + content + b"\n--bb--\n"


def test_many_tiny_parts_cost_little(taken: Callable[..., list[PartOutcome]]) -> None:
    part = b"--b\r\nContent-Type: application/octet-stream; name=a%d.dat\r\n\r\nhi;x\r\n"
    message = b"Subject: Track and Trace\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    message += b"".join(part % number for number in range(300)) + b"--b--\r\n"
    begun = time.process_time()
    assert len(taken(message)) == 300
    # Linear: a part costs 2 ms. What was parsed again for each part cost 30 ms a part at this number, and more at others.
    assert time.process_time() - begun < 3


def test_endless_names_in_an_archive_are_cut_first(taken: Callable[..., list[PartOutcome]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(8):
            archive.writestr("a" + "\u0316\u0301" * 16_000 + f"{number}.xlsx", BOOK)
    begun = time.process_time()
    found = taken(_mail("a.zip", buffer.getvalue()))
    assert [one.verdict for one in found if one.verdict is not Verdict.IGNORED] == [Verdict.TAKEN] * 8
    assert time.process_time() - begun < 2


def test_what_all_parts_of_a_message_unpack_to_is_bounded() -> None:
    budget = Budget(1000)
    budget.take(600)
    with pytest.raises(Reject, match="the message unpacks to more than"):
        budget.take(600)
