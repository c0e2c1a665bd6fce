"""Lease: a live reply goes on for as long as its caller's token does, not only begins with a valid one."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from gateway.auth.actor import Actor
from gateway.auth.tokens import Refused, TokenStore
from gateway.errors import GatewayError, Unauthenticated
from gateway.web.live import Live

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
_MAX_KNOWN = 4096
Found = Actor | Refused | None
"""What TokenStore.look_again gives."""
Follow = Callable[[], Found]
Step = Callable[[], None]


class Leases:
    """Whether callers are valid still, asked of the store twice a second for each, however many streams they have and
    requests that wait.

    The store is asked on a thread of its own: where it stands on /etc/pve it can hang with that, and holds up nobody
    then. For many threads.
    """

    def __init__(
        self,
        tokens: TokenStore,
        monotonic: Callable[[], float] = time.monotonic,
        ask: Callable[[Step], object] | None = None,
    ) -> None:
        """`ask` has a step done, soon, in the order of the calls."""
        self._tokens = tokens
        self._monotonic = monotonic
        self._ask = ask or Asker().ask
        self._known: dict[tuple[object, ...], Known] = {}
        self._lock = threading.Lock()

    def hold(self, live: Live, actor: Actor, remote: str) -> Lease:
        """`live` for as long as `actor` is valid from `remote`."""
        return Lease(live, actor, self.follow(actor, remote), self._monotonic)

    def follow(self, actor: Actor, remote: str) -> Follow:
        """What has become, since now, of `actor`, who calls from `remote`; it never waits for the store."""
        since = self._monotonic()

        def look_up() -> Found:
            known = self._look_up(actor, remote)
            return known.found if known.at > since else None

        return look_up

    def _look_up(self, actor: Actor, remote: str) -> Known:
        now = self._monotonic()
        with self._lock:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known.setdefault((actor.token_id, actor.secret, remote), Known())
            due = not known.asked and now >= known.next
            if due:
                known.next, known.asked = now + CHECK_SECONDS, True
        if due:
            try:
                self._ask(lambda: self._look_again(known, actor, remote))
            except RuntimeError as exc:  # no thread can be had now: it is asked after at the next look
                known.asked = False
                log.warning("the token %s cannot be looked at again yet: %s", actor.token_id, exc)
        return known

    def _look_again(self, known: Known, actor: Actor, remote: str) -> None:
        try:
            at = self._monotonic()
            known.found, known.at = self._tokens.look_again(actor, remote), at
        finally:
            known.asked = False


class Known:
    """What the store said of one caller when it was last asked, and when; nothing yet is no reason to end anything."""

    def __init__(self) -> None:
        self.found: Found = None
        self.at = -math.inf
        self.next = 0.0
        self.asked = False


class Asker:
    """A thread, begun with its first step, that ends with the process whatever it waits for. `ask` raises RuntimeError
    while none can be begun, and begins one as soon as it can."""

    def __init__(self) -> None:
        self._steps: SimpleQueue[Step] = SimpleQueue()
        self._begun = False

    def ask(self, step: Step) -> None:
        if not self._begun:
            threading.Thread(target=self._run, name="leases", daemon=True).start()
            self._begun = True
        self._steps.put(step)

    def _run(self) -> None:
        while True:
            step = self._steps.get()
            try:
                step()
            except Exception:  # it concerns one caller; the others are to be asked after all the same
                log.exception("a caller's token could not be looked at again")


class Lease(Live):
    """Another live reply. When its caller's token has ended it is refused, as if the client had left; when the token
    has lost grants it is cut as by a restart, and whoever comes again is asked as anew. Both are over soon after."""

    def __init__(self, live: Live, actor: Actor, look_up: Follow, monotonic: Callable[[], float]) -> None:
        self._live = live
        self._actor = actor
        self._look_up = look_up
        self._monotonic = monotonic
        self._next = monotonic() + CHECK_SECONDS
        self._over = False
        self.caller = live.caller
        self.upgrades = live.upgrades
        self.takes_in = live.takes_in

    def sources(self) -> tuple[int, ...]:
        return self._live.sources()

    def produce(self) -> bytes | None:
        self._check()
        return self._live.produce()

    def wake_at(self) -> float:
        return self._live.wake_at() if self._over else min(self._live.wake_at(), self._next)

    def take_in(self) -> int:
        return self._live.take_in()

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
        found = self._look_up()
        if isinstance(found, Refused):
            self.refuse(Unauthenticated("the token that this was opened with is not valid any more"))
        elif found is not None and not found.has_all_of(self._actor):
            self._over = True
            if not self._live.stop():
                raise Unauthenticated("the token that this was opened with has lost grants since; come again")
