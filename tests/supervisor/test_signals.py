"""Signals that come by descriptor: in a storm of them, too, none that matters is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

from gateway.supervisor.kernel.signals import Signals
from tests.pvesim.services import REPOSITORY


def run_alone(function: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What a function of this module gives back, called in a process without other threads: who does not block a
    signal dies of it."""
    script = f"import asyncio, {__name__} as tests; print(*asyncio.run(tests.{function.__name__}()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.split()


async def take_all() -> list[str]:
    signals = Signals(asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGHUP))
    for _ in range(5000):
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.waits([signal.SIGTERM])
    taken = [await signals.next(), await signals.next()]
    assert not signals.waits([signal.SIGTERM, signal.SIGHUP])
    return [number.name for number in taken]


async def wait() -> list[str]:
    signals = Signals(asyncio.get_running_loop(), (signal.SIGTERM,))
    impatient = asyncio.ensure_future(signals.next())
    await asyncio.wait([impatient], timeout=0)
    impatient.cancel()
    await asyncio.wait([impatient])
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        return [(await signals.next()).name]


def test_storm_hides_no_other_signal() -> None:
    """Thousands of one signal while the loop is busy, then another: each is taken once, and nothing is left."""
    assert run_alone(take_all) == ["SIGHUP", "SIGTERM"]


def test_one_that_comes_later_is_waited_for() -> None:
    """Nothing is taken before it has come; one who stops waiting takes none along."""
    assert run_alone(wait) == ["SIGTERM"]
