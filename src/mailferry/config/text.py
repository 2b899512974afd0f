"""A configuration file's text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_text(path: Path) -> str:
    """UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        fault = f"{path}: cannot be read ({error.strerror}); name the file by --config PATH"
    except UnicodeDecodeError as error:
        fault = f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8"
    raise ConfigError([fault])
