"""`config.env` and environment variables, named as the older service had them. The environment wins."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailferry.config.mailbox_feed import MailboxFeed
from mailferry.config.source import Given, Source, unknown
from mailferry.config.tables import VARIABLES
from mailferry.config.text import BOOLEANS, read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mailferry.config.settings import Setting
    from mailferry.config.tables import Place

#: The older service's own place, for `trackandtrace`.
SYSTEM_FILE = Path("/etc/trackandtrace/config.env")
_NO_BATCHES = "a file is one COPY and one upsert in one transaction, whatever its size"
#: Variables of the file that older services were tuned by and that nothing asks for any more; why not.
UNNEEDED = {
    "BATCH_SIZE": _NO_BATCHES,
    "DB_BATCH_SIZE": _NO_BATCHES,
    "CHUNK_SIZE": "spreadsheets are streamed, in pieces that bound the memory by themselves",
    "DB_MAX_OVERFLOW": "DB_POOL_SIZE is the most connections there can be",
}
_FILES = {f"{name}_FILE": name for name, (_, one) in VARIABLES.items() if one.secret}
#: All that are read.
NAMES = (*VARIABLES, *_FILES, "DEBUG")
#: An unknown variable of the file that begins so was meant for us.
_OURS = ("EMAIL_", "DB_", "APP_", "FILE_", "PAGE_", "ALERT_", "MAILFERRY_")


def read(path: Path | None, environ: Mapping[str, str], *, needs_mailbox: bool = True) -> Source:
    """The variables of a file, if any, and the environment.

    Where `needs_mailbox` is false, they are a mailbox feed's only if one begins with EMAIL_. Raises ConfigError where
    the file cannot be read at all.
    """
    source = _source(path)
    found = [*(_of_file(source) if path else ()), *_of_environment(environ)]
    source.has_mailbox = needs_mailbox or any(one.name.startswith("EMAIL_") and one.value for one in found)
    _give(source, found)
    return source


def environment(environ: Mapping[str, str], wanted: Callable[[Setting], bool]) -> Source:
    """The variables of the environment that fill certain settings, and no mailbox feed."""
    source = _source(None)
    source.has_mailbox = False
    _give(source, [one for one in _of_environment(environ) if wanted(_filled(one.name)[1])])
    return source


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    name: str
    value: str
    #: The file and line, or the environment.
    where: str
    in_file: bool


def _source(path: Path | None) -> Source:
    return Source(
        path=path.absolute() if path else None,
        section=lambda _: "",
        variables=True,
        data_dir=MailboxFeed.declared()["base_dir"].default,
    )


def _filled(name: str) -> tuple[Place, Setting]:
    """What a variable fills."""
    return VARIABLES["LOG_LEVEL" if name == "DEBUG" else _FILES.get(name, name)]


def _of_file(source: Source) -> Iterator[_Found]:
    from dotenv.parser import parse_stream

    assert source.path
    for binding in parse_stream(io.StringIO(read_text(source.path))):
        # A binding begins with the blank lines before it.
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        where, name = f"{source.path}, line {line}", binding.key or ""
        if binding.error or (name and binding.value is None):
            source.fault((), f"{where}: cannot be understood; write NAME=value, quotes closed")
        elif name in NAMES:
            yield _Found(name=name, value=binding.value or "", where=where, in_file=True)
        elif name in UNNEEDED:
            source.warnings.append(f"{where}: {name} is not needed any more: {UNNEEDED[name]}")
        elif name and (what := _unknown(name)):
            source.fault((), f"{where}: {name}: {what}")


def _unknown(name: str) -> str:
    """What is wrong with a variable that is none of ours; "" where it may be another program's."""
    ours = name.upper().startswith(_OURS)
    else_ = "take it out" if name.startswith(_OURS) else ""
    what = unknown(name.upper(), NAMES, "unknown variable", cutoff=0.6 if ours else 0.85, else_=else_)
    return "" if what.endswith("; ") else what


def _of_environment(environ: Mapping[str, str]) -> Iterator[_Found]:
    for name, value in environ.items():
        # Many programs read DEBUG, each in its own way.
        if name in NAMES and (name != "DEBUG" or value.strip().lower() in BOOLEANS):
            yield _Found(name=name, value=value, where="environment", in_file=False)


def _give(source: Source, found: Iterable[_Found]) -> None:
    """Of equal names the last counts, as in the older service; DEBUG goes before LOG_LEVEL."""
    debug: _Found | None = None
    for one in found:
        if one.name == "DEBUG":
            debug = one
            continue
        place, setting = _filled(one.name)
        option = setting.option or setting.field
        # A secret may begin or end with a blank.
        value = one.value if one.name in VARIABLES and setting.secret else one.value.strip()
        source.given.append(
            Given(
                place=place,
                option=f"{option}_file" if one.name in _FILES else option,
                value=value,
                label=f"{one.where}: {one.name}",
                shown=f"={value}",
                in_file=one.in_file,
            )
        )
    if debug and debug.value.strip().lower() not in (*BOOLEANS, ""):
        source.fault((), f"{debug.where}: DEBUG={debug.value}: must be true or false")
    elif debug and BOOLEANS.get(debug.value.strip().lower()):
        place, _ = _filled("DEBUG")
        source.given.append(
            Given(place=place, option="log_level", value="DEBUG", label=f"{debug.where}: DEBUG")
        )
