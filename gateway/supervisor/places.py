"""How many execs may run at once, in all and for each token: the rest wait in line, each for its own time."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict

from gateway.errors import TooManyExecs


class Places:
    """A bounded number of places, given in the order of asking; no token can take them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, places: int, places_each: int, max_waiting: int) -> None:
        self._loop = loop
        self._free = places
        self._each = places_each
        self._taken: Counter[str] = Counter()
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[int, tuple[str, asyncio.Future[None]]] = OrderedDict()
        self._last = 0
        self._held = False

    async def take(self, token_id: str, timeout: float) -> float:
        """Waits for a place; how many seconds that took. Raises TooManyExecs after `timeout` seconds."""
        if self._may_have(token_id) and not self._waiting:
            self.occupy(token_id)
            return 0.0
        if len(self._waiting) >= self._max_waiting:
            raise self._refusal()
        self._last += 1
        number, begun = self._last, self._loop.time()
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting[number] = token_id, turn
        self._serve()
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as exc:
            if self._waiting.pop(number, None) is None:
                self.give_back(token_id)  # the place came in the same moment
            if isinstance(exc, TimeoutError):
                raise self._refusal() from exc
            raise
        return self._loop.time() - begun

    def occupy(self, token_id: str) -> None:
        """Takes a place for one that runs already, over the bounds if need be."""
        self._free -= 1
        self._taken[token_id] += 1

    def give_back(self, token_id: str) -> None:
        """The next in line that may have it gets it."""
        self._free += 1
        self._taken[token_id] -= 1
        if not self._taken[token_id]:
            del self._taken[token_id]
        self._serve()

    def hold(self) -> None:
        """Gives no place to those who wait until `go_on`."""
        self._held = True

    def go_on(self) -> None:
        self._held = False
        self._serve()

    def _may_have(self, token_id: str) -> bool:
        return self._free > 0 and self._taken[token_id] < self._each and not self._held

    def _serve(self) -> None:
        for number, (token_id, turn) in list(self._waiting.items()):
            if self._free <= 0 or self._held:
                return
            if self._may_have(token_id) and not turn.done():
                del self._waiting[number]
                self.occupy(token_id)
                turn.set_result(None)

    def _refusal(self) -> TooManyExecs:
        return TooManyExecs(
            "as many execs run as exec.max_running, or exec.max_running_per_token, allows; try again, or give a longer "
            "queue_timeout",
            retry_after=1,
        )
