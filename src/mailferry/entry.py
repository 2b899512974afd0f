"""How every command line begins and ends: a quick start, and errors as one message and an exit status."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from mailferry.errors import ConfigError, MailferryError, Retry

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def command_line(*, unreachable: int = 1) -> Iterator[None]:
    """Runs a command. A ConfigError ends the process with status 2, a Retry with `unreachable`, any other error with 1."""
    _quicken()
    try:
        yield
    except MailferryError as error:
        quit_with(
            error, 2 if isinstance(error, ConfigError) else unreachable if isinstance(error, Retry) else 1
        )


def quit_with(error: MailferryError, status: int) -> NoReturn:
    """End the program with the error's text on standard error."""
    from mailferry.logs import marked
    from mailferry.secrets import mask

    for line in error.faults if isinstance(error, ConfigError) else [str(error)]:
        sys.stderr.write(f"{marked(mask(line))}\n")
    sys.exit(status)


def _quicken() -> None:
    """Spare a quarter of the time that starting and ending take; nothing heavy has been imported yet."""
    # Pydantic would look for plugins in the metadata of every installed package; there are none for it here.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Imports and records make many small objects and no cycles: look for garbage seldom, and not at all at the end.
    gc.set_threshold(10_000, 20, 20)
    atexit.register(gc.freeze)
