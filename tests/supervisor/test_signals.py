"""Signals that come by descriptor: in a storm of them, too, none that matters is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from gateway.supervisor.signals import Signals


@pytest.fixture(autouse=True)
def _mask() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    while signal.sigpending():
        signal.sigwait(signal.sigpending())
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_storm_hides_no_other_signal() -> None:
    """Thousands of one signal while the loop is busy, then another: each is taken once, and nothing is left."""

    async def take_all() -> list[signal.Signals]:
        signals = Signals(asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGHUP))
        for _ in range(5000):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.waits([signal.SIGTERM])
        taken = [await signals.next(), await signals.next()]
        assert not signals.waits([signal.SIGTERM, signal.SIGHUP])
        return taken

    assert asyncio.run(take_all()) == [signal.SIGHUP, signal.SIGTERM]


def test_one_that_comes_later_is_waited_for() -> None:
    """Nothing is taken before it has come; one who stops waiting takes none along."""

    async def wait() -> signal.Signals:
        signals = Signals(asyncio.get_running_loop(), (signal.SIGTERM,))
        impatient = asyncio.ensure_future(signals.next())
        await asyncio.wait([impatient], timeout=0)
        impatient.cancel()
        await asyncio.wait([impatient])
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            return await signals.next()

    assert asyncio.run(wait()) is signal.SIGTERM
