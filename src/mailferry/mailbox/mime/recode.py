"""Text as its part describes it: kept in UTF-8, as the file on disk has nothing any more that states its charset; flowed."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Charsets of languages, by how Python calls them. Codecs that are none of text may unpack to anything.
_OF_TEXT = (
    "cp",
    "iso8859",
    "koi8",
    "gb",
    "big5",
    "shift_jis",
    "euc_",
    "iso2022_jp",
    "mac-",
    "tis",
    "ptcp154",
    "hz",
)
#: What programs state of any text.
_OF_ANYTHING = frozenset({"iso8859-1", "cp1252"})
#: As in `headers`: stated of its superset.
_SUPERSETS = {"iso8859-9": "cp1254"}
_CHARACTERS = 64 * 1024


def in_utf8(path: Path, stated: str) -> bool:
    """Write a text again that is in the stated charset, and not in UTF-8 already; whether it was."""
    charset = _known(stated)
    if not charset or _is_utf8(path):
        return False
    copy = path.with_name(f"{path.name}-utf8")
    try:
        with (
            path.open(encoding=charset, newline="") as text,
            copy.open("x", encoding="utf-8", newline="") as out,
        ):
            while piece := text.read(_CHARACTERS):
                out.write(piece)
        copy.replace(path)
    except ValueError:
        return False
    finally:
        copy.unlink(missing_ok=True)
    return True


def may_be_broken(path: Path) -> bool:
    """Whether a flowed text has lines as mail programs break or stuff them: with a space at an end (RFC 3676, 4.2 and 4.4)."""
    with path.open("rb") as lines:
        return any(line.startswith(b" ") or line.rstrip(b"\r\n").endswith(b" ") for line in lines)


def _known(stated: str) -> str:
    """Python's name of a charset that says which letters are meant, or ""."""
    try:
        name = codecs.lookup(stated).name
    except (LookupError, ValueError):
        return ""
    return _SUPERSETS.get(name, name) if name.startswith(_OF_TEXT) and name not in _OF_ANYTHING else ""


def _is_utf8(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as text:
            while text.read(_CHARACTERS):
                pass
    except ValueError:
        return False
    return True
