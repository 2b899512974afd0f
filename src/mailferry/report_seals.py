"""The result of `verify --seals`, for people and as JSON; see docs/reference/json.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from mailferry.report_json import dumped

if TYPE_CHECKING:
    from mailferry.events.seal import Manifest, SealFault


class Checked(NamedTuple):
    """One feed's manifest, and what is wrong."""

    manifest: Manifest
    faults: list[SealFault]


def status(result: Checked | str) -> int:
    """0 all as sealed, 4 not, 1 could not be checked."""
    if isinstance(result, str):
        return 1
    return 4 if result.faults else 0


def as_json(done: dict[str, Checked | str], code: int) -> str:
    """Every feed with its faults."""
    feeds = [
        {"feed": name, "intact": None, "error": result}
        if isinstance(result, str)
        else {
            "feed": name,
            "intact": not result.faults,
            "error": None,
            "files": len(result.manifest.sealed),
            "entries": result.manifest.count,
            "head": result.manifest.head,
            "faults": [asdict(fault) for fault in result.faults],
        }
        for name, result in done.items()
    ]
    return dumped(exit_status=code, feeds=feeds)


def as_text(done: dict[str, Checked | str]) -> str:
    """A line a feed, then a line a fault."""
    lines = []
    for name, result in done.items():
        if isinstance(result, str):
            lines.append(f"{name}: could not be checked: {result}")
            continue
        manifest, faults = result
        verdict = f"NOT as sealed, faults: {len(faults)}" if faults else "intact"
        lines.append(
            f"{name}: {verdict}, sealed files: {len(manifest.sealed):,}, entries: {manifest.count:,}, head {manifest.head}"
        )
        lines += [f"  {fault.kind}: {fault.file}: {fault.what}" for fault in faults]
    return "\n".join(lines) or "no feed is sealed"
