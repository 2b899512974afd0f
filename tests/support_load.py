"""`mailferry load` as a process: a mailbox, a table that writes down every change, and what must have come of it all."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support_database import Queried
from support_fork import Forked, injected, mailferry
from support_mail import HEADER, Maildir, mail, workbook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mailferry.config.database import DatabaseSettings

#: Every row that is inserted or updated leaves a line: a change that comes twice cannot hide behind an upsert.
_TABLE = """
CREATE TABLE tracking_data (hawb text PRIMARY KEY, status text, pieces integer, file_source text);
CREATE TABLE changes (id bigint GENERATED ALWAYS AS IDENTITY, hawb text, status text, pieces integer, file_source text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO changes (hawb, status, pieces, file_source)
           VALUES (new.hawb, new.status, new.pieces, new.file_source); RETURN NULL; END';
CREATE TRIGGER note AFTER INSERT OR UPDATE ON tracking_data FOR EACH ROW EXECUTE FUNCTION note();
"""


@dataclass(kw_only=True)
class Expected:
    """What the messages delivered so far must come to, each loaded exactly once and in their order."""

    #: Rows of the table by key.
    rows: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Every change of a row.
    changes: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    #: State of each message's only job, in order.
    jobs: list[str] = field(default_factory=list)
    #: Name, state, and rows inserted, updated and rejected of each file, in order.
    files: list[tuple[Any, ...]] = field(default_factory=list)

    def load(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        keyed = {row[0]: (*row, name) for row in rows if row[0] is not None}
        updated = len(keyed.keys() & self.rows.keys())
        self.rows |= keyed
        self.changes.update(keyed.values())
        self.files.append((name, "loaded", len(keyed) - updated, updated, len(rows) - len(keyed)))


class Site(Queried):
    """A Maildir, a database and a folder, with a config.env that brings them together."""

    def __init__(self, folder: Path, settings: DatabaseSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.base = folder / "app"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.maildir = Maildir(folder / "Maildir")
        self.expected = Expected()
        self._last = b""
        self.configure()
        self.query(_TABLE)

    def configure(self, **more: object) -> None:
        """Write config.env; other values, `APP_BASE_DIR` among them, may be given."""
        values: dict[str, object] = {
            "APP_NAME": "test",
            "APP_BASE_DIR": "app",
            "DB_HOST": self.settings.host,
            "DB_PORT": self.settings.port,
            "DB_NAME": self.settings.name,
            "DB_USERNAME": self.settings.user,
            "DB_HISTORY": "true",
            **more,
        }
        if "EMAIL_HOST" not in more:
            values["EMAIL_MAILDIR"] = "Maildir"
        config = self.folder / "config.env"
        config.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        config.chmod(0o600)

    # --- mail

    def compose(self, *, large: int = 0, files: int = 0) -> bytes:
        """The next message that loads: one file or two by turns, or so many, each with a new key, an old one and a row without any."""
        number = len(self.expected.jobs) + 1
        attached = []
        for letter in "ab"[: files or 1 + number % 2]:
            rows: list[tuple[Any, ...]] = [
                (f"old-{number % 4}", f"{letter}{number}", number),
                (f"new-{letter}{number}", "x", number),
                (None, "no key", 0),
            ]
            rows += [(f"large-{number}-{n}", os.urandom(400).hex(), n) for n in range(large)]
            name = f"{letter}{number}.xlsx"
            attached.append((name, workbook(HEADER, *rows)))
            self.expected.load(name, rows)
        self.expected.jobs.append("completed")
        self._last = attached[-1][1]
        return mail("Track and Trace", *attached)

    def send(self, *, large: int = 0, files: int = 0) -> None:
        self.maildir.deliver(self.compose(large=large, files=files))

    def send_duplicate(self) -> None:
        """The last file once more."""
        name = f"again{len(self.expected.jobs)}.xlsx"
        self.maildir.deliver(mail("Track and Trace", (name, self._last)))
        self.expected.jobs.append("completed")
        self.expected.files.append((name, "duplicate", 0, 0, 0))

    def send_broken(self) -> None:
        """A workbook without the key: it is read, and then rejected."""
        name = f"broken{len(self.expected.jobs)}.xlsx"
        self.maildir.deliver(mail("Track and Trace", (name, workbook(("A", "B"), (1, name)))))
        self.expected.jobs.append("failed")
        self.expected.files.append((name, "rejected", 0, 0, 0))

    def send_all_kinds(self) -> None:
        self.send()
        self.send_duplicate()
        self.send_broken()
        self.send()

    # --- runs

    def start(
        self,
        trace: Sequence[str] = (),
        before: Callable[[Forked], object] | None = None,
        **variables: object,
    ) -> Forked:
        """`mailferry load` with more variables."""
        return Forked(
            mailferry,
            *("load", "--config", "config.env"),
            folder=self.folder,
            variables={
                "PATH": os.environ["PATH"],
                "LC_ALL": "C.UTF-8",
                "TMPDIR": str(self.temporary),
                **{name: str(value) for name, value in variables.items()},
            },
            trace=trace,
            before=before,
        )

    def load(self, **variables: object) -> tuple[int, str]:
        """A run to its end, whatever that is: exit status and standard error."""
        return ended(self.start((), None, **variables))

    def under_strace(self, call: str, fault: str) -> tuple[int, str]:
        """A run with a fault injected into a system call of the process itself, its reading child left alone."""
        trace = [*injected(call, fault, self.folder / "strace.log"), "-e", "signal=none"]
        return ended(self.start(trace=trace))

    def last_call(self) -> str:
        """The call that the last run was killed in, as "rename processed"."""
        line = [
            line for line in (self.folder / "strace.log").read_text().splitlines() if not line.startswith("+")
        ][-1]
        # Both names of a rename; the later one says where it goes.
        places = ("pending", "processed", "failed", "Maildir", "rejects.csv", "reading")
        found = [(line.rfind(place), place) for place in places if place in line]
        return f"{line.partition('(')[0]} {max(found)[1] if found else 'elsewhere'}"

    def all_done(self) -> bool:
        """Whether every message is marked."""
        done = self.query("SELECT count(*) FROM mailferry.jobs WHERE marked_at IS NOT NULL")
        return bool(done == [(len(self.expected.jobs),)])

    def cut_off(self) -> int:
        """How often the unfinished job that was cut off most was begun."""
        text = (
            "SELECT coalesce(max(attempts), 0) FROM mailferry.jobs WHERE state IN ('pending', 'in_progress')"
        )
        return int(self.query(text)[0][0])

    # --- what came of it

    def assert_exactly_once(self, *bases: Path, maildir: bool = True) -> None:
        """Rows, ledger, files and marks are what the messages say, each loaded once. `bases`: where files may lie."""
        expected = self.expected
        rows = self.query("SELECT hawb, status, pieces, file_source FROM tracking_data")
        assert sorted(rows) == sorted(expected.rows.values())
        assert (
            Counter(self.query("SELECT hawb, status, pieces, file_source FROM changes")) == expected.changes
        )
        history = self.query("SELECT key FROM mailferry.row_changes")
        assert Counter(key for (key,) in history) == Counter(
            change[0] for change in expected.changes.elements()
        )
        jobs = self.query(
            "SELECT state, marked_at IS NOT NULL, finished_at IS NOT NULL FROM mailferry.jobs ORDER BY id"
        )
        assert jobs == [(state, True, True) for state in expected.jobs]
        files = self.query(
            "SELECT name, state, inserted, updated, rejected FROM mailferry.files ORDER BY job_id, id"
        )
        assert files == expected.files
        loads = self.query("SELECT load_no FROM mailferry.files WHERE state = 'loaded' ORDER BY job_id, id")
        assert loads == sorted(set(loads))
        stored = self.query(
            "SELECT f.name, count(r.id) FROM mailferry.files f LEFT JOIN mailferry.rejected_rows r ON r.file_id = f.id GROUP BY f.name"
        )
        assert dict(stored) == {file[0]: file[4] for file in expected.files}
        if maildir:
            marks = [self.maildir.flags()[f"{n + 1}.test.host"] for n in range(len(expected.jobs))]
            assert marks == ["S" if state == "completed" else "" for state in expected.jobs]
        self._assert_files(bases or (self.base,))
        assert list(self.temporary.iterdir()) == []
        assert (
            self.query("SELECT relname FROM pg_class WHERE relnamespace = 'temp_processing'::regnamespace")
            == []
        )

    def _assert_files(self, bases: Sequence[Path]) -> None:
        """Every file lies where the ledger says, with its rejected rows beside it, and no other is there."""
        wanted = set()
        for name, state, path, rejected in self.query(
            "SELECT name, state, path, rejected FROM mailferry.files"
        ):
            place = Path(path)
            wanted.add(place)
            assert place.is_file()
            assert place.name.endswith(name)
            folders = place.relative_to(next(base for base in bases if place.is_relative_to(base))).parts[:-1]
            assert folders[0] == ("failed" if state == "rejected" else "processed")
            if rejected:
                listed = place.with_name(f"{place.name}.rejects.csv")
                wanted.add(listed)
                assert len(list(csv.reader(listed.read_text("utf-8-sig").splitlines()))) == 1 + rejected
        found = {
            path for base in bases for path in base.rglob("*") if path.is_file() and path.name != ".lock"
        }
        assert found == wanted


def ended(process: Forked) -> tuple[int, str]:
    """Exit status and standard error of a process, once it has ended."""
    done = process.finished()
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr
