"""Messages that are not marked and not wanted, so that their headers are fetched once.

A message is a stranger in one view: an account's folder, its numbering (UIDVALIDITY) and the filters that it was
compared with. Of another view nothing is known. Every function takes a connection and leaves the transaction to its
caller.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mailferry.database import queries

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mailferry.database import Connection
    from mailferry.mailbox.source.message import MessageRef


def view(refs: Sequence[MessageRef], fingerprint: str) -> str:
    """What the messages, of one folder, are seen by; `fingerprint` is of the filters."""
    places = {(ref.account, ref.folder, str(ref.uidvalidity)) for ref in refs}
    parts = [fingerprint, *(part for place in sorted(places) for part in place)]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def known(conn: Connection, feed: str, view: str) -> set[str]:
    """UIDs of the strangers; those of the feed's earlier views are forgotten."""
    conn.execute(_sql("forget_views"), {"feed": feed, "view": view})
    return {uid for (uid,) in conn.execute(_sql("known"), {"feed": feed, "view": view})}


def forget(conn: Connection, feed: str, view: str, uids: Collection[str]) -> None:
    """They are marked, or gone."""
    if uids:
        conn.execute(_sql("forget"), {"feed": feed, "view": view, "uids": list(uids)})


def add(conn: Connection, feed: str, view: str, refs: Sequence[MessageRef]) -> None:
    """Add strangers."""
    if refs:
        conn.execute(_sql("add"), {"feed": feed, "view": view, "uids": [ref.uid for ref in refs]})


def _sql(name: str) -> bytes:
    return queries("strangers")[name]
