"""Running containers as the kernel shows them: one incarnation per start, held by a pidfd and a directory fd.

Nothing here starts a process or reads /etc/pve. A container runs when its command socket stands in
/proc/net/unix (what `pct exec` checks, PVE::LXC::check_running) and its init lives in `lxc/<vmid>/ns`.
An incarnation stays known for as long as its init's pidfd says it lives, and no longer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gateway.config import LxcConfig
from gateway.errors import GuestFrozen, GuestNotRunning
from gateway.supervisor.guests.current import CurrentRuns, Run
from gateway.supervisor.kernel.cgroup import InstanceGroup, read_event, wait_empty
from gateway.supervisor.kernel.descendants import Descendants
from gateway.supervisor.kernel.procfs import is_privileged, read_stat, read_status
from gateway.supervisor.kernel.spare import Spare

_PF_EXITING = 0x4  # include/linux/sched.h
_SIGKILL_BIT = 1 << 8
_MAX_CGROUPS = 256
_AT_REST = (b"sigtimedwait", b"sigsuspend", b"do_wait", b"ep_poll", b"poll_schedule", b"do_select", b"futex", b"pause")
_KILL_SECONDS = 2.0


@dataclass
class Incarnation(Run):
    """One run of a container, from its init's birth to its death: `pid` is its init's."""

    group: InstanceGroup
    ns_events: int
    privileged: bool
    proc: Path
    ns: Path
    mirrored: bool = False

    def frozen(self) -> bool:
        return not self.closed and read_event(self.ns_events, "frozen")

    def stopping(self) -> bool | None:
        """Whether its init is dead, dying, or has a SIGKILL waiting: then the kernel ends all its processes. None where
        the node has no descriptor to look with."""
        if not self.alive():
            return True
        process = self.proc / str(self.pid)
        try:
            stat = read_stat(process)
        except (FileNotFoundError, ProcessLookupError):
            return True
        except OSError:
            return None
        pending = read_status(process, b"SigPnd", b"ShdPnd").values()
        return (
            stat.state in b"ZX"
            or bool(stat.flags & _PF_EXITING)
            or any(int(mask[0], 16) & _SIGKILL_BIT for mask in pending)
            # A systemd guest that shuts down runs systemd-shutdown as its init, which ends everything else.
            or stat.comm == b"systemd-shutdow"
        )

    def seems_to_shut_down(self) -> bool:
        """Whether its init is not at rest: busybox' syncs and sleeps between its TERM to all, its KILL, and the end.

        At rest an init waits for signals, children or events, which /proc/PID/wchan tells. One that runs at this
        moment shows 0, and so does every one on a kernel that does not tell: then a guest that is empty but for its
        init counts.
        """
        try:
            where = (self.proc / str(self.pid) / "wchan").read_bytes()
        except OSError:
            return True
        if where == b"0":
            return _pids_below(self.ns) == [self.pid]
        return not any(word in where for word in _AT_REST)

    def writes_back(self) -> bool:
        """Whether its init waits for a disk, as in the sync(2) before the end, which takes as long as it takes."""
        try:
            return read_stat(self.proc / str(self.pid)).state == b"D"
        except OSError:
            return False

    def mirror_freeze(self) -> None:
        """Freezes or thaws our execs as the guest is: liblxc freezes `ns` only."""
        frozen = self.frozen()
        if not self.closed and frozen != self.mirrored:
            self.group.freeze(frozen)
            self.mirrored = frozen

    def own_tree(self) -> Descendants:
        """For an exec among the guest's own processes (`placement: guest`)."""
        return Descendants(self.proc, self.ns, self.group.spare)

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs; descriptors by number."""
        fds = {"pidfd": self.pidfd, "group": self.group.dir, "ns_events": self.ns_events}
        return {
            "vmid": self.vmid,
            "pid": self.pid,
            "start": self.start,
            "privileged": self.privileged,
            "frozen": self.mirrored,
            "fds": fds,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], config: LxcConfig, spare: Spare) -> Incarnation:
        """The incarnation as an earlier image of this program held it; it may have died since."""
        vmid, fds = state["vmid"], state["fds"]
        group = InstanceGroup(fds["group"], vmid, spare)
        ns = config.cgroup / "lxc" / str(vmid) / "ns"
        return cls(
            vmid,
            state["pid"],
            state["start"],
            fds["pidfd"],
            group,
            fds["ns_events"],
            state["privileged"],
            config.proc,
            ns,
            state["frozen"],
        )

    def close(self) -> None:
        """Gives its descriptors back; from now on it counts as dead."""
        super().close()
        self.group.close()
        os.close(self.ns_events)


class Guests(CurrentRuns[Incarnation]):
    """Finds the incarnation of a guest that runs now."""

    def __init__(
        self, config: LxcConfig, instance: str, on_found: Callable[[Incarnation], None] = lambda _: None
    ) -> None:
        super().__init__(on_found)
        self.spare = Spare()
        """For the files of all their cgroups."""
        self._config = config
        self._instance = instance
        self._depth = len(read_status(config.proc / "self", b"NSpid")[b"NSpid"])

    def find(self, vmid: int) -> Incarnation:
        """The running, thawed incarnation. Raises GuestNotRunning, GuestFrozen."""
        guest = self.require(vmid)
        if guest.frozen():
            guest.mirror_freeze()
            raise GuestFrozen(
                f"guest {vmid} is frozen: paused, or in a snapshot or backup; try again when it is thawed",
                vmid=vmid,
            )
        return guest

    def adopt(self, run: Incarnation) -> None:
        run.mirror_freeze()
        super().adopt(run)

    def with_instance_group(self) -> list[int]:
        """The vmids in whose cgroup tree this gateway has left a directory."""
        lxc = self._config.cgroup / "lxc"
        found = lxc.glob(f"*/pveg-{self._instance}") if lxc.is_dir() else ()
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())

    def remove_leftovers(self, vmid: int) -> None:
        """Ends what runs in our directory of a guest that is not found running, and removes it: it would make the
        guest's next start fail, and whatever runs in it has lost its guest."""
        directory = self._config.cgroup / "lxc" / str(vmid) / f"pveg-{self._instance}"
        with contextlib.suppress(OSError):
            (directory / "cgroup.kill").write_bytes(b"1")
            wait_empty(directory, _KILL_SECONDS)
        for path, names, _ in os.walk(directory, topdown=False):
            for name in names:
                with contextlib.suppress(OSError):
                    (Path(path) / name).rmdir()
        with contextlib.suppress(OSError):
            directory.rmdir()

    def remove_empty(self) -> None:
        """Removes our directories in which nothing is: rmdir(2) refuses one that has an exec's in it."""
        for vmid in self.with_instance_group():
            with contextlib.suppress(OSError):
                (self._config.cgroup / "lxc" / str(vmid) / f"pveg-{self._instance}").rmdir()

    def _discover(self, vmid: int) -> Incarnation | None:
        if not self.seems_to_run(vmid):
            return None
        base = self._config.cgroup / "lxc" / str(vmid)
        for pid in _pids_below(base / "ns"):
            if not self._is_init(pid):
                continue
            with contextlib.ExitStack() as undo:
                try:
                    pidfd = os.pidfd_open(pid)
                    undo.callback(os.close, pidfd)
                    start = read_stat(self._config.proc / str(pid)).start
                    privileged = is_privileged(self._config.proc / str(pid))
                    directory = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    undo.callback(os.close, directory)
                    events = os.open("ns/cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
                    undo.callback(os.close, events)
                    group = InstanceGroup.enter(directory, self._instance, vmid, self.spare)
                    undo.callback(group.close)
                except (OSError, ValueError, GuestNotRunning):
                    continue
                guest = Incarnation(vmid, pid, start, pidfd, group, events, privileged, self._config.proc, base / "ns")
                if not guest.alive() or pid not in _pids_below(base / "ns"):
                    continue
                undo.pop_all()
                os.close(directory)
                return guest
        return None

    def seems_to_run(self, vmid: int) -> bool:
        """Whether LXC has it in hand: from before it mounts anything of it until nothing of it is left."""
        name = b" @" + os.fsencode(self._config.path / str(vmid) / "command") + b"\n"
        with (self._config.proc / "net/unix").open("rb") as sockets:
            return any(line.endswith(name) for line in sockets)

    def _is_init(self, pid: int) -> bool:
        levels = read_status(self._config.proc / str(pid), b"NSpid").get(b"NSpid", [])
        return len(levels) == self._depth + 1 and levels[-1] == b"1"


def _pids_below(directory: Path) -> list[int]:
    """Processes in a cgroup subtree, the nearest first: init is in `ns` or, under systemd, in `ns/init.scope`.

    The guest's root may have made a million cgroups there: no more than the first few are looked at.
    """
    found: list[int] = []
    places = [directory, directory / "init.scope"]
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        places += [Path(entry.path) for entry in islice(entries, _MAX_CGROUPS) if entry.is_dir()]
    for place in dict.fromkeys(places):
        with contextlib.suppress(OSError):
            found += sorted(map(int, (place / "cgroup.procs").read_bytes().split()))
    return found
