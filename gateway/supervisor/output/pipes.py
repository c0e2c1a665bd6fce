"""Our end of a command's output: a pipe, or a terminal's master, read as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable

_CHUNK = 65536
_WIDE = 256 << 10
"""How much a pipe that is followed holds, and is read at once: fewer turns for each byte (fcntl(2), F_SETPIPE_SZ)."""
_DRAIN_ROUNDS = 512
_ROUNDS = 4  # reads in a row before others get their turn


class PipeReader:
    """Feeds what comes out of a pipe to `sink` until its last writer is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        sink: Callable[[bytes], None],
        ended: Callable[[], None] = lambda: None,
        *,
        terminal: bool = False,
        wide: bool = False,
    ) -> None:
        self._loop = loop
        self.fd: int | None = fd
        self.paused = False
        self._sink = sink
        self._ended = ended
        self._taken = 0
        self._chunk = _CHUNK
        if wide and not terminal:
            with contextlib.suppress(OSError):
                self._chunk = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _WIDE)
        self._terminal = terminal  # it gives at most a few KiB at once, however much there is
        loop.add_reader(fd, self._readable)

    def pause(self) -> None:
        """Reads no more until `go_on`: the command waits once its pipe is full."""
        if self.fd is not None and not self.paused:
            self.paused = True
            self._loop.remove_reader(self.fd)

    def go_on(self) -> None:
        if self.fd is not None and self.paused:
            self.paused = False
            self._loop.add_reader(self.fd, self._readable)

    def drain(self) -> None:
        """Takes all that is in it now, and no more: those who live on may write without end, faster than it is read."""
        goal = self._taken + self._waiting()
        for _ in range(_DRAIN_ROUNDS):
            if not self._take():
                return
            if self._taken >= goal and not self._terminal:
                break
        self._take()  # the end, if this was all

    def _waiting(self) -> int:
        """How many bytes wait in a pipe (FIONREAD, pipe(7))."""
        if self.fd is None or self._terminal:
            return 0
        count: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))[0]
        return count

    def give_up(self) -> int:
        """The pipe, not read from here any more. Only while it is open."""
        assert self.fd is not None
        fd, self.fd = self.fd, None
        if not self.paused:
            self._loop.remove_reader(fd)
        return fd

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.give_up())

    def _readable(self) -> None:
        for _ in range(_ROUNDS):
            if self.paused:
                return
            size = self._take()
            if not size or (size < self._chunk and not self._terminal):
                return

    def _take(self) -> int:
        """Reads once; how many bytes there were."""
        if self.fd is None:
            return 0
        try:
            data = os.read(self.fd, self._chunk)
        except BlockingIOError:
            return 0
        except OSError as exc:
            if exc.errno != errno.EIO:  # a terminal whose last holder has gone (pty(7))
                raise
            data = b""
        if not data:
            self.close()
            self._ended()
            return 0
        self._taken += len(data)
        self._sink(data)
        return len(data)
