"""The tree of an exec placed inside the guest's own cgroup (`placement: guest`): found by parentage, best effort.

A process that double-forked has init as its parent and is not found; DESIGN and the API say so.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

from gateway.exec.view import Usage
from gateway.supervisor.cgroup import NO_USAGE
from gateway.supervisor.procfs import read_stat


class Descendants:
    """All processes that descend from one command by fork and still have their parents, or had when last signalled."""

    def __init__(self, proc: Path, vmid: int) -> None:
        self._proc = proc
        self._vmid = vmid
        self._root: int | None = None
        self._held: list[int] = []

    def take_root(self, pid: int) -> None:
        """The process whose descendants are meant: lxc-attach first, then the command."""
        self._root = pid

    def holds(self, pid: int) -> bool:
        """Whether this process is in the guest's cgroup, where lxc-attach has put the command."""
        with contextlib.suppress(OSError):
            return b"/lxc/%d/ns" % self._vmid in (self._proc / str(pid) / "cgroup").read_bytes()
        return False

    def join_fd(self) -> None:
        """Nothing is joined: lxc-attach moves the command into the guest's cgroup."""

    def pids(self) -> list[int]:
        if self._root is None:
            return []
        children: dict[int, list[int]] = {}
        for entry in os.listdir(self._proc):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = read_stat(self._proc / entry)
                    if stat.state not in b"ZX":
                        children.setdefault(stat.parent, []).append(int(entry))
        alive = {pid for pids in children.values() for pid in pids}
        found, queue = [], [self._root]
        while queue:
            pid = queue.pop()
            found += [pid] if pid in alive else []
            queue += children.get(pid, [])
        return found

    def signal(self, number: int) -> int:
        """Sends a signal to each of them; how many got it. They stay known by pidfd when their parents die."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                self._held.append(os.pidfd_open(pid))
        reached = 0
        for pidfd in self._held:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
                reached += 1
        return reached

    def kill(self) -> int:
        return self.signal(signal.SIGKILL)

    def usage(self) -> Usage:
        """Its processes are counted with all others of the guest."""
        return NO_USAGE

    def remove(self) -> bool:
        """True when none of them is left."""
        return not self.pids() and not any(_alive(pidfd) for pidfd in self._held)

    def events_fd(self) -> None:
        """No file tells when the last one ends."""

    def close(self) -> None:
        for pidfd in self._held:
            os.close(pidfd)
        self._held.clear()


def _alive(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
