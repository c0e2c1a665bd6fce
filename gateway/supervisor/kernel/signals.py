"""Signals as descriptors: each comes when the event loop looks for it, interrupts nothing, and is never lost.

The kernel keeps a blocked signal pending until it is read (signalfd(2)), over a re-exec too. An event loop's own way
with signals writes each into a socket, and a storm fills that: what comes then is dropped, whatever it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import struct
from collections.abc import Iterable

_INFO_BYTES = 128  # sizeof(struct signalfd_siginfo)


def open_signalfd(numbers: Iterable[signal.Signals]) -> int:
    """A descriptor that is readable while one of these waits. They are blocked from now on, in later threads too."""
    chosen = set(numbers)
    signal.pthread_sigmask(signal.SIG_BLOCK, chosen)
    bits = sum(1 << (number - 1) for number in chosen)
    mask = struct.pack("@L", bits).ljust(128, b"\0")  # sigset_t: 1024 bits
    fd: int = ctypes.CDLL(None, use_errno=True).signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "cannot make a signalfd")
    return fd


class Signals:
    """What the service's manager asks for. What this image does not take waits for the next one."""

    def __init__(self, io: asyncio.AbstractEventLoop, numbers: Iterable[signal.Signals]) -> None:
        self._io = io
        self._fd = open_signalfd(numbers)

    async def next(self) -> signal.Signals:
        """The next one, of several that wait the one with the lowest number."""
        while (number := self._take()) is None:
            readable = self._io.create_future()
            self._io.add_reader(self._fd, _settle, readable)
            try:
                await readable
            finally:
                self._io.remove_reader(self._fd)
        return number

    def waits(self, numbers: Iterable[signal.Signals]) -> bool:
        """Whether one of these has come and not been taken."""
        return bool(signal.sigpending() & set(numbers))

    def _take(self) -> signal.Signals | None:
        with contextlib.suppress(BlockingIOError):
            (number,) = struct.unpack_from("@I", os.read(self._fd, _INFO_BYTES))
            return signal.Signals(number)
        return None


def _settle(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
