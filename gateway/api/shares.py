"""What one token, and all together, may take of the web at a time: not so much that others find nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded, TooManyRequests


class Shares:
    """Things under way (`noun`: requests, streams), by token: at most `each` of one, and `total` of all."""

    def __init__(self, noun: str, *, each: int, total: int | None = None) -> None:
        self._noun = noun
        self._each = each
        self._total = total
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def take(self, token_id: str) -> Iterator[None]:
        """Counts one for as long as the context lasts. Raises TooManyRequests, Overloaded."""
        with self._lock:
            if self._under_way[token_id] >= self._each:
                raise TooManyRequests(
                    f"{self._each} {self._noun} of this token are under way; wait for one of them to end",
                    retry_after=1,
                )
            if self._total is not None and self._under_way.total() >= self._total:
                raise Overloaded(f"{self._total} {self._noun} are under way here; try again", retry_after=1)
            self._under_way[token_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[token_id] -= 1
                if not self._under_way[token_id]:
                    del self._under_way[token_id]


def start_shares() -> Shares:
    """The shares of terminals whose exec is being started: each takes a thread for so long."""
    return Shares("terminals being started", each=16, total=64)


def stream_shares(max_streams: int) -> Shares:
    """The shares of streams, WebSockets and downloads: one token leaves a quarter of them to others."""
    return Shares("streams", each=max(1, max_streams * 3 // 4), total=max_streams)


def pve_shares(threads: int) -> Shares:
    """The shares of requests that wait for PVE: half of the threads, so that execs go on while PVE hangs."""
    total = max(2, threads // 2)
    return Shares("requests that wait for PVE", each=max(1, total * 3 // 4), total=total)
