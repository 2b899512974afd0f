"""What the threat model claims is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/threat-model.md").read_text("utf-8")))
    there = set()
    for path in (ROOT / "tests").rglob("*.py"):
        there |= set(re.findall(r"def (test_\w+)\(", path.read_text("utf-8")))
    assert len(named) > 30
    assert named - there == set()


def test_every_claim_of_the_threat_model_names_a_test() -> None:
    rows = re.findall(
        r"^\| (?!---|what they).*$", (ROOT / "docs/threat-model.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 15
    assert [row for row in rows if "`test_" not in row] == []
