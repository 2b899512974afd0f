"""Hostile input of every kind that reaches mailferry, for minutes: `./dev fuzz [--minutes N] [--only NAME]`.

Real samples are cut, doubled and overwritten at random. What comes out must be a value or a refusal (Retry, Reject, Stop), within
seconds. What fails once is kept in .cache/fuzz and tried first by the next run; a finding becomes a case in tests/.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from imapclient.response_parser import parse_fetch_response  # type: ignore[import-untyped]

from mailferry.config import service
from mailferry.config.spreadsheet import Limits
from mailferry.errors import MailferryError, Reject
from mailferry.events import checkpoint, record, seal
from mailferry.events.order import Seen
from mailferry.events.progress import Progress
from mailferry.mailbox.containers.recognise import container_of, held_by
from mailferry.mailbox.mime.headers import parse_headers
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.tree import leaves
from mailferry.mailbox.source.bodystructure import from_bodystructure
from mailferry.mailbox.workbook.archive import entries, open_zip, unpacked
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.formats import PlainZip, kind_of
from mailferry.mailbox.workbook.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "tests/data"
#: Seconds that one input may take, and examples between two looks at the clock.
PATIENCE, ROUND = 10, 100
ANSWERS = (
    b'[{"queue_id": "A1", "time": 1750000000, "from": "a@example.com", "to": ["b@example.com"], "size": 12.5}]',
    b'[{"datetime": "2025-06-15T15:00:00+03:00", "n": 123456789012345678901234567890, "x": null, "y": "\\u0130"}, {}]',
    b'{"code": 429, "message": "Too many requests", "retry_after": 3}',
)
MULTIPART = (
    b'1 (BODYSTRUCTURE (("TEXT" "PLAIN" ("CHARSET" "UTF-8") NIL NIL "7BIT" 4 1 NIL NIL NIL NIL)("APPLICATION" "OCTET-STREAM"'
    b' ("NAME*0*" "UTF-8\'\'r%C4%B1" "NAME*1" "ows.xlsx") "<id>" NIL "BASE64" 400 NIL ("ATTACHMENT" ("FILENAME" "r.xlsx")) NIL NIL)'
    b' "MIXED" ("BOUNDARY" "x") NIL NIL NIL) UID 7)'
)
FORWARDED = (
    b'1 (BODYSTRUCTURE ("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 99 ("d" "s" NIL NIL NIL NIL NIL NIL NIL "<i>")'
    b' ("TEXT" "PLAIN" NIL NIL NIL "7BIT" 4 1) 9) UID 8)'
)
MANIFESTS = (
    b'{"number":1,"file":"a.log","sha256":"%s","bytes":3,"lines":1,"previous":"%s"}\n'
    % (b"0" * 64, seal.NOTHING.encode()),
)


def answers(data: bytes) -> None:
    """Of the provider."""
    with contextlib.suppress(ValueError):  # what it calls damaged
        value = record.decode_leniently(data).value
        for one in value if isinstance(value, list) else [value]:
            record.encode(one)
            record.canonical(one)
            record.event_time(one)
            record.queue_id(one)
            record.error_status(one)


def structures(data: bytes) -> None:
    """What a mail server says of a message."""
    try:
        found = parse_fetch_response([data])
    except Exception:  # noqa: BLE001 - the library's own refusal, which `imap.py` translates
        return
    for values in found.values():
        if b"BODYSTRUCTURE" in values:
            list(leaves(from_bodystructure(values[b"BODYSTRUCTURE"])))


def messages(data: bytes) -> None:
    """Mail on the disk."""
    list(leaves(from_message(data), ("windows-1254",)))
    parse_headers(data[:100_000])
    container = container_of(data[:4096], "a.eml", "")
    if container is not None:
        held_by(container, data, ("windows-1254",))


def archives(data: bytes) -> None:
    """Zip archives, whatever they say of themselves."""
    with _file(data) as path:
        try:
            kind_of(path)
        except PlainZip:
            with open_zip(path, Limits(inflated=64 << 20)) as archive:
                for number, _ in enumerate(entries(archive, 16 << 20)):
                    with contextlib.suppress(Reject):  # the others may be well
                        for _ in unpacked(archive, number, 16 << 20):
                            pass


def workbooks(data: bytes) -> None:
    """Spreadsheets of every format, in the reading child."""
    with _file(data) as path:
        kind = kind_of(path)
        with _reader().open(path, kind, RowContract(key="hawb")) as sheet:
            for _ in sheet.chunks:
                pass


def checkpoints(data: bytes) -> None:
    """`.pos` files."""
    with _file(data) as path:
        checkpoint.load(path)


def manifests(data: bytes) -> None:
    """Seals of closed hours."""
    with _file(data) as path:
        list(seal.walk(data, seal.Manifest(path=path)))
        seal.Manifest.open(path)
        seal.sealed_names(path)


def configurations(data: bytes) -> None:
    """In each of the three formats."""
    for name in ("mailferry.toml", "uzmanposta.ini", "config.env"):
        with _file(data, name) as path:
            try:
                service.read([path], {})
            except MailferryError as error:
                str(error)


def _samples(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def _checkpoints() -> list[bytes]:
    """One integer, as older tools write it, and one with a write under way."""
    with _file(b"") as path:
        intent = checkpoint.Intent(
            end=1750000300,
            files={"a.log": checkpoint.Announced(offset=0, lines=[(3, 1, "k")])},
            late={"k": 1750000000},
        )
        checkpoint.save(path, Progress(position=1750000000, floor=1749990000, seen=Seen()), intent)
        return [b"1750000000\n", path.read_bytes()]


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterable[bytes]]]] = {
    "answers": (answers, lambda: ANSWERS),
    "structures": (structures, lambda: (MULTIPART, FORWARDED)),
    "messages": (messages, lambda: _samples("tests/data/mails/*.eml")),
    "archives": (archives, lambda: _samples("tests/data/workbooks/*.zip", "tests/data/workbooks/*.xlsx")),
    "workbooks": (workbooks, lambda: _samples("tests/data/workbooks/*.*")),
    "checkpoints": (checkpoints, _checkpoints),
    "manifests": (manifests, lambda: MANIFESTS),
    "configurations": (
        configurations,
        lambda: _samples("mailferry.toml.example", "config.env.example", "deployment/uzmanposta.ini.example"),
    ),
}


@contextlib.contextmanager
def _file(data: bytes, name: str = "file") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        path.chmod(0o600)
        yield path


@functools.cache
def _reader() -> Reader:
    return Reader(Limits(memory=1 << 30, cpu_seconds=PATIENCE, wall_seconds=PATIENCE, inflated=256 << 20))


def mutated(samples: Iterable[bytes]) -> st.SearchStrategy[bytes]:
    """A sample with up to a few pieces cut out, doubled or overwritten."""
    share = st.floats(0, 1, exclude_max=True)
    piece = st.binary(max_size=8) | st.sampled_from(
        [b"\x00" * 4, b"\xff" * 4, b"(", b")", b'"', b"\r\n\r\n", b"--", b"=?", b"[", b"{"]
    )
    changes = st.lists(st.tuples(st.sampled_from("cdor"), share, st.integers(1, 64), piece), max_size=6)

    def change(sample: bytes, steps: list[tuple[str, float, int, bytes]]) -> bytes:
        data = bytearray(sample)
        for how, where, size, new in steps:
            at = int(where * len(data))
            if how == "c":
                del data[at : at + size]
            elif how == "d":
                data[at:at] = data[at : at + size] * 4
            elif how == "o":
                data[at : at + len(new)] = new
            else:
                data[at:at] = new
        return bytes(data)

    return st.builds(change, st.sampled_from(list(samples)), changes) | st.binary(max_size=200)


def fuzz(name: str, seconds: float) -> tuple[int, str]:
    """How many inputs were tried, and the first finding, or ""."""
    target, samples = TARGETS[name]
    tried = 0

    @settings(
        max_examples=ROUND,
        deadline=timedelta(seconds=PATIENCE),
        database=DirectoryBasedExampleDatabase(ROOT / ".cache/fuzz" / name),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=mutated(samples()))
    def once(data: bytes) -> None:
        nonlocal tried
        tried += 1
        with contextlib.suppress(MailferryError, PlainZip):
            target(data)

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                once()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            notes = "\n".join(getattr(error, "__notes__", ()))
            return tried, f"{type(error).__name__}: {error}\n{notes}{said.getvalue()}"
    return tried, ""


def main() -> int:
    """Try each kind for its share of the time; 1 where any has a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--only", choices=TARGETS)
    given_ = parser.parse_args()
    names = [given_.only] if given_.only else list(TARGETS)
    status = 0
    for name in names:
        tried, finding = fuzz(name, given_.minutes * 60 / len(names))
        print(f"{name}: {tried:,} inputs, {finding or 'no finding'}", flush=True)
        status |= bool(finding)
    _reader().close()
    return status


if __name__ == "__main__":
    sys.exit(main())
