"""The demo of event feeds: a provider full of troubles, a collector that is killed half-way, and the truth at the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailferry.testing import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

MAILFERRY = [sys.executable, "-m", "mailferry"]
#: An hour of events that ended an hour and a half ago, so that every run finds the same, and its files are closed.
SPAN, AGO = 3600, 9000


def run(folder: Path) -> bool:
    """Show it; True where nothing is lost, twice or out of order."""
    folder.mkdir(parents=True)
    begun = time.monotonic()
    start = int(time.time()) - AGO
    print(
        "Event feeds: a stand-in of the provider's API, with 8 % of its answers bad, throttling and a kill -9\n"
    )
    options = {
        "start": start, "end": start + SPAN, "rate": 0.5, "latency": 0.01, "troubles": 0.08, "odd": 0.04, "max-per-second": 700,
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items()]
    provider = subprocess.Popen(
        [*MAILFERRY, "simulate", *arguments, "--domain=example.com", "--domain=example.org"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert provider.stdout
        announced = json.loads(provider.stdout.readline())
        config = folder / "uzmanposta.ini"
        defaults = (
            "[DEFAULT]\nmax_parallel_details = auto\nlist_sleep_time = 0.1\ndetail_sleep_time = 0.1\n\n"
        )
        config.touch(0o600)
        config.write_text(defaults + announced["ini"])
        print(f"provider   {announced['url']}, {len(announced['feeds'])} sections in {config}")
        _killed_run(config)
        result = _run(config)
        print(
            f"second run exit {result['exit_status']}, {result['total']['adopted_after_crash']} events found written and kept"
        )
        good = _compare(announced, result) & _verified(config, start) & _sealed(config, result)
    finally:
        provider.terminate()
        provider.wait()
    print(
        f"\n{time.monotonic() - begun:.0f} s in all. {'Nothing lost, nothing twice, in order.' if good else 'THAT WENT WRONG.'}"
    )
    return good


def _command(config: Path) -> list[str]:
    return [
        *MAILFERRY,
        "collect",
        "--config",
        str(config),
        "--all",
        "--parallel",
        "--max-workers",
        "8",
        "--json",
    ]


def _killed_run(config: Path) -> None:
    """Start a run and end it by kill -9 when about half of the events have been written."""
    log = (config.parent / "first-run.log").open("w")
    collector = subprocess.Popen(_command(config), stdout=subprocess.DEVNULL, stderr=log)
    half = SPAN * 8 * 0.5 / 2
    while collector.poll() is None and _lines(config) < half:
        time.sleep(0.05 + random.random() / 20)
    collector.send_signal(signal.SIGKILL)
    collector.wait()
    log.close()
    print(f"first run  killed (kill -9) with {_lines(config):,} lines written")


def _lines(config: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in config.parent.glob("output/**/example.*_*.log"))


def _run(config: Path) -> dict[str, Any]:
    done = subprocess.run(_command(config), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _compare(announced: dict[str, Any], result: dict[str, Any]) -> bool:
    print(
        f"\n{'section':<28} {'events':>7} {'files':>5} {'logs/s':>7} {'retries':>7} {'lost':>5} {'twice':>5}  order"
    )
    good = True
    sections = {section["section"]: section for section in result["sections"]}
    for feed in announced["feeds"]:
        section = sections[feed["section"].partition(":")[2]]
        files = _data_files(section["folder"], feed["domain"])
        found = verify.compare(_truth(announced, feed), verify.read_lines(files))
        order = "kept" if not found.out_of_order else f"{found.out_of_order} wrong"
        metrics = section["metrics"]
        print(
            f"{section['section']:<28} {found.total:>7,} {len(files):>5} {metrics['logs_per_second']:>7,.0f} "
            f"{metrics['api_errors']:>7,} {found.lost:>5} {found.twice:>5}  {order}"
        )
        good = good and not (found.lost or found.twice or found.foreign or found.out_of_order)
    example = sections[announced["feeds"][0]["section"].partition(":")[2]]["folder"]
    print(f"\nlook at    {example}\n           (data by the hour, messages_*, errors_*, the heartbeat)")
    return good and result["exit_status"] == 0


def _verified(config: Path, start: int) -> bool:
    """The product's own proof, by the provider's lists."""
    print()
    command = [*MAILFERRY, "verify", "--config", str(config), "--from", str(start), "--to", str(start + SPAN)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _sealed(config: Path, result: dict[str, Any]) -> bool:
    """One section's closed files are sealed; then a single byte of one is flipped."""
    section = result["sections"][0]
    [file, *_] = files = _data_files(section["folder"], section["section"].partition("-")[0])
    for path in files:  # as if the hours had been over for long
        os.utime(path, (time.time() - AGO, time.time() - AGO))
    config.write_text(config.read_text().replace("[DEFAULT]", "[DEFAULT]\nseal = true\naudit = off"))
    collect = [*MAILFERRY, "collect", "--config", str(config), "--section", section["section"]]
    subprocess.run(collect, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("\nsealed:")
    intact = _seals(config, section) == 0
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    print(f"one bit of {file.name} flipped:")
    found = _seals(config, section) == 4
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return intact and found


def _seals(config: Path, section: dict[str, Any]) -> int:
    command = [*MAILFERRY, "verify", "--seals", "--config", str(config), section["section"]]
    return subprocess.run(command, check=False).returncode


def _truth(announced: dict[str, Any], feed: dict[str, Any]) -> Iterator[verify.Truth]:
    names = ("api_key", "domain", "category", "type")
    query = urllib.parse.urlencode(
        {name: feed[name] for name in names} | {"start": announced["start"], "end": announced["end"]}
    )
    with urllib.request.urlopen(f"{announced['url']}/_truth?{query}") as answer:
        yield from verify.read_truth(answer)


def _data_files(folder: str, domain: str) -> list[Path]:
    return sorted(Path(folder).glob(f"{domain}_*.log"))
