"""Hourly files: the destination of a feed that writes JSON lines. The checkpoint says what of them is committed."""

from __future__ import annotations

import functools
import logging
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING
from zlib import crc32

from mailferry import disk
from mailferry.errors import Retry, Stop
from mailferry.events import checkpoint, order, stored, timestamps
from mailferry.events import record as records
from mailferry.events.audit import REACH
from mailferry.events.checkpoint import Announced, Checkpoint, Intent
from mailferry.events.closed import ClosedFiles
from mailferry.events.destination import BACKFILL_TURN, Committed, Recovered
from mailferry.events.folder import files_of, files_of_hour, hour_name
from mailferry.events.heartbeat import Heartbeat
from mailferry.events.journal import FileJournal, Journal
from mailferry.events.order import Identity
from mailferry.events.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from filelock import BaseFileLock

    from mailferry.config.event_feed import EventFeed
    from mailferry.events.check import Lines
    from mailferry.events.destination import Line
    from mailferry.events.metrics import Metrics
    from mailferry.events.stored import Found


class HourlyFiles:
    """The files of one feed, with a lock file, the feed's own logs and a heartbeat beside them; see `Destination`.

    Errors: Retry for what the disk refuses, Stop for a damaged checkpoint.
    """

    def __init__(self, feed: EventFeed, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self._feed = feed
        self._clock = clock
        self._format = feed.fill(feed.log_file_name_format)
        self._zone = _zone(feed.timezone)
        self._identity = Identity(feed.identity_fields, feed.ignored_fields)
        self._named: tuple[int, str] = (-1, "")
        self._closed = ClosedFiles(feed, clock)
        self.folder = feed.folder
        #: What the checkpoint on the disk says; None before there is one.
        self.committed: Progress | None = None
        #: Names of the files that were written to, in order of their first line.
        self.written: list[str] = []
        self.journal: Journal = FileJournal(feed, clock)
        self.checkpoint = f"the first line of {feed.position_file}"
        self._heartbeat = Heartbeat(feed, metrics, self.journal, clock)
        self._lock: BaseFileLock | None = None
        self._mark: BaseFileLock | None = None
        self._marker = feed.lock_file_path.with_name(f"{feed.lock_file_path.name}.backfill")

    def acquire(self) -> bool:
        """Lock the feed; False where another process has it."""
        path = self._feed.lock_file_path
        self._lock = _locked(path)
        if self._lock is None and self._mark is None:
            mark = _locked(self._marker)
            if mark is None:
                self._lock = _locked(path, BACKFILL_TURN)
            else:
                mark.release()
        return self._lock is not None

    def unlock(self) -> None:
        """Unlock the feed."""
        if self._lock:
            self._lock.release()
        self._lock = None

    def mark(self) -> bool:
        """Lock a file of its own for the back-fill."""
        self._mark = _locked(self._marker)
        return self._mark is not None

    def unmark(self) -> None:
        """Release that file."""
        if self._mark:
            self._mark.release()
        self._mark = None

    def release(self) -> None:
        """Close the logs and release both locks."""
        self.journal.close()
        self.unlock()
        self.unmark()

    def look(self) -> Progress | None:
        """What the checkpoint says; a write under way is left alone."""
        found = checkpoint.load(self._feed.position_file)
        return found.progress if found else None

    def beat(self, status: str, error: str = "", warnings: Sequence[str] = ()) -> None:
        """Replace the heartbeat file."""
        self._heartbeat.write(status, self.committed, error, warnings)

    def open(self) -> tuple[Progress | None, Recovered]:
        """Where to go on (None: this feed has never run), after repairing what a crash has left."""
        found = checkpoint.load(self._feed.position_file) or self._without_checkpoint()
        if found is None:
            return None, Recovered()
        recovered = Recovered()
        if found.intent:
            recovered = self._settle(found.progress, found.intent)
            checkpoint.save(self._feed.position_file, found.progress)
        if found.inherited:
            recovered = self._inherit(found.progress)
        self.committed = _copy(found.progress)
        return found.progress, recovered

    def commit(self, lines: Sequence[Line], progress: Progress, end: int) -> Committed:
        """Announce `lines`, append them, then commit them."""
        if lines:
            assert self.committed, "a feed's first commit has no lines"
            covered = self.committed.coverage.covers
            late = {line.key: line.time for line in lines if covered(line.time) and not line.changed}
            files: dict[str, list[Line]] = {}
            for line in lines:
                name = self._closed.place(self.name(line.time), late=line.key in late)
                files.setdefault(name, []).append(line)
            # Until they are on the disk, what is committed stays what it was.
            intent = self._intent(files, end)
            intent.late = late
            intent.states = {line.key: line.state for line in lines if line.state}
            intent.changed = {line.key: line.time for line in lines if line.changed}
            intent.stand_ins = {line.key: line.time for line in lines if line.stands_in and not line.changed}
            disk.require_room(self.folder, self._feed.min_free, sum(len(line.data) + 1 for line in lines))
            checkpoint.save(self._feed.position_file, self.committed, intent)
            for name, part in files.items():
                path = self.folder / name
                with disk.explained("append to", path):
                    disk.append(path, b"".join(line.data + b"\n" for line in part))
                if name not in self.written:
                    self.written.append(name)
            for time in intent.changed.values():
                progress.coverage = progress.coverage.wrote_again(time)
        checkpoint.save(self._feed.position_file, progress)
        self.committed = _copy(progress)
        return Committed()

    def name(self, event_time: int) -> str:
        """The file an event belongs into."""
        second = event_time if self._feed.file_time == "event" else int(self._clock())
        if self._named[0] != second:
            self._named = (second, self._name(datetime.fromtimestamp(second, self._zone)))
        return self._named[1]

    def _name(self, moment: datetime) -> str:
        name = moment.strftime(self._format)
        if not moment.fold or not re.search("%[HIMS]", self._format):
            return name
        # The clock was set back: this hour comes for the second time, and has a file of its own.
        stem, dot, ending = name.rpartition(".") if "." in name else (name, "", "")
        offset = (moment if moment.tzinfo else moment.astimezone()).strftime("%z")
        return f"{stem}_{offset}{dot}{ending}"

    def found(self, start: int, end: int) -> Iterator[Found]:
        """The lines of those files that are records."""
        return stored.found(self.files_of(start, end), self._identity)

    def check(self, lines: Lines) -> None:
        """Pass the files of its time to `lines`, the oldest first."""
        for path in self.files_of(lines.start, lines.end):
            lines.file(path, functools.partial(self._belongs, path.name), keyed=self._feed.has_detail)

    def _belongs(self, name: str, time: int) -> bool:
        return self._feed.file_time == "collected" or self.name(time) == hour_name(name)

    def files_of(self, start: int, end: int) -> list[Path]:
        """The files that may hold events from `start` up to `end`, Unix seconds, in the order of their names' time.

        An hour more at both ends: a detail may show a somewhat other time than its list record.
        """
        if self._feed.file_time == "event":
            names = self._names(start - 3600, end + 3600)
            return [path for name in names for path in files_of_hour(self.folder, name)]
        return [found.path for found in files_of(self.folder, self._format) if found.modified >= start]

    def _names(self, start: int, end: int) -> dict[str, None]:
        """The names that events from `start` up to `end` may have had, in order."""
        step = 1 if re.search("%[Sf]", self._format) else 60 if "%M" in self._format else 900
        zone = self._zone
        return dict.fromkeys(
            datetime.fromtimestamp(time, zone).strftime(self._format) for time in range(start, end, step)
        )

    def expire(self) -> list[str]:
        """Delete data files not written to for `log_retention_days`; none where that is 0.

        Raises:
            Retry, Stop: some of them could not be deleted; the others are.
        """
        days = self._feed.log_retention_days
        if not days:
            return []
        oldest = self._clock() - days * 86_400
        deleted, failures = [], []
        for path in (found.path for found in files_of(self.folder, self._format) if found.modified < oldest):
            try:
                self._closed.deleted(path, f"log_retention_days = {days}")
                with disk.explained("delete", path):
                    path.unlink(missing_ok=True)
            except (Retry, Stop) as error:
                failures.append(error)
            else:
                deleted.append(f"{path.name}, older than {days} days")
        if failures:
            counts = f"{len(deleted)} files older than {days} days deleted, {len(failures)} kept"
            raise type(failures[0])(f"{counts}: {failures[0]}")
        return deleted

    def close(self) -> None:
        """Compress and seal the hours that are over and audited; see `ClosedFiles`."""
        if self.committed is None:
            return
        now = int(self._clock())
        first = now
        if self._feed.file_time == "event":
            audited = self._audited_to(self.committed, now)
            if audited is None:
                return
            first = audited
        for what in self._closed.close(self._names(first - 3600, now + 3600), self.committed.coverage):
            self.journal.message(what)
        if self._feed.seal and self._feed.timestamp_url:
            try:
                timestamps.stamp(self._feed)
            except Retry as error:
                self.journal.message(f"{error}", logging.WARNING)  # the next run asks again

    def _audited_to(self, progress: Progress, now: int) -> int | None:
        """Before which Unix time no audit is to come; None where every time may still be audited."""
        delays = self._feed.audit_delays
        if not delays:
            return progress.position - self._feed.look_back
        reached = progress.coverage.audited_to(max(delays))
        out_of_reach = now - REACH * 86_400
        if reached is None:
            spans = progress.coverage.spans
            return out_of_reach if spans and spans[0].start < out_of_reach else None
        return max(reached, out_of_reach)

    def _intent(self, files: dict[str, list[Line]], end: int) -> Intent:
        intent = Intent(end=end)
        for name, part in files.items():
            path = self.folder / name
            with disk.explained("read", path):
                offset = _whole_lines(path)
            checks = [(len(line.data) + 1, crc32(b"\n", crc32(line.data)), line.key) for line in part]
            intent.files[name] = Announced(offset=offset, lines=checks)
        return intent

    def _settle(self, progress: Progress, intent: Intent) -> Recovered:
        """Adopt the announced lines that are whole in their files, and cut what is torn behind them."""
        adopted = again = cut = 0
        for name, announced in intent.files.items():
            path = self.folder / name
            if not path.exists():
                continue
            with disk.explained("repair", path):
                with path.open("rb") as file:
                    file.seek(announced.offset)
                    tail = file.read()
                good = 0
                for length, checksum, key in announced.lines:
                    if crc32(tail[good : good + length]) != checksum or len(tail) < good + length:
                        break
                    good += length
                    adopted += 1
                    progress.seen.add(key, intent.end, intent.states.get(key, ""))
                    if key in intent.changed:
                        again += 1
                        progress.count("changed")
                        progress.coverage = progress.coverage.wrote_again(intent.changed[key])
                    if key in intent.stand_ins:
                        progress.misses_detail(key, intent.stand_ins[key])
                    if key in intent.late:
                        progress.coverage = progress.coverage.wrote(intent.late[key])
                torn = good < sum(length for length, _, _ in announced.lines)
                keep = tail[:good] if torn else tail
                if tail:
                    disk.rewrite(path, announced.offset, keep)
                    disk.sync_folder(self.folder)
                cut += len(tail) - len(keep)
        progress.events += adopted - again
        return Recovered(adopted, cut)

    def _without_checkpoint(self) -> Checkpoint | None:
        """Where the files end, if there are any: what they hold must not be written twice."""
        latest = int(self._clock())
        for found in reversed(files_of(self.folder, self._format)):
            times = filter(None, map(records.event_time, _records(found.path, 0)))
            position = max((time for time in times if time <= latest), default=None)
            if position is None:
                continue
            start = self._feed.start_time
            if start is not None and start > position:
                return None
            self.journal.message(
                f"there is no checkpoint {self._feed.position_file}, but there are files: going on where they end",
                logging.WARNING,
            )
            return Checkpoint(progress=Progress(position=position, floor=position), inherited=True)
        return None

    def _inherit(self, progress: Progress) -> Recovered:
        """Learn from the files what they hold of the time that is going to be read again."""
        since = progress.floor = max(0, progress.position - self._feed.look_back)
        written = files_of(self.folder, self._format)
        records_since = (
            record for found in written if found.modified >= since for record in _records(found.path, since)
        )
        for entry in order.identified(records_since, self._identity):
            # What lies beyond the position is known until the range that lists it has passed.
            progress.seen.add(entry.key, max(progress.position, entry.time or 0))
        return Recovered(len(progress.seen), 0)


def _locked(path: Path, patience: float = 0) -> BaseFileLock | None:
    """A lock on this file; None where another process has it for longer than `patience` seconds."""
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=patience, thread_local=False, mode=disk.FILE_MODE)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise Retry(f"cannot lock {path}: {error.strerror}; check the permissions of its folder") from error
    return lock


def _zone(name: str) -> tzinfo | None:
    if not name:
        return None  # the machine's
    if name.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _whole_lines(path: Path) -> int:
    """The file's length, after ending a line that another program left open (ours are announced, and repaired)."""
    if not path.exists():
        return 0
    with open(path, "rb+", opener=disk.opener) as file:
        length = file.seek(0, 2)
        if length:
            file.seek(length - 1)
            if file.read(1) != b"\n":
                length += file.write(b"\n")
    return length


def _records(path: Path, since: int) -> Iterable[object]:
    for line in stored.open_lines(path):
        try:
            record = records.decode(line)
        except ValueError:
            continue  # a torn line of the older script
        time = records.event_time(record)
        if time is None or time >= since:
            yield record


def _copy(progress: Progress) -> Progress:
    return replace(progress, seen=progress.seen.copy())
