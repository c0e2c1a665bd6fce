"""How many execs may run at once, on the node, for each token and in each guest; the rest wait, each its own time."""

from __future__ import annotations

import asyncio
import bisect
import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.errors import TooManyExecs

_RETRY_AFTER = 1
_PER_TOKEN = "exec.max_running_per_token"
_OWN = "token.max_running"

Turn = asyncio.Future[None]
"""Done when the one who waits for it has a place. `Withdrawn` set on it takes that one out of the line."""


class Withdrawn(Exception):
    """The one who waited was taken out of the line."""


class Claim(NamedTuple):
    """What a place is asked for. `exclusive`: while no other exec has one in the guest. `most`: the token's own limit
    where it has one."""

    token_id: str
    vmid: int
    exclusive: bool = False
    most: int | None = None


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
        self._node = _Limit("exec.max_running", places)
        self._tokens: dict[str, _Limit] = {}
        self._guests: dict[int, _Guest] = {}
        self._per_token = places_per_token
        self._per_guest = places_per_guest
        self._max_waiting = max_waiting
        self._lines: dict[tuple[str, int], _Line] = {}
        self._waiting = 0
        self._last = 0

    async def take(self, claim: Claim, timeout: float, on_wait: Callable[[Turn], object] = lambda turn: None) -> float:
        """Waits for a place; how many seconds that took. `on_wait` is called only when there is none at once.

        Raises Withdrawn, or TooManyExecs, whose `limit` is the one that leaves no place: after `timeout` seconds, or
        at once where that is 0 or too many wait already.
        """
        self._bound(claim)
        line = self._lines.get((claim.token_id, claim.vmid))
        limit = line.limit if line is not None else self._obstacle(claim, self._last + 1)
        if limit is None:
            self.occupy(claim)
            return 0.0
        if timeout > 0 and self._waiting < self._max_waiting:
            return await self._wait(claim, limit, timeout, on_wait)
        name = limit.name_for(claim) if timeout <= 0 else "exec.max_queued"
        self._forget_unused(claim)
        raise _refusal(claim, name)

    def _bound(self, claim: Claim) -> None:
        """The token's own limit as it is now: who asks brings it. One that was raised lets waiters pass."""
        node, token, _ = self._limits(claim)
        before, now = token.most, self._token_limit(claim)
        token.most, token.name = now.most, now.name
        if token.most > before and token.lines:
            self._serve((node, token))

    def _token_limit(self, claim: Claim) -> _Limit:
        if claim.most is not None and claim.most < self._per_token:
            return _Limit(_OWN, claim.most)
        return _Limit(_PER_TOKEN, self._per_token)

    def occupy(self, claim: Claim) -> None:
        """Takes a place for one that runs already, over the bounds if need be."""
        node, token, guest = self._limits(claim)
        node.taken += 1
        token.taken += 1
        guest.taken += 1
        if claim.exclusive:
            guest.alone = True

    def give_back(self, claim: Claim) -> None:
        """Whoever is next and may have it gets it."""
        node, token, guest = limits = self._limits(claim)
        node.taken -= 1
        token.taken -= 1
        guest.taken -= 1
        if claim.exclusive:
            guest.alone = False
        self._serve(limits)
        self._forget_unused(claim)

    def hold(self) -> None:
        """Gives no place to anybody until `go_on`."""
        self._node.held = True

    def go_on(self) -> None:
        self._node.held = False
        self._serve((self._node,))

    def waiting(self) -> list[Waiting]:
        """All who wait, those first who have waited longest."""
        numbered = [(number, line, waiter) for line in self._lines.values() for number, waiter in line.waiters.items()]
        return [
            Waiting(waiter.claim, waiter.since, line.limit.name_for(waiter.claim))
            for _, line, waiter in sorted(numbered, key=lambda entry: entry[0])
        ]

    # ---- one who waits

    async def _wait(self, claim: Claim, limit: _Limit, timeout: float, on_wait: Callable[[Turn], object]) -> float:
        line, number, waiter = self._join(claim, limit)
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
                raise _refusal(claim, line.limit.name_for(claim)) from exc
        return self._loop.time() - waiter.since

    def _join(self, claim: Claim, limit: _Limit) -> tuple[_Line, int, _Waiter]:
        """Stands at the end of the line of its token and guest, which stops where there is no place for its first."""
        self._last += 1
        number, waiter = self._last, _Waiter(claim, self._loop.time(), self._loop.create_future())
        line = self._lines.get((claim.token_id, claim.vmid))
        if line is None:
            line = self._lines[claim.token_id, claim.vmid] = _Line(claim, limit)
            heapq.heappush(limit.lines, (number, line))
        line.waiters[number] = waiter
        self._waiting += 1
        if len(line.waiters) == 1:
            self._stop(line, limit)
        return line, number, waiter

    def _leave(self, claim: Claim, number: int, line: _Line) -> None:
        self._drop(claim, number, line)
        if claim.exclusive:  # it may have held up others in its guest
            node, _, guest = self._limits(claim)
            self._serve((node, guest))
            self._forget_unused(claim)

    def _drop(self, claim: Claim, number: int, line: _Line) -> None:
        """Takes one that was given its place, or that has left, out of its line."""
        if line.waiters.pop(number, None) is not None:
            self._waiting -= 1
            if claim.exclusive:
                self._limits(claim)[2].give_up(number)

    # ---- turns

    def _serve(self, limits: tuple[_Limit, ...]) -> None:
        """Gives away what has come free under `limits`, the node's among them."""
        while True:
            ready = [limit for limit in limits if limit.lines and limit.lets_first_pass()]
            if not ready:
                return
            longest = min(ready, key=lambda limit: limit.lines[0][0])
            self._advance(*heapq.heappop(longest.lines))

    def _advance(self, number: int, line: _Line) -> None:
        """The first of a line gets its place if this was its turn; then the line stops where there is none."""
        claim = line.claim
        while line.waiters:
            first, waiter = next(iter(line.waiters.items()))
            claim = waiter.claim
            if waiter.turn.done():  # it has left, and not yet been told so
                self._drop(claim, first, line)
                continue
            limit = self._obstacle(claim, first)
            if limit is not None:
                self._stop(line, limit)
                heapq.heappush(limit.lines, (first, line))
                return
            if first != number:  # not before those who have waited longer
                line.limit = self._node
                heapq.heappush(self._node.lines, (first, line))
                return
            self._drop(claim, first, line)
            self.occupy(claim)
            waiter.turn.set_result(None)
        del self._lines[claim.token_id, claim.vmid]
        self._forget_unused(claim)

    def _stop(self, line: _Line, limit: _Limit) -> None:
        """Notes where a line stops. One that wants to be alone has its turn in the guest from now on, come what may."""
        line.limit = limit
        first, waiter = next(iter(line.waiters.items()))
        _, token, guest = self._limits(waiter.claim)
        if waiter.claim.exclusive and limit is not token:
            guest.wish(first)

    def _obstacle(self, claim: Claim, number: int) -> _Limit | None:
        """The limit that leaves no place for who asked as the `number`th."""
        node, token, guest = self._limits(claim)
        if not token.has_room():
            return token
        if not guest.admits(number, claim.exclusive):
            return guest
        return None if node.has_room() else node

    # ---- the limits of one claim

    def _limits(self, claim: Claim) -> tuple[_Limit, _Limit, _Guest]:
        token_id, vmid = claim.token_id, claim.vmid
        token = self._tokens.get(token_id)
        if token is None:
            token = self._tokens[token_id] = self._token_limit(claim)
        guest = self._guests.get(vmid)
        if guest is None:
            guest = self._guests[vmid] = _Guest("exec.max_running_per_guest", self._per_guest)
        return self._node, token, guest

    def _forget_unused(self, claim: Claim) -> None:
        _, token, guest = self._limits(claim)
        if not token.taken and not token.lines:
            del self._tokens[claim.token_id]
        if not guest.taken and not guest.lines and not guest.wishes:
            del self._guests[claim.vmid]


@dataclass(eq=False)
class _Waiter:
    claim: Claim
    since: float
    turn: Turn


@dataclass(eq=False)
class _Line:
    """Those of one token that wait for one guest, by number. It stops at one limit; empty, it is soon forgotten."""

    claim: Claim
    limit: _Limit
    waiters: OrderedDict[int, _Waiter] = field(default_factory=OrderedDict)


@dataclass(eq=False)
class _Limit:
    """One bound, and the lines that stop at it: a heap by the number that their first had then."""

    name: str
    most: int
    taken: int = 0
    held: bool = False
    lines: list[tuple[int, _Line]] = field(default_factory=list)

    def has_room(self) -> bool:
        return self.taken < self.most and not self.held

    def lets_first_pass(self) -> bool:
        """Whether the first line has to go on: to its place, to another limit, or to where it now belongs."""
        return self.has_room()

    def name_for(self, claim: Claim) -> str:
        return self.name


@dataclass(eq=False)
class _Guest(_Limit):
    """A guest: `alone` while an exclusive one runs; `wishes` are the numbers, sorted, of those who want to be."""

    alone: bool = False
    wishes: list[int] = field(default_factory=list)

    def admits(self, number: int, exclusive: bool) -> bool:
        if self.alone or (self.wishes and self.wishes[0] < number):
            return False
        return not self.taken if exclusive else self.has_room()

    def lets_first_pass(self) -> bool:
        number, line = self.lines[0]
        waiter = line.waiters.get(number)
        return waiter is None or self.admits(number, waiter.claim.exclusive)

    def wish(self, number: int) -> None:
        if number not in self.wishes:
            bisect.insort(self.wishes, number)

    def give_up(self, number: int) -> None:
        if number in self.wishes:
            self.wishes.remove(number)

    def name_for(self, claim: Claim) -> str:
        shared = not claim.exclusive and not self.alone and not self.has_room()
        return self.name if shared else "exclusive"


def _has_come(turn: Turn) -> bool:
    """Whether the one who waited has got its place."""
    return turn.done() and not turn.cancelled() and turn.exception() is None


_WHY = {
    "exec.max_running": "as many execs run as exec.max_running allows",
    _OWN: "as many execs of this token run as its own limit, max_running, allows",
    _PER_TOKEN: "as many execs of this token run as exec.max_running_per_token allows",
    "exec.max_running_per_guest": "as many execs run in guest {vmid} as exec.max_running_per_guest allows",
    "exec.max_queued": "as many execs wait for a place as exec.max_queued allows",
    "exclusive": "in guest {vmid} an exclusive exec runs, or has to wait until no other does",
}


def _refusal(claim: Claim, limit: str) -> TooManyExecs:
    why = _WHY[limit].format(vmid=claim.vmid)
    return TooManyExecs(f"{why}; try again, or give a longer queue_timeout", limit=limit, retry_after=_RETRY_AFTER)
