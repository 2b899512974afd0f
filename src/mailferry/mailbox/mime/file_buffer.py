"""A file that is read where it is asked for, through one window: messages and containers of any size in bounded memory.

Not mapped: a mapped file that another program cuts short kills the process (SIGBUS).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from mailferry.errors import Retry

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_WINDOW = 1024 * 1024


class FileBuffer:
    """A `mime.Buffer` over an open file; raises Retry where the file cannot be read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """`file` is at our disposal and closed at the end; `name` is for errors."""
        self.file, self._name = file, name
        stat = os.fstat(file.fileno())
        self._size = stat.st_size
        #: Unix seconds.
        self.modified = stat.st_mtime
        self._window, self._window_at = b"", 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises OSError."""
        return cls(path.open("rb", buffering=0), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: slice, /) -> bytes:
        start, stop, _ = index.indices(self._size)
        if not self._window_at <= start <= stop <= self._window_at + len(self._window):
            if stop - start > _WINDOW:
                return self._read(start, stop - start)
            self._window, self._window_at = self._read(start, _WINDOW), start
        return self._window[start - self._window_at : stop - self._window_at]

    def find(self, sub: bytes, start: int, end: int, /) -> int:
        """Where `sub` first lies wholly within [start, end), or -1."""
        end = min(end, self._size)
        while start + len(sub) <= end:
            if not self._window_at <= start <= self._window_at + len(self._window) - len(sub):
                self._window, self._window_at = self._read(start, _WINDOW), start
                if len(self._window) < len(sub):
                    return -1
            found = self._window.find(sub, start - self._window_at, end - self._window_at)
            if found >= 0:
                return self._window_at + found
            start = self._window_at + len(self._window) - len(sub) + 1
        return -1

    def _read(self, start: int, size: int) -> bytes:
        try:
            self.file.seek(start)
            return self.file.read(size)
        except OSError as error:
            raise Retry(f"{self._name} cannot be read: {error.strerror}") from None
