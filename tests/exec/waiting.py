"""Waiting for something to come true, with a deadline instead of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: Callable[[], T], *, within: float = 10, why: str = "") -> T:
    """The first true value of `what`; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {why or what}"
        time.sleep(0.01)
