"""Waiting for something to come true, with a deadline instead of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

BUSY = 4.0
"""Seconds that a machine with much else to do may add to a promised time, so that a test of the promise still holds;
make bench and make soak measure the promise itself."""


def until(what: Callable[[], T], *, within: float = 30, why: str = "") -> T:
    """The first true value of `what`; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {why or what}"
        time.sleep(0.01)
