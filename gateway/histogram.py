"""Histogram: how long things took, as counts by upper bound and a sum; plain numbers that travel as JSON."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG = (*SHORT, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0)
REQUEST = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 600.0)
"""Upper bounds in seconds: of what should be quick, of what takes as long as a command does, and of requests, of which
there is a histogram for each operation."""


class Histogram:
    """Observations in seconds; `counts` has one number more than there are bounds, for what is above them all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one; less than nothing, as by a clock that was set, is nothing."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def to_wire(self) -> dict[str, Any]:
        return {"bounds": self.bounds, "counts": self.counts, "sum": self.sum}

    def take_over(self, data: dict[str, Any]) -> None:
        """Goes on from what `to_wire` gave; anew where the bounds have been others."""
        if tuple(data["bounds"]) == self.bounds:
            self.counts, self.sum = list(data["counts"]), data["sum"]
