"""The timers of one exec, by name: each set anew as often as need be, all gone with its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """At most one timer of each name. Times are the loop's."""

    def __init__(self, io: asyncio.AbstractEventLoop) -> None:
        self._io = io
        self._armed: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._armed

    def arm(self, name: str, at: float, action: Callable[[], object]) -> None:
        """Calls `action` at `at`, instead of what this name was armed with before."""

        def fire() -> None:
            self._armed.pop(name, None)
            action()

        self.disarm(name)
        self._armed[name] = self._io.call_at(at, fire)

    def disarm(self, name: str) -> None:
        timer = self._armed.pop(name, None)
        if timer is not None:
            timer.cancel()

    def disarm_all(self) -> None:
        for name in list(self._armed):
            self.disarm(name)
