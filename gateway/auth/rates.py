"""Rates: how many requests a second each caller may make, by token buckets in a bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

BURST_SECONDS = 2.0
"""What a caller that was silent may take at once: so much of its rate."""
MAX_CALLERS = 10_000


@dataclass(frozen=True)
class Quota:
    """Where one caller stands: its burst, what is left of that, and in how many seconds it is whole again.

    `retry_after`: seconds until its next request is taken, 0 if this one was.
    """

    limit: int
    remaining: int
    reset: int
    retry_after: int


class Rates:
    """One bucket for each caller: of `burst` requests, at first full, and refilled at its rate. For many threads.

    Of more than 10,000 callers the one longest silent is forgotten, and begins anew: what this costs is bounded (3 MB),
    whoever calls. Our own rather than a library: those in Debian 13 (python3-limits) keep each key until its window
    ends, so that addresses at will grow them; and the state is this process's in any case, for there is one web worker.
    """

    def __init__(self, burst: float | None = None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`burst` is what two seconds bring, at least 1, if not given."""
        self._burst = burst
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, rate: float) -> Quota:
        """Counts one request of a caller who may make `rate` a second."""
        burst = max(1.0, self._burst or rate * BURST_SECONDS)
        now = self._monotonic()
        with self._lock:
            left, since = self._buckets.get(caller, (burst, now))
            left = min(burst, left + (now - since) * rate)
            taken = left >= 1
            left -= taken
            self._buckets[caller] = left, now
            self._buckets.move_to_end(caller)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        wait = 0 if taken else max(1, math.ceil((1 - left) / rate))
        return Quota(int(burst), int(left), math.ceil((burst - left) / rate), wait)
