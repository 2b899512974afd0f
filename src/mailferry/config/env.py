"""`config.env` and environment variables, named as the older service had them. The environment wins.

Secrets may also come from a file or a systemd credential, see `secret.py`.

Every fault is found in one reading, each with the file and line, or the environment, that it comes from.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from mailferry.config import secret
from mailferry.config.database import DatabaseSettings
from mailferry.config.mailbox import Auth, MailboxKind, MailboxSettings, OAuthSettings
from mailferry.config.mailbox_feed import MailboxFeed, default_name
from mailferry.config.part import LEVELS, TRUE, Part, Placed, ServiceSettings, systemd_log_dir
from mailferry.config.text import is_placeholder, read_text, resolved
from mailferry.config.variables import SECRETS, UNNEEDED, VARIABLES
from mailferry.errors import ConfigError
from mailferry.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SYSTEM_FILE", "VARIABLES", "EnvFile", "read", "read_database", "read_part"]

_Model = TypeVar("_Model", bound=BaseModel)

#: The older service's own place, for `trackandtrace`.
SYSTEM_FILE = Path("/etc/trackandtrace/config.env")


_MODELS: dict[str, type[BaseModel]] = {
    "oauth": OAuthSettings,
    "mailbox": MailboxSettings,
    "database": DatabaseSettings,
    "feed": MailboxFeed,
    "service": ServiceSettings,
}
#: An unknown variable of the file that begins so was meant for us.
_OURS = ("EMAIL_", "DB_", "APP_", "FILE_", "MAILFERRY_")
#: What a Maildir has no use for.
_IMAP_ONLY = (
    *("host", "port", "username", "password", "ssl"),
    *("allow_plaintext", "ca_file", "auth", "read_timeout"),
)
#: An empty value of these means something: no filter.
_MAY_BE_EMPTY = {"EMAIL_SUBJECT_FILTER"}
#: Of these, and of secrets, examples have values that are nobody's. Others are not looked at: a filter may say anything.
_PERSONAL = {"EMAIL_HOST", "EMAIL_USERNAME", "DB_HOST", "DB_NAME", "DB_USERNAME", "EMAIL_OAUTH_CLIENT_ID"}
_BOOLEANS = {
    **dict.fromkeys(TRUE, True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
#: In the place of one that is not there or has faults.
_NO_MAILBOX = MailboxSettings(kind=MailboxKind.MAILDIR, path=Path("unset"))
#: With any of these a database of somebody's own is meant, at `localhost` where DB_HOST is not given.
_CONNECTION = ("DB_HOST", "DB_NAME", "DB_USERNAME", "DB_PASSWORD", "DB_PORT")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """A value, and where it was found."""

    value: str
    place: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvFile:
    """What was read."""

    feed: MailboxFeed
    #: Where it says so, the service's.
    service: ServiceSettings
    #: Things that were understood, but not as somebody may think.
    warnings: tuple[str, ...]


def read(path: Path | None, environ: Mapping[str, str] | None = None) -> EnvFile:
    """The feed of `path` and the environment; None: of the environment alone. Relative paths count from the file's folder.

    Secrets are hidden from logs from here on.

    Raises:
        ConfigError: with every fault.
    """
    given, faults, warnings = _gather(path, environ)
    builder = _Builder(given, path, faults)
    feed, service = builder.feed(), builder.service()
    if faults or feed is None:
        raise ConfigError(list(dict.fromkeys(faults)))
    beside = systemd_log_dir(os.environ if environ is None else environ)
    settings = ServiceSettings(**{"data_dir": builder.data_dir, "log_dir": beside, **service})
    return EnvFile(feed=feed, service=settings, warnings=warnings)


def read_part(
    path: Path | None, environ: Mapping[str, str] | None = None, *, needs_mailbox: bool = True
) -> Part:
    """What `read` gives, for the service. Where other files have feeds, one without any EMAIL_ variable has none.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    given, faults, warnings = _gather(path, environ)
    builder = _Builder(given, path, faults)
    has_mailbox = needs_mailbox or any(name.startswith("EMAIL_") for name in given)
    feed = builder.feed() if has_mailbox else None
    if not has_mailbox:
        builder.check()
    return Part(
        path=path,
        service=builder.service(),
        data_dir=builder.data_dir if has_mailbox or "APP_BASE_DIR" in given else None,
        database=builder.own_database(),
        mailboxes=((Placed(path=path, table=""), feed),) if feed and not faults else (),
        faults=tuple(dict.fromkeys(faults)),
        warnings=warnings,
    )


def read_database(environ: Mapping[str, str] | None = None, *, data_dir: Path) -> DatabaseSettings:
    """The database that the environment's DB_ variables name; without any, the private one in `data_dir`.

    Raises:
        ConfigError: with every fault of them.
    """
    given, faults, _ = _gather(None, environ, begin="DB_")
    given["APP_BASE_DIR"] = _Given(value=str(data_dir.absolute()), place="environment")
    database = _Builder(given, None, faults).database()
    if faults or database is None:
        raise ConfigError(list(dict.fromkeys(faults)))
    return database


def _gather(
    path: Path | None, environ: Mapping[str, str] | None, begin: str = ""
) -> tuple[dict[str, _Given], list[str], tuple[str, ...]]:
    """Values by variable, faults and warnings; of variables that begin with `begin`."""
    environ = os.environ if environ is None else environ
    faults: list[str] = []
    unneeded: list[str] = []
    given = _from_file(path.absolute(), faults, unneeded) if path else {}
    warnings = (*_readable_by_all(path, given), *unneeded)
    for name, value in environ.items():
        if name in VARIABLES and name.startswith(begin):
            given[name] = _Given(value=_trimmed(name, value), place="environment")
    warnings += _secrets(given, environ, path.absolute().parent if path else Path.cwd(), begin, faults)
    for name in [name for name, one in given.items() if not one.value and name not in _MAY_BE_EMPTY]:
        del given[name]
    _hide_secrets(given)
    return given, faults, warnings


def _secrets(
    given: dict[str, _Given], environ: Mapping[str, str], folder: Path, begin: str, faults: list[str]
) -> tuple[str, ...]:
    """Put the secrets of credentials and files among the values; gives warnings about their files."""
    warnings = []
    for name in SECRETS:
        if not name.startswith(begin):
            continue
        named = given.pop(f"{name}_FILE", None)
        option = f"{named.place}: {name}_FILE" if named else ""
        try:
            found = secret.find(
                name, environ, folder=folder, file=named.value if named else "", option=option
            )
        except ConfigError as error:
            faults += error.faults
            given.pop(name, None)
            # Anything will do, so that it is not told as missing as well.
            given[name] = _Given(value="postgresql://" if name == "DB_URL" else "unset", place=option)
            continue
        if found:
            given[name] = _Given(value=found.value, place=found.place)
            warnings += [found.warning] if found.warning else []
    return tuple(warnings)


def _from_file(path: Path, faults: list[str], warnings: list[str]) -> dict[str, _Given]:
    """The file's variables; of equal names the last counts, as in the older service."""
    import io

    from dotenv.parser import parse_stream

    text = read_text(path)
    given: dict[str, _Given] = {}
    for binding in parse_stream(io.StringIO(text)):
        # A binding begins with the blank lines before it.
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        place = f"{path}, line {binding.original.line + binding.original.string[:blank].count(chr(10))}"
        if binding.error or (binding.key and binding.value is None):
            faults.append(f"{place}: cannot be understood; write NAME=value, quotes closed")
        elif binding.key in VARIABLES:
            given[binding.key] = _Given(value=_trimmed(binding.key, binding.value or ""), place=place)
        elif binding.key in UNNEEDED:
            warnings.append(f"{place}: {binding.key} is not needed any more: {UNNEEDED[binding.key]}")
        elif binding.key and (fault := _unknown(binding.key)):
            faults.append(f"{place}: {binding.key}: {fault}")
    return given


def _trimmed(name: str, value: str) -> str:
    """Without blanks around it; a secret may begin or end with one."""
    return value if VARIABLES[name].kind == "secret" else value.strip()


def _unknown(name: str) -> str:
    """What is wrong with a variable that is none of ours; "" where it may be somebody else's."""
    close = difflib.get_close_matches(
        name.upper(), VARIABLES, 1, 0.6 if name.upper().startswith(_OURS) else 0.85
    )
    if close:
        return f"unknown variable; did you mean {close[0]}?"
    return "unknown variable; take it out" if name.startswith(_OURS) else ""


def _readable_by_all(path: Path | None, given: Mapping[str, _Given]) -> tuple[str, ...]:
    secrets = [name for name in SECRETS if name in given and given[name].value]
    if path is None or not secrets or not secret.readable_by_others(path):
        return ()
    return (f"{path}: holds {secrets[0]} and can be read by every user; chmod 640 or 600 it",)


def _is_placeholder(name: str, value: str) -> bool:
    looked_at = name in _PERSONAL or VARIABLES[name].kind == "secret"
    return looked_at and is_placeholder(value)


def _hide_secrets(given: Mapping[str, _Given]) -> None:
    for name in SECRETS:
        one = given.get(name)
        if one and not _is_placeholder(name, one.value):
            secret.hide_url(one.value) if name == "DB_URL" else hide(one.value)


class _Builder:
    """From variables to models; faults are collected, not raised."""

    def __init__(self, given: dict[str, _Given], path: Path | None, faults: list[str]) -> None:
        self._given = given
        self._file = str(path.absolute()) if path else "environment (no file was read)"
        self._folder = path.absolute().parent if path else Path.cwd()
        self._faults = faults
        self._values: dict[str, dict[str, Any]] = {model: {} for model in (*_MODELS, "")}
        for name, one in given.items():
            if _is_placeholder(name, one.value):
                faults.append(f"{one.place}: {name}: still the example's value; fill in your own")
                # Anything will do, so that it is not told as missing as well.
                self._values[VARIABLES[name].model][VARIABLES[name].field] = "unset"
            else:
                self._convert(name, one)
        self._values["feed"].setdefault("base_dir", Path(MailboxFeed.model_fields["base_dir"].default))
        if self._values[""].get("debug"):
            self._values["feed"]["log_level"] = "DEBUG"

    @property
    def data_dir(self) -> Path:
        return Path(self._values["feed"]["base_dir"])

    def feed(self) -> MailboxFeed | None:
        values = self._values
        self._mail()
        mailbox = self._model("mailbox", MailboxSettings)
        database = self.database()
        # Stand-ins, so that the feed's own faults come to light in the same reading.
        stand_in = mailbox or _NO_MAILBOX
        table = values["feed"].get("target_table", MailboxFeed.model_fields["target_table"].default)
        values["feed"].setdefault("name", default_name(stand_in, table))
        values["feed"]["mailbox"] = stand_in
        values["feed"]["database"] = database or DatabaseSettings(data_dir=Path("unset"))
        return self._model("feed", MailboxFeed)

    def check(self) -> None:
        """Find the faults of a file that has no mailbox: its variables must be right all the same."""
        self.database()
        values = {
            "name": "unset",
            "mailbox": _NO_MAILBOX,
            "database": DatabaseSettings(data_dir=Path("unset")),
        }
        self._values["feed"] |= values
        self._model("feed", MailboxFeed)

    def database(self) -> DatabaseSettings | None:
        """The database as configured, the private one where none is. None: its faults are told."""
        self._connection()
        return self._model("database", DatabaseSettings)

    def own_database(self) -> DatabaseSettings | None:
        """None also where no variable names a database."""
        named = any(name in self._given for name in (*_CONNECTION, "DB_URL"))
        return self.database() if named else None

    def service(self) -> dict[str, Any]:
        """What is said of the service, in its own types; nothing where there are faults."""
        values = self._values["service"]
        values["data_dir"] = self.data_dir
        self._model("service", ServiceSettings)
        if self._faults:
            return {}
        shared = ("max_concurrent_jobs", "log_level")
        values |= {name: value for name, value in self._values["feed"].items() if name in shared}
        checked = ServiceSettings.model_validate(values)
        return {name: getattr(checked, name) for name in values if name != "data_dir"}

    def _convert(self, name: str, one: _Given) -> None:
        variable = VARIABLES[name]
        value: Any = one.value
        if variable.kind == "path":
            if "${" in value:
                self._faults.append(
                    f"{one.place}: {name}={value}: variables are not expanded; write the path itself"
                )
            try:
                value = resolved(self._folder, value)
            except ValueError as error:
                self._faults.append(f"{one.place}: {name}: {error}")
                value = self._folder
        elif variable.kind == "secret":
            value = SecretStr(value)
        elif variable.kind == "bool":
            value = _BOOLEANS.get(value.lower())
            if value is None and name == "DEBUG" and one.place == "environment":
                return  # a name that many programs read, each in its own way
            if value is None:
                self._faults.append(f"{one.place}: {name}={one.value}: must be true or false")
                return
        elif variable.field in {"auth", "provider", "mark", "sslmode", "unknown_columns", "log_format"}:
            value = value.lower()
        elif variable.field == "log_level":
            value = LEVELS.get(value.upper(), value.upper())
        self._values[variable.model][variable.field] = value

    def _missing(self, name: str, why: str) -> None:
        self._faults.append(f"{self._file}: {name} is missing: {why}")

    def _mail(self) -> None:
        mail = self._values["mailbox"]
        if "path" in mail:
            mail["kind"] = MailboxKind.MAILDIR
            for field in _IMAP_ONLY:
                mail.pop(field, None)
            return
        if "username" not in mail:
            self._missing("EMAIL_USERNAME", "the mailbox's user name (or EMAIL_MAILDIR, a Maildir folder)")
            mail["username"] = "unset"
        # STARTTLS is never spoken on the port of implicit TLS.
        if mail.get("ssl") is False:
            mail.setdefault("port", 143)
        if self._values["oauth"]:
            mail["oauth"] = self._model("oauth", OAuthSettings)
            mail.setdefault("auth", Auth.XOAUTH2)
            if mail["oauth"] is None:  # told already
                mail["auth"], mail["password"] = Auth.PASSWORD, SecretStr("unset")
        elif mail.get("auth", "password") == "password" and "password" not in mail:
            self._missing("EMAIL_PASSWORD", "the password, or the app password where the provider has such")
            mail["password"] = SecretStr("unset")
        elif mail.get("auth") in (Auth.XOAUTH2, Auth.OAUTHBEARER):
            self._missing(
                "EMAIL_OAUTH_CLIENT_ID", f"EMAIL_AUTH={mail['auth']} needs the EMAIL_OAUTH_ variables"
            )
            mail["auth"], mail["password"] = Auth.PASSWORD, SecretStr("unset")

    def _connection(self) -> None:
        database = self._values["database"]
        connection = [name for name in _CONNECTION if name in self._given]
        if "url" in database:
            if connection:
                place = self._given[connection[0]].place
                self._faults.append(
                    f"{place}: {connection[0]}: DB_URL holds everything by itself; keep one of the two"
                )
        elif connection:
            database.setdefault("host", "localhost")
            for name in ("DB_NAME", "DB_USERNAME"):
                if VARIABLES[name].field not in database:
                    self._missing(name, f"{connection[0]} says that a database of your own is to be used")
                    database[VARIABLES[name].field] = "unset"
        database["data_dir"] = self._values["feed"]["base_dir"]

    def _model(self, model: str, type_: type[_Model]) -> _Model | None:
        try:
            return type_.model_validate(self._values[model])
        except ValidationError as error:
            names = {v.field: name for name, v in VARIABLES.items() if v.model == model}
            for fault in error.errors():
                self._faults.append(self._explain(fault, names))
            return None

    def _explain(self, fault: Any, names: dict[str, str]) -> str:
        """One line of a pydantic fault: where, what was given, what would be right. Never a secret."""
        message = str(fault["msg"]).removeprefix("Value error, ")
        name = names.get(str(fault["loc"][0]), "") if fault["loc"] else ""
        if not name:
            for field, variable in names.items():
                message = re.sub(rf"\b{field}\b( is missing)", rf"{variable}\1", message)
                if "_" in field:
                    message = message.replace(field, variable)
            return f"{self._file}: {message}"
        one = self._given.get(name)
        shown = "" if one is None or VARIABLES[name].kind == "secret" else f"={one.value}"
        return f"{one.place if one else self._file}: {name}{shown}: {message[0].lower()}{message[1:]}"
