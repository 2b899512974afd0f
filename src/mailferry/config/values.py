"""From written options to values that can be validated, and from faults to messages for the user."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mailferry.config import secret, tables
from mailferry.config.columns import ColumnRule, Route
from mailferry.config.faults import leaves, message_of, no_plain_value
from mailferry.config.settings import Setting, Settings
from mailferry.config.source import Given, Source, unknown
from mailferry.config.spreadsheet import Limits
from mailferry.config.text import BOOLEANS, is_placeholder, resolved
from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mailferry.config.tables import Place, Table

_Model = TypeVar("_Model", bound=Settings | Limits | ColumnRule | Route)

#: Other programs' names of levels.
_LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL"}
#: In the place of what is missing or has faults, so that the other faults are found in the same pass.
UNSET = "unset"
_INNER: dict[str, Any] = {
    "mailbox": {"kind": "maildir", "path": UNSET},
    "database": {"data_dir": UNSET},
    "oauth": {"provider": "google", "client_id": UNSET, "refresh_token": UNSET},
}


class Values:
    """The options of one source by table; faults are collected in the source, not raised."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._tables: dict[Place, dict[str, Given]] = {}
        #: The first secret that stands in the file itself, as messages name it.
        self._holds = ""
        for one in source.given:
            table = self._tables.setdefault(one.place, {})
            known = tables.options_of(one.place)
            if one.option in known:
                table[one.option] = one
                if one.in_file and one.value and known[one.option] and not self._holds:
                    section = source.section(one.place)
                    self._holds = f"{one.option} of [{section}]" if section else one.label.split(": ")[-1]
            elif one.option:
                what = "unknown table" if isinstance(one.value, dict) else "unknown option"
                source.fault(one.place, f"{one.label}: {unknown(one.option, known, what)}")

    def _values(self, table: Table, *places: Place) -> tuple[dict[str, Any], dict[str, Given]]:
        """The options of a table by field, and where each is written; what stands in the first place counts first."""
        found: dict[str, Given] = {}
        for place in reversed(places):
            found |= self._tables.get(place, {})
        given: dict[str, Given] = {}
        values: dict[str, Any] = {}
        for option, setting in table.options.items():
            one = found.get(option)
            if one and (one.value or self._source.typed or setting.may_be_empty):
                given[setting.field] = one
            if setting.secret:
                values[setting.field] = self._secret(setting, places)
            elif setting.field in given:
                values[setting.field] = self._value(setting, given[setting.field])
        return {field: value for field, value in values.items() if value is not None}, given

    def _value(self, setting: Setting, given: Given) -> Any:
        """What is to be validated; None where a fault has been found."""
        value = given.value
        if self._source.typed:
            whole = setting.plural and isinstance(value, list | dict)
            if kind := next(filter(None, map(no_plain_value, leaves(value) if whole else [value])), ""):
                return self._faulty(given, f"takes no {kind}", shown=False)
            if setting.plural:
                return value if whole else [value]
            if setting.field == "schedule" and type(value) is int:
                return str(value)  # seconds
        elif setting.boolean:
            if value.lower() not in BOOLEANS:
                return self._faulty(given, "must be true or false")
            return BOOLEANS[value.lower()]
        elif setting.choices:
            text = _LEVELS.get(value.upper(), value)
            value = next((str(one) for one in setting.choices if one.lower() == text.lower()), value)
        if setting.personal and isinstance(value, str) and is_placeholder(value):
            self._faulty(given, "still the example's value; fill in your own", shown=False)
            return UNSET
        if setting.path and isinstance(value, str):
            if self._source.variables and "${" in value:
                return self._faulty(given, "variables are not expanded; write the path itself")
            try:
                return str(self._resolved(value))
            except ValueError as error:
                return self._faulty(given, str(error), shown=False)
        return value

    def _resolved(self, text: str) -> Path:
        """A path from the file's folder; `~` has no meaning in an INI file. Raises ValueError."""
        home = self._source.typed or self._source.variables
        return resolved(self._source.folder, text, home=home)

    # Secrets

    def _secret(self, setting: Setting, places: Sequence[Place]) -> str | None:
        """The feed's own, from wherever, else the one that all feeds share."""
        for place in places:
            table = self._tables.get(place, {})
            file, written = table.get(f"{setting.option}_file"), table.get(setting.option)
            if self._source.typed:
                for one in (file, written):
                    if one and (not isinstance(one.value, str) or not one.value):
                        self._faulty(one, "must be text in quotes, and not empty", shown=False)
                        return _stand_in(setting)
                if file and written:
                    self._faulty(written, f"there is {file.option} as well; keep one of the two", shown=False)
            try:
                found = secret.find(
                    self._name(setting, place),
                    self._environ,
                    folder=self._source.folder,
                    file=file.value if file else "",
                    option=file.label if file else "",
                )
            except ConfigError as error:
                for fault in error.faults:
                    self._source.fault(place, fault)
                return _stand_in(setting)
            if found:
                self._source.warnings += [found.warning] if found.warning else []
                value = found.value
            elif written:
                value = written.value
                secret.hide_url(value)
            else:
                continue
            if is_placeholder(value):
                label = written.label if written else self._source.label(place, self._name(setting, place))
                self._source.fault(place, f"{label}: still the example's value; fill in your own")
                return _stand_in(setting)
            return value or None
        return None

    def _name(self, setting: Setting, place: Place) -> str:
        """What a secret's variable and credential are called."""
        if self._source.variables:
            return setting.variable
        shared = place[0] == "defaults"
        parts = place[1:] if shared else place
        # A feed may be called imap.
        inner = len(parts) > (1 if shared else 2) and parts[-1] == "imap"
        return secret.name_of(*(parts[:-1] if inner else parts), setting.option)

    # Models and faults

    def _model(
        self,
        model: type[_Model],
        values: dict[str, Any],
        given: Mapping[str, Given],
        place: Place,
        inner: Mapping[str, Any] | None = None,
    ) -> _Model | None:
        """The model of these values, `inner` those that are models themselves; None where there are faults."""
        inner = inner or {}
        stand_ins = {name: _INNER[name] for name in inner if name in _INNER}
        try:
            found: _Model = self._made(model, {**values, **stand_ins})
        except ValidationError as error:
            for fault in error.errors():
                self._explain(fault, model, given, place)
            return None
        if isinstance(found, Settings):
            found = found.model_copy(update={name: one for name, one in inner.items() if one is not None})
            if self._source.variables:
                found.written_as_variables()
        return found

    def _made(self, model: Any, values: dict[str, Any]) -> Any:
        """Strict where values are typed: "5" is no number, 1 no true. As JSON, where paths and names of methods are text."""
        adapter = _adapter(model)
        if self._source.typed:
            return adapter.validate_json(json.dumps(values), strict=True)
        return adapter.validate_python(values)

    def _explain(self, fault: Any, model: Any, given: Mapping[str, Given], place: Place) -> None:
        field, message = message_of(fault, functools.partial(self._spelled, model))
        if not field:
            self._source.fault(place, f"{self._source.about(place)}{message}")
            return
        setting = model.declared().get(field) if issubclass(model, Settings) else None
        where = (*place, setting.table) if setting and setting.table else place
        one = given.get(field)
        label = one.label if one else self._source.label(where, self._spelled(model, field))
        shown = one and fault["type"] != "value_error" and not (setting and setting.secret)
        self._source.fault(where, f"{label}{one.shown if one and shown else ''}: {message}")

    def _spelled(self, model: Any, field: str) -> str:
        """A setting as the user writes it."""
        setting = model.declared().get(field) if issubclass(model, Settings) else None
        if setting is None:
            return field
        return (setting.variable if self._source.variables else setting.option) or field

    def _missing(self, option: str, place: Place, why: str) -> None:
        self._source.fault(place, f"{self._source.label(place, option)} is missing: {why}")

    def _missing_secret(self, setting: Setting, place: Place) -> None:
        name = self._name(setting, place)
        if self._source.variables:
            self._missing(name, place, f"give {name}_FILE, {name}, or the credential {name}")
        else:
            option = setting.option
            why = f"give {option}_file, {option}, or the variable or credential {name}"
            self._missing(option, place, why)

    def _faulty(self, given: Given, what: str, *, shown: bool = True) -> None:
        self._source.fault(given.place, f"{given.label}{given.shown if shown else ''}: {what}")


@functools.cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _stand_in(setting: Setting) -> str:
    return "postgresql://unset" if setting.field == "url" else UNSET
