"""A command's output as it can be read: both streams, and the order in which their bytes came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import OutputDropped
from gateway.supervisor.output.interleaving import STREAMS, Interleaving
from gateway.supervisor.output.layout import Layout, readable

_MAX_EVENTS = 512


class Stream(Protocol):
    """One stream: of a command that runs, or of one that has ended."""

    def read(self, offset: int, length: int) -> bytes: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def total(self) -> int:
        """How many bytes there are in all, kept or not."""


@dataclass(frozen=True)
class Recording:
    """`streams` are stdout and stderr."""

    streams: tuple[Stream, Stream]
    order: Interleaving

    def stream(self, name: str) -> Stream:
        return self.streams[STREAMS.index(name)]

    def events(self, cursor: int, limit: int) -> tuple[list[list[Any]], list[bytes], int]:
        """What follows `cursor`, at most about `limit` bytes: events, their bytes, and where to go on.

        An event is [stream, cursor behind it, offset, size, index of its bytes or None where they were not kept].
        Raises OutputDropped when the order of what follows is not known any more.
        """
        if 0 < cursor < self.order.exact_from:
            raise OutputDropped(
                "the order of stdout and stderr there is no longer known; read each by itself, or begin at 0",
                exact_from=self.order.exact_from,
            )
        events: list[list[Any]] = []
        blobs: list[bytes] = []
        for number, begin, size, end in self.order.runs(cursor):
            stream, offset, at = self.streams[number], begin, end - size
            while at < end:
                if limit <= 0 or len(events) >= _MAX_EVENTS:
                    return events, blobs, at
                have = readable(stream.layout, stream.total, offset, min(limit, end - at))
                data = stream.read(offset, have) if have else b""
                if data:
                    events.append([STREAMS[number], at + len(data), offset, len(data), len(blobs)])
                    blobs.append(data)
                    limit -= len(data)
                    step = len(data)
                else:
                    step = min(_gap(stream, offset), end - at)
                    events.append([STREAMS[number], at + step, offset, step, None])
                offset += step
                at += step
            cursor = end
        return events, blobs, max(cursor, 0)


class _Silent:
    """A stream that nothing has come of."""

    layout = Layout(0, 0)
    total = 0

    def read(self, offset: int, length: int) -> bytes:
        return b""


NOTHING = Recording((_Silent(), _Silent()), Interleaving())
"""Of a command that has not begun."""


def _gap(stream: Stream, offset: int) -> int:
    """How many bytes from `offset` on were not kept: up to the next kept one, or all that have come."""
    for start, _ in stream.layout.kept(stream.total):
        if start > offset:
            return start - offset
    return max(1, stream.total - offset)
