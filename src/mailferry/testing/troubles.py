"""What can go wrong between a collector and the provider: troubles by chance, throttling by rule."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, fields
from email.utils import formatdate
from enum import StrEnum
from hashlib import blake2b


class Trouble(StrEnum):
    """One way for a request to fail that would have been answered with 200."""

    ERROR_500 = "error_500"
    #: 502 with HTML, as a proxy sends it.
    BAD_GATEWAY = "bad_gateway"
    UNAVAILABLE_503 = "unavailable_503"
    #: 503 with `Retry-After: 1`.
    MAINTENANCE_503 = "maintenance_503"
    #: The connection is reset before a byte of an answer.
    RESET_BEFORE = "reset_before"
    #: Headers with 200 and half of the body, then a reset.
    RESET_MIDWAY = "reset_midway"
    #: No answer until the client goes.
    HANG = "hang"
    #: 200 and half of the JSON, with the Content-Length of that half.
    CUT_JSON = "cut_json"
    #: 200 with HTML.
    HTML_200 = "html_200"
    #: 200 without a body.
    EMPTY_200 = "empty_200"
    #: 200 with the error object of a 500, and of a 429.
    ERROR_OBJECT_200 = "error_object_200"
    THROTTLED_200 = "throttled_200"
    #: Details only: 404, not there yet.
    NOT_THERE_YET = "not_there_yet"
    #: Details only: 200 with a detail of another queue id.
    WRONG_DETAIL = "wrong_detail"


#: What costs a client time-outs and pauses.
SLOW = frozenset({Trouble.HANG, Trouble.MAINTENANCE_503})
DETAILS_ONLY = frozenset({Trouble.NOT_THERE_YET, Trouble.WRONG_DETAIL})


@dataclass(frozen=True, kw_only=True, slots=True)
class Troubles:
    """How likely each trouble is for a request, 0 to 1; their sum may not be over 1, else ValueError."""

    error_500: float = 0.0
    bad_gateway: float = 0.0
    unavailable_503: float = 0.0
    maintenance_503: float = 0.0
    reset_before: float = 0.0
    reset_midway: float = 0.0
    hang: float = 0.0
    cut_json: float = 0.0
    html_200: float = 0.0
    empty_200: float = 0.0
    error_object_200: float = 0.0
    throttled_200: float = 0.0
    not_there_yet: float = 0.0
    wrong_detail: float = 0.0

    def __post_init__(self) -> None:
        shares = [getattr(self, trouble) for trouble in Trouble]
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError(f"troubles are shares from 0 on with a sum of at most 1, not {self}")

    @classmethod
    def spread(cls, share: float, *, details: bool) -> Troubles:
        """Spread a share evenly over all troubles that a list or a detail can have, but those that cost seconds."""
        left_out = SLOW if details else SLOW | DETAILS_ONLY
        names = [trouble for trouble in Trouble if trouble not in left_out]
        return cls(**{name.value: share / len(names) for name in names})


class Fate:
    """Draws what befalls each request, from the seed, its URL and how often that was asked: not from who came first."""

    def __init__(self, troubles: Troubles, *, seed: int, max_failures: int) -> None:
        """Let a URL fail at most `max_failures` times."""
        self._limits: list[tuple[float, Trouble]] = []
        total = 0.0
        for one in fields(troubles):
            if share := getattr(troubles, one.name):
                total += share
                self._limits.append((total, Trouble(one.name)))
        self._hash = blake2b(str(seed).encode(), digest_size=8)
        self._max_failures = max_failures
        self._asked: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def draw(self, url: str) -> Trouble | None:
        """Return the trouble of this request, None for none."""
        if not self._limits:
            return None
        self._asked[url] += 1
        if self._failed[url] >= self._max_failures:
            return None
        hasher = self._hash.copy()
        hasher.update(f"{url} {self._asked[url]}".encode())
        share = int.from_bytes(hasher.digest()) / 2**64
        for limit, trouble in self._limits:
            if share < limit:
                self._failed[url] += 1
                return trouble
        return None


class RetryAfter(StrEnum):
    """How a 429 says the rest of the pause in Retry-After (RFC 9110 10.2.3)."""

    #: Whole seconds.
    SECONDS = "seconds"
    #: An HTTP date.
    DATE = "date"
    #: Not at all.
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Throttling:
    """When the requests of a key are too many, and what its 429 say. By the real time, whatever the provider's clock."""

    #: Requests of one key in flight at once; None for any number.
    max_concurrent: int | None = None
    #: Requests of one key begun within one second; None for any number.
    max_per_second: int | None = None
    #: For so many seconds after one request too many, every new request of the key is refused.
    pause: float = 1.0
    retry_after: RetryAfter = RetryAfter.SECONDS

    def __post_init__(self) -> None:
        if any(limit is not None and limit < 1 for limit in (self.max_concurrent, self.max_per_second)):
            raise ValueError(f"max_concurrent and max_per_second are 1 or more, or None, not {self}")
        if self.pause < 0:
            raise ValueError(f"pause is seconds, 0 or more, not {self.pause!r}")

    def headers(self, pause: float, now: float) -> dict[str, str]:
        """Return the header Retry-After for a pause of so many seconds at Unix time `now`, rounded up."""
        if self.retry_after is RetryAfter.MISSING:
            return {}
        if self.retry_after is RetryAfter.DATE:
            return {"Retry-After": formatdate(math.ceil(now + pause), usegmt=True)}
        return {"Retry-After": str(math.ceil(pause))}


class Gate:
    """Counts the requests of one key. `now` is monotonic time in seconds."""

    def __init__(self, throttling: Throttling) -> None:
        self._rules = throttling
        self._active = 0
        self._begun: deque[float] = deque()
        self._closed_until = 0.0
        #: The most requests that were in flight at once; refused ones were not.
        self.highest = 0

    def enter(self, now: float) -> float | None:
        """Let a request in (None; `leave` must follow) or return for how many more seconds the key is refused."""
        rules = self._rules
        if now < self._closed_until:
            return self._closed_until - now
        full = rules.max_concurrent is not None and self._active >= rules.max_concurrent
        if rules.max_per_second is not None:
            while self._begun and self._begun[0] <= now - 1:
                self._begun.popleft()
            full = full or len(self._begun) >= rules.max_per_second
        if full:
            self._closed_until = now + rules.pause
            return rules.pause
        if rules.max_per_second is not None:
            self._begun.append(now)
        self._active += 1
        self.highest = max(self.highest, self._active)
        return None

    def leave(self) -> None:
        """End a request that was let in."""
        self._active -= 1
