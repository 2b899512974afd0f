"""The tables of `mailferry.toml` and the variables of `config.env`, as the models declare their settings."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from mailferry.config.alert_settings import AlertSettings
from mailferry.config.columns import ColumnRule, Route
from mailferry.config.database import DatabaseSettings
from mailferry.config.event_feed import EventFeed
from mailferry.config.mailbox import MailboxSettings, OAuthSettings
from mailferry.config.mailbox_feed import MailboxFeed
from mailferry.config.page_settings import PageSettings
from mailferry.config.service_settings import ServiceSettings
from mailferry.config.settings import Setting, Settings
from mailferry.config.spreadsheet import Limits, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

#: Where an option stands: ("events", "example"), ("mailbox", "tracking", "imap"), ("defaults", "mailbox").
Place = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Options of one table that fill fields of one model."""

    model: type[Settings | Limits | ColumnRule | Route]
    #: By option, in the order in which they are written.
    options: dict[str, Setting]

    @property
    def secrets(self) -> tuple[Setting, ...]:
        """Options that may also be given as `<option>_file`."""
        return tuple(one for one in self.options.values() if one.secret)

    @property
    def keys(self) -> tuple[str, ...]:
        """All that may stand in the table."""
        return (*self.options, *(f"{one.option}_file" for one in self.secrets))


def _table(model: type[Settings], name: str = "") -> Table:
    settings = [one for one in model.declared().values() if one.table == name and one.option]
    return Table(model=model, options={one.option: one for one in settings})


SERVICE = _table(ServiceSettings)
DATABASE = _table(DatabaseSettings)
PAGE = _table(PageSettings)
ALERTS = _table(AlertSettings)
EVENTS = _table(EventFeed)
#: A mailbox feed's own table has options of two models.
MAILBOX = _table(MailboxFeed)
MESSAGES = _table(MailboxSettings)
IMAP = _table(MailboxSettings, "imap")
OAUTH = _table(OAuthSettings)


def _plain_table(model: type[Limits | ColumnRule | Route], *, without: tuple[str, ...] = ()) -> Table:
    """The options of a model without pydantic; `without` those that the builder fills."""
    options = {}
    for field in dataclasses.fields(model):
        if field.name not in without:
            plural = str(field.type).startswith(("tuple", "dict")) or field.name == "stop_at"
            default = {} if field.default is dataclasses.MISSING else field.default
            options[field.name] = Setting(field=field.name, option=field.name, default=default, plural=plural)
    return Table(model=model, options=options)


LIMITS = _plain_table(Limits)
LIMITS.options["sandbox"] = Setting(
    field="sandbox",
    option="sandbox",
    variable="FILE_SANDBOX",
    default=Sandbox.BEST,
    choices=tuple(Sandbox),
)
#: Of one column in `columns`, and of one of the `routes`.
COLUMN = _plain_table(ColumnRule, without=("name",))
ROUTE = _plain_table(Route, without=("columns",))
#: Tables within a mailbox feed's.
WITHIN = {"imap": IMAP, "oauth": OAUTH, "limits": LIMITS}

#: Where the settings of each model stand that variables fill; the one mailbox feed of a file of variables has no name.
_PLACES: dict[type[Settings], Place] = {
    MailboxSettings: ("mailbox", ""),
    OAuthSettings: ("mailbox", "", "oauth"),
    DatabaseSettings: ("database",),
    MailboxFeed: ("mailbox", ""),
    ServiceSettings: ("service",),
    PageSettings: ("page",),
    AlertSettings: ("alerts",),
}
#: What may stand in the tables of those names; in those of mailbox feeds, options of two models.
_OF_TABLE = {
    "service": (SERVICE,),
    "database": (DATABASE,),
    "page": (PAGE,),
    "alerts": (ALERTS,),
    "events": (EVENTS,),
}
#: Place and setting by variable.
VARIABLES: dict[str, tuple[Place, Setting]] = {
    one.variable: ((*place, one.table) if one.table else place, one)
    for model, place in _PLACES.items()
    for one in model.declared().values()
    if one.variable
} | {one.variable: (("mailbox", "", "limits"), one) for one in LIMITS.options.values() if one.variable}


def options_of(place: Place) -> dict[str, bool]:
    """What may stand there, and whether it is a secret."""
    if place[0] == "defaults":
        place = (place[1], "of all", *place[2:])
    parts: tuple[Table, ...] = _OF_TABLE.get(place[0], (MAILBOX, MESSAGES))
    if len(place) > 2:
        columns = "columns" in (place[2], *place[4:5])
        parts = (COLUMN if columns else ROUTE if place[2] == "routes" else WITHIN[place[2]],)
    secrets = {one.option for part in parts for one in part.secrets}
    # The one feed of a file of variables has its name in one of them, and its columns in a file that one names.
    named = {"name": False, "columns_file": False} if place == ("mailbox", "") else {}
    return {key: key in secrets for part in parts for key in part.keys} | named


def event_paths(name: str, data_dir: Path) -> dict[str, Path]:
    """Where an event feed's files are unless it says otherwise; its heartbeat file lies beside the data."""
    return {
        "log_directory": data_dir / "output",
        "position_file": data_dir / "positions" / f"{name}.pos",
        "lock_file_path": data_dir / "locks" / f"{name}.lock",
    }


def base_dir(name: str, data_dir: Path) -> Path:
    """Where a mailbox feed's files are unless it says otherwise; a name may hold what no folder's can."""
    return data_dir / "mailbox" / re.sub(r"^\.+", "_", quote(name, safe=" @+,="))
