"""What one configuration file says; `service.py` puts several together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mailferry.config.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailferry.config.database import DatabaseSettings
    from mailferry.config.event_feed import EventFeed
    from mailferry.config.mailbox_feed import MailboxFeed

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
#: Other programs' names of levels.
LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL"}
#: How variables say so; what else DEBUG may be in the environment is other programs' business.
TRUE = ("true", "yes", "on", "1")
#: Variables of the environment that win over what any file says of the service, and how faults tell them.
ENVIRONMENT = {
    "host": "MAILFERRY_HOST",
    "log_level": "LOG_LEVEL",
    "log_dir": "LOG_DIR",
    "log_format": "LOG_FORMAT",
}


class ServiceSettings(BaseModel):
    """One worker process."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: What this machine is called in the database and by the feeds' `host`; "" for the system's host name.
    host: Annotated[str, AfterValidator(one_line)] = Field(default="", max_length=253)
    #: Holds what feeds do not place elsewhere, and the private database in `postgres`.
    data_dir: Path
    #: Jobs of different tables done at the same time.
    max_concurrent_jobs: int = Field(default=1, ge=1, le=64)
    #: Feeds collected or polled at the same time.
    max_concurrent_feeds: int = Field(default=16, ge=1, le=1000)
    log_level: LogLevel = "INFO"
    #: Folder of the five log files; None: there are none. Absolute.
    log_dir: Path | None = None
    #: Of messages on standard error. "auto": JSON for systemd's journal, else text.
    log_format: Literal["auto", "text", "json"] = "auto"


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Options of `ServiceSettings` that the environment gives; not yet checked."""
    given = {option: environ.get(name, "").strip() for option, name in ENVIRONMENT.items()}
    given = {option: value for option, value in given.items() if value}
    if "log_level" in given:
        given["log_level"] = LEVELS.get(given["log_level"].upper(), given["log_level"].upper())
    if environ.get("DEBUG", "").strip().lower() in TRUE:
        given["log_level"] = "DEBUG"
    if "log_dir" in given:
        given["log_dir"] = str(Path(given["log_dir"]).absolute())
    if "log_format" in given:
        given["log_format"] = given["log_format"].lower()
    return given


def service_of_environment(environ: Mapping[str, str], data_dir: Path) -> tuple[ServiceSettings, list[str]]:
    """What no file says, as far as it can be used; and the faults of the rest."""
    given: dict[str, Any] = {"data_dir": data_dir, "log_dir": systemd_log_dir(environ)}
    given |= from_environment(environ)
    faults = []
    try:
        ServiceSettings.model_validate(given)
    except ValidationError as error:
        for fault in error.errors():
            option = str(fault["loc"][0])
            faults.append(f"environment: {ENVIRONMENT[option]}: {fault['msg']}")
            del given[option]
    return ServiceSettings.model_validate(given), faults


def systemd_log_dir(environ: Mapping[str, str]) -> Path | None:
    """The first folder that systemd has made for our logs (LogsDirectory= in the unit), where it is that which starts us."""
    first = environ.get("LOGS_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A feed, and where it stands."""

    path: Path | None
    #: Table or section; "" where the file is one feed as a whole.
    table: str

    def __str__(self) -> str:
        """As faults begin: "/etc/mailferry/mailferry.toml: [events.example]"."""
        return f"{self._file}: [{self.table}]" if self.table else self._file

    @property
    def other(self) -> str:
        """As other feeds' faults speak of it."""
        return f"[{self.table}] of {self._file}" if self.table else self._file

    @property
    def _file(self) -> str:
        return str(self.path or "environment")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One file's feeds and settings; `faults` says what of it cannot be used."""

    path: Path | None
    #: Options of `ServiceSettings` that the file gives.
    service: dict[str, Any] = field(default_factory=dict)
    #: Where data goes that is placed nowhere else; None where the file has no say in it.
    data_dir: Path | None
    #: None where the file does not speak of a database.
    database: DatabaseSettings | None = None
    events: tuple[tuple[Placed, EventFeed], ...] = ()
    mailboxes: tuple[tuple[Placed, MailboxFeed], ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
