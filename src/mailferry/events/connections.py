"""What the sections of a run share: open connections, and per API key what the provider takes of it."""

from __future__ import annotations

import os

import aiohttp

from mailferry.events.throttle import AdaptiveSlots, Throttle


class Connections:
    """What sections share: open connections, and per API key what the provider takes of it."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._throttles: dict[str, Throttle] = {}
        self._adaptive: dict[str, AdaptiveSlots] = {}

    def session(self, *, keep: bool) -> aiohttp.ClientSession:
        if keep not in self._sessions:
            proxied = any(name.lower() in {"http_proxy", "https_proxy", "all_proxy"} for name in os.environ)
            self._sessions[keep] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=not keep),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=proxied,
                headers={"Accept": "application/json", "User-Agent": "mailferry"},
            )
        return self._sessions[keep]

    def throttle(self, key: str) -> Throttle:
        return self._throttles.setdefault(key, Throttle())

    def adaptive(self, key: str) -> AdaptiveSlots:
        if key not in self._adaptive:
            self._adaptive[key] = AdaptiveSlots()
        return self._adaptive[key]

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
