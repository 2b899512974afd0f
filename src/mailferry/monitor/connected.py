"""The database, for what looks at it again and again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from mailferry import database

if TYPE_CHECKING:
    from mailferry.config.database import DatabaseSettings
    from mailferry.database import Pool


class Connected:
    """A database that is asked again and again, on connections that stay open. Used in a `with`."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._pool: Pool | None = None
        self._settings: DatabaseSettings | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def pool(self, settings: DatabaseSettings) -> Pool:
        """Of these settings; few connections, as this must not use up what the work needs. Raises Retry or Stop."""
        if self._pool is None or self._settings != settings:
            self.close()
            few = settings.model_copy(update={"pool_min": 1, "pool_max": 3})
            self._pool, self._settings = self._open.enter_context(database.connect(few)), settings
        return self._pool

    def close(self) -> None:
        """After a failure: the next question connects again."""
        self._pool = None
        self._open.close()
