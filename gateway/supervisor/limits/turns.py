"""Turns: a few at a time, the others in the order of asking, held while the supervisor becomes another image."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from gateway.errors import GatewayError


class Turns:
    """At most `at_once` have one, and `most` wait."""

    def __init__(self, at_once: int, most: int) -> None:
        self._free = at_once
        self._most = most
        self._line: deque[asyncio.Future[None]] = deque()
        self._held = False
        self._over: GatewayError | None = None

    async def take(self, full: GatewayError) -> bool:
        """Whether it has waited for its turn. Raises `full` when as many wait as may, and what `stop` was given."""
        if self._over is not None:
            raise self._over
        if self._free and not self._held and not self._line:
            self._free -= 1
            return False
        if len(self._line) >= self._most:
            raise full
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):
                    self._line.remove(turn)
            elif turn.exception() is None:  # it came in the same moment
                self.give_back()
            raise
        return True

    def give_back(self) -> None:
        self._free += 1
        self._serve()

    def hold(self) -> None:
        """Gives no turn to anybody until `go_on`."""
        self._held = True

    def go_on(self) -> None:
        self._held = False
        self._serve()

    def stop(self, error: GatewayError) -> None:
        """Whoever waits, or comes later, is told this."""
        self._over = error
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _serve(self) -> None:
        while self._free and self._line and not self._held:
            turn = self._line.popleft()
            if not turn.done():  # it has left
                self._free -= 1
                turn.set_result(None)
