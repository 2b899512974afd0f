"""What must never be shown. Every text on its way to a person or a log passes `mask`."""

from __future__ import annotations

_SECRETS: dict[str, str] = {}


def hide(secret: str, shown: str = "****") -> None:
    """From now on, show `shown` wherever `secret` stands."""
    if len(secret) >= 4:
        _SECRETS[secret] = shown


def mask(text: str) -> str:
    """The text without secrets, and without control characters that would forge a line or colour a terminal."""
    for secret, shown in _SECRETS.items():
        if secret in text:
            text = text.replace(secret, shown)
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text
        )
    return text
