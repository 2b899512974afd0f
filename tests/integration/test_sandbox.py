"""Attacking code in the reading child's place: what it can reach."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mailferry.config.spreadsheet import Limits
from mailferry.errors import Reject
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Kind
from mailferry.testing.workbooks import Tab, xlsx

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")

#: Runs confined to `argv[1]`, below a parent that holds a secret; prints what each attempt came to.
ATTACK = """
import ctypes, fcntl, json, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from mailferry.mailbox.workbook.sandbox import confine, libraries

inside, secret, parent = Path(sys.argv[1]), Path(sys.argv[2]), os.getppid()
missing = confine([*libraries(), inside])
done = {}

def attempt(name, action):
    try:
        result = action()
    except OSError:
        return
    if result != -1:
        done[name] = repr(result)[:80]

libc = ctypes.CDLL(None, use_errno=True)
for name, path in {"environ": f"/proc/{parent}/environ", "mem": f"/proc/{parent}/mem", "maps": f"/proc/{parent}/maps",
                   "configuration": secret, "passwd": "/etc/passwd"}.items():
    attempt("read " + name, lambda: open(path, "rb").read(1))
attempt("list", lambda: os.listdir(secret.parent))
attempt("write outside", lambda: (secret.parent / "x").write_text("x"))
attempt("write inside", lambda: (inside / "x").write_text("x"))
attempt("overwrite", lambda: (inside / "file").write_text("x"))
attempt("truncate", lambda: os.truncate(inside / "file", 0))
attempt("remove", lambda: os.unlink(inside / "file"))
attempt("rename", lambda: os.rename(inside / "file", inside / "other"))
attempt("link", lambda: os.link(inside / "file", inside / "other"))
attempt("symlink", lambda: os.symlink(secret, inside / "other"))
attempt("mode", lambda: os.chmod(inside / "file", 0o777))
attempt("folder", lambda: os.mkdir(inside / "folder"))
attempt("fifo", lambda: os.mkfifo(inside / "fifo"))
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    attempt(f"socket {family}", lambda: socket.socket(family))
attempt("socketpair", socket.socketpair)
attempt("fork", os.fork)
attempt("execute", lambda: os.execv("/bin/true", ["true"]))
attempt("run", lambda: subprocess.run(["true"]))
for number in (0, signal.SIGTERM):
    attempt(f"signal {number}", lambda: os.kill(parent, number))
attempt("signal the group", lambda: os.kill(0, 0))
attempt("signal by a pipe", lambda: fcntl.fcntl(1, fcntl.F_SETOWN, parent))
attempt("trace", lambda: libc.ptrace(16, parent, 0, 0))
attempt("write memory", lambda: libc.process_vm_writev(parent, None, 0, None, 0, 0))
attempt("limits", lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19))
attempt("terminal input", lambda: fcntl.ioctl(0, 0x5412, b"x"))
attempt("namespace", lambda: libc.unshare(0x10000000))
attempt("io_uring", lambda: libc.syscall(425, 1, None))
attempt("user", lambda: libc.setuid(0))

# What a reader needs still works.
assert (inside / "file").read_text() == "a workbook"
worked = []
thread = threading.Thread(target=lambda: worked.append(1))
thread.start()
thread.join()
import decimal, html.parser, zoneinfo
assert worked
print(json.dumps({"missing": missing, "done": done}))
"""


def test_code_in_the_childs_place_reads_writes_connects_and_signals_nothing(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").write_text("a workbook")
    secret = tmp_path / "config.env"
    secret.write_text("DB_PASSWORD=hush")
    secret.chmod(0o640)
    ran = subprocess.run(
        [sys.executable, "-I", "-c", ATTACK, inside, secret], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"missing": [], "done": {}}
    assert [path.name for path in inside.iterdir()] == ["file"]


def test_a_system_call_of_the_other_kind_ends_the_child(tmp_path: Path) -> None:
    """Numbers of the x32 interface would pass by a filter for x86-64."""
    code = textwrap.dedent("""
        import ctypes, sys
        from pathlib import Path
        from mailferry.mailbox.workbook.sandbox import confine, libraries
        confine([*libraries(), Path(sys.argv[1])])
        ctypes.CDLL(None).syscall(0x40000000 + 39)
        print("went on")
    """)
    ran = subprocess.run([sys.executable, "-I", "-c", code, tmp_path], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout) == (-31, b""), "SIGSYS"


def test_an_abort_in_a_library_is_still_an_abort(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from mailferry.mailbox.workbook.sandbox import confine, libraries
        confine([*libraries(), Path(sys.argv[1])])
        os.abort()
    """)
    ran = subprocess.run([sys.executable, "-I", "-c", code, tmp_path], capture_output=True, check=False)
    assert ran.returncode == -6


def test_the_reading_child_is_confined_with_its_one_file(tmp_path: Path) -> None:
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with Reader(folder=tmp_path) as reader, reader.open(path, Kind.XLSX, RowContract(key="key")) as sheet:
        child = reader._child
        assert child is not None
        status = Path(f"/proc/{child._process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert child.missing_layers == ()
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, (
            "PR_GET_DUMPABLE: this process is closed to its own user"
        )
        assert [entry.name for entry in Path(child.folder).iterdir()] == ["book.xlsx"]
        assert list(sheet.chunks) == [b"2,a\n"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]


def test_an_answer_of_a_gigabyte_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that was taken over may claim any length."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\nprintf 'R\\000\\000\\000\\002[]'\nread line\nprintf 'H\\177\\377\\377\\377x'\nsleep 60\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    path = xlsx(tmp_path / "a", Tab(rows=[["key"], ["a"]]))
    with (
        Reader(Limits()) as reader,
        pytest.raises(Reject, match="larger than any"),
        reader.open(path, Kind.XLSX, RowContract(key="key")),
    ):
        pass
