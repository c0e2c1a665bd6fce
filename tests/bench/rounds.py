"""How samples are taken: one thing at a time in turns, or eight of a kind side by side, also in turns.

Machines drift and have neighbours, so what is compared is always interleaved.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], object]

_SETTLE_SECONDS = 0.008
_FORK = multiprocessing.get_context("fork")


def take_turns(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, by name. Between two calls the machine is left alone for a moment, so that none
    pays for what the one before it left to do (an exec's outcome record, a dying process)."""
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(_SETTLE_SECONDS)
            began = time.perf_counter()
            work()
            samples[name].append((time.perf_counter() - began) * 1000)
    return samples


def alternate_loads(
    kinds: Mapping[str, Callable[[], Work]], *, side_by_side: int, seconds: float, rounds: int
) -> dict[str, float]:
    """Calls per second of each kind, `side_by_side` loops at once, over all rounds of `seconds` each.

    A kind's entry makes one loop's work. Each loop is a process of its own, in both kinds alike, so no
    interpreter lock holds one loop up for another.
    """
    done = dict.fromkeys(kinds, 0)
    for _ in range(rounds):
        for name, make in kinds.items():
            done[name] += _run_load(make, side_by_side, seconds)
    return {name: count / (seconds * rounds) for name, count in done.items()}


def _run_load(make: Callable[[], Work], side_by_side: int, seconds: float) -> int:
    ready = _FORK.Barrier(side_by_side)
    results: Any = _FORK.SimpleQueue()
    loops = [_FORK.Process(target=_loop, args=(make, ready, seconds, results)) for _ in range(side_by_side)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    if any(loop.exitcode for loop in loops):
        raise RuntimeError("a load loop failed; it said why above")
    return sum(results.get() for _ in loops)


def _loop(make: Callable[[], Work], ready: Any, seconds: float, results: Any) -> None:
    """Counts the calls that ended within `seconds` of the moment when all loops were ready."""
    work = make()
    work()
    ready.wait(timeout=30)
    end = time.perf_counter() + seconds
    count = 0
    while True:
        work()
        if time.perf_counter() > end:
            break
        count += 1
    results.put(count)
