"""Execs that wait for a place: seen, awaited and cancelled by their ids before anything of them has begun."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from gateway.exec.order import Order
from gateway.supervisor.limits.places import Turn, Withdrawn

_NEW_SECONDS = 0.5


@dataclass
class Attempt:
    """A request on its way to become an exec, over reloads too: the exec's id, and since when it waits for a place.

    Times are by the monotonic clock: when it came, and since when it has waited for a place; None while it has not.
    """

    exec_id: str
    came: float = 0.0
    since: float | None = None

    def is_old(self, now: float) -> bool:
        """Whether what was decided when it came may have changed since: it has waited, for a place or for anything."""
        return self.since is not None or now - self.came > _NEW_SECONDS


class Begun(NamedTuple):
    """What a request has become: an exec, `replayed` where an earlier one with its key had begun that already."""

    exec_id: str
    replayed: bool


class Queued:
    """One exec that waits."""

    def __init__(self, order: Order, since: float, turn: Turn) -> None:
        self.order = order
        self.since = since
        """By the monotonic clock."""
        self.is_told = False
        """Whether it is recorded that nothing comes of it."""
        self._turn = turn
        self._over = asyncio.Event()

    @property
    def has_its_place(self) -> bool:
        """Whether it is about to begin, so that it can no longer be withdrawn."""
        return self._turn.done()

    def withdraw(self) -> None:
        """Takes it out of the line: its request goes on with Withdrawn."""
        self.refuse(Withdrawn())

    def refuse(self, error: Exception) -> None:
        """The same, and it goes on with this error."""
        self._turn.set_exception(error)
        self.leave()

    def leave(self) -> None:
        """It has begun, or never will."""
        self._over.set()

    async def over(self, timeout: float | None) -> bool:
        """Waits until it waits no more; False when that takes longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._over.wait()
        except TimeoutError:
            return False
        return True
