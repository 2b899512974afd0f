"""`deploy.sh` where no systemd runs, as in a container, and what it refuses: one machine's story in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from release import SOURCES, copy

if TYPE_CHECKING:
    from release import Site, Versions

pytest_plugins = ["fixtures_install"]
KIND = "plain"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("", 2, "usage"),
        ("reinstall", 2, "usage"),
        ("install --quickly", 2, "usage"),
        ("install --with mysql", 1, "oauth or postgres"),
        ("install --wheelhouse /nowhere", 1, "/nowhere"),
        ("install --wheelhouse /root", 1, "./dev wheelhouse"),
        ("upgrade --wheelhouse /root/wheels", 1, "deploy.sh install"),
        ("uninstall", 0, "not installed"),
        ("status", 3, "not installed"),
        ("--help", 0, "usage"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    site: Site, arguments: str, status: int, said: str
) -> None:
    before = site.snapshot()
    assert said in site.deploy(arguments, status=status)
    assert site.snapshot() == before


def test_only_root_installs(site: Site) -> None:
    site.machine.sh("cp -r /root/release/deployment /tmp/")
    done = site.machine.sh("/tmp/deployment/deploy.sh install", user="nobody", status=1)
    assert "sudo" in done.err


@pytest.mark.parametrize(("step", "name"), [("Building", "TERM"), ("User", "TERM"), ("User", "PIPE")])
def test_a_first_installation_that_is_asked_to_end_leaves_nothing(
    site: Site, versions: Versions, step: str, name: str
) -> None:
    """As by `| head`, too."""
    if step == "Building":
        site.house("this", versions.this())
    before = site.snapshot()
    site.broken_off("install --wheelhouse /root/this", step, name)
    if step == "User" and site.machine.path("/opt/mailferry").exists():
        site.deploy("status")  # the signal came after the last step: it is all there
        return
    assert site.snapshot() == before
    site.machine.run("getent", "passwd", "trackandtrace", status=2)


def test_a_first_installation_that_is_killed_can_be_removed_or_done_again(site: Site) -> None:
    site.broken_off("install --wheelhouse /root/this", "Units", "KILL")
    site.deploy("uninstall")
    assert not site.machine.path("/opt/mailferry").exists()
    site.deploy("status", status=3)


def test_two_at_once_do_not_mix(site: Site) -> None:
    script = "/root/release/deployment/deploy.sh install --wheelhouse /root/this"
    with site.machine.started("sh", "-c", script) as (first, said):
        while not said.readline().startswith(b"==> Building"):
            pass
        assert "another deploy.sh is at work" in site.deploy("install --wheelhouse /root/this", status=1)
        said.read()
        assert first.wait(120) == 0
    site.deploy("status")


def test_the_commands_say_what_to_do_without_systemd(site: Site) -> None:
    for name in ("trackandtrace-start", "trackandtrace-stop"):
        assert "systemd does not run here" in site.machine.run(name, status=1).err
    assert "/var/log/trackandtrace" in site.machine.run("trackandtrace-logs", status=None).err


def test_without_a_ready_wheel_it_is_built_from_the_sources(site: Site, versions: Versions) -> None:
    """The sources of a clone, and what is not this installation's is kept."""
    site.deploy("uninstall")
    copy(SOURCES, site.sources, site.machine.path("/root/release"))
    site.machine.sh("echo mine >/usr/local/bin/mailferry")
    said = site.deploy("install --wheelhouse /root/wheels")
    assert "Building the wheel" in said
    assert "systemd does not run here" in said
    assert f"mailferry {versions.version()} is installed" in said
    assert site.machine.sh("cat /var/backups/mailferry/usr/local/bin/mailferry").out == "mine\n"
    assert not site.machine.sh("find /root/release -name dist -o -name '*.egg-info'").out
    assert site.machine.run("mailferry", "--help").out


def test_with_the_systems_pip_no_wheelhouse_is_needed(site: Site) -> None:
    """There is no network here, so a folder stands in for the package index; all else is the same."""
    pip = "python3 $(echo /root/wheels/pip-*.whl)/pip"
    site.machine.sh(f"{pip} install -q --break-system-packages --no-index --find-links /root/wheels pip")
    index = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels"
    said = site.machine.sh(f"{index} /root/release/deployment/deploy.sh install --with oauth").out
    assert "with oauth" in said
    assert site.machine.run("/opt/mailferry/current/bin/python", "-Ic", "import msal, mailferry").status == 0
    assert "oauth" in site.deploy("status")
