"""Remainder: what is left of a reply that was all here, and whose client has not taken it at once."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from gateway.web.live import Live

if TYPE_CHECKING:
    from gateway.web.flow import Flow

TAKE_SECONDS = 30.0
"""Within which a client takes the reply, and a second more for each 64 KiB that it has taken."""
TAKE_BYTES_PER_SECOND = 64 * 1024
MAX_REMAINDERS = 512
MAX_REMAINDER_BYTES = 256 << 20
"""What they all may keep in memory; what is the same for many clients counts once."""
YOUNG_SECONDS = 1.0
"""A client in earnest has taken something by then."""


class Remainder(Live):
    """A reply without anything to come. Not one of the live replies whose number is limited: it has a limit of its own
    (`Remainders`), for everybody may ask for a large reply, and nobody has to be let in for that."""

    def sources(self) -> tuple[int, ...]:
        return ()

    def produce(self) -> bytes | None:
        return None

    def wake_at(self) -> float:
        return float("inf")

    def stop(self) -> bool:
        return True

    def close(self) -> None:
        """It holds nothing."""


class Remainders:
    """The flows of all remainders; the pump's. Where they are too many, or too large, the slowest reader goes."""

    def __init__(self, limit: int = MAX_REMAINDERS) -> None:
        self._limit = limit
        self._flows: dict[int, Flow] = {}
        self._bodies: Counter[int] = Counter()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> None:
        """One more."""
        self._flows[flow.number] = flow
        for body in flow.bodies:
            self._bodies[id(body.obj)] += 1
            if self._bodies[id(body.obj)] == 1:
                self._bytes += body.nbytes

    def remove(self, flow: Flow) -> None:
        """It has ended; or it is none of them."""
        if self._flows.pop(flow.number, None) is None:
            return
        for body in flow.bodies:
            self._bodies[id(body.obj)] -= 1
            if not self._bodies[id(body.obj)]:
                del self._bodies[id(body.obj)]
                self._bytes -= body.nbytes

    def surplus(self) -> Flow | None:
        """Whom to cut, if anybody: of those who had a second's time the slowest, or else the oldest."""
        if len(self._flows) <= self._limit and self._bytes <= MAX_REMAINDER_BYTES:
            return None
        now = time.monotonic()
        old = [flow for flow in self._flows.values() if now - flow.began >= YOUNG_SECONDS]
        if not old:
            return next(iter(self._flows.values()))
        return min(old, key=lambda flow: flow.taken / (now - flow.began))
