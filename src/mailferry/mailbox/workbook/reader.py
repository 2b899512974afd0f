"""Spreadsheets to rows in a child process: a sandbox with limits and no secrets. This is the parent's side.

    with Reader(Limits()) as reader:
        with reader.open(path, kind, contract) as sheet:
            ...create or extend the table by sheet.columns and sheet.new...
            for chunk in sheet.chunks:
                copy.write(chunk)
            sheet.report, sheet.rejects()

One child serves many files, one after the other. It is replaced after a file that brought it down or was left half read,
after one that made it large, and after `Limits.files`. A Reader belongs to one thread.

A broken or hostile file raises Reject from `open` or while chunks are read; its text is the reason, without the file's name.
What was copied until then has to be rolled back. Nothing that the child sends is trusted: code in a file may have taken it over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Self

import orjson

from mailferry.config.spreadsheet import Limits, Sandbox
from mailferry.disk import explained
from mailferry.errors import MailferryError, Reject, Retry, Stop
from mailferry.mailbox.workbook.sandbox import undumpable
from mailferry.mailbox.workbook.values import MIB, Column, RejectedRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.mailbox.workbook.contract import RowContract
    from mailferry.mailbox.workbook.values import Kind

#: Largest content of an answer, bytes: what a child can make its parent hold.
_LARGEST = 64 * MIB
#: A child that has grown by a file to this share of its memory limit does not get another.
_LARGE = 0.4
#: Seconds within which a child has to be ready; no limit of a file, which has nothing to do with it.
_START = 60.0
#: Seconds between two looks whether a child has taken too long.
_GLANCE = 0.2
#: Variables that a program may need to start at all; no other gets into the child.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a file held. Superseded rows are among those read; SQL counts them."""

    #: Rows that were not blank: those handed over and those rejected.
    read: int
    rejected: int
    #: Hidden rows, which are none of those read.
    left_out: int
    #: Rejected rows that had no place in the file of rejects.
    rejects_unwritten: int
    #: SHA-256, hex, of columns, rows in order and rejects; the same for the same content in another file or format.
    content_hash: str
    #: For each sheet that is loaded: what was added to its rows' numbers to get `_row`.
    offsets: tuple[int, ...]
    warnings: tuple[str, ...]


class Sheet:
    """A spreadsheet that is being read. `columns` and the like are known at once, `report` once the chunks have ended."""

    def __init__(self, child: _Child, head: dict[str, Any], rejects: IO[bytes], most_rejects: int) -> None:
        self._child = child
        self._rejects = rejects
        self._room = most_rejects
        self._report: Report | None = None
        #: Sheets that are loaded, in order.
        self.sheets: tuple[str, ...] = tuple(head["sheets"])
        #: 1-based, of the first of them.
        self.header_row: int = head["header_row"]
        #: What the chunks hold after `_row` (bigint).
        self.columns = tuple(Column(**column) for column in head["columns"])
        #: Those of `columns` that the table does not have; to be added, or the table to be made of.
        self.new = tuple(Column(**column) for column in head["new"])
        #: Headers that were ignored, as written.
        self.unknown: tuple[str, ...] = tuple(head["unknown"])
        #: Columns of the table that the sheet does not have.
        self.missing: tuple[str, ...] = tuple(head["missing"])
        #: By column, its header as written and why that is it.
        self.reasons: dict[str, tuple[str, str]] = {name: tuple(one) for name, one in head["reasons"].items()}
        #: The first of the chunks, once they have been read.
        self.first_chunk = b""
        self._warnings: list[str] = head["warnings"]

    @property
    def chunks(self) -> Iterator[bytes]:
        """CSV for COPY in pieces of at most 256 KiB, which end anywhere. Raises Reject or Retry."""
        while not self.finished:
            letter, content = self._child.answer()
            if letter == b"C":
                self.first_chunk = self.first_chunk or content
                yield content
                continue
            if letter == b"J":
                self._keep(content)
                continue
            end = orjson.loads(content)
            end["warnings"] = (*self._warnings, *end["warnings"])
            end["offsets"] = tuple(end["offsets"])
            self._report = Report(**end)

    def _keep(self, rejects: bytes) -> None:
        self._room -= len(rejects)
        if self._room < 0:
            raise Reject("the reading process sent more rejected rows than it may")
        with explained("keep the rejected rows of", Path(self._child.folder)):
            self._rejects.write(rejects)

    @property
    def report(self) -> Report:
        """The counts; there once all chunks have been read."""
        if self._report is None:
            raise RuntimeError("a sheet's report is there only after its chunks")
        return self._report

    @property
    def finished(self) -> bool:
        """Whether all chunks have been read."""
        return self._report is not None

    def place(self, row: int) -> tuple[str, int]:
        """Sheet, and row as the spreadsheet program shows it, of a `_row`; there once all chunks have been read."""
        found = max(at for at, offset in enumerate(self.report.offsets) if offset < row)
        return self.sheets[found], row - self.report.offsets[found]

    def rejects(self) -> Iterator[RejectedRow]:
        """The rejected rows, in order, as far as they were written down; only while the sheet is open."""
        self._rejects.seek(0)
        for line in self._rejects:
            yield RejectedRow(**orjson.loads(line))


class Reader:
    """Reads spreadsheets, one after the other, through a child that starts with the first and stays."""

    def __init__(
        self, limits: Limits | None = None, folder: Path | None = None, prefix: str = "mailferry-"
    ) -> None:
        """`folder` takes temporary folders whose names begin with `prefix`; without it the system's.

        When the process is killed, one stays behind, with a link to the file that was read.
        """
        self._limits = limits or Limits()
        self._folder = folder
        self._prefix = prefix
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.close()
            self._child = None

    def kill(self) -> None:
        """From any thread: end the child, so that the thread that waits for it gets a Retry."""
        if child := self._child:
            child.kill()

    def missing_layers(self) -> tuple[str, ...]:
        """The layers of the sandbox that this system lacks. Raises Stop where no child starts, or all are required."""
        missing = self._ready_child().missing_layers
        assert missing is not None
        return missing

    @contextlib.contextmanager
    def open(self, path: Path, kind: Kind, contract: RowContract) -> Iterator[Sheet]:
        """Start reading a file. Raises Reject with the reason, Retry for passing faults, Stop when no child starts."""
        with contextlib.ExitStack() as stack:
            child = self._ready_child()
            with explained("prepare the reading of", path):
                rejects = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
                named = stack.enter_context(child.given(path, kind))
            try:
                child.ask({"path": str(named), "kind": kind, "contract": asdict(contract)})
                letter, content = child.answer()
                if letter != b"H":
                    raise RuntimeError(f"the reading child answered {letter!r}")
                sheet = Sheet(child, orjson.loads(content), rejects, self._limits.rejects)
                yield sheet
            except BaseException:
                if not child.idle:
                    self.close()
                raise
            if not sheet.finished:
                self.close()

    def ask(self, file: Path | BinaryIO, request: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
        """The child's answer about a file: frames, the last one with the letter E.

        Raises Reject, Retry; FileNotFoundError where there is no such file; Stop when no child starts.
        """
        child = self._ready_child()
        with child.given(file, "file") as named:
            try:
                child.ask({"path": str(named), **request}, counts=False)
                letter = b""
                while letter != b"E":
                    letter, content = child.answer()
                    yield letter, content
            finally:
                if not child.idle:
                    self.close()

    def start(self) -> None:
        """Start the child, and leave it to the first file to wait for it. Raises Retry."""
        if self._child and self._child.worn:
            self.close()
        if self._child is None:
            self._child = _Child(self._limits, self._folder, self._prefix)

    def _ready_child(self) -> _Child:
        self.start()
        assert self._child
        try:
            self._child.wait()
        except BaseException:
            self.close()
            raise
        return self._child


class _Child:
    """The process, its pipes and its end."""

    def __init__(self, limits: Limits, folder: Path | None, prefix: str) -> None:
        self._limits = limits
        with explained("make a temporary folder for reading in", folder or Path(tempfile.gettempdir())):
            self._folder = tempfile.TemporaryDirectory(prefix=prefix, dir=folder, ignore_cleanup_errors=True)
        #: What the child may read besides its libraries.
        self.folder = self._folder.name
        self._stderr = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the child, closed with it
        self._left = _START
        self._files = 0
        self._timed_out = False
        #: By the monotonic clock; None while no answer is waited for.
        self._deadline: float | None = None
        self._deadline_lock = threading.Lock()
        self._closed = threading.Event()
        #: Whether it waits for a request.
        self.idle = False
        arguments = [
            sys.executable,
            "-I",
            "-m",
            "mailferry.mailbox.workbook.child",
            orjson.dumps(limits).decode(),
            self.folder,
        ]
        undumpable()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment
            )
        except OSError as error:
            self._stderr.close()
            self._folder.cleanup()
            raise Retry(f"the reading process cannot be started: {error}") from None
        _widen(_pipe(self._process.stdout))
        #: Layers of the sandbox that this system lacks; None while it is not known.
        self.missing_layers: tuple[str, ...] | None = None

    def wait(self) -> None:
        """Until it is ready for a first request. Raises Stop."""
        if self.missing_layers is not None:
            return
        # One for all answers: to start one for each costs more than a small file's rows.
        threading.Thread(target=self._watch, name="reading child", daemon=True).start()
        try:
            self.missing_layers = tuple(orjson.loads(self.answer()[1]))
        except Reject as error:
            reason = f"it was not ready within {_START:g} seconds" if self._timed_out else error
            raise Stop(f"the reading process does not start: {reason}") from None
        if self.missing_layers and self._limits.sandbox is Sandbox.REQUIRE:
            raise Stop(
                f"the reading process is to have its whole sandbox (sandbox = require), and this system lacks "
                f"{lacking(self.missing_layers)}; allow that, or set sandbox = best"
            )

    @property
    def worn(self) -> bool:
        """Whether the next file is better read by a new child."""
        if self._timed_out or self._files >= self._limits.files or self._process.poll() is not None:
            return True
        if not Path(self.folder).is_dir():
            return True
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[0]
        except OSError:  # no such file system here, or gone this moment
            return False
        return int(pages) * os.sysconf("SC_PAGE_SIZE") > self._limits.memory * _LARGE

    @contextlib.contextmanager
    def given(self, file: Path | BinaryIO, ending: str) -> Iterator[Path]:
        """The file in the child's folder, by a second name, else as a copy; the only one there."""
        # The library looks at the name's ending, and a name may say anything; what the bytes said counts.
        named = Path(self.folder, f"book.{ending}")
        try:
            self._place(file, named)
            yield named
        finally:
            named.unlink(missing_ok=True)

    def _place(self, file: Path | BinaryIO, named: Path) -> None:
        try:
            if isinstance(file, Path):
                _link(file, named)
            else:
                file.seek(0)
                with named.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
        except FileNotFoundError:
            if named.parent.is_dir():
                raise
            # Not to be taken for a file or message that has gone.
            raise Retry(f"{named.parent}, the folder of the reading process, was deleted") from None

    def ask(self, request: dict[str, Any], *, counts: bool = True) -> None:
        """Send a request; its answers have the whole wall time before them. `counts`: towards `Limits.files`."""
        self._left = self._limits.wall_seconds
        self._files += counts
        self.idle = False
        pipe = _pipe(self._process.stdin)
        try:
            pipe.write(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> tuple[bytes, bytes]:
        """The next frame. Raises the child's error about the file, or what its end means."""
        started = time.monotonic()
        self._wait_until(started + self._left)
        try:
            pipe = _pipe(self._process.stdout)
            head = pipe.read(5)
            letter, length = struct.unpack(">cI", head) if len(head) == 5 else (b"", 0)
            if length > _LARGEST:
                raise Reject("the reading process sent an answer larger than any that it has")
            content = pipe.read(length)
        finally:
            self._wait_until(None)
        self._left -= time.monotonic() - started
        if not letter or len(content) < length:
            raise self._ended()
        self.idle = letter in b"REX"
        if letter == b"X":
            fault = orjson.loads(content)
            raise (Retry if fault["class"] == "Retry" else Reject)(fault["reason"])
        return letter, content

    def _wait_until(self, deadline: float | None) -> None:
        with self._deadline_lock:
            self._deadline = deadline

    def _watch(self) -> None:
        while not self._closed.wait(_GLANCE):
            # With the lock, or it might end the child just after its answer, and blame the next file.
            with self._deadline_lock:
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._timed_out = True
                    self._process.kill()
                    return

    def _ended(self) -> MailferryError:
        """Why the child is no more. Whatever a file can bring about is a Reject."""
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read(100_000).decode(errors="replace").strip()
        limits = self._limits
        if self._timed_out:
            return Reject(f"reading it took longer than the limit of {limits.wall_seconds:g} seconds")
        if status == -signal.SIGXCPU:
            return Reject(f"reading it took more than the limit of {limits.cpu_seconds} processor seconds")
        if "memory allocation" in said or "MemoryError" in said or "capacity overflow" in said:
            return Reject(
                f"reading it needs more memory than the limit of {limits.memory / MIB:,.0f} MB"
                " (too much data, or a cell far away from all others)"
            )
        if status in {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}:
            return Retry(f"the reading process was ended from outside ({signal.Signals(-status).name})")
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        last = said.splitlines()[-1][:300] if said else "it said nothing"
        return Reject(f"reading it brought the reading process down {how} ({last})")

    def kill(self) -> None:
        """End the process, and leave it to its owner to find out."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        self._closed.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                _pipe(pipe).close()
        self._stderr.close()
        self._folder.cleanup()


def lacking(layers: tuple[str, ...]) -> str:
    """Layers of the sandbox that are missing, and where each would be, for people."""
    needs = {"Landlock": "Linux 5.13, built and booted with it", "seccomp": "Linux on x86-64 or arm64"}
    named = " and ".join(f"{name} ({needs.get(name, 'Linux')})" for name in layers)
    return f"{named}, or its container or unit forbids that"


def _link(path: Path, named: Path) -> None:
    try:
        named.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or a file of another user
        shutil.copyfile(path, named)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # Popen was asked for it
    return pipe


def _widen(pipe: IO[bytes]) -> None:
    """Room for several frames, so that on a busy machine the child need not wait for the database at every one."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # over the user's limit; it works as it is
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MIB)
