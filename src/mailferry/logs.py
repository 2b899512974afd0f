"""Logging, for people and programs: lines on standard error, and the five log files.

Every module logs by a `Log`, which is called as the module and has its topics: the files in which its lines stand beside
MAIN, which has all, and ERRORS, which has all from ERROR on. A `Log` takes secrets out; ids come from `bound`. Each
record becomes one line that nothing in it can forge: see `_Formatter`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from io import FileIO
from typing import TYPE_CHECKING, Any, Literal

from mailferry.secrets import mask, mask_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    Style = Literal["auto", "text", "json"]

MAIN, EMAIL, DATABASE, FILES, ERRORS = (
    "trackandtrace.log",
    "email_processing.log",
    "database_processing.log",
    "file_processing.log",
    "errors.log",
)
#: Topics of other libraries' lines, by the beginnings of their loggers' names.
_LIBRARIES = {"imapclient": EMAIL, "procrastinate": DATABASE, "psycopg": DATABASE}
#: This process, or this command, on all its lines.
RUN = os.urandom(4).hex()
#: Ids of this task or thread, on all its lines; see `bound`.
_IDS: ContextVar[dict[str, object]] = ContextVar("ids")
#: Characters of one value, and of one traceback: together, at four bytes each, within the 48 KiB that journald takes
#: as one line (LineMax in journald.conf(5)).
_LONGEST, _LONGEST_TRACEBACK = 4_000, 8_000


class Log(logging.LoggerAdapter[logging.Logger]):
    """What a module logs by: as a `logging.Logger`, but without secrets and control characters, whichever handler takes it."""

    def __init__(self, name: str, topics: tuple[str, ...]) -> None:
        super().__init__(logging.getLogger(name))
        self.topics = topics

    def about(self, *topics: str) -> Log:
        """The same, for lines of other topics."""
        return Log(self.logger.name, topics)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log `msg % args`, with a traceback where `exc_info` is an error, or true within an `except`."""
        if not self.isEnabledFor(level):
            return
        try:
            text = str(msg) % args if args else str(msg)
        except Exception:  # noqa: BLE001 - values that do not fit the text, or have no text: shown as they are
            text = f"{_as_text(msg)} {_as_text(args)}"
        logger, wanted = self.logger, kwargs.get("exc_info")
        extra = {"topics": self.topics}
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (mask(text),), None, extra=extra)
        error = wanted if isinstance(wanted, BaseException) else sys.exception() if wanted else None
        if error is not None:
            record.exc_text = mask_lines("".join(traceback.format_exception(error)).rstrip("\n"))
        logger.handle(record)


def of(name: str, *topics: str) -> Log:
    """The log of a module."""
    return Log(name, topics)


log = of(__name__)


def set_up(level: str = "INFO", *, folder: Path | None = None, style: Style = "auto") -> None:
    """Send what happens to standard error, and to the five files in `folder`; call it again to change that.

    `style` is that of standard error. "auto": JSON for the journal, else text. `level` is that of our own loggers; other
    libraries' are logged from WARNING on, or all with DEBUG.
    """
    number = logging.getLevelNamesMapping()[level]
    journal = _is_journal()
    as_json = style == "json" or (style == "auto" and journal)
    handlers: list[logging.Handler] = [_Stderr(_Formatter(as_json=as_json), journal=journal)]
    if folder is not None:
        handlers.append(_Folder(folder, _Formatter(as_json=True)))
    root = logging.getLogger()
    before = [handler for handler in root.handlers if isinstance(handler, _Handler)]
    # In one step: another thread may be logging.
    root.handlers = [*(handler for handler in root.handlers if handler not in before), *handlers]
    for handler in before:
        handler.close()
    logging.getLogger("mailferry").setLevel(number)
    root.setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.captureWarnings(capture=True)
    sys.excepthook = _unexpected
    threading.excepthook = _unexpected_in_thread


@contextlib.contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Put ids on every line of this block, and of tasks and `asyncio.to_thread` begun in it.

    A thread or executor takes them along by `contextvars.copy_context().run`.
    """
    before = _IDS.get({})
    _IDS.set({**before, **ids})
    try:
        yield
    finally:
        _IDS.set(before)


def marked(text: str) -> str:
    """An error for standard error, before all is set up: marked as one where that is the journal."""
    return _with_priority(text, logging.ERROR) if _is_journal() else text


@contextlib.contextmanager
def shown_by(show: Callable[[str], object]) -> Iterator[None]:
    """Have lines for standard error shown by `show`, which gets each without its line end."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, _Stderr)]
    for handler in handlers:
        handler.show = show
    try:
        yield
    finally:
        for handler in handlers:
            handler.show = _write_stderr


# --- lines


class _Formatter(logging.Formatter):
    """Makes one line of each record, as JSON or for people."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        line = self._shaped(record)
        if self._as_json:
            return json.dumps(line, default=_as_iso, ensure_ascii=False)
        when, level, message, _logger = (line.pop(name) for name in ("time", "level", "message", "logger"))
        below = line.pop("traceback", "")
        ids = " ".join(f"{name}={_quoted(str(value))}" for name, value in line.items())
        first = f"{when.astimezone():%Y-%m-%d %H:%M:%S} {level} {message}  {ids}"
        return "\n    ".join([first, *below.split("\n")]) if below else first

    def _shaped(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a line says, in its order. Every text is without secrets and control characters, and of bearable length."""
        # `Log` has put its traceback into words already.
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        ids = _IDS.get({})
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "message": _clean(record.getMessage()),
            "logger": _clean(record.name),
            "run": RUN,
        }
        line |= {mask(name): _clean(ids[name]) for name in sorted(ids)}
        if below := "\n".join(filter(None, (trace, record.stack_info))):
            line["traceback"] = _shortened(mask_lines(below), _LONGEST_TRACEBACK)
        return line


def _quoted(text: str) -> str:
    """A value as logfmt has it."""
    return json.dumps(text, ensure_ascii=False) if any(one in text for one in ' ="') else text


def _clean(value: object) -> object:
    return value if isinstance(value, int) else _shortened(mask(str(value)), _LONGEST)


def _shortened(text: str, longest: int) -> str:
    """Beginning and end of a long text."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def _as_iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_priority(text: str, level: int) -> str:
    """Each line as journald knows its priority by (sd-daemon(3))."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    priority = next((priority for least, priority in steps if level >= least), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


# --- where they go


class _Handler(logging.Handler):
    """Takes every line somewhere. What cannot be logged must not stop the work."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - values that do not fit the text, or have no text: shown as they are
            args = {"msg": f"{_as_text(record.msg)} {_as_text(record.args)}", "args": None, "exc_info": None}
            line = self.format(logging.makeLogRecord(record.__dict__ | args))
        self.take(line, record)

    def take(self, line: str, record: logging.LogRecord) -> None:
        """Write the line, which has no end yet."""
        raise NotImplementedError


def _as_text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - of whatever a __str__ may raise
        return f"(values that cannot be shown: {type(error).__name__})"


def _write_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class _Stderr(_Handler):
    def __init__(self, formatter: logging.Formatter, *, journal: bool) -> None:
        super().__init__(formatter)
        self._journal = journal
        self.show: Callable[[str], object] = _write_stderr

    def take(self, line: str, record: logging.LogRecord) -> None:
        # Closed, or its reader has gone.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.show(_with_priority(line, record.levelno) if self._journal else line)


class _Folder(_Handler):
    """The five files. Several processes may share them: each line is one write at the file's end.

    A folder that cannot be written to is reported once, and how many lines are missing once it can.
    """

    def __init__(self, folder: Path, formatter: logging.Formatter) -> None:
        super().__init__(formatter)
        self._folder = folder
        self._files = [_File(folder / name, wanted) for name, wanted in _wanted().items()]
        #: Files with trouble, and how many lines each lacks; kinds of trouble that were reported.
        self._missing: dict[_File, int] = {}
        self._said: set[int | None] = set()

    def take(self, line: str, record: logging.LogRecord) -> None:
        data = f"{line}\n".encode()
        for file in self._files:
            if not file.wanted(record):
                continue
            try:
                file.write(data)
            except OSError as error:
                self._missing[file] = self._missing.get(file, 0) + 1
                self._trouble(file, error, record)
            else:
                self._recovered(file)

    def _trouble(self, file: _File, error: OSError, record: logging.LogRecord) -> None:
        if error.errno in self._said:
            return
        self._said.add(error.errno)
        self._report(
            f"cannot write {file.path} ({error.strerror or error}): lines will be missing in that folder; the work goes on",
            record,
        )

    def _recovered(self, file: _File) -> None:
        if self._missing and (missing := self._missing.pop(file, 0)):
            if not self._missing:
                self._said.clear()
            log.warning("%s is written again; %d lines are missing in it", file.path, missing)

    def _report(self, text: str, record: logging.LogRecord) -> None:
        """On standard error alone."""
        changed = {
            "msg": text,
            "args": None,
            "levelno": logging.ERROR,
            "levelname": "ERROR",
            "name": __name__,
        }
        for handler in logging.getLogger().handlers:
            if isinstance(handler, _Stderr):
                handler.handle(logging.makeLogRecord(record.__dict__ | changed | {"exc_info": None}))

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            for file in self._files:
                file.close()
        super().close()


class _File:
    """One log file that logrotate may rename: a line goes to the file that has the name when it is written."""

    def __init__(self, path: Path, wanted: Callable[[logging.LogRecord], bool]) -> None:
        self.path = path
        self.wanted = wanted
        self._file: FileIO | None = None
        self._place: tuple[int, int] | None = None
        self._torn = False

    def write(self, data: bytes) -> None:
        """Append a line. Raises OSError."""
        file = self._opened()
        # What a full disk has cut off stays a line of its own.
        data = b"\n" + data if self._torn else data
        while data:
            data = data[file.write(data) :]
            self._torn = bool(data)

    def _opened(self) -> FileIO:
        try:
            found = self.path.stat(follow_symlinks=False)
            if self._file is not None and (found.st_dev, found.st_ino) == self._place:
                return self._file
        except FileNotFoundError:
            from mailferry.disk import make_folder

            make_folder(self.path.parent, 0o750)
        self.close()
        self._file = FileIO(self.path, "a", opener=_open)
        status = os.fstat(self._file.fileno())
        self._place = status.st_dev, status.st_ino
        self._torn = False
        return self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _open(path: str, flags: int) -> int:
    """Readable by owner and group alone; a symbolic link is not followed."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o640)


def _wanted() -> dict[str, Callable[[logging.LogRecord], bool]]:
    """Which records each file takes."""

    def on(topic: str) -> Callable[[logging.LogRecord], bool]:
        libraries = [logging.Filter(name) for name, one in _LIBRARIES.items() if one == topic]
        return lambda record: (
            topic in getattr(record, "topics", ()) or any(one.filter(record) for one in libraries)
        )

    return {
        MAIN: lambda _record: True,
        **{topic: on(topic) for topic in (EMAIL, DATABASE, FILES)},
        ERRORS: lambda record: record.levelno >= logging.ERROR,
    }


def _is_journal() -> bool:
    """Whether standard error is the journal: systemd says which file that is (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


# --- what was not caught


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("unexpected %s; please report it", kind.__name__, exc_info=error)


def _unexpected_in_thread(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value
    if error is not None and not isinstance(error, SystemExit):
        name = args.thread.name if args.thread else "a thread"
        log.error(
            "%s ended with an unexpected %s; please report it", name, type(error).__name__, exc_info=error
        )
