"""What must never be shown. Every text on its way to a person or a log passes `mask`."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes from which on a secret is looked for in base64 and hex: what a shorter one looks like there is found by chance.
_SURELY = 8
#: What is shown in place of each, the longest first: one may be a part of another. Replaced as a whole, as threads read it.
_SECRETS: dict[str, str] = {}
_changing = threading.Lock()


def hide(secret: str, shown: str = "****") -> None:
    """From now on, show `shown` wherever `secret` stands, also as other programs write it, see `_forms`."""
    global _SECRETS  # noqa: PLW0603 - one for the whole process, as are its outputs
    if len(secret) < 4 or _SECRETS.get(secret) == shown:
        return
    forms = {one for one in _forms(secret) if len(one) >= 4}
    with _changing:
        known = _SECRETS | dict.fromkeys(forms, shown)
        _SECRETS = dict(sorted(known.items(), key=lambda one: -len(one[0])))


def _forms(secret: str) -> Iterator[str]:
    """As Python, JSON, addresses, forms, pages and SASL write it: servers echo what they were sent."""
    from html import escape
    from urllib.parse import quote, quote_plus

    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield escape(secret)
    for form in (quote, quote_plus):
        percent = form(secret, safe="", errors="replace")
        yield percent
        yield re.sub("%..", lambda found: found[0].lower(), percent)
    data = secret.encode(errors="replace")
    if len(data) >= _SURELY:
        yield data.hex()
        # Behind 0, 1 or 2 bytes of something else: the letters that are of the secret alone.
        for before in range(3):
            text = b64encode(bytes(before) + data).decode()
            text = text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
            yield text
            yield text.replace("+", "-").replace("/", "_")


def mask(text: str) -> str:
    """The text without secrets, and without control characters that would forge a line or colour a terminal."""
    return _printable(_without_secrets(text))


def mask_lines(text: str) -> str:
    """As `mask`, for a text of several lines."""
    return "\n".join(map(_printable, _without_secrets(text).split("\n")))


def _without_secrets(text: str) -> str:
    for secret, shown in _SECRETS.items():
        if secret in text:
            text = text.replace(secret, shown)
    return text


def _printable(text: str) -> str:
    """Escapes line and paragraph separators, C0 and C1 controls, and what changes the direction of the text, as well."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)
