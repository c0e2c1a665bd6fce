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
from gateway.supervisor.kernel.cgroup import NO_USAGE, members
from gateway.supervisor.kernel.procfs import read_stat


class Descendants:
    """All processes that descend from one command by fork and still have their parents, or had when last signalled.

    Only processes in the guest's own cgroup are looked at, where lxc-attach has put the command: none of another
    guest or of the node is ever touched, whatever number it has.
    """

    def __init__(self, proc: Path, ns: Path) -> None:
        self._proc = proc
        self._ns = ns
        self._root: int | None = None
        self._held: dict[int, int] = {}

    def take_root(self, pid: int) -> None:
        """The process whose descendants are meant: lxc-attach first, then the command."""
        self._root = pid

    def forget_root(self) -> None:
        """The command has been reaped: its number may soon be another's."""
        self._root = None

    def holds(self, pid: int) -> bool:
        """Whether this process is where lxc-attach puts the command."""
        return pid in self._members()

    def join_fd(self) -> None:
        """Nothing is joined: lxc-attach moves the command into the guest's cgroup."""

    def pids(self) -> list[int]:
        if self._root is None:
            return []
        children: dict[int, list[int]] = {}
        for pid in self._members():
            with contextlib.suppress(OSError):
                stat = read_stat(self._proc / str(pid))
                if stat.state not in b"ZX":
                    children.setdefault(stat.parent, []).append(pid)
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
            if pid not in self._held:
                self._hold(pid)
        reached = 0
        for pidfd in self._held.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
                reached += 1
        return reached

    def kill(self) -> int:
        return self.signal(signal.SIGKILL)

    def usage(self) -> Usage:
        """Its processes are counted with all others of the guest."""
        return NO_USAGE

    def populated(self) -> bool:
        return bool(self.pids()) or any(_alive(pidfd) for pidfd in self._held.values())

    def remove(self) -> bool:
        """True when none of them is left."""
        return not self.populated()

    def events_fd(self) -> None:
        """No file tells when the last one ends."""

    def close(self) -> None:
        for pidfd in self._held.values():
            os.close(pidfd)
        self._held.clear()

    def _hold(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        if pid in self._members():  # still: the number was not given to another meanwhile
            self._held[pid] = pidfd
        else:
            os.close(pidfd)

    def _members(self) -> set[int]:
        return members(self._ns)


def _alive(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
