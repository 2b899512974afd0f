"""`./dev bench [name ...]`: runs the named benchmarks, or all, and prints each figure beside its limit.

A module `bench_*.py` in this folder has a dictionary `BENCHMARKS`: name -> function of an empty folder that returns the
figures. Exit status 1 where a target was missed.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness import Figure

    Benchmark = Callable[[Path], Iterable[Figure]]

HERE = Path(__file__).parent
_HEAD = f"{'figure':<46} {'value':>10} {'limit':>10} {'unit':<15} {'ratio':>7} {'target':>8}  met  limit is"


def discover() -> dict[str, Benchmark]:
    """All benchmarks, by name."""
    found: dict[str, Benchmark] = {}
    for path in sorted(HERE.glob("bench_*.py")):
        found |= importlib.import_module(path.stem).BENCHMARKS
    return found


def line(figure: Figure) -> str:
    """One row of the table."""
    target = f">= {figure.at_least:g}" if figure.at_least is not None else f"<= {figure.at_most:g}"
    return (
        f"{figure.name:<46} {_shown(figure.value):>10} {_shown(figure.limit):>10} {figure.unit:<15} "
        f"{figure.ratio:>7.3f} {target:>8}  {'yes' if figure.met else 'NO ':<3}  {figure.against}"
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def main(names: list[str]) -> int:
    known = discover()
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    missed = 0
    print(_HEAD, flush=True)
    for name in names or known:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"mailferry-bench-{name}-") as folder:
            for figure in known[name](Path(folder)):
                missed += not figure.met
                print(line(figure), flush=True)
        print(f"    {name}: {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{missed} targets missed" if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
