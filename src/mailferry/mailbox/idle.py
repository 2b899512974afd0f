"""What is expensive to open and is kept open for the next who needs it: mailboxes and reading children."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from mailferry.errors import Reject, Retry
from mailferry.mailbox.ledger.jobs import OutOfReach
from mailferry.mailbox.workbook.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence
    from pathlib import Path

    from mailferry.config.spreadsheet import Limits
    from mailferry.mailbox.source.message import Head, Mailbox, MessageRef, Outcome, Part, Summary
    from mailferry.mailbox.workbook.contract import RowContract
    from mailferry.mailbox.workbook.reader import Sheet
    from mailferry.mailbox.workbook.values import Kind


class _Closable(Protocol):
    def close(self) -> None:
        """End it; never raises."""


K = TypeVar("K", bound="Hashable")
T = TypeVar("T", bound=_Closable)


class Shelf(Generic[K, T]):
    """Open things that nobody uses at the moment, by key. Threads may share it."""

    def __init__(self, idle: float) -> None:
        """`idle`: seconds after which one is closed rather than lent again."""
        self._idle = idle
        self._lock = Lock()
        self._closed = False
        #: With the monotonic time at which each was given, the latest last.
        self._things: dict[K, list[tuple[float, T]]] = {}

    def take(self, key: K) -> T | None:
        """The one used last, or None; it belongs to the caller."""
        self.cool()
        with self._lock:
            kept = self._things.get(key)
            return kept.pop()[1] if kept else None

    def give(self, key: K, thing: T) -> None:
        """Back on the shelf."""
        with self._lock:
            if not self._closed:
                self._things.setdefault(key, []).append((time.monotonic(), thing))
                return
        thing.close()

    def cool(self) -> None:
        """Close those that were not used for long."""
        self._drop(before=time.monotonic() - self._idle)

    def close(self) -> None:
        """Close all, and those that are out when they are given."""
        with self._lock:
            self._closed = True
        self._drop(before=float("inf"))

    def _drop(self, before: float) -> None:
        with self._lock:
            stale = [thing for kept in self._things.values() for since, thing in kept if since < before]
            for kept in self._things.values():
                kept[:] = [(since, thing) for since, thing in kept if since >= before]
        for thing in stale:
            thing.close()


class LazyMailbox:
    """A mailbox that is opened at its first use, and anew after a fault. OutOfReach where that fails for now."""

    def __init__(self, open_: Callable[[], Mailbox]) -> None:
        self._open = open_
        self._mailbox: Mailbox | None = None

    def unmarked(self) -> Sequence[MessageRef]:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            return mailbox.unmarked()

    def heads(self, refs: Sequence[MessageRef]) -> Iterator[Head]:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            yield from mailbox.heads(refs)

    def find(self) -> Sequence[MessageRef]:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            return mailbox.find()

    def summary(self, ref: MessageRef) -> Summary | None:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            return mailbox.summary(ref)

    def raw_header(self, ref: MessageRef) -> bytes:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            return mailbox.raw_header(ref)

    def fetch(self, ref: MessageRef, part: Part) -> Iterator[bytes]:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            yield from mailbox.fetch(ref, part)

    def mark(self, ref: MessageRef, outcome: Outcome) -> None:
        """As `Mailbox`."""
        with self._opened() as mailbox:
            mailbox.mark(ref, outcome)

    def close(self) -> None:
        """As `Mailbox`."""
        if self._mailbox is not None:
            self._mailbox.close()
            self._mailbox = None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Mailbox]:
        if self._mailbox is None:
            try:
                self._mailbox = self._open()
            except Retry as error:
                raise OutOfReach(str(error)) from error
        try:
            yield self._mailbox
        except (Reject, GeneratorExit):
            raise  # the message's fault, and of whoever needs no more of it
        except BaseException:
            self.close()
            raise


class Readers:
    """Reading children, one for each file that is read at the same time. Threads may share it."""

    def __init__(self, idle: float) -> None:
        self._shelf: Shelf[_Place, Reader] = Shelf(idle)
        self._lock = Lock()
        self._out: set[Reader] = set()

    def of(self, limits: Limits, folder: Path, prefix: str) -> LentReader:
        """What reads with these limits, by way of temporary folders there."""
        return LentReader(readers=self, place=_Place(limits=limits, folder=folder, prefix=prefix))

    @contextlib.contextmanager
    def lend(self, place: _Place) -> Iterator[Reader]:
        """One for the calling thread, with a warm child where there is one."""
        reader = self._shelf.take(place) or Reader(place.limits, place.folder, place.prefix)
        with self._lock:
            self._out.add(reader)
        try:
            yield reader
        finally:
            with self._lock:
                self._out.discard(reader)
            # Whole or not: it replaces a broken child by itself.
            self._shelf.give(place, reader)

    def kill(self) -> None:
        """End the children that read at the moment: whoever waits for one gets a Retry."""
        with self._lock:
            for reader in self._out:
                reader.kill()

    def cool(self) -> None:
        """As `Shelf`."""
        self._shelf.cool()

    def close(self) -> None:
        """As `Shelf`."""
        self._shelf.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    limits: Limits
    folder: Path
    prefix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LentReader:
    """Reads through whichever child is free."""

    readers: Readers
    place: _Place

    @contextlib.contextmanager
    def open(self, path: Path, kind: Kind, contract: RowContract) -> Iterator[Sheet]:
        """As `Reader.open`."""
        with self.readers.lend(self.place) as reader, reader.open(path, kind, contract) as sheet:
            yield sheet
