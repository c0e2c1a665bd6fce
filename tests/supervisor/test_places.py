"""The queue of execs: places in the order of asking, each waiting for its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import TooManyExecs
from gateway.supervisor.places import Places


def on_a_loop(
    test: Callable[[Places], Awaitable[None]], *, places: int = 1, places_each: int = 9, max_waiting: int = 3
) -> None:
    async def run() -> None:
        await test(Places(asyncio.get_running_loop(), places=places, places_each=places_each, max_waiting=max_waiting))

    asyncio.run(run())


def test_free_place_costs_no_time() -> None:
    """As many as there are places are taken at once."""

    async def test(places: Places) -> None:
        assert [await places.take("a", 0), await places.take("a", 0)] == [0.0, 0.0]
        with pytest.raises(TooManyExecs):
            await places.take("a", 0)

    on_a_loop(test, places=2)


def test_turns_come_in_the_order_of_asking() -> None:
    """A place that comes back goes to the one that has waited longest."""

    async def test(places: Places) -> None:
        await places.take("a", 0)
        order: list[int] = []

        async def wait(number: int) -> None:
            await places.take("a", 5)
            order.append(number)

        tasks = [asyncio.create_task(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        for _ in tasks:
            places.give_back("a")
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]

    on_a_loop(test)


def test_time_is_up() -> None:
    """Who waits longer than its time is refused, with a time to come again, and leaves the line."""

    async def test(places: Places) -> None:
        await places.take("a", 0)
        with pytest.raises(TooManyExecs) as refusal:
            await places.take("a", 0.01)
        assert refusal.value.evidence["retry_after"] >= 1
        places.give_back("a")
        assert await places.take("a", 0) == 0.0

    on_a_loop(test)


def test_line_is_bounded() -> None:
    """One more than may wait is refused at once, whatever its time."""

    async def test(places: Places) -> None:
        await places.take("a", 0)
        tasks = [asyncio.create_task(places.take("a", 5)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyExecs):
            await places.take("a", 5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    on_a_loop(test)


def test_cancelled_waiter_loses_no_place() -> None:
    """A client that leaves in the moment in which its turn comes gives the place to the next."""

    async def test(places: Places) -> None:
        await places.take("a", 0)
        first, second = asyncio.create_task(places.take("a", 5)), asyncio.create_task(places.take("a", 5))
        await asyncio.sleep(0)
        places.give_back("a")
        first.cancel()
        await asyncio.wait([first, second], timeout=2)
        assert first.cancelled() or first.done()
        if not first.cancelled():
            places.give_back("a")
        await asyncio.wait_for(second, 2)
        places.give_back("a")
        assert await places.take("a", 0) == 0.0

    on_a_loop(test)


def test_no_token_takes_all() -> None:
    """A token that has its share waits, and those behind it in the line go first."""

    async def test(places: Places) -> None:
        await places.take("a", 0)
        mine = asyncio.create_task(places.take("a", 5))
        await asyncio.sleep(0)
        assert await places.take("b", 5) < 1
        assert not mine.done()
        places.give_back("a")
        assert await mine < 5

    on_a_loop(test, places=3, places_each=1)


def test_nobody_in_line_gets_a_place_while_held() -> None:
    """During a reload places that come back stay free, and are given afterwards."""

    async def test(places: Places) -> None:
        await places.take("a", 0)
        waiting = asyncio.create_task(places.take("a", 5))
        await asyncio.sleep(0)
        places.hold()
        places.give_back("a")
        await asyncio.sleep(0)
        assert not waiting.done()
        places.go_on()
        await waiting

    on_a_loop(test)
