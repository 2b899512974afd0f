"""Where secrets come from, in every format.

Each has one NAME, and the first of these that has it counts:

1. a systemd credential: the file NAME in `$CREDENTIALS_DIRECTORY` (`LoadCredential=NAME:...` in the unit),
2. a file that the variable NAME_FILE of the environment, or the option `<option>_file` of the configuration names,
3. the variable NAME of the environment,
4. the configuration file itself.

In `config.env` the NAME is the variable's own (EMAIL_PASSWORD). Elsewhere it is made of where the option stands:
`MAILFERRY_EVENTS_EXAMPLE_OUTGOING_API_KEY` is `api_key` of the event feed `example-outgoing`.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mailferry.config.text import resolved
from mailferry.errors import ConfigError
from mailferry.secrets import hide

if TYPE_CHECKING:
    from collections.abc import Mapping

#: More than any password, key or refresh token.
_LARGEST = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret:
    """One that was found."""

    value: str
    #: As messages name it: "credential X", "file /run/x", "environment".
    place: str
    #: What to do where other users can read its file.
    warning: str = ""


def name_of(*parts: str) -> str:
    """The NAME of an option: `name_of("events", "example-outgoing", "api_key")`."""
    return "_".join(["MAILFERRY", *(re.sub(r"[^A-Za-z0-9]", "_", part).upper() for part in parts if part)])


def find(
    name: str, environ: Mapping[str, str], *, folder: Path, file: str = "", option: str = ""
) -> Secret | None:
    """The secret from anywhere but the configuration file; None where it is in none of these places.

    `file` is what the configuration's `option` says; paths count from `folder`. What was found is hidden from logs
    from here on.

    Raises:
        ConfigError: a file that is named, or the credential, cannot be read, is empty, or is no text.
    """
    credentials = environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and _is_there(path := Path(credentials) / name):
        return _hidden(Secret(value=_content(path, f"credential {name}"), place=f"credential {name}"))
    for what, named in ((f"{name}_FILE", environ.get(f"{name}_FILE", "")), (option or "file", file)):
        if named:
            try:
                path = resolved(folder, named)
            except ValueError as error:
                raise ConfigError([f"{what}: {error}"]) from None
            secret = Secret(value=_content(path, what), place=str(path), warning=_open_to_others(path))
            return _hidden(secret)
    if value := environ.get(name, ""):
        return _hidden(Secret(value=value, place="environment"))
    return None


def readable_by_others(path: Path) -> bool:
    """Whether every user of this machine may read a file; never on Windows, where modes say nothing."""
    try:
        return os.name == "posix" and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def hide_url(url: str) -> None:
    """Hide a database URL and the password in it, as it is written and as it is meant."""
    hide(url)
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return
    hide(password)
    hide(unquote(password))


def _is_there(path: Path) -> bool:
    """Whether a credential is given; one in a folder that may not be read is, and reading it raises the reason."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _hidden(secret: Secret) -> Secret:
    hide_url(secret.value) if "://" in secret.value else hide(secret.value)
    return secret


def _content(path: Path, what: str) -> str:
    """A file's text without the line end that editors and `echo` leave."""
    try:
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        fault = "is not UTF-8 text"
    else:
        text = text.removesuffix("\n").removesuffix("\r")
        if text and len(content) <= _LARGEST:
            return text
        fault = "is larger than any secret" if text else "is empty"
    raise ConfigError([f"{what}: {path} {fault}; it must hold the secret and nothing else"])


def _open_to_others(path: Path) -> str:
    """Below /run are the files of containers and systemd, which other users cannot reach whatever their mode."""
    if path.is_relative_to("/run") or not readable_by_others(path):
        return ""
    return f"{path}: holds a secret and can be read by every user; chmod 640 or 600 it"
