"""How long to wait before the next try: one second, two, four and so on. Pure.

Who tries again, how often, and what ends it, differs from place to place: a loop until the service stops, a row of the
ledger that is due later, a request with a budget and a pause that the provider asks for. The arithmetic does not.
"""

from __future__ import annotations

import math
import random

#: Doublings after which a pause no longer grows, so that no power of two is too large for a float.
_MOST = 64


def pause(failures: int, *, first: float = 1.0, longest: float = math.inf, jitter: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row (at least one): `first`, twice that, ... at most `longest`.

    Up to the share `jitter` of it (0 to 1) is taken off at random, so that many clients do not come back at once.
    """
    if failures < 1:
        raise ValueError(f"{failures} failures: there is nothing to wait for")
    whole = min(longest, first * 2.0 ** min(failures - 1, _MOST))
    return whole * (1 - random.uniform(0, jitter)) if jitter else whole
