"""A setting is declared once, as a field of a model: type, default, meaning, and what the formats call it.

The readers, the JSON schema, `mailferry config show` and `convert` and the tests of the docs go by these declarations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
)

from mailferry.config.text import joined, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Text without control characters; and the same that is not empty.
Line = Annotated[str, AfterValidator(one_line)]
Name = Annotated[str, Field(min_length=1), AfterValidator(one_line)]
#: Texts with commas between them, in TOML a list as well; and the same without control characters.
Joined = Annotated[str, BeforeValidator(joined)]
Lines = Annotated[Joined, AfterValidator(one_line)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A setting as the readers and writers look at it."""

    field: str = ""
    #: Its name in a table or section; "" where it has none.
    option: str = ""
    #: Its name in `config.env` and the environment; "" where it has none.
    variable: str = ""
    #: The table within the model's own in which it stands.
    table: str = ""
    #: None where there is none, or where it depends on other settings.
    default: Any = None
    #: Examples have a placeholder of it, which is never meant.
    personal: bool = False
    #: The variable of the environment wins over any file.
    everywhere: bool = False
    #: An empty text means something other than the default.
    may_be_empty: bool = False
    secret: bool = False
    path: bool = False
    boolean: bool = False
    #: It takes a list of texts, or a table of them, besides one text.
    plural: bool = False
    #: Texts that are taken; () for any.
    choices: tuple[str, ...] = ()


def setting(
    default: Any = ...,
    meaning: str = "",
    *,
    variable: str = "",
    option: str = "<field>",
    table: str = "",
    personal: bool = False,
    everywhere: bool = False,
    may_be_empty: bool = False,
    plural: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a setting: its default (`...` where it must be set), one line for people, and the rest as in `Setting`.

    `constraints` are those of pydantic's `Field`. The option is called as the field unless it is named.
    """
    field = Field(default, description=meaning, **constraints)
    field.metadata.append(
        Setting(
            variable=variable,
            option=option,
            table=table,
            personal=personal,
            everywhere=everywhere,
            may_be_empty=may_be_empty,
            plural=plural,
        )
    )
    return field


class Settings(BaseModel):
    """A model of settings; each field that `setting` declares is one."""

    #: What checks a model is made at its first use: a command uses few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    _by_variables: bool = PrivateAttr(default=False)

    def __eq__(self, other: object) -> bool:
        """Whether all settings are the same, however they were written."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # its models, which are frozen, get one of pydantic

    @classmethod
    @functools.cache
    def declared(cls) -> dict[str, Setting]:
        """The settings by field, in the order of their declaration."""
        found = {}
        for name, field in cls.model_fields.items():
            for one in [one for one in field.metadata if isinstance(one, Setting)]:
                kinds = tuple(_kinds(field.annotation))
                found[name] = replace(
                    one,
                    field=name,
                    option=one.option.replace("<field>", name),
                    default=None if field.is_required() else field.default,
                    secret=SecretStr in kinds,
                    path=Path in kinds,
                    boolean=bool in kinds,
                    choices=tuple(_choices(kinds)),
                )
        return found

    def written_as_variables(self) -> None:
        """From now on, messages name variables."""
        self._by_variables = True

    def spelled(self, field: str) -> str:
        """A setting as its user writes it: the variable, or the option."""
        one = self.declared()[field]
        return one.variable if self._by_variables and one.variable else one.option


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _choices(kinds: tuple[Any, ...]) -> Iterator[str]:
    for kind in kinds:
        if isinstance(kind, str):
            yield kind  # of a Literal
        elif isinstance(kind, type) and issubclass(kind, StrEnum):
            yield from kind
