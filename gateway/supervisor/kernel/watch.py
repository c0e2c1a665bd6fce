"""Waits for changes of kernfs files, which tell of them by POLLPRI (cgroup-v2.rst, cgroup.events)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable


class PriorityWatch:
    """An epoll of its own for POLLPRI, nested in the event loop, which knows only reading and writing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def add(self, fd: int, changed: Callable[[], None]) -> None:
        """Calls `changed` at each change from now on, and once if its cgroup is gone already."""
        with contextlib.suppress(OSError):  # ENODEV: gone, which the epoll tells at once
            os.pread(fd, 1, 0)  # the kernel compares with the last read
        self._callbacks[fd] = changed
        self._epoll.register(fd, select.EPOLLPRI)

    def remove(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            if callback is None:
                continue
            try:
                os.pread(fd, 4096, 0)
            except OSError:  # its cgroup is gone
                self.remove(fd)
            callback()
