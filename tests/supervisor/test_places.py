"""The queue of execs: limits of node, token and guest, turns in the order of asking, exclusive ones alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.errors import TooManyExecs
from gateway.supervisor.limits.bounds import Claim
from gateway.supervisor.limits.places import Places, Turn, Withdrawn

A, B = Claim("a", 101), Claim("b", 101)
ALONE = Claim("a", 101, exclusive=True)


def on_a_loop(
    test: Callable[[Places], Awaitable[None]], *, places: int = 1, token: int = 9, guest: int = 9, max_waiting: int = 3
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        await test(Places(loop, places=places, places_per_token=token, places_per_guest=guest, max_waiting=max_waiting))

    asyncio.run(run())


def begin(places: Places, claim: Claim, timeout: float = 5) -> asyncio.Task[float]:
    return asyncio.get_running_loop().create_task(places.take(claim, timeout))


async def settle() -> None:
    """Lets everybody do what can be done now."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_free_place_costs_no_time() -> None:
    """As many as there are places are taken at once."""

    async def test(places: Places) -> None:
        assert [await places.take(A, 0), await places.take(A, 0)] == [0.0, 0.0]
        with pytest.raises(TooManyExecs):
            await places.take(A, 0)

    on_a_loop(test, places=2)


def test_turns_come_in_the_order_of_asking() -> None:
    """A place that comes back goes to the one that has waited longest."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        order: list[int] = []

        async def wait(number: int) -> None:
            await places.take((A, B, A)[number], 5)
            order.append(number)

        tasks = [asyncio.create_task(wait(number)) for number in range(3)]
        await settle()
        for claim in (A, A, B):
            places.give_back(claim)
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]

    on_a_loop(test)


def test_time_is_up() -> None:
    """Who waits longer than its time is refused, with a time to come again, and leaves the line."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        with pytest.raises(TooManyExecs) as refusal:
            await places.take(A, 0.01)
        assert refusal.value.evidence["retry_after"] >= 1
        places.give_back(A)
        assert await places.take(A, 0) == 0.0

    on_a_loop(test)


def test_line_is_bounded() -> None:
    """One more than may wait is refused at once, whatever its time; one that need not wait is not."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        tasks = [begin(places, A) for _ in range(3)]
        await settle()
        with pytest.raises(TooManyExecs) as refusal:
            await places.take(A, 5)
        assert refusal.value.evidence["limited_by"] == "exec.max_queued"
        assert await places.take(Claim("b", 102), 5) == 0.0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    on_a_loop(test, places=2, token=1)


def test_cancelled_waiter_loses_no_place() -> None:
    """A client that leaves in the moment in which its turn comes gives the place to the next."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        first, second = begin(places, A), begin(places, A)
        await settle()
        places.give_back(A)
        first.cancel()
        assert await asyncio.wait_for(second, 2) < 2
        assert first.cancelled()
        places.give_back(A)
        assert await places.take(A, 0) == 0.0

    on_a_loop(test)


def test_withdrawn_one_leaves_the_line() -> None:
    """It is told so, the next has its turn, and only those who had to wait were given something to wait for."""

    async def test(places: Places) -> None:
        turns: list[Turn] = []
        await places.take(A, 0, turns.append)
        assert not turns
        first = asyncio.create_task(places.take(A, 5, turns.append))
        second = begin(places, A)
        await settle()
        turns[0].set_exception(Withdrawn())
        places.give_back(A)
        with pytest.raises(Withdrawn):
            await first
        assert await second < 2
        assert not places.waiting()

    on_a_loop(test)


def test_one_whose_client_just_left_gets_no_place() -> None:
    """A place that comes back in the moment in which the first in line gives up goes to the second."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        first, second = begin(places, A), begin(places, A)
        await settle()
        first.cancel()
        places.give_back(A)
        assert await asyncio.wait_for(second, 2) < 2

    on_a_loop(test)


@pytest.mark.parametrize(
    ("limits", "other"),
    [({"token": 1}, Claim("b", 101)), ({"guest": 1}, Claim("a", 102))],
    ids=["token", "guest"],
)
def test_full_token_or_guest_holds_up_nobody_else(limits: dict[str, int], other: Claim) -> None:
    """Who waits for its token, or its guest, lets those behind it go first that do not."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        mine = begin(places, A)
        await settle()
        assert await places.take(other, 0) == 0.0
        assert not mine.done()
        places.give_back(A)
        assert await mine < 5

    on_a_loop(test, places=3, **limits)


def test_exclusive_one_is_alone() -> None:
    """It waits for those in its guest, later ones wait for it, and other guests go on meanwhile."""

    async def test(places: Places) -> None:
        elsewhere = Claim("a", 102)
        await places.take(B, 0)
        alone, later = begin(places, ALONE), begin(places, B)
        await settle()
        assert await places.take(elsewhere, 0) == 0.0
        assert not alone.done() and not later.done()
        places.give_back(B)
        assert await alone < 5
        await settle()
        assert not later.done()
        assert [waiting.limit for waiting in places.waiting()] == ["exclusive"]
        places.give_back(ALONE)
        assert await later < 5
        with pytest.raises(TooManyExecs):
            await places.take(ALONE, 0)

    on_a_loop(test, places=9)


def test_exclusive_one_that_gives_up_lets_the_others_in() -> None:
    """Those that it held up go on at once."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        alone = begin(places, ALONE, timeout=0.01)
        later = begin(places, B)
        with pytest.raises(TooManyExecs):
            await alone
        assert await asyncio.wait_for(later, 2) < 2

    on_a_loop(test, places=9)


def test_exclusive_one_whose_token_is_full_holds_up_no_other_token() -> None:
    """A token that has all its places elsewhere cannot close a guest by asking for more."""

    async def test(places: Places) -> None:
        await places.take(Claim("a", 102), 0)
        alone = begin(places, ALONE)
        await settle()
        assert await places.take(B, 0) == 0.0
        places.give_back(Claim("a", 102))
        await settle()
        later = begin(places, B)
        await settle()
        assert not alone.done() and not later.done(), "now it has its turn"
        places.give_back(B)
        await alone
        places.give_back(ALONE)
        await later

    on_a_loop(test, places=9, token=1)


@pytest.mark.parametrize(
    ("limits", "claim", "name"),
    [
        ({"places": 1}, Claim("b", 102), "exec.max_running"),
        ({"token": 1}, Claim("a", 102), "exec.max_running_per_token"),
        ({"guest": 1}, Claim("b", 101), "exec.max_running_per_guest"),
        ({}, ALONE, "exclusive"),
    ],
)
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_refusal_names_the_limit(limits: dict[str, int], claim: Claim, name: str, timeout: float) -> None:
    """Whoever is refused learns by name what is full."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        with pytest.raises(TooManyExecs) as refusal:
            await places.take(claim, timeout)
        assert refusal.value.evidence["limited_by"] == name
        assert name in refusal.value.detail

    on_a_loop(test, **{"places": 9, **limits})


def test_nobody_in_line_gets_a_place_while_held() -> None:
    """During a reload places that come back stay free, and are given afterwards."""

    async def test(places: Places) -> None:
        await places.take(A, 0)
        waiting = begin(places, A)
        await settle()
        places.hold()
        places.give_back(A)
        await settle()
        assert not waiting.done()
        places.go_on()
        await waiting

    on_a_loop(test)


def test_resumed_ones_have_their_places() -> None:
    """What runs already is counted, over the bounds if need be; an exclusive one is alone still."""

    async def test(places: Places) -> None:
        places.occupy(A)
        places.occupy(A)
        with pytest.raises(TooManyExecs):
            await places.take(Claim("c", 103), 0)
        places.give_back(A)
        places.give_back(A)
        places.occupy(ALONE)
        with pytest.raises(TooManyExecs) as refusal:
            await places.take(B, 0)
        assert refusal.value.evidence["limited_by"] == "exclusive"

    on_a_loop(test)


def test_a_tokens_own_limit() -> None:
    """It holds below the configured one, is named, is never above it, and holds up no other token."""

    async def test(places: Places) -> None:
        own = A._replace(most=1)
        await places.take(own, 0)
        with pytest.raises(TooManyExecs) as refusal:
            await places.take(own, 0)
        assert refusal.value.evidence["limited_by"] == "token.max_running"
        await places.take(B, 0)
        wide = B._replace(most=99)
        await places.take(wide, 0)
        with pytest.raises(TooManyExecs) as refusal:
            await places.take(wide, 0)
        assert refusal.value.evidence["limited_by"] == "exec.max_running_per_token"

    on_a_loop(test, places=9, token=2)


def test_a_raised_limit_lets_waiters_pass() -> None:
    """The token was given more meanwhile: the next who asks brings the news, and goes behind those who waited."""

    async def test(places: Places) -> None:
        own = A._replace(most=1)
        await places.take(own, 0)
        first = begin(places, own)
        await settle()
        assert not first.done()
        second = begin(places, A._replace(most=2))
        await settle()
        assert first.done() and not second.done()
        second.cancel()

    on_a_loop(test, places=9, token=5)


def test_a_limit_is_kept_while_its_token_waits_for_a_guest() -> None:
    """None of the token's runs yet: two places that come free in the guest are one for it all the same."""

    async def test(places: Places) -> None:
        for _ in range(2):
            places.occupy(B)
        tasks = [begin(places, A._replace(most=1)) for _ in range(2)]
        await settle()
        for _ in range(2):
            places.give_back(B)
        await settle()
        assert [task.done() for task in tasks] == [True, False]
        tasks[1].cancel()

    on_a_loop(test, places=9, token=5, guest=2)


def test_many_wait_and_all_is_quick() -> None:
    """Ten thousand, of a hundred tokens and in a hundred guests, have their turn without long looks at the others."""

    async def test(places: Places) -> None:
        claims = [Claim(f"t{number % 100}", 100 + number // 100, number % 50 == 0) for number in range(10_000)]
        running = [Claim(f"t{number}", 99) for number in range(20)]
        for claim in running:
            places.occupy(claim)

        async def wait(claim: Claim) -> None:
            await places.take(claim, 300)
            running.append(claim)

        began = time.process_time()
        tasks = [asyncio.create_task(wait(claim)) for claim in claims]
        await settle()
        assert len(places.waiting()) == 10_000
        for _ in range(10_020):
            if not running:
                await settle()
            places.give_back(running.pop(0))
        await asyncio.gather(*tasks)
        assert time.process_time() - began < 10

    on_a_loop(test, places=20, token=3, guest=5, max_waiting=10_000)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes only when it is told so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        for _ in range(8):
            self.call_soon(self.stop)
            self.run_forever()


class One:
    """One who has asked: `task` while it waits or runs."""

    def __init__(self, number: int, claim: Claim, task: asyncio.Task[float], turn: list[Turn]) -> None:
        self.number, self.claim, self.task, self.turn = number, claim, task, turn
        self.first_in_guest = False
        """An exclusive one that had nothing but its guest to wait for: nobody who comes later may go before it."""


NODE, TOKEN, GUEST = 3, 2, 2


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: no limit passed, nobody overtaken or forgotten, and all places come back."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Clock()
        self.places = Places(self.loop, places=NODE, places_per_token=TOKEN, places_per_guest=GUEST, max_waiting=99)
        self.waiting: list[One] = []
        self.running: list[One] = []
        self.held = False
        self.number = 0
        self.most: dict[str, int] = {}

    @initialize(claims=st.lists(st.sampled_from([Claim("a", 1), Claim("b", 2), Claim("c", 3, True)]), unique=True))
    def resume(self, claims: list[Claim]) -> None:
        for claim in claims:
            self.places.occupy(claim)
            self.number += 1
            self.running.append(One(self.number, claim, self.loop.create_task(asyncio.sleep(0, 0.0)), []))

    @rule(
        token=st.sampled_from("abc"),
        vmid=st.integers(1, 3),
        exclusive=st.booleans(),
        timeout=st.sampled_from([3, 99]),
        most=st.sampled_from([None, 1, 99]),
    )
    def ask(self, token: str, vmid: int, exclusive: bool, timeout: float, most: int | None) -> None:
        self.number += 1
        if any(one.claim.token_id == token for one in self.waiting):
            most = self.most.get(token)  # a limit that changes under waiters has a test of its own
        self.most[token] = min(most or TOKEN, TOKEN)
        claim = Claim(token, vmid, exclusive, most)
        turn: list[Turn] = []
        task = self.loop.create_task(self.places.take(claim, timeout, turn.append))
        one = One(self.number, claim, task, turn)
        same_line = any(other.claim[:2] == claim[:2] for other in self.waiting)
        one.first_in_guest = exclusive and not same_line and self.count(token=token) < self.most[token]
        self.waiting.append(one)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.running))
        self.running.remove(one)
        self.places.give_back(one.claim)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), end_another=st.booleans(), first=st.booleans())
    def leave(self, data: st.DataObject, end_another: bool, first: bool) -> None:
        """A client goes, perhaps in the very moment in which a place comes back."""
        one = data.draw(st.sampled_from(self.waiting))
        ended = self.running.pop(0) if end_another and self.running else None
        if ended is not None and first:
            self.places.give_back(ended.claim)
        one.task.cancel()
        if ended is not None and not first:
            self.places.give_back(ended.claim)
        # Of two things at once the place may be given before it is known that someone else stands aside.
        self.settle(in_order=ended is None)
        assert one.task.cancelled()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), end_another=st.booleans())
    def withdraw(self, data: st.DataObject, end_another: bool) -> None:
        """Somebody else takes one out of the line, perhaps just before a place comes back."""
        one = data.draw(st.sampled_from(self.waiting))
        one.turn[0].set_exception(Withdrawn())
        if end_another and self.running:
            self.places.give_back(self.running.pop(0).claim)
        self.settle(in_order=not end_another)
        assert isinstance(one.task.exception(), Withdrawn)

    @rule()
    def time_passes(self) -> None:
        self.loop.now += 2
        self.settle()

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.held = held
        (self.places.hold if held else self.places.go_on)()
        self.settle()

    def settle(self, *, in_order: bool = True) -> None:
        """Lets the loop do all there is to do, and looks at who has got a place."""
        self.loop.settle()
        came = [
            one for one in self.waiting if one.task.done() and not one.task.cancelled() and not one.task.exception()
        ]
        self.waiting = [one for one in self.waiting if not one.task.done()]
        self.running += came
        for one in came if in_order else ():
            self.running.remove(one)  # as it was just before
            for older in self.waiting:
                assert older.number > one.number or not self.could_run(older), "one that waited longer was passed over"
                assert older.number > one.number or older.claim.vmid != one.claim.vmid or not older.first_in_guest
            self.running.append(one)

    def count(self, *, token: str | None = None, vmid: int | None = None) -> int:
        return sum(token in (None, one.claim.token_id) and vmid in (None, one.claim.vmid) for one in self.running)

    def could_run(self, one: One) -> bool:
        """Whether no limit, and no older exclusive one, stands in its way."""
        token, vmid, exclusive, _ = one.claim
        others = [other.claim.exclusive for other in self.running if other.claim.vmid == vmid]
        ahead = [other for other in self.waiting if other.number < one.number and other.claim.vmid == vmid]
        return (
            not self.held
            and len(self.running) < NODE
            and self.count(token=token) < self.most[token]
            and len(others) < (1 if exclusive else GUEST)
            and not any(others)
            and not any(other.claim.exclusive for other in ahead)
        )

    @invariant()
    def never_over_a_limit(self) -> None:
        assert len(self.running) <= NODE
        for one in self.running:
            together = self.count(vmid=one.claim.vmid)
            assert self.count(token=one.claim.token_id) <= TOKEN and together <= GUEST
            assert not one.claim.exclusive or together == 1

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert not any(self.could_run(one) for one in self.waiting)
        assert len(self.places.waiting()) == len(self.waiting)

    def teardown(self) -> None:
        try:
            self.all_have_their_turn()
        finally:
            for one in self.waiting:
                one.task.cancel()
            self.loop.settle()
            self.loop.close()

    def all_have_their_turn(self) -> None:
        self.hold(False)
        while self.running:
            self.places.give_back(self.running.pop(0).claim)
            self.settle()
            self.never_over_a_limit()
        assert not self.waiting
        kept = self.places._lines, self.places._bounds._tokens, self.places._bounds._guests
        assert kept == ({}, {}, {}) and self.places._bounds.node.taken == 0


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
