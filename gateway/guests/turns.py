"""Turns: who copies one guest waits for who copies it already, for PVE locks the source as long as a clone takes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors_pve import TooManyChanges


class Turns:
    """One at a time for each source, in the order in which they came; at most `waiting` wait, `seconds` at most."""

    def __init__(self, waiting: int = 32, seconds: float = 120.0) -> None:
        self._waiting = waiting
        self._seconds = seconds
        self._changed = threading.Condition()
        self._queues: dict[int, deque[object]] = {}

    @contextmanager
    def take(self, vmid: int) -> Iterator[bool]:
        """Waits for the turn, and has it for as long as the context lasts; whether it had to be waited for. Raises
        TooManyChanges."""
        me = object()
        waited = self._join(vmid, me)
        try:
            yield waited
        finally:
            self._leave(vmid, me)

    def _join(self, vmid: int, me: object) -> bool:
        with self._changed:
            queue = self._queues.setdefault(vmid, deque())
            if len(queue) > self._waiting:
                raise _too_many(vmid, f"{self._waiting} clones of guest {vmid} wait for their turn")
            queue.append(me)
            if queue[0] is me:
                return False
            deadline = time.monotonic() + self._seconds
            ready = self._changed.wait_for(lambda: queue[0] is me, deadline - time.monotonic())
        if not ready:
            self._leave(vmid, me)
            raise _too_many(vmid, f"the clones of guest {vmid} before this one took {self._seconds:.0f} s")
        return True

    def _leave(self, vmid: int, me: object) -> None:
        with self._changed:
            queue = self._queues[vmid]
            queue.remove(me)
            if not queue:
                del self._queues[vmid]
            self._changed.notify_all()


def _too_many(vmid: int, what: str) -> TooManyChanges:
    return TooManyChanges(f"{what}; nothing was done, try again", vmid=vmid, retry_after=10)
