"""Standing: whether the tokens behind open streams and terminals still stand; one that fell gives and gets no more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gateway.auth.actor import Actor
from gateway.auth.tokens import Refusal, Refused
from gateway.errors import Unauthenticated
from gateway.web.live import Live

CHECK_SECONDS = 1.0

Recall = Callable[[str, str], Actor | Refused]
"""TokenStore.recall."""


class Standing:
    """Looks after the live replies of one web process, each second, on a thread that is there while there are any.

    Requests are checked as they come; these stay, and would outlive a revocation. A store that cannot be read now is
    no reason to end them: who was let in stays, nobody new is let in.
    """

    def __init__(self, recall: Recall, *, interval: float = CHECK_SECONDS) -> None:
        self._recall = recall
        self._interval = interval
        self._lock = threading.Lock()
        self._held: set[HeldLive] = set()
        self._running = False

    def hold(self, live: Live, actor: Actor, remote: str) -> HeldLive:
        """The same reply, for as long as the token of `actor` stands for a caller from `remote`."""
        held = HeldLive(live, actor, remote, self._forget)
        with self._lock:
            self._held.add(held)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="standing", daemon=True).start()
        return held

    def _forget(self, held: HeldLive) -> None:
        with self._lock:
            self._held.discard(held)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._interval)
            with self._lock:
                held = tuple(self._held)
                if not held:
                    self._running = False
                    return
            found = {key: self._recall(*key) for key in {one.key for one in held}}
            for one in held:
                one.judge(found[one.key])


class HeldLive(Live):
    """A live reply that takes and gives bytes only while its token stands."""

    def __init__(self, live: Live, actor: Actor, remote: str, forget: Callable[[HeldLive], None]) -> None:
        self.key = actor.token_id, remote
        self.upgrades = live.upgrades
        self._live = live
        self._actor = actor
        self._forget = forget
        self._revoked = False
        self._narrowed = False

    def judge(self, found: Actor | Refused) -> None:
        """What the token is now; called by another thread than the pump's."""
        if isinstance(found, Actor):
            self._narrowed = self._narrowed or not found.has_all_of(self._actor)
        elif found.reason is not Refusal.STORE_UNAVAILABLE:
            self._revoked = True

    def sources(self) -> tuple[int, ...]:
        return self._live.sources()

    def produce(self) -> bytes | None:
        self._require_standing()
        return self._live.produce()

    def wake_at(self) -> float:
        return self._live.wake_at()

    def receive(self, data: bytes) -> None:
        self._require_standing()
        self._live.receive(data)

    def wants_input(self) -> bool:
        return self._live.wants_input()

    def gone(self) -> None:
        self._live.gone()

    def stop(self) -> bool:
        return self._live.stop()

    def close(self) -> None:
        self._forget(self)
        self._live.close()

    def _require_standing(self) -> None:
        """Raises Unauthenticated, which cuts the connection. Revoked is as if its client had left; one that has lost
        some of its grants may come again, and is checked as anew."""
        if self._revoked:
            self._live.gone()
            raise Unauthenticated(f"token {self.key[0]} does not stand any more")
        if self._narrowed:
            raise Unauthenticated(f"token {self.key[0]} has lost grants since this connection began")
