"""What benchmarks share: a figure, a child process and what it cost, a PostgreSQL, and the stand-in provider as a process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAILFERRY = (sys.executable, "-m", "mailferry")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value beside its limit. The ratio of the two, not the value, is what has a target.

    Exactly one of `at_least` and `at_most` is given.
    """

    name: str
    value: float
    limit: float
    unit: str
    #: What the limit is, in a few words.
    against: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        return self.value / self.limit

    @property
    def met(self) -> bool:
        low = 0.0 if self.at_least is None else self.at_least
        return low <= self.ratio <= (float("inf") if self.at_most is None else self.at_most)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a child process took, its start and end included. Seconds and MB (10^6 bytes)."""

    wall: float
    user: float
    system: float
    #: Largest resident size. Linux counts the parent's at the moment of the start too: keep the parent small.
    peak_mb: float
    output: str

    @property
    def cpu(self) -> float:
        return self.user + self.system


def run(command: Sequence[str | Path], *, good: Sequence[int] = (0,)) -> Cost:
    """Run a child to its end. RuntimeError, with its last messages, where its status is none of `good`."""
    # Compiled modules are kept, as they are where the product is installed, whatever the environment says.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    with tempfile.TemporaryFile() as messages:
        begun = time.monotonic()
        child = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=messages, text=True, env=environment
        )
        assert child.stdout
        with child.stdout:
            output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in good:
            messages.seek(0)
            said = messages.read()[-2000:].decode("utf-8", "replace")
            raise RuntimeError(
                f"{' '.join(map(str, command))}: exit {child.returncode}\n{output[-2000:]}\n{said}"
            )
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        peak_mb=usage.ru_maxrss * unit / 1e6,
        output=output,
    )


@functools.cache
def bare_start() -> Cost:
    """The median of nine starts of Python with asyncio and nothing else: what CPU seconds are measured in, on any machine."""
    costs = sorted(
        (run([sys.executable, "-c", "import asyncio"]) for _ in range(9)), key=lambda cost: cost.cpu
    )
    return costs[4]


class Simulated:
    """A `mailferry simulate` that runs."""

    def __init__(self, announced: dict[str, Any]) -> None:
        #: Its line of JSON: url, feeds, ini, start, end ...
        self.announced = announced

    def stats(self) -> dict[str, Any]:
        """What it was asked since it started."""
        with urllib.request.urlopen(f"{self.announced['url']}/_stats") as answer:
            stats: dict[str, Any] = json.load(answer)
        return stats

    def truth(self, feed: dict[str, Any], start: int, end: int) -> Iterator[dict[str, Any]]:
        """One feed's events of [start, end), each {"time", "value"}."""
        names = ("api_key", "domain", "category", "type")
        query = urllib.parse.urlencode({name: feed[name] for name in names} | {"start": start, "end": end})
        with urllib.request.urlopen(f"{self.announced['url']}/_truth?{query}") as answer:
            yield from map(json.loads, answer)

    def configure(self, folder: Path, **defaults: object) -> Path:
        """Write a configuration with its feeds into a new folder; returns the file."""
        folder.mkdir(parents=True)
        path = folder / "uzmanposta.ini"
        options = "".join(f"{name} = {value}\n" for name, value in defaults.items())
        path.write_text(f"[DEFAULT]\n{options}\n{self.announced['ini']}")
        return path


@contextlib.contextmanager
def simulate(
    feeds: Sequence[str], domains: Sequence[str] = ("example.com",), /, **options: object
) -> Iterator[Simulated]:
    """Run the stand-in provider in a process of its own. `options` are the others of `mailferry simulate`."""
    arguments = [f"--feed={feed}" for feed in feeds] + [f"--domain={domain}" for domain in domains]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = subprocess.Popen([*MAILFERRY, "simulate", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield Simulated(json.loads(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def collect(config: Path, *options: str) -> tuple[Cost, dict[str, Any]]:
    """Run `mailferry collect` on all sections of `config`: its cost and its JSON result."""
    cost = run([*MAILFERRY, "collect", "--config", config, "--all", "--json", *options])
    result: dict[str, Any] = json.loads(cost.output)
    return cost, result


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """A new private server with its defaults, on the disk that temporary files are on. Yields libpq's parameters for its superuser."""
    from mailferry import private_postgres  # noqa: PLC0415 - the parent of what is measured stays small

    folder.chmod(0o711)  # where root starts it, it runs as another user
    with private_postgres.running(folder / "postgres") as where:
        yield from_tests("fixtures_postgres").administrator(folder / "postgres", where)


def from_tests(module: str) -> Any:
    """A module that the tests share."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module(module)
