"""What the tests of event feeds share: a stand-in provider, a folder with its configuration, runs of it, the truth.

Time stands still unless a test moves it: provider and collector look at the same `Clock`. As a program
(`python support_events.py CONFIG NOW COMMIT_EVENTS`) this is one run at a held time, with so small commits that a few
hundred events make many of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support_fork import Forked, environment, run_module

from mailferry import logs
from mailferry.config import event_feeds
from mailferry.events import run, writer
from mailferry.testing.population import Feed, Population, Traits
from mailferry.testing.provider import Settings, serve
from mailferry.testing.verify import compare, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mailferry.events.collector import Result
    from mailferry.testing.provider import Provider
    from mailferry.testing.verify import Comparison

KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
#: A full hour, UTC and in Istanbul.
START = 1_750_000_000 - 1_750_000_000 % 3600
#: The same for runs that look at the machine's clock.
RECENT = int(time.time()) // 3600 * 3600 - 7200
#: So quick that a test need not wait, so patient that a slow machine does not fail one.
QUICK: Mapping[str, object] = {
    "timezone": "UTC",
    "list_sleep_time": 0.01,
    "detail_sleep_time": 0.01,
}

OUTGOING = Feed(api_key=KEY, domain="example.com", category="mail", type="outgoinglog")
INCOMING = Feed(api_key=KEY, domain="example.com", category="mail", type="incominglog")
QUARANTINE = Feed(api_key=KEY, domain="example.com", category="quarantine", type="quarantine")
HOLD = Feed(api_key=KEY, domain="example.com", category="quarantine", type="hold")
SIGN_INS = Feed(api_key=KEY, domain="example.com", category="authentication", type="")
ALL_FEEDS = (OUTGOING, INCOMING, QUARANTINE, HOLD, SIGN_INS)


@dataclass
class Clock:
    """Unix time that a test holds."""

    now: float

    def __call__(self) -> float:
        return self.now


def suffix(feed: Feed) -> str:
    """The section that collects this feed."""
    return f"{feed.domain or 'all'}-{feed.type or feed.category}"


def section(feed: Feed, url: str, **options: object) -> str:
    """A section of the INI file."""
    values: dict[str, object] = {"api_key": feed.api_key, "domain": feed.domain, "category": feed.category}
    values |= {"type": feed.type, "url": url, **options}
    return f"[MailLogger:{suffix(feed)}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


@dataclass(kw_only=True)
class Ended:
    """What a run came to."""

    status: int
    results: dict[str, Result]

    def of(self, feed: Feed) -> Result:
        return self.results[suffix(feed)]


@dataclass(kw_only=True)
class Site:
    """A provider with some feeds, and a folder in which they are collected."""

    folder: Path
    provider: Provider
    clock: Clock
    feeds: Sequence[Feed]
    #: Unix seconds: the first second that has events.
    start: int = START
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "uzmanposta.ini"

    def configure(self, **options: object) -> None:
        """Write the INI file: a section a feed, all with these options besides the quick ones."""
        given = {**QUICK, "start_time": self.start, **options}
        head = "[DEFAULT]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())
        sections = [section(feed, self.provider.list_url(feed.category)) for feed in self.feeds]
        self.config.write_text("\n".join([head, *sections]), "utf-8")

    def collect(self, *, workers: int = 8) -> Ended:
        """Run all sections, as the command does."""
        return collect(self.config, self.clock, workers=workers)

    def data_folder(self, feed: Feed) -> Path:
        """Where the contract has this feed's files."""
        folder = self.folder / "output" / (feed.domain or "global") / feed.category
        return folder if feed.category in {feed.type, "authentication"} else folder / feed.type

    def data_files(self, feed: Feed) -> list[Path]:
        return sorted(self.data_folder(feed).glob(f"{feed.domain or 'global'}_{feed.type or 'auth'}_*.log"))

    def lines(self, feed: Feed) -> list[bytes]:
        return list(read_lines(self.data_files(feed)))

    def position_file(self, feed: Feed) -> Path:
        return self.folder / "positions" / f"{suffix(feed)}.pos"

    def heartbeat(self, feed: Feed) -> dict[str, Any]:
        beat: dict[str, Any] = json.loads(
            (self.data_folder(feed) / f"{suffix(feed)}_heartbeat.json").read_bytes()
        )
        return beat

    def errors(self, feed: Feed) -> list[dict[str, Any]]:
        """All lines of the error logs."""
        files = sorted(self.data_folder(feed).glob("errors_*.log"))
        return [json.loads(line) for line in read_lines(files)]

    def compared(self, feed: Feed, *, end: int | None = None) -> Comparison:
        """The files against the truth up to `end` (default: what a run at this time covers)."""
        end = int(self.clock.now) - 30 if end is None else end
        truth = self.provider.truth(feed, self.start, end, visible_by=self.clock.now)
        return compare(truth, self.lines(feed))

    def assert_exactly_once(self, feed: Feed, *, late: int = 0, end: int | None = None) -> None:
        """Nothing lost, nothing twice, nothing changed, in order but for so many late ones; and not vacuous."""
        found = self.compared(feed, end=end)
        assert found.clean(late=late), found
        assert found.total > 0

    def assert_beginning(self, feed: Feed) -> int:
        """What is written is the beginning of the truth, line by line; returns how many whole lines that are."""
        lines = [line for path in self.data_files(feed) for line in path.read_bytes().split(b"\n")[:-1]]
        truth = self.provider.truth(feed, self.start, int(self.clock.now))
        for line, event in zip(lines, truth, strict=False):
            assert json.loads(line) == json.loads(event.value)
        return len(lines)


@contextlib.contextmanager
def a_site(
    folder: Path,
    feeds: Mapping[Feed, Traits],
    settings: Settings | None = None,
    *,
    now: float | None = None,
    seed: int = 1,
) -> Iterator[Site]:
    """A provider that knows `feeds` at `now` (default: some minutes after the last of them ended)."""
    ends = [traits.end for traits in feeds.values() if traits.end is not None]
    clock = Clock(max(ends) + 600 if now is None else now)
    start = min(traits.start for traits in feeds.values())
    with serve(Population(feeds, seed=seed), settings, clock=clock) as provider:
        yield Site(folder=folder, provider=provider, clock=clock, feeds=list(feeds), start=start)


def collect(config: Path, clock: Clock, *, workers: int = 8) -> Ended:
    """One run of all sections in this process; one whose folders cannot be written is reported and left out, status 2."""
    chosen = event_feeds.read(config).choose(None, every=True)
    faults = run.prepare(chosen, config)
    for fault in (fault for of_section in faults.values() for fault in of_section):
        sys.stderr.write(f"{fault}\n")
    feeds = [feed for feed in chosen if feed.section not in faults]

    async def on_one_thread() -> tuple[list[Result], int | None]:
        # Commits on one thread: strace counts calls by thread, and `when=N` is to mean the same in every run.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        return await run.collect(feeds, workers=workers, clock=clock)

    results, _ = asyncio.run(on_one_thread())
    status = 2 if faults else run.exit_status(results)
    return Ended(status=status, results={result.section: result for result in results})


# --- processes


def command(*arguments: object) -> list[str]:
    """`mailferry ...` as a process."""
    return [sys.executable, "-m", "mailferry", *map(str, arguments)]


def ran(
    *arguments: object, module: str = "mailferry", folder: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """`mailferry ...`, or another module as a program, as a process to its end."""
    words = map(str, arguments)
    return Forked(run_module, module, *words, folder=folder, variables=environment(**more)).finished()


def finished(
    arguments: Sequence[str], *, cwd: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """The same for any other program: what is started from nothing takes longer."""
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=cwd, env=environment(**more), timeout=100
    )


def runner(site: Site, *, commit_events: int = 40) -> list[str]:
    """One run at the site's time as a process, with a commit after so many events."""
    return [sys.executable, __file__, str(site.config), str(site.clock.now), str(commit_events)]


def forked(site: Site, *, commit_events: int = 40, trace: Sequence[str] = ()) -> Forked:
    """The same, quicker, with strace attached where there are options for it."""
    work = (one_run, site.config, site.clock.now, commit_events)
    return Forked(*work, trace=["-f", *trace] if trace else ())


def one_run(config: Path, now: float, commit_events: int) -> None:
    writer.COMMIT_EVENTS = commit_events
    logs.set_up()
    ended = collect(config, Clock(now))
    sys.exit(ended.status)


if __name__ == "__main__":
    one_run(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
