"""How many execs may run at once: the rest wait in line, each for its own time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from gateway.errors import TooManyExecs


class Places:
    """A bounded number of places, given in the order of asking."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, places: int, max_waiting: int) -> None:
        self._loop = loop
        self._free = places
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[int, asyncio.Future[None]] = OrderedDict()
        self._last = 0

    async def take(self, timeout: float) -> float:
        """Waits for a place; how many seconds that took. Raises TooManyExecs after `timeout` seconds."""
        if self._free > 0:
            self._free -= 1
            return 0.0
        if len(self._waiting) >= self._max_waiting or timeout <= 0:
            raise self._refusal()
        self._last += 1
        number, begun = self._last, self._loop.time()
        turn = self._waiting[number] = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as exc:
            if self._waiting.pop(number, None) is None:
                self.give_back()  # the place came in the same moment
            if isinstance(exc, TimeoutError):
                raise self._refusal() from exc
            raise
        return self._loop.time() - begun

    def occupy(self) -> None:
        """Takes a place for one that runs already, over the bound if need be."""
        self._free -= 1

    def give_back(self) -> None:
        """The next in line has it, if there is one."""
        while self._waiting and self._free >= 0:
            _, turn = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _refusal(self) -> TooManyExecs:
        return TooManyExecs(
            "this node runs as many execs as exec.max_running allows; try again, or give a longer queue_timeout",
            retry_after=1,
        )
