"""Lease: a live reply goes on for as long as its caller's token does, not only begins with a valid one."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.auth.actor import Actor
from gateway.auth.tokens import Refused, TokenStore
from gateway.errors import GatewayError, Unauthenticated
from gateway.web.live import Live

CHECK_SECONDS = 0.5
_MAX_KNOWN = 4096
Found = Actor | Refused | None
"""What TokenStore.look_again gives."""


class Leases:
    """Whether callers are valid still, asked of the store twice a second for each, however many streams they have.

    Used by the one thread that drives live replies.
    """

    def __init__(self, tokens: TokenStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._monotonic = monotonic
        self._known: dict[tuple[object, ...], tuple[float, Found]] = {}

    def hold(self, live: Live, actor: Actor, remote: str) -> Lease:
        """`live` for as long as `actor` is valid from `remote`."""
        return Lease(live, actor, lambda now: self._look_up(actor, remote, now), self._monotonic)

    def _look_up(self, actor: Actor, remote: str, now: float) -> Found:
        key = (actor.token_id, actor.secret, remote)
        known = self._known.get(key)
        if known is None or now >= known[0] + CHECK_SECONDS:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[key] = now, self._tokens.look_again(actor, remote)
        return known[1]


class Lease(Live):
    """Another live reply. When its caller's token has ended it is refused, as if the client had left; when the token
    has lost grants it is cut as by a restart, and whoever comes again is asked as anew. Both are over soon after."""

    def __init__(
        self, live: Live, actor: Actor, look_up: Callable[[float], Found], monotonic: Callable[[], float]
    ) -> None:
        self._live = live
        self._actor = actor
        self._look_up = look_up
        self._monotonic = monotonic
        self._next = monotonic() + CHECK_SECONDS
        self._over = False
        self.upgrades = live.upgrades

    def sources(self) -> tuple[int, ...]:
        return self._live.sources()

    def produce(self) -> bytes | None:
        self._check()
        return self._live.produce()

    def wake_at(self) -> float:
        return self._live.wake_at() if self._over else min(self._live.wake_at(), self._next)

    def receive(self, data: bytes) -> None:
        self._check()
        self._live.receive(data)

    def wants_input(self) -> bool:
        return self._live.wants_input()

    def refuse(self, error: GatewayError) -> None:
        self._over = True
        self._live.refuse(error)

    def gone(self) -> None:
        self._live.gone()

    def stop(self) -> bool:
        return self._live.stop()

    def close(self) -> None:
        self._live.close()

    def _check(self) -> None:
        now = self._monotonic()
        if self._over or now < self._next:
            return
        self._next = now + CHECK_SECONDS
        found = self._look_up(now)
        if isinstance(found, Refused):
            self.refuse(Unauthenticated("the token that this was opened with is not valid any more"))
        elif found is not None and not found.has_all_of(self._actor):
            self._over = True
            if not self._live.stop():
                raise Unauthenticated("the token that this was opened with has lost grants since; come again")
