"""What can be said of the files without installing them."""

from __future__ import annotations

import re
import subprocess

import pytest
from machine import ROOT

SERVICES = ("trackandtrace", "mailferry", "mailferry-collect")
#: What `systemd-analyze security` may find at most, in tenths.
EXPOSURE = 15


def test_every_shell_script_passes_shellcheck() -> None:
    scripts = [
        *(ROOT / "deployment").glob("*.sh"),
        ROOT / "deployment/trackandtrace-command",
        ROOT / "packaging/build-deb.sh",
        *(ROOT / "packaging/debian").glob("p*"),
        ROOT / "tests/install/boot.sh",
    ]
    subprocess.run(["shellcheck", "-x", "-e", "SC1091", *scripts], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_as_closed_as_promised(name: str) -> None:
    unit = ROOT / f"systemd/{name}.service"
    gate = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(unit)]
    done = subprocess.run(gate, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_services_are_closed_in_the_same_way() -> None:
    texts = [(ROOT / f"systemd/{name}.service").read_text("utf-8") for name in SERVICES]
    # What each may take of the machine comes last, and differs.
    closed = {
        text[text.index("# What the program needs") : text.index("# What it may take")] for text in texts
    }
    assert len(closed) == 1


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a Containerfile, lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()
    ]


KNOWN = (
    "FROM RUN CMD LABEL EXPOSE ENV ADD COPY ENTRYPOINT VOLUME USER WORKDIR ARG STOPSIGNAL HEALTHCHECK SHELL"
)


def test_the_containerfile_says_what_it_must() -> None:
    """No container engine runs here, so its build is not tried; its shell lines and sources are checked."""
    found = instructions((ROOT / "packaging/Containerfile").read_text("utf-8"))
    assert found[0][0] == "FROM"
    assert {name for name, _ in found} <= set(KNOWN.split())
    last = max(number for number, (name, _) in enumerate(found) if name == "FROM")
    assert last, "it has one stage only"
    final = dict(found[last:])
    assert final["USER"] not in {"root", "0"}
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD", "STOPSIGNAL"} <= final.keys()
    for name, rest in found:
        if name == "RUN":
            script = f"#!/bin/sh\n{rest}\n"
            subprocess.run(["shellcheck", "-"], input=script, text=True, check=True)
            assert "pip" not in rest or "--require-hashes" in rest or "--no-deps" in rest or "apt-get" in rest
        if name == "COPY" and "--from=" not in rest:
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
