"""Arrivals: connections just accepted, and when each of them may begin: those of one address only so many a second."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gateway.rates import Rates
from gateway.web.burdens import Burdens

LOOK_SECONDS = 0.02
"""How often those that wait are looked at."""


class Arrival(NamedTuple):
    """One accepted connection: nothing has been read from it, nothing spent on it."""

    sock: socket.socket
    client: tuple[str, int]
    listener: int
    key: str
    """Whom the limit counts; empty for a trusted proxy, whom it does not."""
    at: float
    """Monotonic time."""


class Arrivals:
    """Lets each address begin `rate` connections a second, twice as many at once; its others wait their turn.

    A handshake costs us ten times what it costs its client, and a request that cannot be understood ends its
    connection: so this is the limit for both. Waiting costs a descriptor, so there is `room` for so many of all
    addresses together, and whoever comes then is closed. So is who is held off for its burden. Not for threads.
    """

    def __init__(self, rates: Rates, rate: float | None, *, burdens: Burdens, room: int, patience_s: float) -> None:
        """`rate` None lets all begin at once; `patience_s`: who has waited for so long is closed."""
        self._rates = rates
        self._burdens = burdens
        self._rate = rate
        self._room = room
        self._patience_s = patience_s
        self._waiting: dict[str, deque[Arrival]] = {}
        self._count = 0
        self._closed = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def admit(self, arrival: Arrival) -> bool:
        """Whether it may begin now; if not, it waits here, or has been closed."""
        if self._burdens.holds(arrival.key):
            arrival.sock.close()
            return False
        if not arrival.key or self._rate is None:
            return True
        if arrival.key not in self._waiting and self._may_begin(arrival.key):
            return True
        if self._count >= self._room:
            self._close(arrival)
        else:
            self._waiting.setdefault(arrival.key, deque()).append(arrival)
            self._count += 1
        return False

    def due(self, now: float) -> Iterator[Arrival]:
        """Those whose turn it is by now, each address' in the order of their coming."""
        for key, queue in list(self._waiting.items()):
            while queue:
                if now - queue[0].at >= self._patience_s:
                    self._close(self._next(queue))
                elif self._may_begin(key):
                    yield self._next(queue)
                else:
                    break
            if not queue:
                del self._waiting[key]

    def all(self) -> Iterator[Arrival]:
        """All that wait, whatever their rate: the worker ends."""
        while self._waiting:
            key, queue = next(iter(self._waiting.items()))
            while queue:
                yield self._next(queue)
            del self._waiting[key]

    def count_closed(self) -> int:
        """How many have been closed since this was asked last."""
        closed, self._closed = self._closed, 0
        return closed

    def _may_begin(self, key: str) -> bool:
        return self._rate is None or not self._rates.take(key, self._rate).retry_after

    def _next(self, queue: deque[Arrival]) -> Arrival:
        self._count -= 1
        return queue.popleft()

    def _close(self, arrival: Arrival) -> None:
        arrival.sock.close()
        self._closed += 1
