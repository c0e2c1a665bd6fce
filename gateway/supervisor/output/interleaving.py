"""In which order the bytes of stdout and stderr came: what makes a replay of both the same as it was.

The place of a byte among those of both streams is its cursor. Bytes of one stream that come in a row are a run;
runs of stdout and stderr alternate, the first (it may be empty) is stdout's.
"""

from __future__ import annotations

import base64
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

STREAMS = ("stdout", "stderr")
MAX_RUNS = 1 << 17
"""How many runs are told apart, 16 bytes each. Of more, the older half becomes one run of each stream: the bytes
stay the same, their order among the two is lost."""


class Interleaving:
    """The runs of one exec."""

    def __init__(self) -> None:
        self.exact_from = 0
        """No cursor between 0 and this one can be gone on from."""
        self._ends = array("Q")  # the cursor at each run's end
        self._outs = array("Q")  # how many bytes of stdout there are up to it

    @property
    def total(self) -> int:
        """The cursor behind the newest byte."""
        return self._ends[-1] if self._ends else 0

    def add(self, stream: int, size: int) -> None:
        """`size` more bytes of stdout (0) or stderr (1) have come."""
        if (len(self._ends) & 1) == stream:
            self._append(stream, size)
        elif self._ends:
            self._ends[-1] += size
            if stream == 0:
                self._outs[-1] += size
        else:
            self._append(0, 0)
            self._append(stream, size)

    def _append(self, stream: int, size: int) -> None:
        out = self._outs[-1] if self._outs else 0
        self._ends.append(self.total + size)
        self._outs.append(out + size if stream == 0 else out)
        if len(self._ends) > MAX_RUNS:
            self._forget(MAX_RUNS // 2)

    def _forget(self, count: int) -> None:
        """Makes the `count` oldest runs (an even number) two."""
        self.exact_from, out = self._ends[count - 1], self._outs[count - 1]
        self._ends = array("Q", (out, self.exact_from)) + self._ends[count:]
        self._outs = array("Q", (out, out)) + self._outs[count:]

    def room_before(self, cursor: int) -> int:
        """How many runs can come before the order from `cursor` on is no longer known."""
        oldest = MAX_RUNS // 2  # these are the next to be forgotten
        if len(self._ends) >= oldest and cursor >= self._ends[oldest - 1]:
            return MAX_RUNS
        return MAX_RUNS - len(self._ends)

    def runs(self, cursor: int) -> Iterator[tuple[int, int, int, int]]:
        """(stream, offset in it, size, cursor behind) of the bytes from `cursor` on, a run or the rest of one each."""
        for index in range(bisect_right(self._ends, cursor), len(self._ends)):
            begin, out = (self._ends[index - 1], self._outs[index - 1]) if index else (0, 0)
            cursor = max(cursor, begin)
            stream, end = index & 1, self._ends[index]
            offset = (out if stream == 0 else begin - out) + cursor - begin
            if end > cursor:
                yield stream, offset, end - cursor, end

    def offsets(self, cursor: int) -> tuple[int, int]:
        """How many bytes of stdout and of stderr there are before `cursor`."""
        index = bisect_right(self._ends, cursor)
        begin, out = (self._ends[index - 1], self._outs[index - 1]) if index else (0, 0)
        if index < len(self._ends) and index & 1 == 0:
            out += cursor - begin
        return out, min(cursor, self.total) - out

    def to_state(self) -> dict[str, Any]:
        return {
            "exact_from": self.exact_from,
            "ends": base64.b64encode(self._ends.tobytes()).decode(),
            "outs": base64.b64encode(self._outs.tobytes()).decode(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Interleaving:
        self = cls()
        self.exact_from = state["exact_from"]
        self._ends.frombytes(base64.b64decode(state["ends"]))
        self._outs.frombytes(base64.b64decode(state["outs"]))
        return self
