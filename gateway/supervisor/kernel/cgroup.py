"""The cgroups that hold execs: made beside the guest's own, emptied whole, removed.

`lxc/<vmid>/pveg-<instance>/<exec-id>` lies beside the container's `ns`: the guest's limits and device filter
apply to it, and nothing in the guest can leave it (cgroup v2 with nsdelegate, cgroups(7)). Only `mkdirat` from a
held directory fd is used: a directory made by path in a stopped guest's tree makes the next `lxc-start` fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from pathlib import Path
from typing import Protocol

from gateway.errors import GuestNotRunning
from gateway.exec.view import Usage
from gateway.supervisor.kernel.spare import Spare

NO_USAGE: Usage = {"cpu_ms": None, "memory_peak": None, "oom_killed": None}
_MAX_SIGNALLED = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Tree(Protocol):
    """The processes of one exec, wherever they are kept together."""

    def take_root(self, pid: int) -> None: ...
    def holds(self, pid: int) -> bool: ...
    def join_fd(self) -> int | None: ...
    def pids(self) -> list[int]: ...
    def signal(self, number: int) -> int: ...
    def kill(self) -> int: ...
    def usage(self) -> Usage: ...
    def remove(self) -> bool: ...
    def populated(self) -> bool: ...
    def forget_root(self) -> None: ...
    def events_fd(self) -> int | None: ...
    def close(self) -> None: ...


class InstanceGroup:
    """This gateway's directory in one running guest's cgroup tree; execs are made in it."""

    def __init__(self, directory: int, vmid: int, spare: Spare) -> None:
        self.dir = directory
        self._vmid = vmid
        self.spare = spare
        self._memory = b"memory" in _read(spare, directory, "cgroup.subtree_control").split()

    @classmethod
    def enter(cls, guest_dir: int, instance: str, vmid: int, spare: Spare) -> InstanceGroup:
        """Makes the directory unless it is there. Raises GuestNotRunning when the guest's tree is gone."""
        name = f"pveg-{instance}"
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=guest_dir)
            directory = os.open(name, _DIRECTORY, dir_fd=guest_dir)
        except FileNotFoundError as exc:
            raise GuestNotRunning(f"guest {vmid} has just stopped; start it first", vmid=vmid) from exc
        _enable_controllers(spare, directory)
        with contextlib.suppress(OSError):
            # An exec's root in a privileged guest can mount its own cgroup and make others below: the kernel refuses.
            _write(spare, directory, "cgroup.max.depth", b"1")
        return cls(directory, vmid, spare)

    def make(self, exec_id: str, *, taken_from: Path | None = None) -> ExecGroup:
        """A new, empty cgroup for one exec. Raises GuestNotRunning when the guest has stopped meanwhile.

        `taken_from`: the guest's own cgroup, where a tool puts the command first, wherever that was started.
        """
        try:
            os.mkdir(exec_id, 0o755, dir_fd=self.dir)
            try:
                return ExecGroup(self.dir, exec_id, self.spare, memory=self._memory, taken_from=taken_from)
            except OSError:
                os.rmdir(exec_id, dir_fd=self.dir)
                raise
        except FileNotFoundError as exc:
            raise GuestNotRunning(f"guest {self._vmid} has just stopped; start it first", vmid=self._vmid) from exc

    def open(self, exec_id: str) -> ExecGroup | None:
        """The cgroup of an exec that an earlier image of this program made; None when it is gone."""
        try:
            return ExecGroup(self.dir, exec_id, self.spare, memory=self._memory)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """The execs that have a cgroup here."""
        with contextlib.suppress(OSError), os.scandir(self.dir) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return []

    def freeze(self, frozen: bool) -> None:
        """Freezes or thaws all execs here at once (cgroup.freeze, kernel's cgroup-v2.rst)."""
        with contextlib.suppress(OSError):
            _write(self.spare, self.dir, "cgroup.freeze", b"1" if frozen else b"0")

    def freeze_guest(self, frozen: bool) -> None:
        """Freezes or thaws the guest's own processes, beside ours. Raises OSError when its tree is gone."""
        _write(self.spare, self.dir, "../ns/cgroup.freeze", b"1" if frozen else b"0")

    def close(self) -> None:
        os.close(self.dir)


class ExecGroup:
    """The cgroup of one exec: its whole tree, whatever forked, called setsid or ignores signals."""

    def __init__(
        self, parent: int, name: str, spare: Spare, *, memory: bool = False, taken_from: Path | None = None
    ) -> None:
        self._name = name
        self._spare = spare
        self._memory = memory
        self._taken_from = taken_from
        self._events: int | None = None
        self.dir = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._parent = os.dup(parent)
        except OSError:
            os.close(self.dir)
            raise

    def take_root(self, pid: int) -> None:
        """Membership is the kernel's business here, not parentage's."""

    def forget_root(self) -> None:
        """The command has been reaped; nothing here depended on it."""

    def populated(self) -> bool:
        """Whether a live process is in it, however many there are; zombies do not count."""
        return _keyed(_read(self._spare, self.dir, "cgroup.events")).get("populated", 0) == 1

    def holds(self, pid: int) -> bool:
        """Whether this process is in it, and so will end with it; one that has to be taken from the guest is then."""
        return pid in self.pids() or (self._taken_from is not None and self._take(pid))

    def join_fd(self) -> int | None:
        """The directory into which the command is born, unless it is taken from the guest's own."""
        return self.dir if self._taken_from is None else None

    def _take(self, pid: int) -> bool:
        """Moves a process of the guest here, where it can do nothing that it could not do there.

        It waits for its go and has no children. The pidfd holds its number: no other process is moved in its place.
        """
        assert self._taken_from is not None
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if pid not in members(self._taken_from, self._spare):
                return False
            _write(self._spare, self.dir, "cgroup.procs", str(pid).encode())
            signal.pidfd_send_signal(pidfd, 0)
        except OSError:
            return False
        finally:
            os.close(pidfd)
        return True

    def pids(self) -> list[int]:
        """The processes in it now; one of a pid namespace that cannot be seen from here reads as 0 and is left out."""
        return [pid for pid in map(int, _read(self._spare, self.dir, "cgroup.procs").split()) if pid]

    def signal(self, number: int) -> int:
        """Sends a signal to every process in it, each held by a pidfd and then seen here again. How many got it."""
        held: dict[int, int] = {}
        reached = 0
        try:
            for pid in self.pids()[:_MAX_SIGNALLED]:
                with contextlib.suppress(ProcessLookupError):
                    held[pid] = os.pidfd_open(pid)
            for pid in held.keys() & set(self.pids()):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(held[pid], number)
                    reached += 1
        finally:
            for fd in held.values():
                os.close(fd)
        return reached

    def kill(self) -> int:
        """Kills all of it at once, forks in progress too (cgroup.kill, Linux 5.14). How many there were."""
        count = len(self.pids())
        with contextlib.suppress(FileNotFoundError):
            _write(self._spare, self.dir, "cgroup.kill", b"1")
        return count

    def usage(self) -> Usage:
        """What the tree has used so far; null where the guest's tree does not enable the controller."""
        cpu = _keyed(_read(self._spare, self.dir, "cpu.stat")).get("usage_usec")
        peak = _read(self._spare, self.dir, "memory.peak").strip() if self._memory else b""
        oom = _keyed(_read(self._spare, self.dir, "memory.events")).get("oom_kill") if self._memory else None
        return {
            "cpu_ms": None if cpu is None else cpu // 1000,
            "memory_peak": int(peak) if peak.isdigit() else None,
            "oom_killed": oom,
        }

    def remove(self) -> bool:
        """Removes it if it is empty; False while processes are in it."""
        try:
            os.rmdir(self._name, dir_fd=self._parent)
        except FileNotFoundError:
            return True
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            return False
        return True

    def events_fd(self) -> int:
        """`cgroup.events`: becomes ready for POLLPRI when the tree gets empty; `populated` reads it."""
        if self._events is None:
            self._events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.dir)
        return self._events

    def close(self) -> None:
        for fd in (self.dir, self._parent, self._events):
            if fd is not None:
                os.close(fd)


def members(ns: Path, spare: Spare) -> set[int]:
    """The processes in a guest's own cgroup and where lxc-attach puts others, `ns/.lxc`; not those deeper down. None
    where the cgroup is gone. Raises OSError where nobody can tell."""
    places = (ns / ".lxc", ns)
    return {int(pid) for place in places for pid in _read(spare, None, str(place / "cgroup.procs")).split()}


def _enable_controllers(spare: Spare, directory: int) -> None:
    """Has the kernel account for each exec, as far as the guest's own tree does."""
    available = _read(spare, directory, "cgroup.controllers").split()
    for name in (b"memory", b"pids"):
        if name in available:
            with contextlib.suppress(OSError):
                _write(spare, directory, "cgroup.subtree_control", b"+" + name)


def wait_empty(directory: Path, timeout: float) -> bool:
    """Waits until no process is left in a cgroup, at most `timeout` seconds; for start-up, where nobody else waits."""
    with (directory / "cgroup.events").open("rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        deadline = time.monotonic() + timeout
        while read_event(events.fileno(), "populated"):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    return True


def read_event(events_fd: int, key: str) -> bool:
    """One flag of a `cgroup.events` file, e.g. `populated` or `frozen`; False when its cgroup is gone."""
    try:
        return bool(_keyed(os.pread(events_fd, 4096, 0)).get(key, 0))
    except OSError as exc:
        if exc.errno == errno.ENODEV:
            return False
        raise


def _keyed(text: bytes) -> dict[str, int]:
    pairs = (line.split() for line in text.decode().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(spare: Spare, directory: int | None, name: str) -> bytes:
    try:
        with spare.opened(name, os.O_RDONLY, dir_fd=directory) as fd:
            chunks = []
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
            return b"".join(chunks)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return b""
        raise


def _write(spare: Spare, directory: int, name: str, value: bytes) -> None:
    with spare.opened(name, os.O_WRONLY, dir_fd=directory) as fd:
        os.write(fd, value)
