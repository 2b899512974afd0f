"""Format, lint, imports and types: `ruff format`, `ruff check`, `lint-imports`, `mypy --strict`. With --fix, what can be mended is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    fix = "--fix" in sys.argv[1:]
    ruff = [sys.executable, "-m", "ruff"]
    steps = [
        [*ruff, "format", "-q", *([] if fix else ["--diff"]), "."],
        [*ruff, "check", "-q", *(["--fix"] if fix else []), "."],
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"],
        [sys.executable, "-m", "mypy", "--no-error-summary"],
    ]
    failed = [step for step in steps if subprocess.run(step, cwd=ROOT, check=False).returncode]
    for step in failed:
        print("failed:", " ".join(step[2:]), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
