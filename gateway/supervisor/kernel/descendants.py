"""The tree of an exec placed inside the guest's own cgroup (`placement: guest`): found by parentage, best effort.

A process that double-forked has init as its parent and is not found; DESIGN and the API say so. One of which nobody can
tell at the moment is still there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from gateway.exec.view import Usage
from gateway.supervisor.kernel.cgroup import NO_USAGE, members
from gateway.supervisor.kernel.procfs import ProcessStat, parse_stat
from gateway.supervisor.kernel.spare import Spare

_UNKNOWN_SECONDS = 10.0


class Descendants:
    """All processes that descend from one command by fork and still have their parents, or had when last signalled.

    Only processes in the guest's own cgroup are looked at, where lxc-attach has put the command: none of another
    guest or of the node is ever touched, whatever number it has. What cannot be read (no memory, no descriptor) is
    OSError or counts as alive, for ten seconds on end at most.
    """

    def __init__(self, proc: Path, ns: Path, spare: Spare, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._ns = ns
        self._spare = spare
        self._monotonic = monotonic
        self._unknown_since: float | None = None
        self._root: int | None = None
        self._held: dict[int, int] = {}

    def take_root(self, pid: int) -> None:
        """The process whose descendants are meant: lxc-attach first, then the command."""
        self._root = pid

    def forget_root(self) -> None:
        """The command has been reaped: its number may soon be another's."""
        self._root = None

    def holds(self, pid: int) -> bool:
        """Whether this process is where lxc-attach puts the command; unknown is no."""
        with contextlib.suppress(OSError):
            return pid in members(self._ns, self._spare)
        return False

    def join_fd(self) -> None:
        """Nothing is joined: lxc-attach moves the command into the guest's cgroup."""

    def pids(self) -> list[int]:
        """Those that live. Raises OSError where nobody can tell."""
        if self._root is None:
            return []
        children: dict[int, list[int]] = {}
        unknown: OSError | None = None
        try:
            pids = members(self._ns, self._spare)
        except OSError as exc:
            pids, unknown = set(), exc
        for pid in pids:
            try:
                stat = self._read_stat(pid)
            except OSError as exc:
                stat, unknown = None, exc
            if stat is not None and stat.state not in b"ZX":
                children.setdefault(stat.parent, []).append(pid)
        self._bear(unknown)
        alive = {pid for pids in children.values() for pid in pids}
        found, queue = [], [self._root]
        while queue:
            pid = queue.pop()
            found += [pid] if pid in alive else []
            queue += children.get(pid, [])
        return found

    def signal(self, number: int) -> int:
        """Sends a signal to each of them; how many got it. They stay known by pidfd when their parents die.

        Raises OSError where not all could be found or held: those that are known have got it.
        """
        try:
            for pid in self.pids():
                if pid not in self._held:
                    self._hold(pid)
        finally:
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
        try:
            return bool(self.pids()) or any(_alive(pidfd) for pidfd in self._held.values())
        except OSError:
            return True

    def remove(self) -> bool:
        """True when none of them is left."""
        return not self.populated()

    def events_fd(self) -> None:
        """No file tells when the last one ends."""

    def close(self) -> None:
        for pidfd in self._held.values():
            os.close(pidfd)
        self._held.clear()

    def _bear(self, unknown: OSError | None) -> None:
        """Raises it, unless it has been so for long enough."""
        if unknown is None:
            self._unknown_since = None
            return
        now = self._monotonic()
        if self._unknown_since is None:
            self._unknown_since = now
        if now - self._unknown_since < _UNKNOWN_SECONDS:
            raise unknown

    def _hold(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if pid in members(self._ns, self._spare):  # still: the number was not given to another meanwhile
                self._held[pid] = pidfd
        finally:
            if self._held.get(pid) != pidfd:
                os.close(pidfd)

    def _read_stat(self, pid: int) -> ProcessStat | None:
        """None when it is gone. Raises OSError."""
        try:
            with self._spare.opened(str(self._proc / str(pid) / "stat"), os.O_RDONLY) as fd:
                return parse_stat(os.read(fd, 4096))
        except (FileNotFoundError, ProcessLookupError):
            return None


def _alive(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
