"""The memory that execs were promised: bounded in sum, given back once, and counted by the next image, too."""

from __future__ import annotations

import pytest

from gateway.errors import TooManyExecs
from gateway.supervisor.limits.memory import Memory


def test_sum_is_bounded() -> None:
    """What is promised cannot be had twice until it is given back; giving back what nobody has is nothing."""
    memory = Memory(10)
    memory.promise("a", 6)
    with pytest.raises(TooManyExecs):
        memory.promise("b", 5)
    memory.release("b")
    memory.release("a")
    memory.promise("b", 10)


def test_next_image_counts_what_runs() -> None:
    """It goes on with the promises of those that it has taken over, over a bound that is lower now, and no others."""
    memory = Memory(10)
    memory.promise("runs", 6)
    memory.promise("waits", 4)
    after = Memory(5)
    after.renew(memory.promised_to(["runs", "unknown"]))
    with pytest.raises(TooManyExecs):
        after.promise("waits", 1)
    after.release("runs")
    after.promise("waits", 5)
