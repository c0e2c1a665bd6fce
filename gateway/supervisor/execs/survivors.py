"""Processes that outlive their ended exec, as `background: detach` lets them: read from until the last is gone.

Their pipes are drained, so that no SIGPIPE ends them; what they still print is not kept. They are touched by
nothing: not by DELETE, not by a reload or restart of the supervisor.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.exec.order import Order
from gateway.supervisor.kernel.cgroup import Tree, read_event
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.output.pipes import PipeReader


class Survivors:
    """What is left of one exec."""

    def __init__(
        self,
        loop: Loop,
        order: Order,
        tree: Tree,
        pipes: list[int],
        gone: Callable[[Survivors], None],
    ) -> None:
        self.order = order
        self._tree = tree
        self._events = loop.events
        self._gone = gone
        self._released = False
        self._fd = tree.events_fd()
        self._readers = [PipeReader(loop.io, fd, _forget, self._pipe_ended) for fd in pipes]

    def watch(self) -> None:
        """Waits for the last of them; `gone` may be called at once."""
        if self._fd is None:
            self._pipe_ended()
            return
        self._events.add(self._fd, self._changed)
        self._changed()

    def to_state(self) -> dict[str, Any]:
        """For the next image of this program: the order, and the pipes that still have writers."""
        fds = [reader.fd for reader in self._readers if reader.fd is not None]
        return {"order": self.order.to_wire(), "fds": dict(zip(map(str, fds), fds, strict=True))}

    def _pipe_ended(self) -> None:
        """Where no cgroup tells when the last of them ends (`placement: guest`), the last pipe does."""
        if self._fd is None and all(reader.fd is None for reader in self._readers):
            self._release()

    def _changed(self) -> None:
        if self._fd is not None and not read_event(self._fd, "populated"):
            self._release()

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        if self._fd is not None:
            self._events.remove(self._fd)
            self._fd = None
        for reader in self._readers:
            reader.close()
        self._tree.remove()
        self._tree.close()
        self._gone(self)


def reopen_pipes(proc: Path, pids: list[int]) -> list[int]:
    """The pipes that stdout and stderr of these processes are, opened again for reading (proc_pid_fd(5))."""
    found: dict[str, int] = {}
    for pid in pids:
        for number in ("1", "2"):
            path = proc / str(pid) / "fd" / number
            with contextlib.suppress(OSError):
                name = os.readlink(path)
                if name.startswith("pipe:") and name not in found:
                    found[name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return list(found.values())


def _forget(_: bytes) -> None:
    """Read and not kept."""
