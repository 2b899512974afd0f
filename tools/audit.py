"""Known weaknesses and licences of all dependencies: `./dev audit`. Status 1 where one of them must not be shipped as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: What people install; the tools of development are not shipped.
LOCKS = (
    "requirements/runtime.txt",
    "deployment/requirements/oauth.txt",
    "deployment/requirements/postgres.txt",
)
#: Words of a licence that binds those who distribute the program; the Lesser licences bind changes of the library alone.
_BINDING = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
_LESSER = re.compile(r"\bLGPL|Lesser General Public", re.IGNORECASE)

#: Of packages whose metadata does not name it: as in their licence files.
_BY_FILE = {"imapclient": "BSD-3-Clause"}


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Of one package, as its metadata states it."""

    package: str
    text: str

    @property
    def lesser(self) -> bool:
        return bool(_LESSER.search(self.text))

    @property
    def refused(self) -> bool:
        """A GPL without a choice, or none stated at all."""
        others = _LESSER.sub("", self.text)
        choice = re.search(r"\bOR\b", self.text)
        return not self.text or bool(_BINDING.search(others) and not choice)


def locked() -> list[str]:
    """Names of the packages in the locks, sorted."""
    names = set()
    for lock in LOCKS:
        names |= set(
            re.findall(r"^([a-zA-Z0-9._-]+)(?:\[.*?\])?==", (ROOT / lock).read_text("utf-8"), re.MULTILINE)
        )
    return sorted(names)


def licences() -> list[Licence]:
    """Of each locked package that is installed here; those of other systems are left out."""
    found = []
    for name in locked():
        try:
            stated: Any = metadata.metadata(name)  # a message, whatever the type says
        except metadata.PackageNotFoundError:
            continue
        kinds = [
            kind.rpartition(" :: ")[2]
            for kind in stated.get_all("Classifier", [])
            if kind.startswith("License ::")
        ]
        text = (
            stated.get("License-Expression")
            or " / ".join(kinds)
            or stated.get("License", "").partition("\n")[0]
        )
        found.append(Licence(package=name, text=text or _BY_FILE.get(name, "")))
    return found


def weaknesses() -> int:
    """Ask the database of known weaknesses about each lock; 1 where it names one."""
    status = 0
    for lock in LOCKS:
        # The locks have hashes, so nothing is to be resolved or installed.
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--progress-spinner=off",
            "--disable-pip",
            "--require-hashes",
            "-r",
            lock,
        ]
        asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            print(f"{lock}: {asked.stderr.strip() or 'nothing known'}")
        elif re.search(r"Connection|Timeout|Proxy|HTTPError|ServiceError", asked.stderr):
            print(f"{lock}: NOT CHECKED, the database of weaknesses cannot be reached from here")
        else:
            status = 1
            print(f"{lock}:\n{asked.stdout or asked.stderr}")
    return status


def main() -> int:
    found = licences()
    for one in found:
        print(f"{one.package}: {one.text or 'states no licence'}{' (refused)' if one.refused else ''}")
    lesser = ", ".join(one.package for one in found if one.lesser)
    print(f"{len(found)} packages; under a Lesser GPL: {lesser or 'none'}")
    return int(any(one.refused for one in found)) | weaknesses()


if __name__ == "__main__":
    sys.exit(main())
