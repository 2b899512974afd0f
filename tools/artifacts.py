"""What people install: `artifacts.py wheel | wheelhouse | deb [DIR]`, into dist/ unless DIR is named.

A wheelhouse is a folder of wheels from which `deployment/deploy.sh` installs without a network, for machines with the
Python version and the architecture of this one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = (
    "requirements/runtime.txt",
    *(f"deployment/requirements/{name}.txt" for name in ("oauth", "postgres", "otel", "build")),
)


def wheel(out: Path, sources: Path = ROOT, *, sdist: bool = False) -> Path:
    """The wheel, and the sdist if wanted; the wheel's path."""
    out.mkdir(parents=True, exist_ok=True)
    targets = ["-t", "wheel", *(["-t", "sdist"] if sdist else [])]
    command = [sys.executable, "-m", "hatchling", "build", *targets, "-d", str(out.absolute())]
    subprocess.run(command, cwd=sources, check=True, stdout=subprocess.DEVNULL)
    text = (sources / "pyproject.toml").read_text("utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert found, "pyproject.toml has no version"
    return out / f"mailferry-{found[1]}-py3-none-any.whl"


def bill(out: Path) -> Path:
    """What the wheel needs, by name, version and hash: a bill of materials (CycloneDX, JSON) beside it."""
    path = out / "mailferry.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--of", "JSON"]
    options = ["--pyproject", "pyproject.toml", "-o", str(path.absolute()), "requirements/runtime.txt"]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    return path


def wheelhouse(out: Path) -> None:
    """Wheels of everything that deploy.sh may want, this program's among them."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.whl"):
        old.unlink()
    download(out)
    wheel(out)


def download(out: Path, sources: Path = ROOT, *, python: str | None = None) -> None:
    """Every wheel that the locks name, checked by hash; for another version of Python, such as "3.13", where one is named."""
    locks = [part for lock in LOCKS for part in ("-r", str(sources / lock))]
    pip = ["python3", "-m", "pip", "--python", sys.executable, "download", "--quiet"]
    options = [
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--dest",
        str(out),
        *(["--python-version", python] if python else []),
    ]
    subprocess.run([*pip, *options, *locks], check=True)


def deb(out: Path) -> None:
    """The Debian package, made of a wheelhouse in dist/."""
    house = ROOT / "dist/wheelhouse"
    wheelhouse(house)
    subprocess.run([ROOT / "packaging/build-deb.sh", house, out], check=True)


def main() -> None:
    """Build what is asked for, and say where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["wheel", "wheelhouse", "deb"])
    parser.add_argument("folder", nargs="?", type=Path)
    given = parser.parse_args()
    if given.what == "wheel":
        out = given.folder or ROOT / "dist"
        wheel(out, sdist=True)
        bill(out)
    elif given.what == "wheelhouse":
        out = given.folder or ROOT / "dist/wheelhouse"
        wheelhouse(out)
    else:
        out = given.folder or ROOT / "dist"
        deb(out)
    print(out)


if __name__ == "__main__":
    main()
