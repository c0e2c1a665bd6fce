"""WebFigures: what all web workers together have counted of requests and of calls of PVE's API, in shared memory.

Made before the workers are forked. Each process writes a row of its own; its successor goes on in the row that it
leaves, so no count is ever lost or taken back while the service's master lives. Our own rather than prometheus-client's
files for each process: those grow with every worker that was replaced, and stand on a disk.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import weakref
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from gateway.histogram import REQUEST, SHORT

UNMATCHED = ("any", "unmatched")
"""Method and route of what is no operation of the API: another path, another method."""
EDGE = ("any", "edge")
"""And of what was refused before anybody knew what it asks for."""
CLIENT_GONE = 499
"""nginx's status for a client that left before its reply."""
OTHER = "other"
"""A status that no route is known to have."""
METHODS = ("GET", "POST", "PUT", "DELETE")
OUTCOMES = ("ok", "refused", "unreachable", "silent")
"""Of a call to PVE: pve.client's failures by name."""

_ROWS = 64
"""More than there are workers, those of before a reload that still end included."""


class WebFigures:
    """`routes`: method and path of every operation; `statuses`: all that replies may have. For many threads."""

    def __init__(self, routes: Iterable[tuple[str, str]], statuses: Iterable[int]) -> None:
        self._routes = {route: number for number, route in enumerate((*routes, UNMATCHED, EDGE))}
        known: list[int | str] = [*sorted({*statuses, CLIENT_GONE}), OTHER]
        self._statuses = {status: number for number, status in enumerate(known)}
        self._requests = _Block(1, len(self._routes), len(self._statuses))
        self._seconds = _Block(self._requests.end, len(self._routes), len(REQUEST) + 2)
        self._calls = _Block(self._seconds.end, len(METHODS), len(OUTCOMES))
        self._call_seconds = _Block(self._calls.end, len(METHODS), len(SHORT) + 2)
        self._width = self._call_seconds.end
        self._memory = mmap.mmap(-1, _ROWS * self._width * 8)  # MAP_SHARED
        self._cells = memoryview(self._memory).cast("d")
        self._rows = os.memfd_create("figures", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._rows)
        self._thread = threading.Lock()
        self._pid = 0
        self._row = 0

    def count_request(self, route: tuple[str, str], status: int, seconds: float) -> None:
        """One reply was made, so long after its request was there."""
        number = self._routes[route]
        with self._thread:
            row = self._own_row()
            self._cells[row + self._requests.at(number, self._column(status))] += 1
            self._observe(row, self._seconds, number, REQUEST, seconds)

    def count_refusal(self, status: int) -> None:
        """The edge has refused a request by itself."""
        number = self._routes[EDGE]
        with self._thread:
            self._cells[self._own_row() + self._requests.at(number, self._column(status))] += 1

    def count_call(self, method: str, outcome: str, seconds: float) -> None:
        """PVE was asked for something; `outcome` is one of OUTCOMES."""
        number = METHODS.index(method)
        with self._thread:
            row = self._own_row()
            self._cells[row + self._calls.at(number, OUTCOMES.index(outcome))] += 1
            self._observe(row, self._call_seconds, number, SHORT, seconds)

    def read(self) -> dict[str, Any]:
        """The sums over all workers that there have been: `requests`, `seconds`, `calls`, `call_seconds`."""
        rows = [self._read(row) for row in range(_ROWS) if self._cells[row * self._width]]
        total = [sum(cells) for cells in zip(*rows, strict=True)] or [0.0] * self._width
        return {
            "requests": [
                (method, route, status, count)
                for (method, route), number in self._routes.items()
                for status, kind in self._statuses.items()
                if (count := total[self._requests.at(number, kind)])
            ],
            "seconds": [
                (method, route, *histogram)
                for (method, route), number in self._routes.items()
                if any((histogram := _histogram(total, self._seconds, number, REQUEST))[1])
            ],
            "calls": [
                (method, outcome, total[self._calls.at(number, kind)])
                for number, method in enumerate(METHODS)
                for kind, outcome in enumerate(OUTCOMES)
            ],
            "call_seconds": [
                (method, *_histogram(total, self._call_seconds, number, SHORT)) for number, method in enumerate(METHODS)
            ],
        }

    def _read(self, row: int) -> list[float]:
        return list(self._cells[row * self._width : (row + 1) * self._width])

    def _observe(self, row: int, block: _Block, number: int, bounds: tuple[float, ...], seconds: float) -> None:
        self._cells[row + block.at(number, bisect_left(bounds, seconds))] += 1
        self._cells[row + block.at(number, len(bounds) + 1)] += seconds

    def _column(self, status: int) -> int:
        return self._statuses.get(status, self._statuses[OTHER])

    def _own_row(self) -> int:
        """Where this process's row begins. The kernel gives a row back when its process ends, however that ends."""
        if self._pid != os.getpid():
            self._pid, self._row = os.getpid(), self._claim() * self._width
            self._cells[self._row] = 1.0
        return self._row

    def _claim(self) -> int:
        for row in range(_ROWS):
            try:
                fcntl.lockf(self._rows, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            except OSError:
                continue
            return row
        return _ROWS - 1  # shared by those who found none: a count may be lost there


class _Block:
    """A table of cells within a row: `rows` times `columns`, from cell `start` on."""

    def __init__(self, start: int, rows: int, columns: int) -> None:
        self._start = start
        self._columns = columns
        self.end = start + rows * columns

    def at(self, row: int, column: int) -> int:
        return self._start + row * self._columns + column


def _histogram(
    cells: list[float], block: _Block, number: int, bounds: tuple[float, ...]
) -> tuple[tuple[float, ...], list[float], float]:
    """Bounds, counts and sum."""
    start = block.at(number, 0)
    return bounds, cells[start : start + len(bounds) + 1], cells[start + len(bounds) + 1]
