"""What the reading child takes from itself before it opens a stranger's file: Landlock, seccomp and no_new_privs.

After `confine`, code in the child's place can read its own libraries and the folders it was given, write to the pipes it
has, and do nothing else: no file outside, no socket, no new process, no signal to another process, no tracing.

Sources: landlock(7), seccomp(2), bpf_common.h and audit.h of Linux, prctl(2). x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Numbers of prctl(2).
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38

# landlock(7): the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: Rights of the file system that each version of Landlock knows: the number of low bits.
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
#: From version 4: bind and connect of TCP; from 6: abstract Unix sockets and signals outside.
_NET, _SCOPED = 0b11, 0b11

# Of seccomp(2)
_FILTER_MODE, _TSYNC = 1, 1
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
#: AUDIT_ARCH_*, the number of seccomp(2), and where the two architectures differ in a column of `_CALLS`.
_MACHINES = {"x86_64": (0xC000003E, 317, 0), "aarch64": (0xC00000B7, 277, 1)}
#: What a program needs that reads files and computes: numbers on x86-64 and arm64, -1 where there is none.
_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "close": (3, 57),
    "close_range": (436, 436),
    "fstat": (5, 80),
    "stat": (4, -1),
    "lstat": (6, -1),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, -1),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "lseek": (8, 62),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "fadvise64": (221, 223),
    "dup": (32, 23),
    "dup2": (33, -1),
    "dup3": (292, 24),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "mincore": (27, 232),
    "brk": (12, 214),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "arch_prctl": (158, -1),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, -1),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "select": (23, -1),
    "pselect6": (270, 72),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_OPEN, _OPENAT, _FCNTL, _IOCTL, _PRLIMIT, _TGKILL, _CLONE, _CLONE3 = (
    (2, -1),
    (257, 56),
    (72, 25),
    (16, 29),
    (302, 261),
    (234, 131),
    (56, 220),
    (435, 435),
)
#: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: nothing that has signals sent to another process.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)
#: TCGETS (isatty), FIONREAD, FIONCLEX, FIOCLEX.
_IOCTL_COMMANDS = (0x5401, 0x541B, 0x5450, 0x5451)
_CLONE_THREAD = 0x10000
#: O_WRONLY, O_RDWR, O_CREAT and O_TRUNC, which both architectures number alike: so that nothing is written where there is no
#: Landlock. O_TMPFILE needs one of the first two.
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000


#: What the filter of a unit or a container answers that forbids the calls of a layer to this process.
_FORBIDDEN = errno.EPERM


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine(readable: Iterable[Path]) -> tuple[str, ...]:
    """Confine this process, of one thread, for good; `readable` are the files and folders that it may go on to read.

    Returns the names of the layers that this system lacks; the others hold. Raises OSError where one that is there
    cannot be entered.
    """
    if sys.platform != "linux":
        return ("no_new_privs", "Landlock", "seccomp")
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    undumpable()
    missing = []
    if not _landlock(libc, readable):
        missing.append("Landlock")
    if not _seccomp(libc):
        missing.append("seccomp")
    return tuple(missing)


def undumpable() -> None:
    """Close `/proc/<pid>/environ`, `mem` and the like of this process to other processes of its user; prctl(2)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def libraries() -> list[Path]:
    """What this interpreter may still have to load code and data from."""
    places = [
        *sys.path,
        *sysconfig.get_paths().values(),
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
    ]
    wanted = {Path(place).resolve() for place in places if place}
    return sorted(path for path in wanted if path.exists() and path != Path("/"))


def _landlock(libc: ctypes.CDLL, readable: Iterable[Path]) -> bool:
    """Whether the kernel has it, and this process may use it."""
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        if ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP, _FORBIDDEN):
            return False
        _check(version, "Landlock")
    handled = [(1 << _FS_BITS.get(version, _FS_BITS[5])) - 1, _NET, _SCOPED][
        : 3 if version > 5 else 2 if version > 3 else 1
    ]
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    _check(ruleset, "Landlock")
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        _check(
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0),
            f"Landlock: {path}",
        )
        os.close(place)
    _check(libc.syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)
    return True


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Whether the kernel has it, this process may use it, and this architecture is known."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.byteorder != "little":
        return False
    arch, number, column = machine
    code = b"".join(_instructions(arch, column))
    program = _Program(len(code) // 8, code)
    if libc.syscall(number, _FILTER_MODE, _TSYNC, ctypes.byref(program)) != 0:
        if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, _FORBIDDEN):
            return False
        _check(-1, "seccomp")
    return True


def _instructions(arch: int, column: int) -> Iterable[bytes]:
    """The filter. `struct seccomp_data`: number at 0, architecture at 4, arguments of 8 bytes from 16 on."""
    yield _do(_LOAD, 4)
    yield _do(_EQUAL, arch, yes=1)
    yield _do(_RETURN, _KILL)
    yield _do(_LOAD, 0)
    # The x32 calls of x86-64 have numbers of their own.
    yield _do(_AT_LEAST, 0x40000000, no=1)
    yield _do(_RETURN, _KILL)
    for numbers in _CALLS.values():
        if numbers[column] >= 0:
            yield _do(_EQUAL, numbers[column], no=1)
            yield _do(_RETURN, _ALLOW)
    for numbers, argument in ((_OPEN, 1), (_OPENAT, 2)):
        if numbers[column] >= 0:
            yield from _unless(numbers[column], argument, _WRITING)
    yield from _when(_FCNTL[column], 1, _EQUAL, _FCNTL_COMMANDS)
    yield from _when(_IOCTL[column], 1, _EQUAL, _IOCTL_COMMANDS)
    yield from _when(_PRLIMIT[column], 0, _EQUAL, (0, os.getpid()))
    yield from _when(_TGKILL[column], 0, _EQUAL, (os.getpid(),))
    yield from _when(_CLONE[column], 0, _ANY_BIT, (_CLONE_THREAD,))
    # Its flags are in memory, which a filter cannot read; the C library goes on with clone.
    yield _do(_EQUAL, _CLONE3[column], no=1)
    yield _do(_RETURN, _ERRNO | errno.ENOSYS)
    yield _do(_RETURN, _ERRNO | errno.EPERM)


def _when(number: int, argument: int, test: int, values: Sequence[int]) -> Iterable[bytes]:
    """Allow a call where an argument, 32 bits of it, passes a test with one of the values."""
    yield _do(_EQUAL, number, no=2 * len(values) + 2)
    yield _do(_LOAD, 16 + 8 * argument)
    for value in values:
        yield _do(test, value, no=1)
        yield _do(_RETURN, _ALLOW)
    yield _do(_RETURN, _ERRNO | errno.EPERM)


def _unless(number: int, argument: int, bits: int) -> Iterable[bytes]:
    """Allow a call where an argument, 32 bits of it, has none of these bits."""
    yield _do(_EQUAL, number, no=4)
    yield _do(_LOAD, 16 + 8 * argument)
    yield _do(_ANY_BIT, bits, no=1)
    yield _do(_RETURN, _ERRNO | errno.EPERM)
    yield _do(_RETURN, _ALLOW)


def _do(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`; `yes` and `no`: instructions to skip."""
    return struct.pack("=HBBI", code, yes, no, value)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
