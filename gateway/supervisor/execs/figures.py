"""Figures: what this supervisor has seen of execs, and of PVE's API, since it was started, for /metrics.

They travel to the next image in a reload. A supervisor that is started anew begins at nothing, as Prometheus expects of
counters, and tells so by `started`. No figure knows a guest, a token or a command.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from gateway.exec.ending import Ending
from gateway.exec.order import GuestKind
from gateway.histogram import LONG, SHORT, Histogram

AGENT = "guest-agent"
UNKNOWN = "unknown"
"""The reason of an exec of which nobody can know how it ended."""

_PHASES = {"queue": LONG, "overhead": SHORT, "spawn": SHORT, "run": LONG}


class Figures:
    """`driver`: what enters containers here (exec.driver)."""

    def __init__(self, driver: str) -> None:
        self._container_driver = driver
        self._started = time.time()
        self._reloads = 0
        self._ended: Counter[tuple[str, str]] = Counter()
        self._phases: dict[tuple[str, str], Histogram] = {}
        self._output: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._cpu = 0.0
        self._asked = threading.Lock()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._call_seconds: dict[str, Histogram] = {}

    def began(self, kind: GuestKind, *, queued: float, overhead: float) -> None:
        """A command is about to be spawned. Seconds: of waiting for a place, and of everything else before."""
        self._phase("queue", kind).observe(queued)
        self._phase("overhead", kind).observe(overhead)

    def ended(self, kind: GuestKind, ending: Ending | None) -> None:
        """An exec's outcome is known; None: nobody can know it."""
        self._ended[self.driver_of(kind), ending.reason if ending is not None else UNKNOWN] += 1
        if ending is None:
            return
        self._totals["killed"] += ending.killed
        if ending.timing is not None and ending.usage is not None:  # else it never began, or nobody has watched it
            self._phase("spawn", kind).observe(ending.timing["spawn_ms"] / 1000)
            if ending.spawn_error is None:
                self._phase("run", kind).observe(ending.timing["run_ms"] / 1000)
            self._cpu += (ending.usage["cpu_ms"] or 0) / 1000
            self._totals["oom_killed"] += ending.usage["oom_killed"] or 0
        if ending.output is not None:
            self._output["stdout"] += ending.output["stdout"]["bytes"]
            self._output["stderr"] += ending.output["stderr"]["bytes"]
            self._totals["dropped"] += ending.output["stdout"]["dropped"] + ending.output["stderr"]["dropped"]

    def count_call(self, method: str, outcome: str, seconds: float) -> None:
        """PVE was asked for something (pve.client's `Observe`). Any thread may say so."""
        with self._asked:
            self._calls[method, outcome] += 1
            self._seconds_of(method).observe(seconds)

    def driver_of(self, kind: GuestKind) -> str:
        return self._container_driver if kind is GuestKind.LXC else AGENT

    def to_wire(self) -> dict[str, Any]:
        """Everything, for /metrics and for the next image."""
        return {
            "started": self._started,
            "reloads": self._reloads,
            "ended": [[*names, count] for names, count in self._ended.items()],
            "phases": [[*names, histogram.to_wire()] for names, histogram in self._phases.items()],
            "output": dict(self._output),
            "totals": dict(self._totals),
            "cpu": self._cpu,
            **self._calls_to_wire(),
        }

    def take_over(self, data: dict[str, Any]) -> None:
        """Goes on with what the image before this one had counted; anew without."""
        if not data:
            return
        self._started, self._reloads, self._cpu = data["started"], data["reloads"] + 1, data["cpu"]
        self._ended.update({(driver, reason): count for driver, reason, count in data["ended"]})
        for phase, driver, histogram in data["phases"]:
            if phase in _PHASES:
                self._histogram(phase, driver).take_over(histogram)
        self._output.update(data["output"])
        self._totals.update(data["totals"])
        self._calls.update({(method, outcome): count for method, outcome, count in data.get("calls", ())})
        for method, bounds, counts, total in data.get("call_seconds", ()):
            self._seconds_of(method).take_over({"bounds": bounds, "counts": counts, "sum": total})

    def _calls_to_wire(self) -> dict[str, Any]:
        with self._asked:
            took = self._call_seconds.items()
            return {
                "calls": [[*names, count] for names, count in self._calls.items()],
                "call_seconds": [[method, seen.bounds, list(seen.counts), seen.sum] for method, seen in took],
            }

    def _seconds_of(self, method: str) -> Histogram:
        return self._call_seconds.setdefault(method, Histogram(SHORT))

    def _phase(self, phase: str, kind: GuestKind) -> Histogram:
        return self._histogram(phase, self.driver_of(kind))

    def _histogram(self, phase: str, driver: str) -> Histogram:
        found = self._phases.get((phase, driver))
        if found is None:
            found = self._phases[phase, driver] = Histogram(_PHASES[phase])
        return found
