"""The Debian package, built and used on a fresh Debian with systemd: one machine's story in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from machine import wait_for

if TYPE_CHECKING:
    from release import Site, Versions

pytest_plugins = ["fixtures_install"]
KIND = "systemd"
#: No server answers there: the service goes on trying and is never ready. The password comes from elsewhere.
CONFIG = "EMAIL_HOST=127.0.0.1\nEMAIL_USERNAME=user@example.com\nDB_HOST=127.0.0.1\nDB_NAME=none\nDB_USERNAME=none\n"
DATA = "/etc/trackandtrace/config.env", "/var/lib/trackandtrace/pending", "/var/log/trackandtrace"


def built(site: Site, name: str) -> str:
    site.machine.run("/root/release/packaging/build-deb.sh", f"/root/{name}", f"/root/{name}-deb")
    return site.machine.sh(f"ls /root/{name}-deb/*.deb").out.strip()


def state(site: Site, name: str = "ActiveState") -> str:
    return site.machine.run("systemctl", "show", "-p", name, "--value", "trackandtrace").out.strip()


def test_a_package_installs_with_dpkg_alone(site: Site, versions: Versions) -> None:
    site.house("first", versions.this())
    site.machine.run("dpkg", "-i", built(site, "first"))
    for name in ("mailferry", "trackandtrace", "uzmanposta"):
        assert site.machine.run(f"/usr/bin/{name}", "--help").out
    assert not site.machine.sh("grep -rlI /tmp/tmp /opt/mailferry/current/bin", status=None).out


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/trackandtrace/config.env", "640 root:trackandtrace"),
        ("/etc/mailferry", "750 root:trackandtrace"),
        ("/var/lib/trackandtrace/pending", "750 trackandtrace:trackandtrace"),
        ("/var/log/trackandtrace", "750 trackandtrace:trackandtrace"),
        ("/opt/mailferry/current/bin/mailferry", "755 root:root"),
    ],
)
def test_everything_is_where_and_as_promised(site: Site, path: str, mode: str) -> None:
    assert site.machine.run("stat", "-c", "%a %U:%G", path).out.strip() == mode


def test_systemd_and_dpkg_find_nothing_to_say(site: Site) -> None:
    for unit in ("trackandtrace.service", "mailferry.service", "mailferry-collect.timer"):
        assert not site.machine.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{unit}").text
    assert not site.machine.run("dpkg", "--verify", "mailferry").out
    assert "mailferry" not in site.machine.run("dpkg", "--audit").out


def test_links_that_the_service_has_planted_lead_root_nowhere(site: Site) -> None:
    package = site.machine.sh("ls /root/first-deb/*.deb").out.strip()
    assert not site.leads_root_astray(lambda: site.machine.run("dpkg", "-i", package))
    site.machine.run("dpkg", "-i", package)
    owner = site.machine.run("stat", "-c", "%a %U", "/var/lib/trackandtrace/pending").out
    assert owner == "750 trackandtrace\n"


def test_deploy_sh_leaves_a_packaged_program_alone(site: Site) -> None:
    assert "apt" in site.deploy("install --wheelhouse /root/first", status=1)
    assert site.machine.run("mailferry", "--help").out


def test_a_secret_can_be_a_credential_of_systemd(site: Site) -> None:
    site.machine.path("/etc/trackandtrace/config.env").write_text(CONFIG, "utf-8")
    site.machine.run("systemctl", "start", "trackandtrace", status=1)
    assert "EMAIL_PASSWORD is missing" in site.machine.run("journalctl", "-u", "trackandtrace").out
    folder = "/etc/trackandtrace/credentials"
    drop_in = "/etc/systemd/system/trackandtrace.service.d"
    site.machine.sh(
        f"install -d -m 700 {folder} && echo a-password >{folder}/EMAIL_PASSWORD && mkdir {drop_in}"
    )
    text = f"[Service]\nLoadCredential=EMAIL_PASSWORD:{folder}/EMAIL_PASSWORD\n"
    site.machine.path(f"{drop_in}/secret.conf").write_text(text, "utf-8")
    site.machine.run("systemctl", "daemon-reload")

    site.machine.run("systemctl", "start", "--no-block", "trackandtrace")

    wait_for("a word on what is waited for", lambda: state(site, "StatusText"))
    assert state(site) == "activating"


def test_an_upgrade_keeps_the_configuration_and_restarts_what_ran(site: Site, versions: Versions) -> None:
    assert state(site) == "activating"
    before = state(site, "MainPID")
    site.house("second", versions.other("7.0.0"))
    site.machine.run("dpkg", "-i", built(site, "second"))
    code = "import mailferry; print(mailferry.__version__)"
    assert site.machine.run("/opt/mailferry/current/bin/python", "-Ic", code).out == "7.0.0\n"
    assert site.machine.sh("cat /etc/trackandtrace/config.env").out == CONFIG
    wait_for("another process", lambda: state(site, "MainPID") not in {before, "0"})


def test_removing_it_leaves_data_and_configuration(site: Site) -> None:
    site.machine.run("dpkg", "--remove", "mailferry")
    assert state(site) == "inactive"
    assert not site.machine.path("/opt/mailferry").exists()
    for path in DATA:
        site.machine.run("test", "-e", path)


def test_purging_it_leaves_nothing(site: Site) -> None:
    site.machine.run("dpkg", "--purge", "mailferry")
    for path in (*DATA, "/etc/mailferry", "/var/lib/mailferry", "/etc/logrotate.d/trackandtrace"):
        site.machine.run("test", "!", "-e", path)
    site.machine.run("getent", "passwd", "trackandtrace", status=2)
