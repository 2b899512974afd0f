"""The operating-system user that the private PostgreSQL runs as: root may not run it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailferry.errors import Stop

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user; `ids` is what `subprocess` takes to become it, empty for our own."""

    name: str
    uid: int
    gid: int
    ids: Mapping[str, object]


def account_of(data: Path) -> Account:
    """Our own user; for root the owner of the cluster, or of the folder that it will be in. Raises Stop where there is none."""
    import pwd

    uid = os.geteuid()
    if uid:
        return Account(name=str(uid), uid=uid, gid=os.getegid(), ids={})
    owners: list[int] = []
    for place in (data, *data.parents):
        with contextlib.suppress(FileNotFoundError):
            owners.append(place.stat().st_uid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            owners.append(pwd.getpwnam(name).pw_uid)
    for owner in filter(None, owners):
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(owner)
            ids = {"user": owner, "group": user.pw_gid, "extra_groups": []}
            return Account(name=user.pw_name, uid=owner, gid=user.pw_gid, ids=ids)
    raise Stop(
        "PostgreSQL does not run as root, and there is no user postgres or nobody. Run as another user or set DB_HOST."
    )
