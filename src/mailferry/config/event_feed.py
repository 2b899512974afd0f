"""One event feed as configured: what to ask the provider for, and where its events go."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from mailferry.config.schedule import Schedule, ScheduleText
from mailferry.config.settings import Line, Lines, Settings, setting

#: Default list URL and known types by category; the first type is the default.
CATEGORIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mail": ("https://yenipanel-api.uzmanposta.com/api/v2/logs/mail", ("outgoinglog", "incominglog")),
    "quarantine": ("https://yenipanel-api.uzmanposta.com/api/v2/quarantines", ("quarantine", "hold")),
    "authentication": ("https://yenipanel-api.uzmanposta.com/api/v2/logs/authentication", ("auth",)),
}

#: Days that the provider keeps events.
KEEPS_DAYS = {"mail": 15, "quarantine": 7, "authentication": 15}

#: The provider never answers with more records than this, and never for more than 14 days at once.
PAGE_LIMIT = 1000
RANGE_LIMIT = 14 * 86_400

PLACEHOLDERS = ("domain", "type", "category", "section", "id")
#: strftime directives whose text every platform and locale makes a part of a file name, with the pattern of that text.
DIRECTIVES = {
    **dict.fromkeys("mdHIMSUWVy", r"\d\d"),
    **dict.fromkeys("YG", r"\d{4}"),
    **dict.fromkeys("uw", r"\d"),
    **dict.fromkeys("aAbBp", r"[^\W\d_]+\.?"),
    "j": r"\d{3}",
    "f": r"\d{6}",
    "%": "%",
}

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[int, Field(ge=0)]


def names_of(name_format: str) -> re.Pattern[str]:
    """What matches exactly the names that a format (strftime, placeholders filled in) can have.

    An hour that comes twice, as a clock is set back, has its second time the offset from UTC before the ending.
    """
    stem, dot, ending = name_format.rpartition(".") if "." in name_format else (name_format, "", "")
    return re.compile(f"{_pattern_of(stem)}(_[+-]\\d{{4}})?{_pattern_of(dot + ending)}")


def _pattern_of(name_format: str) -> str:
    pieces = re.split(r"(%.)", name_format)
    return "".join(DIRECTIVES[p[1]] if re.fullmatch("%.", p) else re.escape(p) for p in pieces)


def delays_of(text: str) -> tuple[int, ...]:
    """The delays of `audit`, in seconds, ascending.

    Raises:
        ValueError: it is neither "off" nor a list of durations from a minute to 14 days.
    """
    if text.strip().lower() == "off":
        return ()
    delays = set()
    for part in text.split(","):
        interval = None
        with contextlib.suppress(ValueError):
            interval = Schedule.parse(part).interval
        if interval is None or not 60 <= interval.total_seconds() <= RANGE_LIMIT:
            raise ValueError(
                f"{text!r}: write off, or durations from 1m to 14d with commas between them, such as 1h, 24h"
            )
        delays.add(round(interval.total_seconds()))
    return tuple(sorted(delays))


def _audit_text(text: str) -> str:
    delays_of(text)
    return text


AuditText = Annotated[str, AfterValidator(_audit_text)]


def type_fault(category: str, kind: str) -> str:
    """What is wrong with this type of a known category, or ""; authentication has no types and takes any."""
    types = CATEGORIES[category][1]
    if not kind or kind in types or category == "authentication":
        return ""
    return f"unknown type {kind!r} of category {category}; one of {', '.join(types)}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in map(str.strip, text.split(",")) if name)


class EventFeed(Settings):
    """All settings of one section; paths are absolute, names are filled in."""

    #: The section's suffix ("example-outgoing"); names its files and stands in every message.
    section: str
    #: First 8 hex digits of the md5 of what makes a feed this feed, as the older script computed it from what it was given.
    id: str = setting("", "8 hex digits for `{id}` in names", pattern="^([0-9a-f]{8})?$")
    api_key: SecretStr = setting(meaning="the key from the provider's panel")
    domain: str = setting("", "empty: all domains of the key; the folder is then `global`")
    category: Literal["mail", "quarantine", "authentication"] = setting("mail", "kind of events")
    type: str = setting("", "empty: the first of the category")
    url: str = setting("", "the list's address; empty: by category")
    #: None: where the first run finds the clock.
    start_time: Seconds | None = setting(None, "Unix seconds where the first run begins; left out: now")

    destination: Literal["files", "table"] = setting("files", "hourly files, or a table of the database")
    table: Line = setting("mail_events", "`table` or `schema.table`, for `destination = table`")
    schedule: ScheduleText = setting("5m", "when the service collects it")
    host: Line = setting(
        "", "the only host whose service may run it; empty: of files the first that did, of a table any"
    )

    log_directory: Path = setting(meaning="root of the folder tree")
    log_file_name_format: str = setting(
        "{domain}_{type}_%Y-%m-%d_%H.log", "name of a data file: placeholders and strftime codes"
    )
    log_retention_days: Seconds = setting(0, "days that data files are kept; 0: for ever")
    compress: Literal["none", "gzip", "zstd"] = setting(
        "none", "how the file of an hour is compressed once its last audit is done"
    )
    seal: bool = setting(
        False,
        "put each closed file on record in a manifest that shows later changes; `mailferry verify --seals`",
    )
    timestamp_url: str = setting(
        "", "an RFC 3161 time stamp authority that stamps each entry of the manifest"
    )
    timestamp_ca_file: Path | None = setting(None, "its root certificates, PEM; needed to verify the stamps")
    late: Literal["append", "file"] = setting(
        "append",
        "where an event of an hour goes that was listed already: into the hour's file while that is not closed, or into a `_late` file",
    )
    min_free: Seconds | None = setting(
        None,
        "bytes of the data's disk that stay free: before that, events wait at the provider; left out: 256 MiB",
    )
    message_log_file_name: str = setting("messages_%Y-%m-%d_%H.log", "what the runs did")
    message_log_retention_count: Count = setting(2, "how many of them are kept")
    error_log_file_name: str = setting("errors_%Y-%m-%d_%H.log", "what went wrong, as JSON lines")
    error_log_retention_count: Count = setting(2, "how many of them are kept")
    file_time: Literal["event", "collected"] = setting(
        "event", "whose hour a file bears: the event's own, or that of its collection"
    )
    timezone: str = setting("", "time zone of the file names; empty: the machine's")

    position_file: Path = setting(meaning="the checkpoint")
    lock_file_path: Path = setting(meaning="the lock")
    heartbeat_file: Path = setting(meaning="without a folder: beside the data")

    keeps_days: Seconds | None = setting(
        None, "days that the provider keeps events, what is older is a gap; 0: unknown; left out: by category"
    )
    split_interval: Count = setting(300, "seconds of one list request")
    max_time_gap: Count = setting(3600, "an upper limit of that")
    max_records_per_page: Count = setting(PAGE_LIMIT, "records that make a page full")
    look_back: Seconds = setting(300, "seconds before the position that are read again, for late events")
    settle: Seconds = setting(30, "seconds before now that are left to the next run")

    identity: Lines = setting(
        "",
        "fields that name an event, with commas between them; empty: queue id and time, else all that the record says",
    )
    ignore_fields: Lines = setting(
        "",
        "fields that say nothing about an event, as they change with every answer; with commas between them",
    )
    changes: Literal["count", "append"] = setting(
        "count",
        "an event that is listed again with other content is counted; `append`: files get one more line for it",
    )
    audit: AuditText = setting(
        "1h, 24h", "how long after it is over time is listed again, for late events; `off`: never"
    )

    list_retries: Seconds = setting(10, "tries of a list after the first")
    list_sleep_time: Annotated[float, Field(ge=0)] = setting(
        2, "seconds before the second try; doubles each time, at most 60"
    )
    list_timeout: Annotated[float, Field(gt=0)] = setting(300, "seconds for one answer")
    detail_retries: Seconds = setting(10, "tries of a detail after the first")
    detail_sleep_time: Annotated[float, Field(ge=0)] = setting(
        2, "seconds before the second try; doubles each time, at most 60"
    )
    detail_timeout: Annotated[float, Field(gt=0)] = setting(120, "seconds for one answer")
    detail_patience: Annotated[float, Field(gt=0)] = setting(
        60, "seconds that all tries of one detail may take; then the list record stands in for it"
    )
    max_parallel_details: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = setting(
        2, "details in flight at once; `auto` finds out what the provider takes, from 1 to 32"
    )
    max_answer_bytes: Count = setting(64 * 2**20, "bytes that one answer may have, unpacked")
    allow_http: bool = setting(
        False, "let `url` be http:// to another host, which sends the api_key unencrypted"
    )
    use_session: bool = setting(True, "keep connections open between requests")
    verbose: bool = setting(True, "say every step, not only results and troubles")

    @field_validator("api_key")
    @classmethod
    def _real_key(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if not key or re.fullmatch(r"(?i)your[_ -].*|<.*>|change[_-]?me|x{3,}|api[_-]?key", key):
            raise ValueError("is missing or still a placeholder; put in the key from the provider's panel")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("has characters that no key has (spaces, control or non-ASCII characters)")
        return value

    @field_validator("section", "domain")
    @classmethod
    def _usable_as_folder(cls, value: str) -> str:
        if value in {".", ".."} or re.search(r'[\\/:*?"<>|\x00-\x1f]', value):
            raise ValueError(
                f'{value!r} cannot name a folder; leave out / \\ : * ? " < > | and control characters'
            )
        return value

    @field_validator("table")
    @classmethod
    def _table_name(cls, value: str) -> str:
        # Its partitions are called <table>_2026_01, and a name has at most 63 bytes.
        if not re.fullmatch(r"([a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,54}", value := value.lower()):
            raise ValueError(
                f"{value!r} cannot name the table; use table or schema.table of letters, digits and _, at most 55 characters"
            )
        return value

    @field_validator("url", "timestamp_url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (
            parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment
        ):
            raise ValueError(
                f"{value!r} is not an http(s) address without query, such as {CATEGORIES['mail'][0]}"
            )
        if parts.username or parts.password:
            raise ValueError("must not hold a user name or password; the api_key is what signs in")
        return value

    @field_validator("log_file_name_format", "message_log_file_name", "error_log_file_name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not value or "/" in value or "\\" in value or value.startswith("."):
            raise ValueError(f"{value!r} is not a plain file name; folders come from log_directory")
        for name in re.findall(r"\{([^{}]*)\}", value):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                raise ValueError(f"unknown placeholder {{{name}}}; known are {known}")
        if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", value)):
            raise ValueError(f"{value!r} has a brace without its partner")
        for directive in re.findall(r"%(.?)", value.replace("%%", "")):
            if directive not in DIRECTIVES:
                raise ValueError(f"unknown time code %{directive}; use %Y %m %d %H and the like")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value:
            from zoneinfo import ZoneInfo

            try:
                ZoneInfo(value)
            except (KeyError, ValueError, OSError):
                raise ValueError(
                    f"unknown time zone {value!r}; use a name such as Europe/Istanbul or UTC"
                ) from None
        return value

    @model_validator(mode="after")
    def _stamps_can_be_verified(self) -> Self:
        if self.timestamp_url and self.timestamp_ca_file is None:
            raise ValueError(
                "timestamp_url: set timestamp_ca_file, too: without it time stamps cannot be verified"
            )
        return self

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        default_url, types = CATEGORIES[self.category]
        fault = type_fault(self.category, self.type)
        if fault:
            raise ValueError(f"type: {fault}")
        kind = self.type if self.type in types else types[0]
        url = self.url or default_url
        text = (
            f"{self.api_key.get_secret_value()}{self.domain}{self.type or 'outgoinglog'}{self.category}{url}"
        )
        # Frozen for everybody else; these complete the value while it is made.
        made = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]
        object.__setattr__(self, "id", self.id or made)
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "url", url.rstrip("/"))
        return self

    @property
    def due(self) -> Schedule:
        """When the service runs this feed."""
        return Schedule.parse(self.schedule)

    @property
    def has_detail(self) -> bool:
        """Whether each record's full form is fetched by a request of its own."""
        return self.category == "mail"

    @property
    def appends_changes(self) -> bool:
        """Whether an event that has changed is written as one more line."""
        return self.destination == "files" and self.changes == "append"

    @property
    def writes_changes(self) -> bool:
        """Whether what has changed of an event, or its detail that was missing, is written at all."""
        return self.destination == "table" or self.appends_changes

    @property
    def masked_key(self) -> str:
        """The API key as messages may show it."""
        key = self.api_key.get_secret_value()
        return f"{key[:4]}****" if len(key) >= 12 else "****"

    @property
    def folder(self) -> Path:
        """Where the feed's files are: `<log_directory>/<domain or global>/<category>[/<type>]`."""
        folder = self.log_directory / (self.domain or "global") / self.category
        flat = self.category in {self.type, "authentication"}
        return folder if flat else folder / self.type

    @property
    def manifest_file(self) -> Path:
        """The manifest of sealed files, beside them."""
        return self.folder / f"{self.position_file.stem}.seals"

    @property
    def audit_delays(self) -> tuple[int, ...]:
        """Seconds after which time is listed again, ascending; none where audits are off."""
        return delays_of(self.audit)

    @property
    def identity_fields(self) -> tuple[str, ...]:
        """`identity`, each by itself."""
        return _names(self.identity)

    @property
    def ignored_fields(self) -> frozenset[str]:
        """`ignore_fields`, each by itself."""
        return frozenset(_names(self.ignore_fields))

    @property
    def keeps(self) -> int:
        """Seconds that the provider keeps events; 0 where that is not known."""
        days = KEEPS_DAYS[self.category] if self.keeps_days is None else self.keeps_days
        return days * 86_400

    @property
    def page_limit(self) -> int:
        """Records that make a page full."""
        return min(self.max_records_per_page, PAGE_LIMIT)

    @property
    def step(self) -> int:
        """Seconds of one list request."""
        return min(self.split_interval, self.max_time_gap, RANGE_LIMIT)

    def fill(self, name: str) -> str:
        """Replace the placeholders of a file name; time codes stay."""
        for placeholder in PLACEHOLDERS:
            value = str(getattr(self, placeholder)) or "global"
            name = name.replace(f"{{{placeholder}}}", value.replace("%", "%%"))
        return name
