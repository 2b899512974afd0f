"""A real Maildir folder: finding, describing, storing and marking."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import support_memory

from mailferry.config.mailbox import MailboxSettings
from mailferry.errors import Retry, Stop
from mailferry.mailbox.attachments import choose
from mailferry.mailbox.source.maildir import MaildirMailbox
from mailferry.mailbox.source.message import Outcome, PartOutcome, Verdict
from mailferry.mailbox.storing import clear_leftovers, store
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.source.message import MessageRef

pytestmark = pytest.mark.usefixtures("closed_mailboxes")

MAILS = Path(__file__).parent.parent / "data" / "mails"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    return tmp_path / "Maildir"


@pytest.fixture
def pending(tmp_path: Path) -> Path:
    (tmp_path / "pending").mkdir()
    return tmp_path / "pending"


def _settings(root: Path, **changes: Any) -> MailboxSettings:
    return MailboxSettings(**{"kind": "maildir", "path": root, **changes})


def _deliver(root: Path, name: str, message: bytes, time: float = 1_700_000_000) -> None:
    path = root / "new" / name
    path.write_bytes(message)
    os.utime(path, (time, time))


def _mail(name: str) -> bytes:
    return (MAILS / f"{name}.eml").read_bytes()


def _store(root: Path, pending: Path, message: bytes, **changes: Any) -> dict[str, tuple[PartOutcome, ...]]:
    """What becomes of each candidate part, by section."""
    settings = _settings(root, **{"subject_filter": "", **changes})
    _deliver(root, "1.a.host", message)
    mailbox = MaildirMailbox(settings)
    (ref,) = mailbox.unmarked()
    summary = mailbox.summary(ref)
    assert summary
    return {
        part.section: store(mailbox, ref, part, pending, settings) for part in choose(summary, settings)[0]
    }


def of(outcomes: tuple[PartOutcome, ...], verdict: Verdict) -> list[PartOutcome]:
    return [one for one in outcomes if one.verdict is verdict]


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_unread_messages_that_match_are_found_oldest_first(root: Path) -> None:
    _deliver(root, "3.b.host", b"Subject: track and TRACE later\n\n", 300)
    _deliver(root, "9.a.host", b"Subject: Track and\n Trace first\n\n", 100)
    _deliver(root, "5.c.host", b"Subject: something else\n\n", 50)
    (root / "cur" / "7.d.host:2,S").write_bytes(b"Subject: Track and Trace read\n\n")
    (root / "cur" / "8.e.host:2,T").write_bytes(b"Subject: Track and Trace deleted\n\n")
    (root / "cur" / "2.f.host:2,FR").write_bytes(b"Subject: Track and Trace answered, unread\n\n")
    os.utime(root / "cur" / "2.f.host:2,FR", (200, 200))
    (root / "tmp" / "1.g.host").write_bytes(b"Subject: Track and Trace half delivered\n\n")
    found = MaildirMailbox(_settings(root)).find()
    assert [ref.uid for ref in found] == ["9.a.host", "2.f.host", "3.b.host"]
    assert {(ref.account, ref.folder, ref.uidvalidity) for ref in found} == {(str(root), "", 0)}


def test_looking_and_fetching_change_nothing(root: Path, pending: Path) -> None:
    _store(root, pending, _mail("plain"))
    assert _files(root) == {"new/1.a.host"}


@pytest.mark.parametrize(
    ("changes", "outcome", "place"),
    [
        ({}, Outcome.COMPLETED, "cur/1.a.host:2,S"),
        ({}, Outcome.FAILED, "new/1.a.host"),
        ({"mark": "keyword"}, Outcome.COMPLETED, "cur/1.a.host:2,m"),
        ({"mark": "keyword", "mark_failed": "z"}, Outcome.FAILED, "cur/1.a.host:2,z"),
        ({"mark": "move"}, Outcome.COMPLETED, ".Processed/new/1.a.host"),
        ({"mark": "move", "mark_failed": "Bad/Ones"}, Outcome.FAILED, ".Bad.Ones/new/1.a.host"),
        ({"mark": "leave"}, Outcome.COMPLETED, "new/1.a.host"),
    ],
)
def test_a_message_is_marked_as_configured_and_twice_does_no_harm(
    root: Path, changes: dict[str, Any], outcome: Outcome, place: str
) -> None:
    _deliver(root, "1.a.host", _mail("plain"))
    mailbox = MaildirMailbox(_settings(root, **changes))
    (ref,) = mailbox.find()
    mailbox.mark(ref, outcome)
    mailbox.mark(ref, outcome)
    assert place in _files(root)
    marked = place != "new/1.a.host"
    assert (mailbox.find() == []) is marked


def test_a_message_renamed_by_another_program_is_found_again(root: Path) -> None:
    _deliver(root, "1.a.host", _mail("plain"))
    mailbox = MaildirMailbox(_settings(root))
    (ref,) = mailbox.find()
    (root / "new" / "1.a.host").rename(root / "cur" / "1.a.host:2,F")
    assert mailbox.summary(ref)
    mailbox.mark(ref, Outcome.COMPLETED)
    assert _files(root) == {"cur/1.a.host:2,FS"}


def test_a_message_that_vanished_has_no_summary_and_nothing_to_mark(root: Path) -> None:
    _deliver(root, "1.a.host", _mail("plain"))
    mailbox = MaildirMailbox(_settings(root))
    (ref,) = mailbox.find()
    summary = mailbox.summary(ref)
    assert summary
    (root / "new" / "1.a.host").unlink()
    assert mailbox.summary(ref) is None
    mailbox.mark(ref, Outcome.COMPLETED)
    with pytest.raises(Retry, match="no longer in"):
        mailbox.raw_header(ref)
    with pytest.raises(Retry, match="no longer in"):
        list(mailbox.fetch(ref, summary.parts[0]))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"path": "absent"}, "is no Maildir"),
        ({"folder": "Other"}, "is no Maildir"),
        ({"folder": "../x"}, "cannot be the name of a Maildir folder"),
    ],
)
def test_a_folder_that_cannot_be_used_stops_at_once(root: Path, changes: dict[str, Any], fault: str) -> None:
    if "path" in changes:
        changes = {"path": root / "absent"}
    with pytest.raises(Stop, match=fault):
        MaildirMailbox(_settings(root, **changes))


@pytest.mark.parametrize(
    ("mail", "names"),
    [
        ("plain", ["rows.xlsx"]),
        ("inline", ["inline.xlsx"]),
        ("nameless", ["attachment.xlsx"]),
        ("name_in_type_only", ["İrsaliye Şubat.xlsx"]),
        ("rfc2231", ["İrsaliye Şubat.xlsx"]),
        ("duplicate_names", ["first.xlsx"]),
        ("raw_8bit_name", ["İrsaliye.xlsx"]),
        ("forwarded", ["forwarded.xlsx", "only.xlsx"]),
        ("alternative", ["rows.xlsx"]),
        ("only_part", ["alone.xlsx"]),
        ("zipped", ["rows.xlsx", "evil.xlsx", "x.xlsx"]),
        ("unclosed", ["open.xlsx"]),
        ("quoted_printable", ["qp.xlsx"]),
        ("uuencoded", ["uu.xlsx"]),
        ("dirty_base64", ["dirty.xlsx"]),
        ("evil_names", ["x.xlsx", "a Bcc_ x@example.com.xlsx", "_CON.xlsx"]),
        ("raw_1254_name", ["çizelge_Şubat_ığ.xlsx"]),
        ("backslash_path", ["report.xlsx"]),
        ("unquoted_name", ["Track Report.xlsx"]),
        ("encoding_comment", ["r.xlsx"]),
        ("no_encoding", ["veri.xlsx"]),
        ("no_boundary", ["a (b).xlsx"]),
        ("forwarded_base64", ["in.xlsx"]),
        ("forwarded_as_file", ["ic.xlsx"]),
        ("smime_signed", ["signed.xlsx"]),
        ("tnef", ["tt.xlsx"]),
    ],
)
def test_a_spreadsheet_is_found_however_it_was_sent(
    root: Path, pending: Path, mail: str, names: list[str]
) -> None:
    stored = _store(root, pending, _mail(mail))
    files = [file for one in stored.values() for file in of(one, Verdict.TAKEN)]
    assert [file.name for file in files] == names
    for file in files:
        assert file.kind is Kind.XLSX
        assert file.path
        assert file.path.parent == pending
        assert file.path.name.endswith(f"-{file.name}")
        assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
        assert file.size == file.path.stat().st_size
        with zipfile.ZipFile(file.path) as workbook:
            assert workbook.testzip() is None
    kept = {path for file in files for path in (file.path, file.original) if path}
    assert set(pending.iterdir()) == kept


def test_an_archive_gives_its_spreadsheets_and_a_reason_for_every_other_file(
    root: Path, pending: Path
) -> None:
    stored = _store(root, pending, _mail("zipped"))["2"]
    # The member is the entry's whole name, on record; what becomes a file has a safe one.
    assert [(file.member, file.name) for file in of(stored, Verdict.TAKEN)] == [
        ("jan/rows.xlsx", "rows.xlsx"),
        ("../../evil.xlsx", "evil.xlsx"),
        ("inner.zip/x.xlsx", "x.xlsx"),
    ]
    assert {(file.section, file.path and file.path.parent) for file in of(stored, Verdict.TAKEN)} == {
        ("2", pending)
    }
    assert [(one.member, "truncated" in one.reason) for one in of(stored, Verdict.REJECTED)] == [
        ("broken.xlsx", True)
    ]
    assert {one.name: one.reason for one in of(stored, Verdict.SKIPPED)} == {
        "readme.txt": "plain text, not a table: no delimiter divides its lines alike",
    }


def test_the_name_filter_looks_into_archives(root: Path, pending: Path) -> None:
    stored = _store(root, pending, _mail("zipped"), name_filter="ROWS.*")["2"]
    assert [file.name for file in of(stored, Verdict.TAKEN)] == ["rows.xlsx"]
    assert "../../evil.xlsx" in {one.name for one in of(stored, Verdict.SKIPPED)}


@pytest.mark.parametrize(
    ("mail", "reason"),
    [("truncated", "truncated zip archive")],
)
def test_what_calls_itself_a_spreadsheet_and_is_none_is_rejected_with_its_reason(
    root: Path, pending: Path, mail: str, reason: str
) -> None:
    stored = _store(root, pending, _mail(mail))["2"]
    (rejected,) = of(stored, Verdict.REJECTED)
    assert reason in rejected.reason
    assert not of(stored, Verdict.TAKEN)
    assert not list(pending.iterdir())


def test_delimited_text_is_taken_whatever_its_name_says(root: Path, pending: Path) -> None:
    stored = _store(root, pending, _mail("csv_named_xls"))["2"]
    assert [(file.name, file.kind) for file in of(stored, Verdict.TAKEN)] == [("rows.xls", Kind.CSV)]


def test_what_is_not_called_a_spreadsheet_is_skipped_with_its_reason(root: Path, pending: Path) -> None:
    stored = _store(root, pending, _mail("no_spreadsheet"))
    assert [one.reason for one in of(stored["3"], Verdict.SKIPPED)] == [
        "not a spreadsheet but a PDF document"
    ]
    assert not list(pending.iterdir())


def test_a_file_over_the_size_cap_is_rejected_and_leaves_nothing(root: Path, pending: Path) -> None:
    stored = _store(root, pending, _mail("plain"), max_file_bytes=500)["2"]
    assert [one.reason.partition(",")[0] for one in of(stored, Verdict.REJECTED)] == ["larger than 0.0 MB"]
    assert not list(pending.iterdir())


def test_two_mails_alike_to_the_message_id_are_two_messages_with_a_file_each(
    root: Path, pending: Path
) -> None:
    settings = _settings(root)
    for name in ("1.a.host", "2.b.host"):
        _deliver(root, name, _mail("plain"))
    mailbox = MaildirMailbox(settings)
    paths = {_first_file(mailbox, ref, pending, settings) for ref in mailbox.find()}
    assert len(paths) == len(list(pending.iterdir())) == 2


def test_storing_again_after_a_crash_gives_the_same_file(root: Path, pending: Path) -> None:
    settings = _settings(root)
    _deliver(root, "1.a.host", _mail("plain"))
    mailbox = MaildirMailbox(settings)
    (ref,) = mailbox.find()
    assert _first_file(mailbox, ref, pending, settings) == _first_file(mailbox, ref, pending, settings)
    assert len(list(pending.iterdir())) == 1


def _first_file(mailbox: MaildirMailbox, ref: MessageRef, pending: Path, settings: MailboxSettings) -> Path:
    summary = mailbox.summary(ref)
    assert summary
    (taken,) = store(mailbox, ref, summary.parts[1], pending, settings)
    assert taken.path
    return taken.path


def test_downloads_cut_short_are_cleared_once_they_are_old(pending: Path) -> None:
    for name, age in ((".incoming-old", 7200), (".incoming-new", 60)):
        (pending / name).touch()
        os.utime(pending / name, (1_000_000 - age, 1_000_000 - age))
    (pending / "kept.xlsx").touch()
    assert clear_leftovers(pending, now=1_000_000) == 1
    assert {path.name for path in pending.iterdir()} == {".incoming-new", "kept.xlsx"}


def test_a_missing_pending_folder_is_a_passing_fault(root: Path, tmp_path: Path) -> None:
    with pytest.raises(Retry, match="cannot be written"):
        _store(root, tmp_path / "absent", _mail("plain"))


def test_a_poll_reads_the_headers_of_unread_messages_only(root: Path) -> None:
    read = b"Subject: Track and Trace\n\n" + b"x" * 100
    for number in range(2000):
        (root / "cur" / f"{number}.r.host:2,S").write_bytes(read)
    for number in range(20):
        _deliver(root, f"{number}.u.host", b"Subject: Track and Trace\n\n" + b"y" * 4000)
    before = _bytes_read()
    assert len(MaildirMailbox(_settings(root)).find()) == 20
    assert _bytes_read() - before < 20 * 4100 + 50_000


def _bytes_read() -> int:
    """Bytes that this process has asked of files and sockets (proc(5))."""
    support_memory.readable()
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


def _large_message(size: int) -> Iterator[bytes]:
    """A message with a workbook of about `size` bytes, incompressible, in base64."""
    import base64

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("filler", os.urandom(1024 * 1024) * (size // 1024 // 1024))
    yield b'Subject: Track and Trace\nContent-Type: multipart/mixed; boundary="b"\n\n--b\n\nhello\n--b\n'
    yield b'Content-Type: application/octet-stream; name="large.xlsx"\nContent-Transfer-Encoding: base64\n\n'
    content = buffer.getbuffer()
    for at in range(0, len(content), 57 * 1024):
        yield base64.encodebytes(content[at : at + 57 * 1024])
    yield b"\n--b--\n"


def test_a_message_of_100_mb_is_stored_in_bounded_memory(root: Path, pending: Path) -> None:
    with (root / "new" / "1.a.host").open("wb") as file:
        file.writelines(_large_message(75 * 1024 * 1024))
    assert (root / "new" / "1.a.host").stat().st_size > 100_000_000
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from mailferry.config.mailbox import MailboxSettings
        from mailferry.mailbox.storing import store
        from mailferry.mailbox.source.maildir import MaildirMailbox
        from support_memory import peak
        settings = MailboxSettings(kind="maildir", path=Path(sys.argv[1]))
        mailbox = MaildirMailbox(settings)
        before = peak()
        (ref,) = mailbox.find()
        file, = store(mailbox, ref, mailbox.summary(ref).parts[1], Path(sys.argv[2]), settings)
        print(file.size, peak() - before)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, root, pending],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
        cwd=Path(support_memory.__file__).parent,
    )
    size, grown_kib = map(int, done.stdout.split())
    assert size > 75 * 1024 * 1024
    assert grown_kib < 30 * 1024
