"""Who follows an exec's output: whom a full spool makes the command wait for, and who waits for something to come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

KEPT_SECONDS = 30.0
"""How long the place of a follower that was cut off is kept for the next one."""


@dataclass
class _Place:
    offsets: dict[str, int]
    """By stream: the bytes before these have been taken."""
    left_at: float | None = None


class Followers:
    """The followers of one exec, each known by the connection it asks on. The first of a stream is its holder."""

    def __init__(self, io: asyncio.AbstractEventLoop, moved: Callable[[], object]) -> None:
        self._io = io
        self._moved = moved
        """Called when the command may have less to wait for."""
        self._places: dict[object, _Place] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def took(self, follower: object, offsets: dict[str, int]) -> None:
        """It has taken these streams up to these offsets. One that comes after a lost one takes over its place."""
        place = self._places.get(follower)
        if place is None:
            place = self._places[follower] = _Place({})
            for other, lost in list(self._places.items()):
                if lost.left_at is not None and lost.offsets.keys() <= offsets.keys():
                    del self._places[other]
        place.offsets.update(offsets)
        self._moved()

    def left(self, follower: object) -> None:
        """Its connection has closed. Its place is kept a while, unless somebody else holds what it held."""
        place = self._places.get(follower)
        if place is not None:
            place.left_at = self._io.time()
            self._io.call_later(KEPT_SECONDS, self._expire, follower, place)

    def _expire(self, follower: object, place: _Place) -> None:
        if self._places.get(follower) is place:
            del self._places[follower]
            self._moved()

    def places(self) -> list[tuple[object | None, dict[str, int]]]:
        """For the next image of this program: who has taken what, in their order; None for one that was cut off."""
        return [(who if place.left_at is None else None, place.offsets) for who, place in self._places.items()]

    def resume(self, places: list[tuple[object | None, dict[str, int]]]) -> None:
        """Goes on with those that an earlier image of this program had."""
        for who, offsets in places:
            follower = object() if who is None else who
            self._places[follower] = _Place(dict(offsets))
            if who is None:
                self.left(follower)

    def holds(self, stream: str) -> int | None:
        """The offset from which on the stream's holder has not taken it; None when nobody follows it."""
        for place in self._places.values():
            if stream in place.offsets:
                return place.offsets[stream]
        return None

    def cursor(self) -> int | None:
        """The same for both streams in their order; None when nobody follows that."""
        for place in self._places.values():
            if len(place.offsets) > 1:
                return sum(place.offsets.values())
        return None

    async def news(self, timeout: float) -> bool:
        """Waits for `wake`; False when that takes longer than `timeout` seconds."""
        future: asyncio.Future[None] = self._io.create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True

    def wake(self) -> None:
        """Something has come, or nothing will any more."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)
