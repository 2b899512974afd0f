"""What must never be shown. Every text on its way to a person or a log passes `mask`."""

from __future__ import annotations

import threading

#: What is shown in place of each, the longest first: one may be a part of another. Replaced as a whole, as threads read it.
_SECRETS: dict[str, str] = {}
_changing = threading.Lock()


def hide(secret: str, shown: str = "****") -> None:
    """From now on, show `shown` wherever `secret` stands, also as Python's `repr`, an address and a form have it."""
    global _SECRETS  # noqa: PLW0603 - one for the whole process, as are its outputs
    if len(secret) < 4 or _SECRETS.get(secret) == shown:
        return
    from urllib.parse import quote, quote_plus

    forms = {
        secret,
        repr(secret)[1:-1],
        *(form(secret, safe="", errors="replace") for form in (quote, quote_plus)),
    }
    with _changing:
        known = _SECRETS | dict.fromkeys(forms, shown)
        _SECRETS = dict(sorted(known.items(), key=lambda one: -len(one[0])))


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
