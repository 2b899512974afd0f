"""Processes under test, forked from a server that has the program imported: a start in milliseconds instead of a second.

They are processes as any: with a folder, an environment and output of their own, to be killed and traced.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from unittest import mock

from mailferry.mailbox.workbook import reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection

KILLED = -signal.SIGKILL
_CONTEXT = multiprocessing.get_context("forkserver")
#: What takes long to import. What is not named here, a process imports by itself.
_CONTEXT.set_forkserver_preload(
    [
        "dotenv",
        "filelock",
        "mailferry.cli",
        "mailferry.config.service",
        "mailferry.console",
        "mailferry.events.files",
        "mailferry.events.run",
        "mailferry.events.table",
        "mailferry.mailbox.attempts",
        "mailferry.mailbox.run_once",
        "mailferry.mailbox.source.maildir",
        "mailferry.mailbox.source.watch_imap",
        "mailferry.report_jobs",
        "mailferry.service.worker",
        "mailferry.testing.provider",
        "procrastinate",
        "prometheus_client",
        "psycopg_pool",
    ]
)
#: prctl(2): any process of the same user may trace this one, where Linux's Yama lets its ancestors alone.
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, -1


def environment(**more: str) -> dict[str, str]:
    """The environment of a process under test: its own, not that of the machine's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return {**kept, "TZ": "UTC", **more}


class Forked:
    """A process that calls `work`, which ends it by `SystemExit` or by returning.

    Before the work begins, strace is attached with the options `trace`, and `before` is called. What the process
    writes goes to `log`, if given.
    """

    def __init__(
        self,
        work: Callable[..., object],
        *arguments: object,
        variables: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log: Path | None = None,
        trace: Sequence[str] = (),
        before: Callable[[Forked], object] | None = None,
    ) -> None:
        self._kept = None if log else Path(tempfile.mkdtemp(prefix="mailferry-forked-"))
        self._out, self._err = (log or Path(self._kept or "", name) for name in ("out", "err"))
        self._polling = threading.Lock()
        ready, go = _CONTEXT.Pipe(duplex=False)
        place = _Place(
            folder or Path.cwd(),
            environment() if variables is None else dict(variables),
            self._out,
            self._err,
            traced=bool(trace),
        )
        self._process = _CONTEXT.Process(target=_child, args=(ready, place, work, arguments))
        with ready, go:
            self._process.start()
            self._strace = _attached(self.pid, trace) if trace else None
            if before:
                before(self)
            go.send(None)

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed:
            self.kill()
        self.finished()

    def poll(self) -> int | None:
        """Its exit status, negative for the signal that ended it; None while it runs."""
        with self._polling:  # the status can be read once
            return self._process.exitcode

    def wait(self, timeout: float = 90) -> int:
        multiprocessing.connection.wait([self._process.sentinel], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        if self._strace:
            self._strace.communicate(timeout=timeout)
        return status

    def finished(self, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Wait for its end. Returns what it wrote as well, which is there for one reader."""
        try:
            status = self.wait(timeout)
        except BaseException:
            self.kill()
            if self._strace:
                _end(self._strace)
            raise
        out, err = (path.read_text("utf-8") if path.exists() else "" for path in (self._out, self._err))
        if self._kept:
            shutil.rmtree(self._kept, ignore_errors=True)
        return subprocess.CompletedProcess([], status, out, err)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Place:
    """Where a process works."""

    def __init__(
        self, folder: Path, environment: dict[str, str], out: Path, err: Path, *, traced: bool
    ) -> None:
        self._folder = folder
        self._traced = traced
        self._environment = environment
        self._output = {1: out, 2: err}

    def enter(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        time.tzset()
        tempfile.tempdir = None  # to be looked for again
        for number, path in self._output.items():
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        os.chdir(self._folder)
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(_PR_SET_PTRACER_ANY), 0, 0, 0)
        if self._traced:
            # Of a process that is closed to its own user, strace sees no paths, unless it is root's.
            mock.patch.object(reader, "undumpable").start()


def _child(
    ready: Connection, place: _Place, work: Callable[..., object], arguments: Sequence[object]
) -> None:
    place.enter()
    with ready:
        ready.recv()
    work(*arguments)


def _attached(pid: int, options: Sequence[str]) -> subprocess.Popen[str]:
    """A strace that has stopped the process and sees all that it does from now on."""
    strace = subprocess.Popen(["strace", *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    try:
        assert strace.stderr
        said = strace.stderr.readline()
        assert "attached" in said, said
    except BaseException:
        _end(strace)
        raise
    return strace


def _end(strace: subprocess.Popen[str]) -> None:
    """Leave nothing of it to be found by a later test, which would fail for it."""
    strace.kill()
    strace.communicate()


def injected(calls: str, fault: str, log: Path, *, paths: Sequence[Path] = ()) -> list[str]:
    """Options of strace that inject a fault into system calls that touch `paths`, all if none.

    `when=N` counts the calls of each name and thread apart.
    """
    where = [argument for path in paths for argument in ("-P", str(path))]
    return ["-y", "-o", str(log), *where, "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]


def mailferry(*arguments: str) -> None:
    """Work of a process: the command with these arguments."""
    run_module("mailferry", *arguments)


def run_module(name: str, *arguments: str) -> None:
    """Work of a process: as `python -m name`."""
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
