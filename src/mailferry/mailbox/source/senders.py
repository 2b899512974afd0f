"""Whether a message may change rows, by who sent it: addresses that are allowed, and what the receiving server found out.

Source: RFC 8601 (Authentication-Results), RFC 7489 (a DKIM signature counts for the domain of `From`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry.mailbox.mime.headers import fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.config.mailbox import MailboxSettings

#: A header is read up to here, in characters.
_MOST = 16_384
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*+)"|([;=])|([^\s;=()"]+)', re.DOTALL)

_QUOTED_PAIR = re.compile(r"\\(.)")


def refusal(addresses: Sequence[str], header: bytes, settings: MailboxSettings) -> str:
    """Why a message is refused; "" where its sender may change rows.

    `addresses` are those of `From`, `header` is the message's header block.
    """
    senders = [address.casefold() for address in addresses]
    shown = ", ".join(addresses)[:200] or "no address"
    if settings.deny_senders and any(_listed(one, settings.deny_senders) for one in senders):
        return f"the sender ({shown}) is one of `{settings.spelled('deny_senders')}`"
    allowed = settings.allow_senders
    # All of them: a second address is as easily added as a name.
    if allowed and not (senders and all(_listed(one, allowed) for one in senders)):
        return f"the sender ({shown}) is none of `{settings.spelled('allow_senders')}`"
    if not settings.require_authenticated:
        return ""
    reason = _unproved(senders, header, settings.authserv_id.casefold())
    return reason and (
        f"the sender ({shown}) is not authenticated: {reason}; have it sent with a DKIM signature of the sender's domain,"
        f" or see `{settings.spelled('require_authenticated')}`"
    )


def is_from(address: str, wanted: str) -> bool:
    """Whether an address is the one that is wanted (`ops@example.com`), or of its domain (`example.com`, `@example.com`) or one below."""
    user, _, domain = wanted.rpartition("@")
    local, _, host = address.rpartition("@")
    if user:
        return (local, host) == (user, domain)
    return host == domain or (not wanted.startswith("@") and host.endswith(f".{domain}"))


def _listed(address: str, patterns: str) -> bool:
    return any(is_from(address, one.strip().casefold()) for one in patterns.split(",") if one.strip())


def _unproved(senders: Sequence[str], header: bytes, authserv_id: str) -> str:
    """Why it is not proved that the message comes from the domain of its only sender; "" where it is."""
    if len(senders) != 1 or [name for name, _ in fields(header)].count("from") != 1:
        return "it has not one sender but several, or none"
    domain = senders[0].rpartition("@")[2]
    found = _of_the_server(header, authserv_id)
    if not found:
        return f"no Authentication-Results of {authserv_id}"
    if any(_proves(result, domain) for one in found for result in one.results):
        return ""
    return f"neither DKIM nor DMARC has passed for {domain}, says {authserv_id}"


def _of_the_server(header: bytes, authserv_id: str) -> list[Results]:
    """The topmost fields of that name, one below the other: a server adds them on top, and takes out those that came."""
    found: list[Results] = []
    for name, value in fields(header):
        own = results(value) if name == "authentication-results" else None
        if own and own.authserv_id.casefold() == authserv_id:
            found.append(own)
        elif found:
            break
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one method found."""

    #: In small letters: "dkim", "pass".
    method: str
    result: str
    #: By `type.name`, such as "header.d", in small letters.
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """An Authentication-Results field."""

    authserv_id: str
    results: tuple[Result, ...] = ()


def results(value: str) -> Results:
    """Read a field's value; what cannot be understood is left out."""
    parts: list[list[str | None]] = [[]]
    for word in _words(value[:_MOST]):
        if word == ";":
            parts.append([])
        else:
            parts[-1].append(None if word == "=" else word[1:])
    first = parts[0][0] if parts[0] else None
    return Results(authserv_id=first or "", results=tuple(filter(None, map(_result, parts[1:]))))


def _result(part: list[str | None]) -> Result | None:
    """`method=result`, then `type.name=value` any number of times."""
    pairs = [
        (name.lower(), content)
        for name, sign, content in zip(part, part[1:], part[2:], strict=False)
        if name is not None and sign is None and content is not None
    ]
    if not pairs or len(part) < 3 or part[1] is not None or part[0] is None:
        return None
    method, outcome = pairs[0]
    return Result(
        method=method.partition("/")[0],
        result=outcome.lower(),
        properties={name: content.lower() for name, content in reversed(pairs[1:])},
    )


def _proves(result: Result, domain: str) -> bool:
    if result.result != "pass" or not domain:
        return False
    if result.method == "dmarc":
        return result.properties.get("header.from") == domain
    signer = result.properties.get("header.d") or result.properties.get("header.i", "").rpartition("@")[2]
    return result.method == "dkim" and "." in signer and (domain == signer or domain.endswith(f".{signer}"))


def _words(value: str) -> Iterator[str]:
    """`;`, `=`, and words with a mark in front, so that a quoted sign is not taken for one; comments are left out."""
    at = 0
    while at < len(value):
        if value[at] == "(":
            at = _after_comment(value, at)
            continue
        found = _TOKEN.match(value, at)
        if found is None:
            at += 1
            continue
        at = found.end()
        quoted, sign, word = found.groups()
        yield sign or "w" + (word if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted))


def _after_comment(value: str, at: int) -> int:
    """Where a comment ends, those within it, too; one that does not end takes all the rest."""
    depth = 0
    while at < len(value):
        character = value[at]
        at += 2 if character == "\\" else 1
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at
    return at
