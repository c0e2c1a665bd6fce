"""How often all who wait for what no task tells of may ask PVE."""

from __future__ import annotations

import threading
import time

import pytest

from gateway.errors import ClientGone
from gateway.guests.pace import Pace
from gateway.web.disconnect import Ready


def test_many_take_turns() -> None:
    """A hundred who wait for a second have ten turns in it, not a hundred; who has none is told at its deadline."""
    pace, turns = Pace(), list[float]()
    began = time.monotonic()

    def wait() -> None:
        if pace.wait(began + 1.2, None, 0.1):
            turns.append(time.monotonic() - began)

    threads = [threading.Thread(target=wait) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 <= len(turns) <= 12
    assert time.monotonic() - began < 10


class Watch:
    """Sees the same whatever happens."""

    def __init__(self, gone: bool) -> None:
        self._gone = gone

    def wait(self, fd: int | None, timeout: float | None) -> Ready:
        return Ready(fd=False, gone=self._gone)


def test_client_that_left() -> None:
    """Nobody is asked on its behalf any more."""
    with pytest.raises(ClientGone):
        Pace().wait(time.monotonic() + 60, Watch(gone=True), 30)


def test_server_that_ends() -> None:
    """The watch returns before its time: there is no turn, and no loop."""
    assert Pace().wait(time.monotonic() + 60, Watch(gone=False), 30) is False
