"""The bounds that places are given under: how much of each is taken, and who waits at which, in lines."""

from __future__ import annotations

import asyncio
import bisect
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.errors import TooManyExecs

_RETRY_AFTER = 1
_PER_TOKEN = "exec.max_running_per_token"
_OWN = "token.max_running"
_WHY = {
    "exec.max_running": "as many execs run as exec.max_running allows",
    _OWN: "as many execs of this token run as its own limit, max_running, allows",
    _PER_TOKEN: "as many execs of this token run as exec.max_running_per_token allows",
    "exec.max_running_per_guest": "as many execs run in guest {vmid} as exec.max_running_per_guest allows",
    "exec.max_queued": "as many execs wait for a place as exec.max_queued allows",
    "exclusive": "in guest {vmid} an exclusive exec runs, or has to wait until no other does",
}


class Claim(NamedTuple):
    """What a place is asked for. `exclusive`: while no other exec has one in the guest. `most`: the token's own limit
    where it has one."""

    token_id: str
    vmid: int
    exclusive: bool = False
    most: int | None = None


class Bounds:
    """One for the node, one for each token and one for each guest that has execs, or that somebody waits for."""

    def __init__(self, *, node: int, per_token: int, per_guest: int) -> None:
        self.node = Bound("exec.max_running", node)
        self._tokens: dict[str, Bound] = {}
        self._guests: dict[int, GuestBound] = {}
        self._per_token = per_token
        self._per_guest = per_guest

    def of(self, claim: Claim) -> tuple[Bound, Bound, GuestBound]:
        """Those that a claim is under: the node's, its token's and its guest's."""
        token_id, vmid = claim.token_id, claim.vmid
        token = self._tokens.get(token_id)
        if token is None:
            token = self._tokens[token_id] = self._of_token(claim)
        guest = self._guests.get(vmid)
        if guest is None:
            guest = self._guests[vmid] = GuestBound("exec.max_running_per_guest", self._per_guest)
        return self.node, token, guest

    def renew(self, claim: Claim) -> bool:
        """The token's own as it is now: who asks brings it. Whether it was raised."""
        _, token, _ = self.of(claim)
        before, now = token.most, self._of_token(claim)
        token.most, token.name = now.most, now.name
        return token.most > before

    def occupy(self, claim: Claim) -> None:
        """Counts a place as taken, over the bounds if need be."""
        bounds = self.of(claim)
        for bound in bounds:
            bound.taken += 1
        if claim.exclusive:
            bounds[2].alone = True

    def vacate(self, claim: Claim) -> None:
        """Counts it as free."""
        bounds = self.of(claim)
        for bound in bounds:
            bound.taken -= 1
        if claim.exclusive:
            bounds[2].alone = False

    def obstacle(self, claim: Claim, number: int) -> Bound | None:
        """The one that leaves no place for who asked as the `number`th."""
        node, token, guest = self.of(claim)
        if not token.has_room():
            return token
        if not guest.admits(number, claim.exclusive):
            return guest
        return None if node.has_room() else node

    def forget_unused(self, claim: Claim) -> None:
        """Those of the token and the guest that nobody has a place under, nor waits at."""
        _, token, guest = self.of(claim)
        if not token.taken and not token.lines:
            del self._tokens[claim.token_id]
        if not guest.taken and not guest.lines and not guest.wishes:
            del self._guests[claim.vmid]

    def _of_token(self, claim: Claim) -> Bound:
        if claim.most is not None and claim.most < self._per_token:
            return Bound(_OWN, claim.most)
        return Bound(_PER_TOKEN, self._per_token)


@dataclass(eq=False)
class Waiter:
    """One who waits. `turn` is done when it has a place."""

    claim: Claim
    since: float
    turn: asyncio.Future[None]


@dataclass(eq=False)
class Line:
    """Those of one token that wait for one guest, by number. It stops at one bound; empty, it is soon forgotten."""

    claim: Claim
    bound: Bound
    waiters: OrderedDict[int, Waiter] = field(default_factory=OrderedDict)


@dataclass(eq=False)
class Bound:
    """One bound, and the lines that stop at it: a heap by the number that their first had then."""

    name: str
    most: int
    taken: int = 0
    held: bool = False
    lines: list[tuple[int, Line]] = field(default_factory=list)

    def has_room(self) -> bool:
        return self.taken < self.most and not self.held

    def lets_first_pass(self) -> bool:
        """Whether the first line has to go on: to its place, to another bound, or to where it now belongs."""
        return self.has_room()

    def name_for(self, claim: Claim) -> str:
        """The limit that it is, in the words of the configuration."""
        return self.name


@dataclass(eq=False)
class GuestBound(Bound):
    """A guest's: `alone` while an exclusive one runs; `wishes` are the numbers, sorted, of those who want to be."""

    alone: bool = False
    wishes: list[int] = field(default_factory=list)

    def admits(self, number: int, exclusive: bool) -> bool:
        """Whether it has a place for who asked as the `number`th."""
        if self.alone or (self.wishes and self.wishes[0] < number):
            return False
        return not self.taken if exclusive else self.has_room()

    def lets_first_pass(self) -> bool:
        number, line = self.lines[0]
        waiter = line.waiters.get(number)
        return waiter is None or self.admits(number, waiter.claim.exclusive)

    def wish(self, number: int) -> None:
        """It wants to be alone, and nobody who came later is to come before it."""
        if number not in self.wishes:
            bisect.insort(self.wishes, number)

    def give_up(self, number: int) -> None:
        """It wants that no more."""
        if number in self.wishes:
            self.wishes.remove(number)

    def name_for(self, claim: Claim) -> str:
        shared = not claim.exclusive and not self.alone and not self.has_room()
        return self.name if shared else "exclusive"


def refusal(claim: Claim, limit: str) -> TooManyExecs:
    """Why there is no place, by the name of the limit."""
    why = _WHY[limit].format(vmid=claim.vmid)
    return TooManyExecs(f"{why}; try again, or give a longer queue_timeout", limited_by=limit, retry_after=_RETRY_AFTER)
