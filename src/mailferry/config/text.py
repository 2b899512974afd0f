"""A configuration file's text."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from mailferry.errors import ConfigError

#: As texts say so.
BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
#: What stands in examples where a value of one's own belongs.
_PLACEHOLDER = re.compile(
    r"your[-_ ]([a-z]+[-_ ])*(mailbox|password|user(name)?|host|server|database|secret|token|key|id)\b.*"
    r"|change[-_ ]?me|<.*>|x{3,}|\*{3,}",
    re.IGNORECASE,
)


def present(path: Path) -> bool:
    """Whether a file is there; one that may not even be looked at is, and reading it raises the reason."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        pass
    return True


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


def resolved(folder: Path, text: str, *, home: bool = True) -> Path:
    """A path that counts from a folder; with `home`, `~` is the user's own.

    Raises:
        ValueError: it can be no path.
    """
    if "\0" in text:
        raise ValueError("holds a NUL character")
    try:
        path = folder / (Path(text).expanduser() if home else text)
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    except RuntimeError:
        raise ValueError(f"{text}: there is no such user's folder; write the path itself") from None
    return path


def one_line(value: str) -> str:
    """The value, which names something.

    Raises:
        ValueError: it holds a control character, or a byte of the environment that is not UTF-8.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ValueError("holds a control character, or bytes that are not UTF-8")
    return value


def joined(value: object) -> object:
    """A list of texts, as TOML has them, with commas; anything else as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def is_placeholder(value: str) -> bool:
    """Whether a value was taken over from an example and never filled in."""
    return _PLACEHOLDER.fullmatch(value) is not None
