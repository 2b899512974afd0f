"""What the code has to be besides right; as a test, it runs beside the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow(40)
def test_format_lint_imports_and_types_are_as_agreed() -> None:
    done = subprocess.run(
        [sys.executable, "tools/lint.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
