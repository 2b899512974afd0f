"""`deploy.sh` on a fresh Debian with systemd and no network: one machine's story, each test the next step of it."""

from __future__ import annotations

import json
import mailbox
import time
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from machine import wait_for

from mailferry.testing.verify import compare, read_lines, read_truth
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from release import Site, Versions

pytest_plugins = ["fixtures_install"]
KIND = "systemd"
UNITS = ("trackandtrace.service", "mailferry.service", "mailferry-collect.service", "mailferry-collect.timer")
COMMANDS = ("mailferry", "trackandtrace", "uzmanposta")
MANAGEMENT = tuple(f"trackandtrace-{name}" for name in ("start", "stop", "status", "logs", "test"))
CONFIG = """\
EMAIL_MAILDIR=/srv/mail/Maildir
DB_UNIQUE_KEY=hawb_no
DB_TARGET_TABLE=shipments
DB_CREATE_TABLE=true
SCHEDULE_INTERVAL_HOURS=0.001
FILE_SANDBOX=require
"""
MAILDIR = "/srv/mail/Maildir"
#: What a running service writes: data and logs.
WRITTEN = r"/var/(lib|log)/.*"
ROWS = """
from pathlib import Path
from mailferry import database
from mailferry.config import service
(feed,) = service.read([Path("/etc/trackandtrace/config.env")]).mailboxes
with database.connect(feed.database) as pool, database.transaction(pool) as conn:
    for (key,) in conn.execute("SELECT hawb_no FROM shipments ORDER BY 1"):
        print(key)
"""


def deliver(site: Site, folder: Path, *keys: str) -> None:
    """A message with a workbook of these keys, to the Maildir of the machine."""
    book = xlsx(
        folder / "book.xlsx", Tab(name="Sheet", rows=[("HAWB No", "Pieces"), *((key, 1) for key in keys)])
    )
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = (
        "ops@example.com",
        "data@example.org",
        "Track and Trace",
    )
    message.set_content("See the workbook.")
    message.add_attachment(
        book.read_bytes(), maintype="application", subtype="octet-stream", filename="book.xlsx"
    )
    # Written beside the Maildir and moved in with its owner, as a delivery agent does.
    spool = mailbox.Maildir(site.machine.path("/srv/mail") / "spool")
    name = spool.add(message)
    site.machine.sh(
        f"chown trackandtrace: /srv/mail/spool/new/{name} && mv /srv/mail/spool/new/{name} {MAILDIR}/new/"
    )


def rows(site: Site) -> list[str]:
    python = "/opt/mailferry/current/bin/python"
    return site.machine.run(python, "-I", "-c", ROWS, user="trackandtrace").out.split()


def state(site: Site, unit: str = "trackandtrace.service", name: str = "ActiveState") -> str:
    return site.machine.run("systemctl", "show", "-p", name, "--value", unit).out.strip()


def version(site: Site) -> str:
    """What runs, not what is written anywhere."""
    code = "import mailferry; print(mailferry.__version__)"
    return site.machine.run("/opt/mailferry/current/bin/python", "-Ic", code).out.strip()


# Installing


def test_one_command_installs_without_a_network(site: Site, versions: Versions) -> None:
    house = site.house("first", versions.this())
    said = site.deploy(f"install --with postgres {house}")
    assert f"mailferry {versions.version()} is installed" in said
    assert version(site) == versions.version()
    for name in COMMANDS:
        assert site.machine.run(name, "--help").out


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/trackandtrace", "750 root:trackandtrace"),
        ("/etc/trackandtrace/config.env", "640 root:trackandtrace"),
        ("/etc/mailferry", "750 root:trackandtrace"),
        ("/etc/mailferry/mailferry.toml.example", "640 root:trackandtrace"),
        ("/etc/mailferry/uzmanposta.ini.example", "640 root:trackandtrace"),
        *(
            (f"/var/lib/trackandtrace{name}", "750 trackandtrace:trackandtrace")
            for name in ("", "/pending", "/processed", "/failed", "/logs")
        ),
        ("/var/lib/mailferry", "750 trackandtrace:trackandtrace"),
        ("/var/log/trackandtrace", "750 trackandtrace:trackandtrace"),
        ("/etc/logrotate.d/trackandtrace", "644 root:root"),
        *((f"/etc/systemd/system/{unit}", "644 root:root") for unit in UNITS),
        *((f"/usr/local/bin/{name}", "777 root:root") for name in COMMANDS + MANAGEMENT),
        ("/opt/mailferry", "755 root:root"),
    ],
)
def test_everything_is_where_and_as_promised(site: Site, path: str, mode: str) -> None:
    assert site.machine.run("stat", "-c", "%a %U:%G", path).out.strip() == mode


def test_the_program_belongs_to_root_alone(site: Site) -> None:
    assert not site.machine.sh("find /opt/mailferry ! -user root -o -perm /022 ! -type l").out


def test_the_user_cannot_log_in(site: Site) -> None:
    user = site.machine.run("getent", "passwd", "trackandtrace").out.strip().split(":")
    assert int(user[2]) < 1000
    assert user[5:] == ["/var/lib/trackandtrace", "/usr/sbin/nologin"]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_to_say_about_a_unit(site: Site, unit: str) -> None:
    said = site.machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}")
    assert not said.text
    assert state(site, unit, "LoadState") == "loaded"


def test_logrotate_takes_its_file(site: Site) -> None:
    said = site.machine.run("logrotate", "-d", "/etc/logrotate.conf").text
    # Its versions word the line differently.
    (line,) = (line for line in said.splitlines() if "rotating pattern: /var/log/trackandtrace/*.log" in line)
    assert "after 1 days" in line
    assert "(30 rotations)" in line
    assert "error" not in said


def test_the_shell_completes_a_command(site: Site) -> None:
    script = (
        ". /usr/local/share/bash-completion/completions/mailferry; "
        "COMP_WORDS=(mailferry coll); COMP_CWORD=1; _mailferry_completion mailferry; echo ${COMPREPLY[@]}"
    )
    assert site.machine.run("bash", "-c", script).out.strip() == "collect"


def test_status_tells_what_is_installed(site: Site, versions: Versions) -> None:
    said = site.deploy("status")
    assert versions.version() in said
    assert "postgres" in said
    assert "trackandtrace.service    inactive, disabled" in said


def test_installing_twice_is_as_once(site: Site) -> None:
    before = site.snapshot()
    said = site.deploy("install --wheelhouse /root/first")
    assert "nothing has changed" in said
    assert site.snapshot() == before


def test_links_that_the_service_has_planted_lead_root_nowhere(site: Site) -> None:
    before = site.snapshot()
    assert not site.leads_root_astray(lambda: site.deploy("install --wheelhouse /root/first"))
    site.deploy("install --wheelhouse /root/first")
    assert site.snapshot() == before


def test_a_unit_that_was_edited_is_replaced_and_kept_as_a_copy(site: Site) -> None:
    before = site.snapshot()
    unit = "/etc/systemd/system/mailferry.service"
    site.machine.sh(f"echo '# mine' >>{unit}")
    assert f"a copy is in /var/backups/mailferry{unit}" in site.deploy("install --wheelhouse /root/first")
    assert site.machine.sh(f"tail -n 1 /var/backups/mailferry{unit}").out == "# mine\n"
    assert site.snapshot() == before


def test_a_file_that_got_lost_is_put_back_by_installing_again(site: Site) -> None:
    before = site.snapshot()
    site.machine.sh("rm /usr/local/bin/mailferry /etc/systemd/system/mailferry.service")
    assert "/usr/local/bin/mailferry" in site.deploy("status", status=1)
    site.deploy("install --wheelhouse /root/first")
    assert site.snapshot() == before


def test_a_configuration_that_the_service_cannot_read_is_reported_with_what_mends_it(site: Site) -> None:
    """As the older service may have left it."""
    config = "/etc/trackandtrace/config.env"
    site.machine.sh(f"chgrp root {config} && chmod 600 {config}")
    said = site.deploy("install --wheelhouse /root/first")
    site.machine.sh(said.partition(f"cannot read {config}: ")[2].splitlines()[0])
    site.machine.run("test", "-r", config, user="trackandtrace")
    assert site.machine.run("stat", "-c", "%a %U:%G", config).out == "640 root:trackandtrace\n"


# Using it


def test_the_example_configuration_is_refused_with_what_to_fill_in(site: Site) -> None:
    said = site.machine.run("trackandtrace-test", status=2).text
    assert "EMAIL_USERNAME" in said


def test_a_filled_in_configuration_passes_the_test(site: Site) -> None:
    config = site.machine.path("/etc/trackandtrace/config.env")
    config.write_text(CONFIG, "utf-8")
    site.machine.sh(
        f"install -d -o trackandtrace -g trackandtrace -m 700 /srv/mail {MAILDIR} {MAILDIR}/new {MAILDIR}/cur {MAILDIR}/tmp"
    )
    # Root writes nothing in the folders of the service; the private database that its look makes is the service's own.
    said = site.machine.run("mailferry", "check", "--config", "/etc/trackandtrace/config.env", status=1).text
    assert "belongs to user trackandtrace, and root writes nothing there" in said
    for user in ("root", "trackandtrace"):
        site.machine.run("/usr/local/bin/trackandtrace-test", user=user)


def test_a_database_folder_of_another_user_is_reported(site: Site) -> None:
    site.machine.sh("install -d -o trackandtrace /srv/other && install -d -m 700 /srv/other/postgres")
    check = "APP_BASE_DIR=/srv/other mailferry check --config /etc/trackandtrace/config.env"
    said = site.machine.sh(check, user="trackandtrace", status=1).text
    assert "Cannot use /srv/other/postgres" in said
    site.machine.sh("rm -r /srv/other")


def test_a_workbook_in_the_mailbox_becomes_rows(site: Site, tmp_path: Path) -> None:
    deliver(site, tmp_path, "00000001", "00000002")
    once = ("trackandtrace", "run-once", "--config", "/etc/trackandtrace/config.env")
    site.machine.run(*once, user="trackandtrace")
    assert rows(site) == ["00000001", "00000002"]
    assert (
        site.machine.sh("find /var/lib/trackandtrace/processed -name '*book.xlsx*' | wc -l").out.strip()
        == "1"
    )


@pytest.fixture(scope="module")
def provider(site: Site) -> Iterator[tuple[dict[str, Any], int]]:
    """The stand-in of the provider, with half an hour of events: what it prints, and their end."""
    end = int(time.time()) - 600
    options = ["--rate", "0.2", "--feed", "mail/incominglog", "--feed", "mail/outgoinglog"]
    options += ["--start", str(end - 1800), "--end", str(end)]
    with site.machine.started("mailferry", "simulate", *options) as (_, said):
        yield json.loads(said.readline()), end


def test_the_timers_service_collects_every_event(site: Site, provider: tuple[dict[str, Any], int]) -> None:
    printed, end = provider
    share = "/opt/mailferry/current/share/mailferry"
    with site.machine.path("/etc/mailferry/uzmanposta.ini").open("w", encoding="utf-8") as ini:
        ini.write(site.machine.sh(f"sed -n '/^.DEFAULT/,/^$/p' {share}/uzmanposta.ini.example").out)
        ini.write(printed["ini"])
    site.machine.sh("cd /etc/mailferry && chgrp trackandtrace uzmanposta.ini && chmod 640 uzmanposta.ini")

    site.machine.run("systemctl", "start", "mailferry-collect.service")

    for feed in printed["feeds"]:
        query = urlencode({name: feed[name] for name in ("api_key", "domain", "category", "type")})
        url = f"{printed['url']}/_truth?{query}&start={end - 1800}&end={end}"
        code = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode(), end='')"
        truth = site.machine.run("python3", "-c", code).out.encode().splitlines(keepends=True)
        folder = site.machine.path(
            f"/var/lib/mailferry/output/{feed['domain']}/{feed['category']}/{feed['type']}"
        )
        found = compare(read_truth(truth), read_lines(sorted(folder.glob(f"{feed['domain']}_*.log"))))
        assert found.total > 100
        assert found.clean(), found


def test_the_timer_can_be_switched_on(site: Site) -> None:
    site.machine.run("systemctl", "enable", "--now", "mailferry-collect.timer")
    assert state(site, "mailferry-collect.timer", "NextElapseUSecRealtime")
    # Its runs would write between the snapshots of the tests below.
    site.machine.run("systemctl", "stop", "mailferry-collect.timer")


def as_cron(site: Site, line: str) -> str:
    """As cron(8) runs it: /bin/sh, this environment and no other, in the home folder."""
    clean = "env -i SHELL=/bin/sh PATH=/usr/bin:/bin LOGNAME=trackandtrace HOME=/var/lib/trackandtrace"
    return site.machine.sh(
        f"cd ~trackandtrace && exec {clean} /bin/sh -c '{line}'", user="trackandtrace"
    ).text


def test_the_example_for_cron_works_as_cron_runs_it(site: Site) -> None:
    example = "/opt/mailferry/current/share/mailferry/mailferry.cron.example"
    (line,) = site.machine.sh(f"grep '^\\*' {example}").out.splitlines()
    *_, user, command = line.split(maxsplit=6)
    assert user == "trackandtrace"
    assert "collected" in as_cron(site, command) or "0 events" in as_cron(site, command)


def test_the_older_scripts_cron_line_works_as_it_is(site: Site) -> None:
    line = (
        "/usr/bin/python3 /opt/uzmanposta/uzmanposta.py --config /opt/uzmanposta/uzmanposta.ini"
        " --all --parallel --max-workers 5"
    )
    site.machine.sh(
        "install -d -o trackandtrace /opt/uzmanposta && cp -p /etc/mailferry/uzmanposta.ini /opt/uzmanposta/ && "
        "cp /opt/mailferry/current/share/mailferry/uzmanposta.py /opt/uzmanposta/"
    )
    as_cron(site, line)
    site.machine.sh("rm -r /opt/uzmanposta")


# Log files

WRITER = """
import pathlib, sys
from mailferry import logs
logs.set_up(folder=pathlib.Path("/var/log/trackandtrace"))
log = logs.of("mailferry.mailbox.settle", logs.EMAIL, logs.FILES)
number = 0
while not pathlib.Path("/tmp/stop").exists():
    number += 1
    log.error("line %s %d", sys.argv[1], number)
print(number)
"""


def test_rotating_under_load_loses_no_line(site: Site) -> None:
    """Two processes write to the same files, as the service and a command do."""
    # The user is changed by setpriv, which is also what lets the process end with this test.
    user = ("--reuid", "trackandtrace", "--regid", "trackandtrace", "--clear-groups")
    folder, names = (
        "/var/log/trackandtrace",
        ("trackandtrace", "email_processing", "file_processing", "errors"),
    )
    all_written = " && ".join(f"test -s {folder}/{name}.log" for name in names)
    writer = ("setpriv", *user, "/opt/mailferry/current/bin/python", "-Ic", WRITER)
    quiet = ("sh", "-c", 'exec "$@" 2>/dev/null', "-")
    with (
        site.machine.started(*quiet, *writer, "a") as (first, said_first),
        site.machine.started(*quiet, *writer, "b") as (second, said_second),
    ):
        for rotation in range(1, 6):
            wait_for("lines in each", lambda: site.machine.sh(all_written, status=None).status == 0)
            site.machine.run("logrotate", "-f", "/etc/logrotate.d/trackandtrace")
            for name in names:
                assert site.machine.sh(f"ls {folder}/{name}.log.* | wc -l").out.strip() == str(rotation)
        site.machine.sh("touch /tmp/stop")
        written = {"a": int(said_first.read()), "b": int(said_second.read())}
        assert (first.wait(60), second.wait(60)) == (0, 0)
    site.machine.sh("rm /tmp/stop")
    expected = sorted(
        f"line {who} {number}" for who, total in written.items() for number in range(1, total + 1)
    )
    for name in names:
        lines = site.machine.sh(f"cd {folder} && zcat -f {name}.log*").out.splitlines()
        found = sorted(
            message for line in lines if (message := json.loads(line)["message"]).startswith("line ")
        )
        assert found == expected
    assert site.machine.sh(f"stat -c '%a %U' {folder}/*.log | sort -u").out == "640 trackandtrace\n"


# Upgrades


def test_an_upgrade_keeps_data_and_configuration(site: Site, versions: Versions) -> None:
    notes = "/etc/logrotate.d/trackandtrace"
    site.machine.sh(f"sed -i 's/rotate 30/rotate 60/' {notes}")
    said = site.deploy("upgrade " + site.house("second", versions.other("7.0.0")))
    assert "was changed here and stays" in said
    assert version(site) == "7.0.0"
    assert site.machine.sh("cat /etc/trackandtrace/config.env").out == CONFIG
    assert "rotate 60" in site.machine.sh(f"cat {notes}").out
    assert rows(site) == ["00000001", "00000002"]
    assert "postgres" in site.deploy("status")


BROKEN = {
    "does not start": {"cli": "raise SystemExit('broken')"},
    "refuses": {"config__service": "def read(*_: object) -> None:\n    raise ConfigError(['no more'])"},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_version_that_cannot_work_is_not_switched_to(site: Site, versions: Versions, what: str) -> None:
    number = f"8.0.{list(BROKEN).index(what)}"
    house = site.house(number, versions.other(number, **BROKEN[what]))
    before = site.snapshot()
    assert what in site.deploy(f"upgrade {house}", status=1)
    assert site.snapshot() == before
    assert version(site) == "7.0.0"


def test_a_wheelhouse_that_lacks_something_changes_nothing(site: Site, versions: Versions) -> None:
    house = site.house("lacking", versions.other("8.1.0"))
    site.machine.sh("rm /root/lacking/orjson-*")
    before = site.snapshot()
    assert "orjson" in site.deploy(f"upgrade {house}", status=1)
    assert site.snapshot() == before


STEPS = ("Building", "User", "Switching")


@pytest.mark.parametrize("step", STEPS)
def test_an_upgrade_that_is_asked_to_end_leaves_the_old_version(
    site: Site, versions: Versions, step: str
) -> None:
    if step == STEPS[0]:
        site.house("third", versions.other("9.0.0"))
    before = site.snapshot()
    site.broken_off("upgrade --wheelhouse /root/third", step, "TERM")
    if version(site) == "7.0.0":
        assert site.snapshot() == before
    else:  # the signal came after the last step
        assert step != STEPS[0]
        site.deploy("install --wheelhouse /root/second")
        assert version(site) == "7.0.0"


@pytest.mark.parametrize("step", ["Building", "Units", "Switching"])
def test_an_upgrade_that_is_killed_leaves_a_program_that_works(site: Site, step: str) -> None:
    site.broken_off("upgrade --wheelhouse /root/third", step, "KILL")
    assert version(site) in {"7.0.0", "9.0.0"}
    assert site.machine.run("mailferry", "--help").out
    site.deploy("upgrade --wheelhouse /root/second")
    assert version(site) == "7.0.0"
    site.deploy("status")


def test_after_all_that_an_upgrade_succeeds_and_old_versions_go(site: Site) -> None:
    site.deploy("upgrade --wheelhouse /root/third")
    assert version(site) == "9.0.0"
    assert len(list(site.machine.path("/opt/mailferry/versions").iterdir())) == 2
    assert not site.machine.sh(
        "find / -xdev -name '*mailferry-new' -o -name '.transaction*' | grep -v ^/proc", status=None
    ).out


# The service, under systemd and its restrictions


def test_the_service_says_when_it_is_ready(site: Site) -> None:
    site.machine.sh(
        "mkdir -p /etc/systemd/system/trackandtrace.service.d && "
        "printf '[Service]\\nReadWritePaths=/srv/mail/Maildir\\n' >/etc/systemd/system/trackandtrace.service.d/maildir.conf && "
        "systemctl daemon-reload"
    )
    site.machine.run("trackandtrace-start")
    assert state(site) == "active"
    assert "trackandtrace.service" in site.machine.run("trackandtrace-status").out


def test_the_service_loads_what_arrives(site: Site, tmp_path: Path) -> None:
    """The private PostgreSQL and the reading process run under the unit's restrictions."""
    deliver(site, tmp_path, "00000003")
    wait_for("the row of the new message", lambda: "00000003" in rows(site))
    assert site.machine.run("trackandtrace-logs").out


def test_the_service_comes_back_after_a_crash(site: Site, tmp_path: Path) -> None:
    drop_in = "/etc/systemd/system/trackandtrace.service.d/soon.conf"
    site.machine.sh(f"printf '[Service]\\nRestartSec=1\\n' >{drop_in} && systemctl daemon-reload")
    first = state(site, name="MainPID")
    site.machine.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "trackandtrace.service")
    wait_for(
        "another process", lambda: state(site) == "active" and state(site, name="MainPID") not in {first, "0"}
    )
    deliver(site, tmp_path, "00000004")
    wait_for("the row of the new message", lambda: "00000004" in rows(site))
    site.machine.sh(f"rm {drop_in} && systemctl daemon-reload")


def test_a_reload_reaches_the_service(site: Site) -> None:
    before = state(site, name="MainPID")
    site.machine.run("systemctl", "reload", "trackandtrace.service")
    assert state(site, name="MainPID") == before
    assert state(site) == "active"


def test_an_upgrade_restarts_the_service_that_ran(site: Site, tmp_path: Path) -> None:
    before = state(site, name="MainPID")
    said = site.deploy("upgrade --wheelhouse /root/second")
    assert "Restarting trackandtrace.service" in said
    assert "Restarting mailferry.service" not in said
    wait_for("the service", lambda: state(site) == "active")
    assert state(site, name="MainPID") != before
    deliver(site, tmp_path, "00000005")
    wait_for("the row of the new message", lambda: "00000005" in rows(site))


def test_a_version_whose_service_fails_is_taken_back(site: Site, versions: Versions) -> None:
    house = site.house(
        "fails", versions.other("8.2.0", service__process="def run(*_: object) -> int:\n    return 1")
    )
    before = site.snapshot(WRITTEN)
    assert "does not run with the new version" in site.deploy(f"upgrade {house}", status=1)
    assert site.snapshot(WRITTEN) == before
    assert version(site) == "7.0.0"
    wait_for("the old version's service", lambda: state(site) == "active")


def test_the_service_stops_in_time_and_leaves_no_process(site: Site) -> None:
    site.machine.run("trackandtrace-stop")
    assert state(site) == "inactive"
    assert state(site, name="Result") == "success"
    assert not site.machine.sh("grep -l postgres /proc/[0-9]*/comm", status=None).out


# Removing


def test_uninstalling_leaves_data_and_configuration(site: Site) -> None:
    site.machine.run("systemctl", "enable", "--now", "trackandtrace.service")
    said = site.deploy("uninstall")
    assert "/etc/trackandtrace" in said
    left = site.snapshot()
    assert not [path for path in left if path.startswith("/opt/mailferry")]
    assert not [path for path in left if path.startswith("/usr/local") and "%y l" in left[path]]
    for name in COMMANDS + MANAGEMENT:
        assert site.machine.sh(f"command -v {name}", status=None).status
    assert state(site, name="LoadState") == "not-found"
    assert site.machine.sh("cat /etc/trackandtrace/config.env").out == CONFIG
    assert "/var/lib/trackandtrace/postgres/data/PG_VERSION" in left
    assert "/etc/mailferry/uzmanposta.ini" in left
    assert "not installed" in site.deploy("uninstall")
    site.deploy("status", status=3)


def test_installing_again_finds_everything(site: Site) -> None:
    site.deploy("install --with postgres --wheelhouse /root/third")
    assert rows(site) == [f"{number:08}" for number in range(1, 6)]
    site.machine.run("trackandtrace-test")
