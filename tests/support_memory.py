"""The most memory that this process had at any time, since its program began or since it was asked to forget.

Not `ru_maxrss` of getrusage(2): in a process that `subprocess` started, that begins with the memory of its parent.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

#: prctl(2)
_PR_SET_DUMPABLE = 4


def readable() -> None:
    """Let this process read its own files in /proc: they are root's once it has opened a mailbox."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def forget() -> None:
    """Begin with what there is now: proc_pid_clear_refs(5)."""
    readable()
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def peak() -> int:
    """VmHWM of proc_pid_status(5), KiB."""
    return int(Path("/proc/self/status").read_text("ascii").split("VmHWM:")[1].split()[0])
