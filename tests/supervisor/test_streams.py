"""The streams of one exec: what makes a command wait for whoever follows it."""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.supervisor.output import interleaving, streams
from gateway.supervisor.output.capture import Capture, MemoryRoom
from gateway.supervisor.output.interleaving import STREAMS
from gateway.supervisor.output.layout import Layout
from gateway.supervisor.output.streams import Streams


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_order_that_a_follower_still_needs_makes_the_command_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout and stderr in more turns than are remembered: a follower that is behind loses none, the command waits."""
    monkeypatch.setattr(interleaving, "MAX_RUNS", 64)
    monkeypatch.setattr(streams, "_RUNS", 8)

    async def run() -> None:
        pipes = [os.pipe() for _ in STREAMS]
        for read, _ in pipes:
            os.set_blocking(read, False)
        captures = [Capture(1 << 20, Layout(1 << 20, 1 << 20), MemoryRoom()) for _ in STREAMS]
        made = Streams(asyncio.get_running_loop(), captures[0], captures[1], block=True, over_limit=None)
        made.connect(stdout=pipes[0][0], stderr=pipes[1][0])
        cursor = 0
        made.followers.took("follower", {"stdout": 0, "stderr": 0})
        found = bytearray()
        for step in range(400):
            os.write(pipes[step % 2][1], b"oe"[step % 2 : step % 2 + 1])
            await turns()
            behind = made.recording.order.total - cursor
            assert behind <= 64
            if behind < step + 1 - cursor:  # it waits: only now the follower takes a little
                events, blobs, cursor = made.recording.events(cursor, 8)
                found += b"".join(blobs[event[4]] for event in events)
                stdout, stderr = made.recording.order.offsets(cursor)
                made.followers.took("follower", {"stdout": stdout, "stderr": stderr})
        assert made.recording.order.exact_from > 0
        while cursor < made.recording.order.total:
            events, blobs, cursor = made.recording.events(cursor, 8)
            found += b"".join(blobs[event[4]] for event in events)
            stdout, stderr = made.recording.order.offsets(cursor)
            made.followers.took("follower", {"stdout": stdout, "stderr": stderr})
            await turns()
        assert found.count(b"o") == found.count(b"e") == 200
        made.close()
        made.forget()
        for _, write in pipes:
            os.close(write)

    asyncio.run(run())
