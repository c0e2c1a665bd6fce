"""Pace: how often PVE is asked by all together who wait for something that no task tells of."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable

from gateway.clientwatch import Watch
from gateway.errors import ClientGone

_SECONDS = 0.1
"""Between two turns of all who wait: ten a second, beside what waiting for tasks may cost (pve.waiting)."""


class Pace:
    """Turns to ask, one after another however many wait. Safe in many threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last = 0.0

    def wait(self, deadline: float, watch: Watch | None, seconds: float) -> bool:
        """Waits for a turn, at least `seconds`; False, without a turn, at `deadline` (monotonic) or when our own
        process is about to end. Raises ClientGone, and what the watch raises."""
        with self._lock:
            now = self._monotonic()
            turn = max(now + seconds, self._last + _SECONDS)
            if turn < deadline:
                self._last = turn
        until = min(turn, deadline)
        while (now := self._monotonic()) < until:
            if watch is None:
                select.poll().poll((until - now) * 1000)
            elif watch.wait(None, until - now).gone:
                raise ClientGone
            elif self._monotonic() < until:
                return False  # for nothing: the server can wait no longer
        return turn < deadline
