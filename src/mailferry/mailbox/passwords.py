"""The passwords of a feed's protected workbooks, from the file that its `passwords_file` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailferry.errors import Stop
from mailferry.secrets import hide

if TYPE_CHECKING:
    from pathlib import Path


def read_passwords(path: Path) -> tuple[str, ...]:
    """The passwords of a UTF-8 file, one a line, in order; hidden from logs from here on. Raises Stop.

    Blanks count, empty lines do not.
    """
    try:
        passwords = tuple(filter(None, path.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"passwords_file {path} cannot be read: {error}; correct it, or take it out") from None
    for password in passwords:
        hide(password)
    return passwords
