"""What a file is, its bytes say."""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_workbooks import compound, ods, xls

from mailferry.config.spreadsheet import Limits
from mailferry.errors import Reject
from mailferry.mailbox.workbook.archive import entries, open_zip, unpacked
from mailferry.mailbox.workbook.formats import PlainZip, kind_of
from mailferry.mailbox.workbook.values import MIB, Kind
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def files_in_zip(path: Path, largest: int) -> tuple[list[tuple[str, str, bytes]], dict[str, str]]:
    """Member, name and content of the files that can be unpacked, and of the others, by name, why not."""
    taken, left = [], {}
    with open_zip(path, Limits()) as archive:
        for entry in entries(archive, largest):
            if entry.reason:
                left[entry.name] = entry.reason
            else:
                content = b"".join(unpacked(archive, entry.number, largest))
                taken.append((entry.member, entry.name, content))
    return taken, left


def test_the_name_says_nothing(tmp_path: Path) -> None:
    tab = Tab(rows=[["key"]])
    assert kind_of(xlsx(tmp_path / "a.pdf", tab)) is Kind.XLSX
    assert kind_of(ods(tmp_path / "b.xlsx", tab)) is Kind.ODS
    assert kind_of(xls(tmp_path / "c", tab)) is Kind.XLS
    binary = tmp_path / "d.zip"
    with zipfile.ZipFile(binary, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.bin", b"")
    assert kind_of(binary) is Kind.XLSB


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf<html><body><p>Hello</p>", "HTML"),
        (b"<?xml version='1.0'?><order/>", "an XML file"),
        (b"Dear Sir, please find the list, attached\n\nKind regards, Ali\n", "plain text"),
        ("Merhaba Ayşe,\r\nliste ektedir, iyi günler;\r\nAli | Toptan\r\n".encode("cp1254"), "plain text"),
        (b"HAWB\nK1\nK2\n", "plain text"),
        (b"MIME-Version: 1.0\r\n", "MHTML"),
        (b"%PDF-1.7", "PDF"),
        (b"Rar!\x1a\x07", "RAR"),
        (b"\x09\x04\x06\x00\x00\x00", "Excel 4"),
        (b"just words", "plain text"),
        (b"\0" * 600, "zeros"),
        (b"\x01\x02\x03\x04\0\0", "not a spreadsheet that is known"),
        (b"PK\x03\x04 and then it ended", "truncated zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "truncated or damaged .xls"),
    ],
)
def test_what_is_no_spreadsheet_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "book.xls"
    path.write_bytes(content)
    with pytest.raises(Reject, match=reason):
        kind_of(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a;b\r\n1;2\r\n", Kind.CSV),
        (b"HAWB,Pieces,Status\n", Kind.CSV),
        ("no\tname\n1\tİ\n".encode("cp1254"), Kind.CSV),
        ("a\tb\n1\t2\n".encode("utf-16"), Kind.CSV),
        ("a\tb\n1\t2\n".encode("utf-16-le"), Kind.CSV),
        (b"\xef\xbb\xbfa|b\n1|2\n", Kind.CSV),
        (b"sep=;\r\nHAWB\r\nK1\r\n", Kind.CSV),
        (b'Report of today\n\nHAWB,Note\nK1,"one, two\nthree"\nK2,x\n', Kind.CSV),
        (b"\xef\xbb\xbf<html><body><table>", Kind.HTML),
        (b"  <TABLE border=1>", Kind.HTML),
        (b'<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>', Kind.XML),
    ],
)
def test_text_that_holds_a_table_is_a_spreadsheet(tmp_path: Path, content: bytes, kind: Kind) -> None:
    path = tmp_path / "book.xls"
    path.write_bytes(content)
    assert kind_of(path) is kind


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ({"WordDocument": b""}, "Word"),
        ({"__properties_version1.0": b""}, "Outlook"),
        ({"Other": b""}, "without a workbook"),
    ],
)
def test_a_compound_file_is_recognised_by_its_streams(
    tmp_path: Path, streams: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(Reject, match=reason):
        kind_of(compound(tmp_path / "book.xls", streams))


def test_a_protected_package_is_for_the_child_to_open(tmp_path: Path) -> None:
    path = compound(tmp_path / "book.xlsx", {"EncryptedPackage": b"", "EncryptionInfo": b""})
    assert kind_of(path) is Kind.PROTECTED


def test_a_directory_in_a_ring_ends(tmp_path: Path) -> None:
    path = xls(tmp_path / "a.xls", Tab(rows=[["key"]]))
    data = bytearray(path.read_bytes())
    data[512 + 4 : 512 + 8] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    assert kind_of(path) is Kind.XLS


def test_a_zip_is_measured_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for at in range(300):
            archive.writestr(f"{at}.txt", b"")
    with pytest.raises(Reject, match="entries"):
        kind_of(path, Limits(entries=299))
    with pytest.raises(Reject, match="directory of"):
        kind_of(path, Limits(entries=10))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.xml", b"0" * 2_000_000)
    with pytest.raises(Reject, match="would inflate to 2 MB"):
        kind_of(path, Limits(inflated=1_000_000))
    with pytest.raises(Reject, match="bomb"):
        kind_of(path, Limits(ratio_from=1_000_000))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for at in range(20):
            archive.writestr(f"{at}.xml", b"0" * 100_000)
    with pytest.raises(Reject, match="bomb"):
        kind_of(path, Limits(ratio_from=1_000_000))
    with pytest.raises(PlainZip):
        kind_of(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    flips=st.lists(st.tuples(st.floats(0, 0.999999), st.integers(1, 255)), min_size=1, max_size=6),
    which=st.integers(0, 2),
)
def test_damage_ends_in_a_kind_or_a_reason(
    tmp_path: Path, flips: list[tuple[float, int]], which: int
) -> None:
    path = tmp_path / "book"
    write: Callable[[Path, Tab], Path] = (xlsx, ods, xls)[which]
    write(path, Tab(rows=[["key"]]))
    data = bytearray(path.read_bytes())
    for at, mask in flips:
        data[int(at * len(data))] ^= mask
    path.write_bytes(data)
    try:
        result = str(kind_of(path))
    except Reject as reject:
        result = str(reject)
    assert result


def test_spreadsheets_come_out_of_a_zip_and_the_rest_has_reasons(tmp_path: Path) -> None:
    book = xlsx(tmp_path / "book.xlsx", Tab(rows=[["key"]])).read_bytes()
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("../../etc/book.xlsx", book)
        archive.writestr("c:\\temp\\two.dat", book)
        archive.writestr("readme.txt", b"hello")
        archive.writestr("large.xlsx", book + b"\0" * 100_000)
    taken, left = files_in_zip(path, 90_000)
    assert taken == [
        ("../../etc/book.xlsx", "book.xlsx", book),
        ("c:/temp/two.dat", "two.dat", book),
        ("readme.txt", "readme.txt", b"hello"),
    ]
    assert list(left) == ["large.xlsx"]
    assert "larger than 0 MB" in left["large.xlsx"]


def test_a_member_that_is_protected_or_damaged_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("secret.xlsx", b"PK\x03\x04" + b"x" * 100)
        archive.writestr("torn.xlsx", b"PK\x03\x04" + b"y" * 10_000)
    data = path.read_bytes()
    data = data.replace(b"y" * 20, b"z" * 20, 1)
    at = data.find(b"PK\x01\x02")
    data = data[: at + 8] + bytes([data[at + 8] | 1]) + data[at + 9 :]
    path.write_bytes(data)
    with open_zip(path, Limits()) as archive:
        secret, torn = entries(archive, MIB)
        assert secret.reason == "protected by a password; send it without"
        assert (torn.name, torn.reason) == ("torn.xlsx", "")
        with pytest.raises(Reject, match="damaged"):
            list(unpacked(archive, torn.number, MIB))


@pytest.mark.filterwarnings(
    "ignore:Duplicate name:UserWarning"
)  # zipfile's, about the very archive that is meant
def test_files_of_one_name_in_a_zip_are_distinguished_and_the_same_way_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    endless = "f" * 60_000
    names = [
        "a/r.xlsx",
        "b/r.xlsx",
        "a\\r.xlsx",
        "a/r.xlsx [entry 5]",
        "a/r.xlsx",
        f"{endless}/1",
        f"{endless}/2",
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for at, name in enumerate(names):
            archive.writestr(name, b"PK\x03\x04" + bytes([at]))
    looks = [files_in_zip(path, MIB)[0] for _ in range(2)]
    assert looks[0] == looks[1]
    assert [content[-1] for _, _, content in looks[0]] == list(range(7))
    assert [name for _, name, _ in looks[0]] == ["r.xlsx"] * 3 + ["r.xlsx [entry 5]", "r.xlsx", "1", "2"]
    members = [member for member, _, _ in looks[0]]
    assert members[:4] == ["a/r.xlsx", "b/r.xlsx", "a/r.xlsx [entry 3]", "a/r.xlsx [entry 5]"]
    assert len(set(members)) == 7
    assert all(len(member.encode()) < 2_000 for member in members)


def test_a_method_that_may_ask_for_any_memory_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("book.xlsx", b"PK\x03\x04")
    with pytest.raises(PlainZip):
        kind_of(path)
    taken, left = files_in_zip(path, MIB)
    assert taken == []
    assert [name for name, reason in left.items() if "method" in reason] == ["mimetype", "book.xlsx"]


def test_end_records_of_an_archive_that_disagree_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"a")
    plain = path.read_bytes()
    end = plain.rindex(b"PK\x05\x06")
    place, size = plain.index(b"PK\x01\x02"), end - plain.index(b"PK\x01\x02")

    def with_64(count: int, size: int, locator: int) -> bytes:
        record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, place)
        return plain[:end] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, locator, 1) + plain[end:]

    path.write_bytes(with_64(1, size, end))
    with pytest.raises(PlainZip):
        kind_of(path)
    for odd, reason in (
        (with_64(70_000, size, end), "disagree"),
        (with_64(1, size + 9, end), "disagree"),
        (with_64(1, size, place), "not where it should be"),
        (with_64(1, size, 2**60), "not where it should be"),
    ):
        path.write_bytes(odd)
        with pytest.raises(Reject, match=reason):
            kind_of(path)
