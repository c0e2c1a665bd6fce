"""What one token may take of the web's threads: not so many that others find none."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import TooManyRequests


class Shares:
    """Requests under way, by token; at most `most` of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def take(self, token_id: str) -> Iterator[None]:
        """Counts one request while it is worked on. Raises TooManyRequests."""
        with self._lock:
            if self._under_way[token_id] >= self._most:
                raise TooManyRequests(
                    f"{self._most} requests of this token are under way; wait for one of them to end", retry_after=1
                )
            self._under_way[token_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[token_id] -= 1
                if not self._under_way[token_id]:
                    del self._under_way[token_id]
