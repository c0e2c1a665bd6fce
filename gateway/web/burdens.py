"""Burdens: what processor time our TLS has taken beyond the usual, by address, and who is held off for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.rates import Rates

BURST_MS = 300.0
MS_PER_SECOND = 50.0
"""What an address may take beyond the usual: a twentieth of one processor, and so much at once. A good client takes
next to nothing, but one with many handshakes pays for what a hypervisor steals meanwhile."""
HOLD_SECONDS = 10.0
MAX_HELD = 1024
"""Addresses; one more lets go the one that has been held longest."""


class Burdens:
    """An address that has taken more than its allowance is held off: for ten seconds nothing is read from it.

    The allowance counts over all processes that share `rates`; each of them holds off by itself. For many threads.
    """

    def __init__(self, rates: Rates, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`rates` has bursts of BURST_MS."""
        self._rates = rates
        self._monotonic = monotonic
        self._held: dict[str, float] = {}
        self._news: dict[str, None] = {}

    def charge(self, address: str, seconds: float) -> bool:
        """Count processor time; whether the address is held off, from now on or already. Empty: a trusted proxy's
        clients, whom nothing tells apart, and so nobody counts."""
        if not address:
            return False
        if self._rates.take(address, MS_PER_SECOND, cost=seconds * 1000).retry_after:
            self.hold(address)
        return self.holds(address)

    def hold(self, address: str) -> None:
        """Hold an address off from now on."""
        if not address:
            return
        if len(self._held) >= MAX_HELD and address not in self._held:
            self._held.pop(min(self._held, key=lambda held: self._held.get(held, 0.0)), None)
        self._held[address] = self._monotonic() + HOLD_SECONDS
        if len(self._news) < MAX_HELD:
            self._news[address] = None

    def holds(self, address: str) -> bool:
        """Whether the address is held off now."""
        until = self._held.get(address)
        if until is None:
            return False
        if self._monotonic() < until:
            return True
        self._held.pop(address, None)
        return False

    def take_news(self) -> list[str]:
        """Addresses that have been held off since this was asked last."""
        news, self._news = self._news, {}
        return list(news)
