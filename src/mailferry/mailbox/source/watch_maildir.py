"""Watching a Maildir: a look every second costs two questions to the file system, and works wherever files do."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from mailferry.errors import Retry
from mailferry.mailbox.source.maildir import _split, _subfolder
from mailferry.mailbox.source.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.mailbox import MailboxSettings
    from mailferry.mailbox.source.watch import Turn


class MaildirWatcher(Watcher):
    """Looks at the times of `new` and `cur`; only when one has changed, at the names in them.

    By names, because reading, marking and deleting change those times as well.
    """

    longest_pause = 5.0

    def __init__(
        self,
        settings: MailboxSettings,
        on_news: Callable[[], None],
        *,
        every: float = 1.0,
        patience: float = 15 * 60,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`every`: seconds from look to look."""
        super().__init__(settings, on_news, patience=patience, clock=clock)
        self._every = every

    def _watch(self, turn: Turn) -> float:
        settings = self._settings
        assert settings.path is not None
        root = settings.path.absolute()
        # here and not before the start, so that a name that cannot be one shows in the health
        self._path = root if settings.folder.upper() == "INBOX" else _subfolder(root, settings.folder)
        # times before names: what comes in between shows in the names now, or in the times next time
        times, names = self._times(), self._names()
        self._good(turn)
        self._news(turn)
        # a change within the tick of the file system's clock (up to 2 s) leaves the time as it was: names are looked
        # at until a folder has been quiet for longer
        quiet_from = self._clock()
        while not turn.over.wait(self._every):
            before, times = times, self._times()
            now = self._clock()
            if times != before:
                quiet_from = now
            if now - quiet_from <= 2 + self._every:
                known, names = names, self._names()
                if not names <= known:
                    self._news(turn)
            self._good(turn)
        return 0

    def _times(self) -> list[tuple[int, int]]:
        """Of both folders, which one it is and when it was last changed, in ns."""
        with self._reading():
            found = [(self._path / name).stat() for name in ("new", "cur")]
        return [(stat.st_ino, stat.st_mtime_ns) for stat in found]

    def _names(self) -> frozenset[str]:
        """Unique names of all messages. `new` comes first, as messages go from there to `cur` and never back."""
        with self._reading():
            return frozenset(
                _split(entry.name)[0]
                for folder in ("new", "cur")
                for entry in (self._path / folder).iterdir()
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Retry(
                f"{self._path} cannot be looked at: {error.strerror}; is it there, with its folders new and cur?"
            ) from None
