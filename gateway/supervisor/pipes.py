"""Our ends of a command's pipes: input written as it is taken, output read as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

_CHUNK = 65536
_DRAIN_ROUNDS = 512
_ROUNDS = 8  # reads in a row before others get their turn


class PipeReader:
    """Feeds what comes out of a pipe to `sink` until its last writer is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        sink: Callable[[bytes], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self.fd: int | None = fd
        self._sink = sink
        self._ended = ended
        loop.add_reader(fd, self._readable)

    def drain(self) -> None:
        """Takes all that is in the pipe now, which is no more than a pipe can hold (fs.pipe-max-size)."""
        for _ in range(_DRAIN_ROUNDS):
            if not self._take():
                return

    def give_up(self) -> int:
        """The pipe, not read from here any more. Only while it is open."""
        assert self.fd is not None
        fd, self.fd = self.fd, None
        self._loop.remove_reader(fd)
        return fd

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.give_up())

    def _readable(self) -> None:
        for _ in range(_ROUNDS):
            if not self._take():
                return

    def _take(self) -> bool:
        if self.fd is None:
            return False
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            self._ended()
            return False
        self._sink(data)
        return len(data) == _CHUNK


class StdinWriter:
    """Writes a command's input as fast as it reads; a command that does not read is no error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, data: bytes) -> None:
        self._loop = loop
        self.fd: int | None = fd
        self._rest = memoryview(data)
        self._waiting = False
        self._write()

    def rest(self) -> bytes:
        """What has not been written yet."""
        return bytes(self._rest)

    def close(self) -> None:
        if self.fd is not None:
            if self._waiting:
                self._loop.remove_writer(self.fd)
            os.close(self.fd)
            self.fd = None
            self._rest = memoryview(b"")

    def _write(self) -> None:
        assert self.fd is not None
        with contextlib.suppress(BlockingIOError):
            try:
                while self._rest:
                    self._rest = self._rest[os.write(self.fd, self._rest[:_CHUNK]) :]
            except BrokenPipeError:
                self._rest = memoryview(b"")
        if not self._rest:
            self.close()
        elif not self._waiting:
            self._waiting = True
            self._loop.add_writer(self.fd, self._write)
