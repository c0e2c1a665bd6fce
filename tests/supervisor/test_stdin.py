"""A command's input: by offset, in order, once, and never more of it in memory than its bound."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import StdinBlocked, StdinClosed, StdinOffset, WriterTaken
from gateway.supervisor.output.stdin import QUEUE_BYTES, Stdin

Body = Callable[[Stdin, int], Awaitable[None]]


def with_pipe(body: Body, data: bytes = b"", *, stay_open: bool = True) -> None:
    """Runs `body` with an input and the descriptor that its command would read from."""

    async def run() -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        stdin = Stdin(asyncio.get_running_loop(), write, data, stay_open=stay_open)
        try:
            await body(stdin, read)
        finally:
            stdin.close()
            os.close(read)

    asyncio.run(run())


async def read_all(fd: int) -> bytes:
    """What the command reads until the end of its input."""

    def read() -> bytes:
        found = bytearray()
        while data := os.read(fd, 65536):
            found += data
        return bytes(found)

    return await asyncio.to_thread(read)


def test_same_offset_is_written_once() -> None:
    """A piece that is sent again, whole or in part, adds only what is new."""

    async def body(stdin: Stdin, read: int) -> None:
        await stdin.put(b"abc", 2, eof=False, timeout=1)
        await stdin.put(b"abc", 2, eof=False, timeout=1)
        await stdin.put(b"cde", 4, eof=False, timeout=1)
        assert stdin.offset == 7
        await stdin.put(b"", 7, eof=True, timeout=1)
        await stdin.put(b"", 7, eof=True, timeout=1)
        assert await read_all(read) == b"01abcde"

    with_pipe(body, b"01")


def test_offset_in_front_is_refused() -> None:
    """A piece that would leave a hole is refused with the offset to go on from; nothing of it is taken."""

    async def body(stdin: Stdin, _: int) -> None:
        with pytest.raises(StdinOffset) as caught:
            await stdin.put(b"x", 5, eof=True, timeout=1)
        assert caught.value.evidence["expected"] == 0
        assert (stdin.offset, stdin.eof) == (0, False)

    with_pipe(body)


def test_nothing_follows_the_end() -> None:
    """After the end of input more of it is refused; what was taken before may be sent again."""

    async def body(stdin: Stdin, _: int) -> None:
        await stdin.put(b"ab", None, eof=True, timeout=1)
        await stdin.put(b"ab", 0, eof=True, timeout=1)
        with pytest.raises(StdinClosed):
            await stdin.put(b"c", None, eof=False, timeout=1)

    with_pipe(body)


def test_queue_is_bounded_and_waits_for_the_command() -> None:
    """A command that does not read makes its sender wait; once it reads, everything arrives, in order."""

    async def body(stdin: Stdin, read: int) -> None:
        piece = bytes(range(256)) * 1024
        for number in range(6):
            await stdin.put(piece, number * len(piece), eof=False, timeout=1)
            if stdin.offset > QUEUE_BYTES + 65536:
                break
        taken = stdin.offset
        with pytest.raises(StdinBlocked):
            await stdin.put(piece, None, eof=False, timeout=0.01)
        assert stdin.offset == taken <= QUEUE_BYTES + 65536 + len(piece)
        found, _ = await asyncio.gather(read_all(read), stdin.put(piece, None, eof=True, timeout=5))
        assert found == piece * (taken // len(piece) + 1)

    with_pipe(body)


def test_command_that_has_closed_its_input_is_no_error() -> None:
    """Input for a command that reads no more is taken and thrown away."""

    async def body(stdin: Stdin, read: int) -> None:
        os.close(os.dup(read))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, read)
        os.close(null)
        for _ in range(4):
            await stdin.put(b"x" * QUEUE_BYTES, None, eof=False, timeout=1)
        assert stdin.offset == 4 * QUEUE_BYTES

    with_pipe(body)


def test_end_that_is_sent_again_is_typed_once() -> None:
    """To a terminal the end of input is a key: sent again by its offset it is not pressed again; without one it is."""

    async def run() -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        io = asyncio.get_running_loop()
        stdin = Stdin(io, write, b"", stay_open=True, terminal=True)
        for _ in range(2):
            await stdin.put(b"a\n", 0, eof=True, timeout=1)
        moved = Stdin.from_state(io, stdin.to_state(), os.dup(write))
        await moved.put(b"a\n", 0, eof=True, timeout=1)
        await moved.put(b"", 2, eof=True, timeout=1)
        assert os.read(read, 64) == b"a\n\x04"
        await moved.put(b"b\n", 2, eof=True, timeout=1)
        await moved.put(b"", None, eof=True, timeout=1)
        assert os.read(read, 64) == b"b\n\x04\x04"
        for one in (stdin, moved):
            one.close()
        os.close(read)

    asyncio.run(run())


def test_command_that_reads_at_once_gets_it_in_turns() -> None:
    """A large input whose reader never lets it wait is written in pieces, between which others have their turn."""

    async def run() -> None:
        read, write = os.pipe()
        size = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(write, False)
        stdin = Stdin(asyncio.get_running_loop(), write, bytes(size), stay_open=False)
        waiting = struct.unpack("i", fcntl.ioctl(read, termios.FIONREAD, bytes(4)))[0]
        assert 0 < waiting <= size // 2
        assert len(await read_all(read)) == size
        stdin.close()
        os.close(read)

    asyncio.run(run())


def test_who_may_not_write_any_more_writes_nothing() -> None:
    """Input that waits for room is refused when another client has become the writer meanwhile."""

    async def body(stdin: Stdin, read: int) -> None:
        await stdin.put(bytes(QUEUE_BYTES + 65536), None, eof=False, timeout=1)
        taken, allowed = stdin.offset, True

        def may() -> None:
            if not allowed:
                raise WriterTaken("another client writes")

        waiting = asyncio.ensure_future(stdin.put(b"late", None, eof=False, timeout=5, may=may))
        await asyncio.sleep(0)
        allowed = False
        await asyncio.to_thread(os.read, read, 1 << 20)
        with pytest.raises(WriterTaken):
            await waiting
        assert stdin.offset == taken

    with_pipe(body)
