"""How many execs may run at once, on the node, for each token and in each guest; the rest wait, each its own time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import NamedTuple

from gateway.supervisor.limits.bounds import Bound, Bounds, Claim, Line, Waiter, refusal

Turn = asyncio.Future[None]
"""Done when the one who waits for it has a place. `Withdrawn` set on it takes that one out of the line."""


class Withdrawn(Exception):
    """The one who waited was taken out of the line."""


class Waiting(NamedTuple):
    """One who waits: since when, by the loop's clock, and for which limit to leave a place."""

    claim: Claim
    since: float
    limit: str


class Places:
    """A bounded number of places on the node, for each token and in each guest.

    A place that comes free goes to the one that has waited longest of all who may have it: whoever waits for its token
    or its guest holds up nobody else. Of one token in one guest each has its turn in the order of asking. An exclusive
    one, once its token has a place for it, lets nobody into the guest that came later until it has had its turn.
    Asking and giving back take microseconds however many wait.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        places: int,
        places_per_token: int,
        places_per_guest: int,
        max_waiting: int,
    ) -> None:
        self._loop = loop
        self._bounds = Bounds(node=places, per_token=places_per_token, per_guest=places_per_guest)
        self._max_waiting = max_waiting
        self._lines: dict[tuple[str, int], Line] = {}
        self._waiting = 0
        self._last = 0

    async def take(self, claim: Claim, timeout: float, on_wait: Callable[[Turn], object] = lambda turn: None) -> float:
        """Waits for a place; how many seconds that took. `on_wait` is called only when there is none at once.

        Raises Withdrawn, or TooManyExecs, whose `limit` is the one that leaves no place: after `timeout` seconds, or
        at once where that is 0 or too many wait already.
        """
        if self._bounds.renew(claim):  # then some who waited may pass
            self._serve(self._bounds.of(claim)[:2])
        line = self._lines.get((claim.token_id, claim.vmid))
        bound = line.bound if line is not None else self._bounds.obstacle(claim, self._last + 1)
        if bound is None:
            self.occupy(claim)
            return 0.0
        if timeout > 0 and self._waiting < self._max_waiting:
            return await self._wait(claim, bound, timeout, on_wait)
        name = bound.name_for(claim) if timeout <= 0 else "exec.max_queued"
        self._bounds.forget_unused(claim)
        raise refusal(claim, name)

    def occupy(self, claim: Claim) -> None:
        """Takes a place for one that runs already, over the bounds if need be."""
        self._bounds.occupy(claim)

    def give_back(self, claim: Claim) -> None:
        """Whoever is next and may have it gets it."""
        self._bounds.vacate(claim)
        self._serve(self._bounds.of(claim))
        self._bounds.forget_unused(claim)

    def hold(self) -> None:
        """Gives no place to anybody until `go_on`."""
        self._bounds.node.held = True

    def go_on(self) -> None:
        self._bounds.node.held = False
        self._serve((self._bounds.node,))

    def waiting(self) -> list[Waiting]:
        """All who wait, those first who have waited longest."""
        numbered = [(number, line, waiter) for line in self._lines.values() for number, waiter in line.waiters.items()]
        return [
            Waiting(waiter.claim, waiter.since, line.bound.name_for(waiter.claim))
            for _, line, waiter in sorted(numbered, key=lambda entry: entry[0])
        ]

    # ---- one who waits

    async def _wait(self, claim: Claim, bound: Bound, timeout: float, on_wait: Callable[[Turn], object]) -> float:
        line, number, waiter = self._join(claim, bound)
        try:
            on_wait(waiter.turn)
            async with asyncio.timeout(timeout):
                await waiter.turn
        except BaseException as exc:
            came = _has_come(waiter.turn)  # in the same moment
            if not came:
                self._leave(claim, number, line)
            if not isinstance(exc, TimeoutError):
                if came:
                    self.give_back(claim)
                raise
            if not came:
                raise refusal(claim, line.bound.name_for(claim)) from exc
        return self._loop.time() - waiter.since

    def _join(self, claim: Claim, bound: Bound) -> tuple[Line, int, Waiter]:
        """Stands at the end of the line of its token and guest, which stops where there is no place for its first."""
        self._last += 1
        number, waiter = self._last, Waiter(claim, self._loop.time(), self._loop.create_future())
        line = self._lines.get((claim.token_id, claim.vmid))
        if line is None:
            line = self._lines[claim.token_id, claim.vmid] = Line(claim, bound)
            heapq.heappush(bound.lines, (number, line))
        line.waiters[number] = waiter
        self._waiting += 1
        if len(line.waiters) == 1:
            self._stop(line, bound)
        return line, number, waiter

    def _leave(self, claim: Claim, number: int, line: Line) -> None:
        self._drop(claim, number, line)
        if claim.exclusive:  # it may have held up others in its guest
            node, _, guest = self._bounds.of(claim)
            self._serve((node, guest))
            self._bounds.forget_unused(claim)

    def _drop(self, claim: Claim, number: int, line: Line) -> None:
        """Takes one that was given its place, or that has left, out of its line."""
        if line.waiters.pop(number, None) is not None:
            self._waiting -= 1
            if claim.exclusive:
                self._bounds.of(claim)[2].give_up(number)

    # ---- turns

    def _serve(self, bounds: tuple[Bound, ...]) -> None:
        """Gives away what has come free under `bounds`, the node's among them."""
        while True:
            ready = [bound for bound in bounds if bound.lines and bound.lets_first_pass()]
            if not ready:
                return
            longest = min(ready, key=lambda bound: bound.lines[0][0])
            self._advance(*heapq.heappop(longest.lines))

    def _advance(self, number: int, line: Line) -> None:
        """The first of a line gets its place if this was its turn; then the line stops where there is none."""
        claim = line.claim
        while line.waiters:
            first, waiter = next(iter(line.waiters.items()))
            claim = waiter.claim
            if waiter.turn.done():  # it has left, and not yet been told so
                self._drop(claim, first, line)
                continue
            bound = self._bounds.obstacle(claim, first)
            if bound is not None:
                self._stop(line, bound)
                heapq.heappush(bound.lines, (first, line))
                return
            if first != number:  # not before those who have waited longer
                line.bound = self._bounds.node
                heapq.heappush(self._bounds.node.lines, (first, line))
                return
            self._drop(claim, first, line)
            self.occupy(claim)
            waiter.turn.set_result(None)
        del self._lines[claim.token_id, claim.vmid]
        self._bounds.forget_unused(claim)

    def _stop(self, line: Line, bound: Bound) -> None:
        """Notes where a line stops. One that wants to be alone has its turn in the guest from now on, come what may."""
        line.bound = bound
        first, waiter = next(iter(line.waiters.items()))
        _, token, guest = self._bounds.of(waiter.claim)
        if waiter.claim.exclusive and bound is not token:
            guest.wish(first)


def _has_come(turn: Turn) -> bool:
    """Whether the one who waited has got its place."""
    return turn.done() and not turn.cancelled() and turn.exception() is None
