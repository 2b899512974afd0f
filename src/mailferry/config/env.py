"""`config.env` and environment variables, named as the older service had them. The environment wins.

Every fault is found in one reading, each with the file and line, or the environment, that it comes from.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr, ValidationError

from mailferry.config.database import DatabaseSettings
from mailferry.config.mailbox import Auth, MailboxKind, MailboxSettings, OAuthSettings
from mailferry.config.mailbox_feed import MailboxFeed, default_name
from mailferry.config.text import read_text
from mailferry.errors import ConfigError
from mailferry.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

_Model = TypeVar("_Model", bound=BaseModel)

#: The older service's own place, for `trackandtrace`.
SYSTEM_FILE = Path("/etc/trackandtrace/config.env")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """Where a variable's value goes."""

    #: "mailbox", "oauth", "database", "feed", or "" for what this module sees to itself.
    model: str
    field: str
    #: "text", "secret", "path" (from the file's folder), "bool" or "number".
    kind: str = "text"


def _variables(model: str, **fields: str) -> dict[str, Variable]:
    """NAME="field" or NAME="field:kind"."""
    split = {name: value.partition(":") for name, value in fields.items()}
    return {
        name: Variable(model=model, field=field, kind=kind or "text")
        for name, (field, _, kind) in split.items()
    }


VARIABLES: dict[str, Variable] = {
    **_variables(
        "mailbox",
        EMAIL_HOST="host",
        EMAIL_PORT="port:number",
        EMAIL_USERNAME="username",
        EMAIL_PASSWORD="password:secret",  # noqa: S106 - a field's name
        EMAIL_USE_SSL="ssl:bool",
        EMAIL_ALLOW_PLAINTEXT="allow_plaintext:bool",
        EMAIL_CA_FILE="ca_file:path",
        EMAIL_AUTH="auth",
        EMAIL_MAILDIR="path:path",
        EMAIL_FOLDER="folder",
        EMAIL_SUBJECT_FILTER="subject_filter",
        EMAIL_SENDER_FILTER="sender_filter",
        EMAIL_ATTACHMENT_FILTER="name_filter",
        EMAIL_MARK="mark",
        EMAIL_MARK_COMPLETED="mark_completed",
        EMAIL_MARK_FAILED="mark_failed",
        EMAIL_MAX_FILE_BYTES="max_file_bytes:number",
        EMAIL_TIMEOUT="read_timeout:number",
    ),
    **_variables(
        "oauth",
        EMAIL_OAUTH_PROVIDER="provider",
        EMAIL_OAUTH_CLIENT_ID="client_id",
        EMAIL_OAUTH_CLIENT_SECRET="client_secret:secret",  # noqa: S106 - a field's name
        EMAIL_OAUTH_TENANT="tenant",
        EMAIL_OAUTH_REFRESH_TOKEN="refresh_token:secret",  # noqa: S106 - a field's name
        EMAIL_OAUTH_TOKEN_ENDPOINT="token_endpoint",  # noqa: S106 - a field's name
        EMAIL_OAUTH_SCOPE="scope",
        EMAIL_OAUTH_TOKEN_FILE="token_file:path",  # noqa: S106 - a field's name
    ),
    **_variables(
        "database",
        DB_URL="url:secret",
        DB_HOST="host",
        DB_PORT="port:number",
        DB_NAME="name",
        DB_USERNAME="user",
        DB_PASSWORD="password:secret",  # noqa: S106 - a field's name
        DB_SSLMODE="sslmode",
        DB_TEMP_SCHEMA="temp_schema",
    ),
    **_variables(
        "feed",
        DB_TARGET_TABLE="target_table",
        DB_UNIQUE_KEY="unique_key",
        DB_KEY_WIDTH="key_width:number",
        DB_UNKNOWN_COLUMNS="unknown_columns",
        FILE_SHEET="sheet",
        FILE_MAX_REJECTED="max_rejected:number",
        FILE_RETENTION_DAYS="retention_days:number",
        APP_NAME="name",
        APP_BASE_DIR="base_dir:path",
        MAX_CONCURRENT_JOBS="max_concurrent_jobs:number",
        SCHEDULE_INTERVAL_HOURS="schedule_hours:number",
        LOG_LEVEL="log_level",
    ),
    **_variables("", DEBUG="debug:bool"),
}
_MODELS: dict[str, type[BaseModel]] = {
    "oauth": OAuthSettings,
    "mailbox": MailboxSettings,
    "database": DatabaseSettings,
    "feed": MailboxFeed,
}
#: An unknown variable of the file that begins so was meant for us.
_OURS = ("EMAIL_", "DB_", "APP_", "FILE_")
#: An empty value of these means something: no filter.
_MAY_BE_EMPTY = {"EMAIL_SUBJECT_FILTER"}
#: What stands in examples where a value of one's own belongs. Only these variables are looked at: a filter may say anything.
_PLACEHOLDER = re.compile(
    r"your[-_ ]([a-z]+[-_ ])*(mailbox|password|user(name)?|host|server|database|secret|token|id)\b.*"
    r"|change[-_ ]?me|<.*>|x{3,}|\*{3,}",
    re.IGNORECASE,
)
_PERSONAL = {"EMAIL_HOST", "EMAIL_USERNAME", "DB_HOST", "DB_NAME", "DB_USERNAME", "EMAIL_OAUTH_CLIENT_ID"}
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
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
    #: Things that were understood, but not as somebody may think.
    warnings: tuple[str, ...]


def read(path: Path | None, environ: Mapping[str, str] | None = None) -> EnvFile:
    """The feed of `path` and the environment; None: of the environment alone. Relative paths count from the file's folder.

    Secrets are hidden from logs from here on.

    Raises:
        ConfigError: with every fault.
    """
    faults: list[str] = []
    given = _from_file(path.absolute(), faults) if path else {}
    warnings = _readable_by_all(path, given)
    for name, value in (os.environ if environ is None else environ).items():
        if name in VARIABLES:
            given[name] = _Given(value=_trimmed(name, value), place="environment")
    for name in [name for name, one in given.items() if not one.value and name not in _MAY_BE_EMPTY]:
        del given[name]
    _hide_secrets(given)
    feed = _Builder(given, path, faults).build()
    if faults or feed is None:
        raise ConfigError(list(dict.fromkeys(faults)))
    return EnvFile(feed=feed, warnings=warnings)


def _from_file(path: Path, faults: list[str]) -> dict[str, _Given]:
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
    secrets = [name for name in given if VARIABLES[name].kind == "secret" and given[name].value]
    if path is None or os.name != "posix" or not secrets or not path.stat().st_mode & stat.S_IROTH:
        return ()
    return (f"{path}: holds {secrets[0]} and can be read by every user; chmod 640 it",)


def _is_placeholder(name: str, value: str) -> bool:
    looked_at = name in _PERSONAL or VARIABLES[name].kind == "secret"
    return looked_at and _PLACEHOLDER.fullmatch(value) is not None


def _hide_secrets(given: Mapping[str, _Given]) -> None:
    for name, one in given.items():
        if VARIABLES[name].kind == "secret" and not _is_placeholder(name, one.value):
            hide(one.value)
    if url := given.get("DB_URL"):
        try:
            password = urlsplit(url.value).password or ""
        except ValueError:
            return
        hide(password)
        hide(unquote(password))


class _Builder:
    """From variables to models; faults are collected, not raised."""

    def __init__(self, given: dict[str, _Given], path: Path | None, faults: list[str]) -> None:
        self._given = given
        self._file = str(path.absolute()) if path else "environment (no file was read)"
        self._folder = path.absolute().parent if path else Path.cwd()
        self._faults = faults
        self._values: dict[str, dict[str, Any]] = {model: {} for model in (*_MODELS, "")}

    def build(self) -> MailboxFeed | None:
        for name, one in list(self._given.items()):
            if _is_placeholder(name, one.value):
                self._faults.append(f"{one.place}: {name}: still the example's value; fill in your own")
                # Anything will do, so that it is not told as missing as well.
                self._values[VARIABLES[name].model][VARIABLES[name].field] = "unset"
            else:
                self._convert(name, one)
        values = self._values
        values["feed"].setdefault("base_dir", Path(MailboxFeed.model_fields["base_dir"].default))
        self._mail()
        self._database()
        mailbox = self._model("mailbox", MailboxSettings)
        database = self._model("database", DatabaseSettings)
        if values[""].get("debug"):
            values["feed"]["log_level"] = "DEBUG"
        # Stand-ins, so that the feed's own faults come to light in the same reading.
        stand_in = mailbox or MailboxSettings(kind=MailboxKind.MAILDIR, path=Path("unset"))
        table = values["feed"].get("target_table", MailboxFeed.model_fields["target_table"].default)
        values["feed"].setdefault("name", default_name(stand_in, table))
        values["feed"]["mailbox"] = stand_in
        values["feed"]["database"] = database or DatabaseSettings(data_dir=Path("unset"))
        return self._model("feed", MailboxFeed)

    def _convert(self, name: str, one: _Given) -> None:
        variable = VARIABLES[name]
        value: Any = one.value
        if variable.kind == "path":
            if "${" in value:
                self._faults.append(
                    f"{one.place}: {name}={value}: variables are not expanded; write the path itself"
                )
            value = self._folder / Path(value).expanduser()
        elif variable.kind == "secret":
            value = SecretStr(value)
        elif variable.kind == "bool":
            value = _BOOLEANS.get(value.lower())
            if value is None and name == "DEBUG" and one.place == "environment":
                return  # a name that many programs read, each in its own way
            if value is None:
                self._faults.append(f"{one.place}: {name}={one.value}: must be true or false")
                return
        elif variable.field in {"auth", "provider", "mark", "sslmode", "unknown_columns"}:
            value = value.lower()
        elif variable.field == "log_level":
            value = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(value.upper(), value.upper())
        self._values[variable.model][variable.field] = value

    def _missing(self, name: str, why: str) -> None:
        self._faults.append(f"{self._file}: {name} is missing: {why}")

    def _mail(self) -> None:
        mail = self._values["mailbox"]
        if "path" in mail:
            mail["kind"] = MailboxKind.MAILDIR
            mail.pop("username", None)
        elif "username" not in mail:
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
        elif mail.get("auth", "password") == "password" and "password" not in mail and "path" not in mail:
            self._missing("EMAIL_PASSWORD", "the password, or the app password where the provider has such")
            mail["password"] = SecretStr("unset")
        elif mail.get("auth") in (Auth.XOAUTH2, Auth.OAUTHBEARER):
            self._missing(
                "EMAIL_OAUTH_CLIENT_ID", f"EMAIL_AUTH={mail['auth']} needs the EMAIL_OAUTH_ variables"
            )
            mail["auth"], mail["password"] = Auth.PASSWORD, SecretStr("unset")

    def _database(self) -> None:
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
