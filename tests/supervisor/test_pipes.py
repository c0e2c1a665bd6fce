"""Reading a command's output at its end: all that is there, the end of it too, and no more than is there."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable

from gateway.supervisor.output.pipes import PipeReader

WIDE = 1 << 20


def with_pipe(body: Callable[[PipeReader, int, bytearray], None]) -> None:
    """Runs `body` with a reader, the descriptor that its command would write to, and what was read."""

    async def run() -> None:
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, WIDE)
        os.set_blocking(read, False)
        found = bytearray()
        reader = PipeReader(asyncio.get_running_loop(), read, found.extend)
        try:
            body(reader, write, found)
        finally:
            reader.close()
            with contextlib.suppress(OSError):
                os.close(write)

    asyncio.run(run())


def test_drain_sees_the_end() -> None:
    """A short last piece is followed by the end, and nobody counts as a writer any more."""

    def body(reader: PipeReader, write: int, found: bytearray) -> None:
        os.write(write, b"abc")
        os.close(write)
        reader.drain()
        assert (bytes(found), reader.fd) == (b"abc", None)

    with_pipe(body)


def test_drain_of_an_endless_writer_ends() -> None:
    """Who lives on and writes as fast as it is read holds nobody up: what a pipe holds is taken, no more."""

    def body(reader: PipeReader, write: int, found: bytearray) -> None:
        def write_on() -> None:
            with contextlib.suppress(OSError):
                while True:
                    os.write(write, bytes(65536))

        os.write(write, bytes(WIDE))
        writer = threading.Thread(target=write_on)
        writer.start()
        reader.drain()
        reader.close()
        writer.join(10)
        assert WIDE <= len(found) <= WIDE + 2 * 65536

    with_pipe(body)
