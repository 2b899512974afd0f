"""What a line of the log says, whatever is logged."""

from __future__ import annotations

import asyncio
import contextvars
import html
import json
import logging
import re
import sys
import threading
from base64 import b64encode, urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailferry import logs, secrets
from mailferry.commands import mailbox
from mailferry.config import service
from mailferry.errors import ConfigError

TRICKS = (
    "\n2026-01-01 00:00:00 ERROR forged",
    "\r\x1b[2K",
    "\x9b2K",
    "\u2028x",
    "\u2029",
    "\u202egnitrof",
    "\u2066",
)
ANYTHING = st.one_of(
    st.text(), st.sampled_from(TRICKS), st.builds(str.__add__, st.text(), st.sampled_from(TRICKS))
)


def rendered(record: logging.LogRecord, *, as_json: bool) -> str:
    return logs._Formatter(as_json=as_json).format(record)


def record(
    message: str, *args: object, error: BaseException | None = None, name: str = "mailferry.test"
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(name, logging.ERROR, "x.py", 1, message, args, info)


def raised(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def fields(said: str) -> dict[str, Any]:
    """Of the only line."""
    assert said.isprintable()
    found: dict[str, Any] = json.loads(said)
    return found


@given(message=ANYTHING, value=ANYTHING, error=ANYTHING, name=ANYTHING)
def test_nothing_in_a_message_an_id_or_an_exception_forges_or_hides_a_line(
    message: str, value: str, error: str, name: str
) -> None:
    entry = record("%s", message, error=raised(error), name=name)
    with logs.bound(feed=value, job=7):
        found = fields(rendered(entry, as_json=True))
        first, *below = rendered(entry, as_json=False).split("\n")
    assert list(found) == ["time", "level", "message", "logger", "run", "feed", "job", "traceback"]
    assert found["message"] == secrets.mask(message)
    assert found["feed"] == secrets.mask(value)
    assert found["traceback"].startswith("Traceback (most recent call last):\n")
    assert all(line.isprintable() for line in [first, *below])
    assert first.startswith(found["time"][:2])
    assert f" ERROR {secrets.mask(message)}  run={logs.RUN} feed=" in first
    assert first.endswith(" job=7")
    assert below
    assert all(line.startswith("    ") for line in below)


def test_a_secret_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_SECRETS", {})
    secret, longer = "p'a\\s s\u00e4", "abcd-and-more"
    secrets.hide("abcd", "short")
    for one in (secret, longer):
        secrets.hide(one)
    forms = secret, repr(secret), quote(secret), quote_plus(secret), longer
    for form in forms:
        entry = record("it is %s", form, error=raised(f"refused: {form}"), name=f"mailferry.{form}")
        with logs.bound(feed=form, **{form: 1}):
            said = rendered(entry, as_json=True) + rendered(entry, as_json=False)
        for part in ("p'a", "%27a", "s%C3%A4", "s\u00e4", "and-more", "short"):
            assert part not in said
        assert said.count("****") >= 8


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=40),
    before=st.text(max_size=9),
    after=st.text(max_size=9),
)
def test_a_secret_that_a_server_echoes_in_another_form_is_masked(
    secret: str, before: str, after: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "_SECRETS", {})
        secrets.hide(secret)
        lower = re.sub("%..", lambda found: found[0].lower(), quote(secret, safe=""))
        for echoed in (json.dumps(secret), f'"{secret}"', html.escape(secret), lower, secret.encode().hex()):
            assert "****" in secrets.mask(f"it was {echoed}!"), echoed
        # As SASL PLAIN and XOAUTH2 are written, with anything before and after.
        packed = f"{before}{secret}{after}".encode(errors="replace")
        for encode in (b64encode, urlsafe_b64encode):
            text = encode(packed).decode()
            masked = secrets.mask(text)
            assert "****" in masked
            # What is left of the secret itself is a letter at either end, of two to four bits.
            around = -(-len(before.encode(errors="replace")) * 8 // 6) + -(
                -len(after.encode(errors="replace")) * 8 // 6
            )
            assert len(masked) <= around + 4 + 4 + 2


def test_secrets_that_threads_find_at_once_are_all_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_SECRETS", {})
    found = [f"secret-{number}-" for number in range(400)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(secrets.hide, found))
    finally:
        sys.setswitchinterval(interval)
    assert {secrets.mask(one) for one in found} == {"****"}


def test_ids_are_on_the_lines_of_tasks_and_threads_that_begin_within() -> None:
    found: list[dict[str, Any]] = []

    def tell() -> None:
        found.append(fields(rendered(record("x"), as_json=True)))

    async def main() -> None:
        with logs.bound(task="one", feed="outer"):
            with logs.bound(feed="inner"):
                await asyncio.to_thread(tell)
                thread = threading.Thread(target=contextvars.copy_context().run, args=[tell])
                thread.start()
                thread.join()
            await asyncio.gather(asyncio.create_task(asyncio.sleep(0)), asyncio.to_thread(tell))
        tell()

    asyncio.run(main())
    assert [(one.get("task"), one.get("feed")) for one in found] == [
        ("one", "inner"),
        ("one", "inner"),
        ("one", "outer"),
        (None, None),
    ]
    assert {one["run"] for one in found} == {logs.RUN}


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("args", [("text",), (Hostile(),), (1, 2)])
def test_a_record_whose_values_do_not_fit_its_text_is_reported_all_the_same(
    args: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logs._Stderr(logs._Formatter(as_json=True), journal=False)
    handler.handle(record("number %d", *args))
    assert fields(capsys.readouterr().err.rstrip("\n"))["message"].startswith("number %d (")
    handler.handle(record(Hostile()))  # type: ignore[arg-type] # as a library may
    assert "RuntimeError" in capsys.readouterr().err


def test_a_long_line_loses_its_middle_and_is_one_that_the_journal_takes() -> None:
    entry = record("%s", "\U0001f4e7" * 1_000_000, error=raised("begin " + "\U0001f4e7" * 1_000_000 + " end"))
    said = rendered(entry, as_json=True)
    assert len(said.encode()) < 48 * 1024
    assert "characters left out" in fields(said)["message"]
    assert fields(said)["traceback"].endswith(" end")


def test_other_libraries_are_logged_from_warnings_on_and_whole_with_debug(
    fresh_logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for level, expected in (
        (
            "DEBUG",
            [
                "ours 10",
                "ours 20",
                "ours 30",
                "ours 40",
                "aiohttp 10",
                "aiohttp 20",
                "aiohttp 30",
                "aiohttp 40",
            ],
        ),
        ("INFO", ["ours 20", "ours 30", "ours 40", "aiohttp 30", "aiohttp 40"]),
        ("ERROR", ["ours 40", "aiohttp 40"]),
    ):
        logs.set_up(level, style="json")
        for name, who in (("mailferry.x", "ours"), ("aiohttp", "aiohttp")):
            for number in (10, 20, 30, 40):
                logging.getLogger(name).log(number, "%s %d", who, number)
        assert [fields(line)["message"] for line in capsys.readouterr().err.splitlines()] == expected


def test_a_closed_standard_error_stops_nothing(fresh_logs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.set_up()
    for broken in (None, Path("/dev/null").open("w")):  # noqa: SIM115 - it is closed below
        monkeypatch.setattr(sys, "stderr", broken)
        if broken:
            broken.close()
        logging.getLogger("mailferry").error("not read")


def test_a_line_is_without_secrets_and_control_characters_whatever_handler_takes_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_SECRETS", {})
    secrets.hide("a-secret-word")
    log = logs.of(__name__, logs.FILES)
    with caplog.at_level(logging.INFO, __name__):
        log.info("%d rows of %s", 3, "x\ny a-secret-word")
        log.error("failed", exc_info=raised("with a-secret-word"))
        log.debug("%s", Hostile())
        log.warning("%s", Hostile())
        log.warning("number %d", "x")
    assert [(one.name, one.levelname, one.message) for one in caplog.records[:2]] == [
        (__name__, "INFO", "3 rows of x\\ny ****"),
        (__name__, "ERROR", "failed"),
    ]
    assert [one.message.split()[0] for one in caplog.records[2:]] == ["%s", "number"]
    assert "ValueError: with ****" in caplog.text
    assert fields(rendered(caplog.records[1], as_json=True))["traceback"].endswith("ValueError: with ****")


TOML = '[service]\nlog_dir = "own"\nlog_level = "ERROR"\n[mailbox.a]\nmaildir = "box"\n'
ENV = "EMAIL_MAILDIR=box\nLOG_DIR=own\nLOG_LEVEL=error\n"


@pytest.mark.parametrize(("name", "text"), [("mailferry.toml", TOML), ("config.env", ENV)])
def test_the_environment_says_how_to_log_before_the_file_and_systemd_after_it(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    unit = {"LOGS_DIRECTORY": "/var/log/unit:/var/log/other"}
    settings = service.read([path], unit).service
    assert (settings.log_dir, settings.log_level, settings.log_format) == (tmp_path / "own", "ERROR", "auto")
    said = {"LOG_DIR": "/here", "LOG_LEVEL": "warn", "LOG_FORMAT": "JSON", **unit}
    settings = service.read([path], said).service
    assert (settings.log_dir, settings.log_level, settings.log_format) == (Path("/here"), "WARNING", "json")
    assert service.read([path], {"DEBUG": "true"}).service.log_level == "DEBUG"
    path.write_text(text.replace("log_dir", "#").replace("LOG_DIR", "#"))
    assert service.read([path], unit).service.log_dir == Path("/var/log/unit")
    assert service.read([path], {}).service.log_dir is None
    with pytest.raises(ConfigError) as caught:
        service.read([path], {"LOG_FORMAT": "xml"})
    (fault,) = caught.value.faults
    assert "LOG_FORMAT" in fault


def test_load_takes_the_same_settings_as_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.env"
    path.write_text(ENV)
    taken: list[tuple[str, Path | None]] = []
    monkeypatch.setattr(logs, "set_up", lambda level, *, folder, style: taken.append((level, folder)))
    for variables in ({}, {"LOG_DIR": "/here"}, {"DEBUG": "1"}, {"LOGS_DIRECTORY": "/var/log/unit"}):
        with monkeypatch.context() as patch:
            for name in ("LOG_DIR", "LOG_LEVEL", "DEBUG", "LOGS_DIRECTORY"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            mailbox.read(path)
        found = service.read([path], variables).service
        assert taken.pop() == (found.log_level, found.log_dir)


def test_what_only_the_environment_says_is_used_as_far_as_it_can_be() -> None:
    given = {"LOG_LEVEL": "loud", "LOG_FORMAT": "json", "DEBUG": "node:*"}
    settings, (fault,) = service.of_environment(given, Path("/data"))
    assert (settings.log_level, settings.log_format) == ("INFO", "json")
    assert fault.startswith("environment: LOG_LEVEL=loud: ")
